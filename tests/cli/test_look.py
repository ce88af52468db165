from __future__ import annotations

import json
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from worker import Acknowledge, ReadOrder, Refund

NOBODY = "019ab3c4-0000-7000-8000-00000000000f"


def is_utc(text):
    return datetime.fromisoformat(text).utcoffset() == timedelta(0)


@pytest.fixture
def listed(run_json):
    """The references of what a list shows, in its order."""
    return lambda *filters: [line["reference"] for line in run_json("list", *filters)]


@pytest.fixture
def shop(stored, succeeded, rejected, retrying, escalated):
    """Commands in every state that lasts."""
    stored(order_id="o-1", reference="pending")
    succeeded(order_id="o-2", reference="succeeded")
    rejected(order_id="o-3", reference="rejected")
    retrying(order_id="o-4", reference="retrying")
    escalated(order_id="o-5", reference="escalated")
    stored(order_id="o-2", reference="refund", kind=Refund)
    stored(order_id="o-2", reference="read", kind=ReadOrder, amount=None)


def test_a_list_shows_the_newest_first(listed, shop):
    """What went wrong just now is what is looked for."""
    assert ["read", "refund", "escalated", "retrying", "rejected", "succeeded", "pending"] == listed()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("--state pending", ["read", "refund", "retrying", "pending"]),
        ("--state succeeded", ["succeeded"]),
        ("--state rejected", ["rejected"]),
        ("--state escalated", ["escalated"]),
        ("--state cancelled", []),
        ("--order o-2", ["read", "refund", "succeeded"]),
        ("--order o-2 --kind refund", ["refund"]),
        ("--kind read_order", ["read"]),
        ("--account klarna-eu --kind capture", ["escalated", "retrying", "rejected", "succeeded", "pending"]),
        ("--account another", []),
        ("--in-doubt", ["escalated", "retrying"]),
        ("--in-doubt --state pending", ["retrying"]),
        ("--not-in-doubt --kind capture", ["rejected", "succeeded", "pending"]),
        ("--limit 2", ["read", "refund"]),
    ],
)
def test_filters_narrow_a_list(listed, shop, filters, expected):
    """Among a million commands, the ten that matter must be found with one line."""
    assert expected == listed(*filters.split())


def test_a_line_of_a_list_has_what_a_script_needs(run_json, escalated):
    """Others script against these names."""
    escalated(reference="r-1")

    (line,) = run_json("list")

    assert [
        *("id", "kind", "account", "order_id", "reference", "target", "amount", "keyed", "state", "in_doubt"),
        *("read_back", "absent_at", "replaces", "claims", "attempts_count", "failures", "due_at", "idempotency_key"),
        *("problem", "created_at", "finalized_at"),
    ] == list(line)


def test_show_prints_the_agreed_names(run_json, escalated):
    """They are fixed: other people's programs read them."""
    shown = run_json("show", escalated(reference="r-1"))

    assert {
        *("id", "kind", "account", "order_id", "reference", "state", "in_doubt", "claims", "attempts_count"),
        *("failures", "due_at", "idempotency_key", "result", "problem", "attempts", "tickets"),
    } <= set(shown)
    assert {"code", "message", "correlation_id"} <= set(shown["problem"])
    assert {"number", "outcome", "status", "code", "correlation_id", "started_at", "finished_at"} <= set(
        shown["attempts"][0]
    )
    assert {"id", "reason", "state", "desk", "external_ref"} <= set(shown["tickets"][0])


def test_show_tells_the_life_of_an_escalated_command(run_json, escalated):
    """An operator decides about money by what stands here."""
    command_id = escalated(reference="r-1")

    shown = run_json("show", command_id)

    assert {
        "id": str(command_id),
        "kind": "capture",
        "account": "klarna-eu",
        "order_id": "order-1",
        "reference": "r-1",
        "amount": 1000,
        "state": "escalated",
        "in_doubt": True,
        "claims": 1,
        "attempts_count": 1,
        "failures": 4,
        "result": None,
        "finalized_at": None,
        "actions": [],
    }.items() <= shown.items()
    assert {
        "code": "no_answer",
        "message": "No answer within 2 s",
        "status": None,
        "correlation_id": "corr-1",
    } == shown["problem"]
    (attempt,) = shown["attempts"]
    assert {"number": 1, "outcome": "in_doubt", "status": None, "code": "no_answer", "late": False}.items() <= (
        attempt.items()
    )
    (ticket,) = shown["tickets"]
    assert {"reason": "ladder_exhausted", "state": "unsent", "desk": "log", "external_ref": None}.items() <= (
        ticket.items()
    )
    assert UUID(shown["idempotency_key"]).version == 5
    assert all(map(is_utc, (shown["due_at"], shown["created_at"], attempt["started_at"], attempt["finished_at"])))


