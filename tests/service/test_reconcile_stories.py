"""Stories of several faults in a row that once ended wrong, each as short as it can be told."""

from __future__ import annotations

from datetime import timedelta

from tests.service.stage import BLUESNAP
from worker import bluesnap


def test_a_ticket_about_ignored_keys_outlives_the_settlement_of_the_refund(stage):
    """The money went back twice, and only a person can take one of them back."""
    transaction_id = stage.world.create_transaction(amount="10.00", captured=True)["transactionId"]
    stage.world.switch(bluesnap_keys=False, bluesnap_refund_status="PENDING", bluesnap_pending_hours=1)
    stage.world.fault("drop_reply")
    command_id = stage.enqueue(bluesnap.Refund(account=BLUESNAP, order_id=transaction_id, amount=500, currency="USD"))

    stage.work(timedelta(hours=9), tick=timedelta(minutes=5))

    assert "succeeded" == stage.command(command_id).state
    assert [("refund", "5.00"), ("refund", "5.00")] == stage.effects()
    assert [("keys_not_enabled", "open")] == stage.tickets(command_id)
