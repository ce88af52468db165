import http.server
import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from worker.desks.case_text import as_json
from worker.desks.webhook import WebhookDesk, verify_signature
from worker.domain.errors import DeskUnavailable
from worker.domain.ticket import HEADLINE, SYSTEMIC, Reason

PAGE = (Path(__file__).parents[2] / "docs" / "tickets.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def documented_receiver(monkeypatch):
    """The receiver of the page, started as the page has it but for the port."""
    monkeypatch.setenv("TICKETS_SECRET", "example-secret")
    (program,) = blocks("python")
    module = {"__name__": "receiver"}
    exec(compile(program, "receiver.py", "exec"), module)  # noqa: S102  # the page is ours, and this is its test
    with http.server.HTTPServer(("127.0.0.1", 0), module["Receiver"]) as server:
        server.tickets, server.closed = module["TICKETS"], module["CLOSED"]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def desk_for(server, *, secret):
    return WebhookDesk(f"http://127.0.0.1:{server.server_address[1]}/tickets", secret=secret, timeout=10, now=time.time)


def test_the_documented_receiver_takes_tickets(documented_receiver, a_case, a_case_file):
    """Who copies it must get a receiver that works, and that takes repeats for what they are."""
    desk = desk_for(documented_receiver, secret="example-secret")

    external_ref = desk.open(a_case_file())
    again = desk.open(a_case_file(a_case(1), a_case(2)))
    desk.append(external_ref, a_case_file(a_case(3), total=3))

    (cases,) = documented_receiver.tickets.values()
    assert ("DESK-1", "DESK-1") == (external_ref, again)
    assert ["order-1", "order-2", "order-3"] == [case["order_id"] for case in cases.values()]


def test_the_documented_receiver_closes_tickets(documented_receiver, a_case_file, a_closing_file):
    """Also one that it has never heard of: refused, it would be posted for ever."""
    desk = desk_for(documented_receiver, secret="example-secret")
    unknown = replace(a_closing_file(), ticket_id=UUID(int=7))
    external_ref = desk.open(a_case_file())

    for closing in (a_closing_file(), a_closing_file(), unknown):
        desk.close(external_ref, closing)

    assert {str(a_case_file().ticket_id), str(unknown.ticket_id)} == documented_receiver.closed


def test_the_documented_receiver_refuses_a_forged_ticket(documented_receiver, a_case_file):
    """Its whole point is the signature."""
    desk = desk_for(documented_receiver, secret="another")

    with pytest.raises(DeskUnavailable, match="answered 401"):
        desk.open(a_case_file())

    assert {} == documented_receiver.tickets


def test_the_documented_signature_is_right():
    """Receivers in other languages are built against it."""
    (signature,) = blocks("text")

    is_genuine = verify_signature(
        "example-secret", "1795348800", b'{"event":"ticket.opened"}', signature.strip(), now=1_795_348_800
    )

    assert is_genuine


def test_the_documented_body_has_the_fields_of_a_real_one(a_case_file):
    """A receiver is written from the page long before the first ticket arrives."""
    body, _ = blocks("json")
    documented, real = json.loads(body), {"event": "ticket.opened", **as_json(a_case_file())}

    assert list(real) == list(documented)
    assert list(real["cases"][0]) == list(documented["cases"][0])
    assert list(real["cases"][0]["problem"]) == list(documented["cases"][0]["problem"])
    assert list(real["cases"][0]["attempts"][0]) == list(documented["cases"][0]["attempts"][0])


def test_the_documented_closing_has_the_fields_of_a_real_one(a_closing_file):
    """Receivers close their own tickets by it, and none has arrived when they are written."""
    _, body = blocks("json")
    documented, real = json.loads(body)["closing"], as_json(a_closing_file())["closing"]

    assert list(real) == list(documented)
    assert list(real["first"][0]) == list(documented["first"][0])


def test_every_reason_is_documented_as_it_is():
    """An operator reads there what a ticket's reason means and whether more will be added to it."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?)\. \| (.*?) \|$", PAGE, flags=re.MULTILINE)

    expected = [
        (
            reason.value,
            HEADLINE[reason],
            "one open ticket per account" if reason in SYSTEMIC else "one ticket per command",
        )
        for reason in Reason
    ]
    assert expected == rows