def test_show_tells_what_the_provider_gave(run_json, succeeded):
    """The capture's id is what bookkeeping wants."""
    shown = run_json("show", succeeded(reference="r-1"))

    assert ("succeeded", False, None) == (shown["state"], shown["in_doubt"], shown["problem"])
    assert {"capture_id": "capture-1", "correlation_id": "corr-0"} == shown["result"]
    assert is_utc(shown["finalized_at"])


def test_show_tells_people_the_same(run, escalated):
    """Off a terminal it is read by a pager or goes into a mail: names, values, and tables with tabs."""
    command_id = escalated(reference="r-1")

    done = run("show", command_id)

    lines = done.out.splitlines()
    assert (0, "") == (done.code, done.err)
    assert {f"id: {command_id}", "amount: 1000", "state: escalated", "in doubt: yes", "problem code: no_answer"} <= set(
        lines
    )
    assert (
        "number\toutcome\tstatus\tcode\tstarted at\tfinished at\tcorrelation id" == lines[lines.index("attempts") + 1]
    )
    assert ["1", "in_doubt", "", "no_answer"] == lines[lines.index("attempts") + 2].split("\t")[:4]
    assert "ladder_exhausted" in lines[lines.index("tickets") + 2]
    assert "actions" not in lines
    assert any(line.startswith("key window: open for 23 h") for line in lines)


def test_show_shows_no_payload(run, stored):
    """It may hold an address, and a terminal's history is nobody's vault."""
    command_id = stored(description="for the lady at number seven", reference="r-1")

    assert "number seven" not in run("show", command_id).out + run("show", command_id, "--json").out


def test_show_of_what_is_not_there_is_exit_1(run):
    """An id from another installation is the usual cause."""
    done = run("show", NOBODY, "--json")

    assert (
        1,
        "",
        f"post-purchase: No such command is stored: {NOBODY}. `post-purchase list` shows what there is\n",
    ) == (done)


def test_stats_count_commands_and_their_money(run_json, shop):
    """Money in doubt is the one figure that nobody may have to work out by hand."""
    counted = run_json("stats")

    figures = {(line["state"], line["in_doubt"]): (line["commands"], line["amount"]) for line in counted["counts"]}
    assert {
        ("pending", False): (3, 2000),
        ("pending", True): (1, 1000),
        ("succeeded", False): (1, 1000),
        ("rejected", False): (1, 1000),
        ("escalated", True): (1, 1000),
    } == figures
    assert 2 == counted["open_tickets"]
    assert 0 <= counted["oldest_due_seconds"] < 60


def test_stats_are_for_people_too(run, shop):
    """The same figures, in lines."""
    out = run("stats").out.splitlines()

    assert "account\tstate\tin doubt\tcommands\tamount" == out[0]
    assert "klarna-eu\tescalated\tyes\t1\t1000" in out
    assert "open tickets: 2" in out


def test_tickets_are_listed_with_their_commands(run_json, escalated, rejected):
    """A common cause is one ticket; a refusal is a ticket of its own."""
    escalated(order_id="o-1", reference="r-1")
    escalated(order_id="o-2", reference="r-2")
    rejected(order_id="o-3", reference="r-3")

    tickets = run_json("tickets")

    assert [("refused", 1), ("ladder_exhausted", 2)] == [(line["reason"], line["commands"]) for line in tickets]
    assert [
        *("id", "account", "reason", "state", "desk", "external_ref", "opened_at", "closed_at", "commands", "problem")
    ] == list(tickets[0])


def test_only_open_tickets_can_be_listed(run, run_json, escalated, rejected):
    """What is decided is of no interest to whoever is on call."""
    escalated(order_id="o-1", reference="r-1")
    decided = rejected(order_id="o-2", reference="r-2")
    run("resolve", decided, "--by", "operator", "--reason", "told the customer")

    assert ["ladder_exhausted"] == [line["reason"] for line in run_json("tickets", "--open")]
    assert {"closed", "unsent"} == {line["state"] for line in run_json("tickets")}
    assert 1 == len(run_json("tickets", "--limit", 1))


def test_a_command_without_an_amount_shows_none(run, run_json, stored):
    """An empty cell is not a zero."""
    stored(kind=Acknowledge, amount=None, reference="r-1")

    assert None is run_json("list")[0]["amount"]
    heading, line = run("list").out.splitlines()
    assert "" == dict(zip(heading.split("\t"), line.split("\t"), strict=True))["amount"]


def test_moments_are_shown_in_utc_to_the_second(run, stored):
    """Two people in two zones must read the same line the same way."""
    stored(reference="r-1", due_at="2030-01-31T09:00:00.25+01:00")

    assert "2030-01-31 08:00:00Z" in run("list").out
    assert "2030-01-31T08:00:00.250000+00:00" == json.loads(run("list", "--json").out)[0]["due_at"]
