from __future__ import annotations

import json
import tomllib
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.service.stage import ACCOUNT, NOON, POLICY
from worker.domain.errors import CommandNotFound
from worker.domain.klarna_commands import ReadOrder, UpdateCustomerDetails
from worker.service import inspect

#: What `show --json` prints; others script against it.
SHOWN = {
    "id",
    "kind",
    "account",
    "order_id",
    "reference",
    "target",
    "amount",
    "keyed",
    "state",
    "in_doubt",
    "read_back",
    "absent_at",
    "replaces",
    "claims",
    "attempts_count",
    "failures",
    "due_at",
    "idempotency_key",
    "key_window_left_seconds",
    "result",
    "problem",
    "attempts",
    "readings",
    "tickets",
    "actions",
    "created_at",
    "finalized_at",
}


@pytest.fixture
def stats():
    def of(stage):
        with stage.store.begin() as transaction:
            return inspect.stats(transaction, accounts=stage.accounts, fallback=POLICY)

    return of


def test_a_command_is_shown_with_all_that_is_known_of_it(each_stage):
    """One look must be enough to decide."""
    each_stage.world.fault("drop_reply")
    each_stage.world.fault("singular_error")
    each_stage.world.fault("not_json", status=200, times=None, method="GET")
    command_id = each_stage.capture(amount=700, reference="shipment-1")
    each_stage.work(timedelta(hours=6), tick=timedelta(minutes=5))
    each_stage.operator(by="night shift", why="mended").retry(command_id)

    shown = each_stage.show(command_id)

    assert SHOWN == shown.keys()
    assert json.loads(json.dumps(shown)) == shown
    assert ("capture", ACCOUNT, "shipment-1", 700, "pending", True) == tuple(
        shown[name] for name in ("kind", "account", "reference", "amount", "state", "in_doubt")
    )
    assert (6, 2, 0) == (shown["claims"], shown["attempts_count"], shown["failures"])
    assert [("refusal", "unread")] * 4 == [(each["purpose"], each["verdict"]) for each in shown["readings"]]
    assert {"code", "message", "status", "correlation_id"} == shown["problem"].keys()
    assert [(1, "in_doubt", None, "no_answer"), (2, "rejected", 403, "NOT_ALLOWED")] == [
        (each["number"], each["outcome"], each["status"], each["code"]) for each in shown["attempts"]
    ]
    assert [("refused_after_doubt", "open", "recording")] == [
        (each["reason"], each["state"], each["desk"]) for each in shown["tickets"]
    ]
    assert [("retry", "night shift", "mended", "escalated")] == [
        (each["verb"], each["by"], each["why"], each["state_before"]) for each in shown["actions"]
    ]


def test_a_fresh_command_has_nothing_to_show_yet(stage):
    """Absent is null, and a list is a list."""
    shown = stage.show(stage.capture())

    assert (None, None, None, None) == tuple(
        shown[name] for name in ("result", "problem", "key_window_left_seconds", "finalized_at")
    )
    assert ([], [], []) == (shown["attempts"], shown["tickets"], shown["actions"])


def test_an_attempt_without_an_outcome_is_shown_as_open(stage):
    """Nobody knows yet, and that is what is shown."""
    command_id = stage.capture()
    with stage.store.begin() as transaction:
        held = transaction.claim([command_id], limit=1, lease=timedelta(seconds=90))
        transaction.open_attempts(held, holder="worker-1")

    (attempt,) = stage.show(command_id)["attempts"]

    assert (1, None, None, NOON.isoformat()) == (
        attempt["number"],
        attempt["outcome"],
        attempt["finished_at"],
        attempt["started_at"],
    )


@pytest.mark.parametrize("known", [True, False], ids=["account known", "account unknown"])
def test_what_is_left_of_the_key_window_is_shown(stage, known):
    """It tells how long there is to decide; below zero it is closed."""
    stage.world.fault("drop_reply")
    command_id = stage.capture()
    stage.execute(command_id)
    stage.advance(24 * 3600)
    if not known:
        stage.accounts.clear()

    assert -300.0 == stage.show(command_id)["key_window_left_seconds"]


def test_a_read_has_no_key_window(stage):
    """It is repeated whenever one likes."""
    command_id = stage.enqueue(ReadOrder(account=ACCOUNT, order_id=stage.order()))
    stage.execute(command_id)

    assert stage.show(command_id)["key_window_left_seconds"] is None


def test_no_payload_is_shown(stage):
    """It may hold an address."""
    command_id = stage.enqueue(
        UpdateCustomerDetails(account=ACCOUNT, order_id=stage.order(), shipping_address={"city": "Knoxville"})
    )

    assert "Knoxville" not in json.dumps(stage.show(command_id))


def test_a_command_that_is_not_there_is_named(stage):
    """A mistyped id is the usual case."""
    missing = uuid4()

    with pytest.raises(CommandNotFound, match=str(missing)):
        stage.show(missing)


def test_a_line_is_the_short_form(stage):
    """Lists are long."""
    line = inspect.line(stage.command(stage.capture()))

    assert line.keys() < SHOWN
    assert not {"attempts", "tickets", "actions", "result"} & line.keys()


def test_stats_count_commands_and_the_money_in_doubt(each_stage, stats):
    """The figure that matters is how much nobody knows about."""
    each_stage.execute(each_stage.capture(amount=300))
    each_stage.world.fault("execute_then_status", status=503, times=2)
    for amount in (500, 700):
        each_stage.execute(each_stage.capture(amount=amount))
    each_stage.capture(amount=900)
    each_stage.advance(2)

    counted = stats(each_stage)

    assert [
        ("pending", False, 1, 900),
        ("pending", True, 2, 1_200),
        ("succeeded", False, 1, 300),
    ] == [(each["state"], each["in_doubt"], each["commands"], each["amount"]) for each in counted["counts"]]
    assert 2.0 == counted["oldest_due_seconds"]
    assert 0 == counted["open_tickets"]


def test_stats_count_open_tickets(stage, stats):
    """What people still have to do."""
    stage.execute(stage.capture(amount=99_999))
    taken = stage.capture(amount=99_999)
    stage.execute(taken)
    stage.operator().resolve(taken)

    assert 1 == stats(stage)["open_tickets"]


def test_stats_of_an_empty_table(each_stage, stats):
    """The first thing that anybody tries."""
    assert {
        "counts": [],
        "key_windows": [],
        "pauses": [],
        "open_tickets": 0,
        "oldest_due_seconds": 0.0,
    } == stats(each_stage)


def test_the_policy_of_the_tests_is_that_of_the_defaults():
    """Moments in these tests are the documented ones."""
    default = tomllib.loads((Path(__file__).resolve().parents[2] / "settings" / "default.toml").read_text("utf-8"))

    retry = default["retry"]
    assert retry["ladder_seconds"] == [each.total_seconds() for each in POLICY.ladder]
    assert (retry["key_window_seconds"], retry["key_margin_seconds"]) == (
        POLICY.key_window.total_seconds(),
        POLICY.key_margin.total_seconds(),
    )
