from __future__ import annotations

import json

import pytest

WHO = ("--by", "operator", "--reason", "provider is back")
NOBODY = "019ab3c4-0000-7000-8000-00000000000f"


def test_retry_sends_an_escalated_command_up_the_ladder_again(run_json, escalated):
    """The outage is over; the customer waits."""
    command_id = escalated(reference="r-1")

    rows = run_json("retry", command_id, *WHO)

    assert [
        {"id": str(command_id), "verb": "retry", "was_done": True, "why_not": None, "state": "pending"},
    ] == rows
    assert 0 == run_json("show", command_id)["failures"]


def test_resolve_makes_an_escalated_command_succeeded(run_json, escalated):
    """Somebody has looked: the money moved."""
    command_id = escalated(reference="r-1")

    (row,) = run_json("resolve", command_id, *WHO)

    assert "succeeded" == row["state"]
    assert ["closed"] == [ticket["state"] for ticket in run_json("show", command_id)["tickets"]]


def test_resolve_of_a_rejected_command_closes_its_ticket(run_json, rejected):
    """The refusal stays a refusal; it is dealt with."""
    command_id = rejected(reference="r-1")

    (row,) = run_json("resolve", command_id, *WHO)

    assert "rejected" == row["state"]
    assert ["closed"] == [ticket["state"] for ticket in run_json("show", command_id)["tickets"]]


def test_cancel_takes_a_pending_command_back(run_json, stored):
    """The customer changed their mind before anything was sent."""
    command_id = stored(reference="r-1")

    (row,) = run_json("cancel", command_id, *WHO)

    assert "cancelled" == row["state"]


def test_who_and_why_are_kept(run, run_json, escalated):
    """Months later somebody asks who decided about this money."""
    command_id = escalated(reference="r-1")

    run("cancel", command_id, "--by", "  on call ", "--reason", " kept the goods\n")

    (action,) = run_json("show", command_id)["actions"]
    assert ("cancel", "on call", "kept the goods", "escalated") == (
        *(action["verb"], action["by"], action["why"], action["state_before"]),
    )
    assert "cancel\ton call\tkept the goods\tescalated" in run("show", command_id).out


@pytest.mark.parametrize("verb", ["retry", "recheck", "resolve", "cancel"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--reason", "why"], "Missing option '--by'", id="nobody"),
        pytest.param(["--by", "operator"], "Missing option '--reason'", id="no reason"),
        pytest.param(["--by", " \t", "--reason", "why"], "'--by': is empty", id="a blank name"),
        pytest.param(["--by", "operator", "--reason", " \n "], "'--reason': is empty", id="a blank reason"),
        pytest.param(["--by", "n" * 256, "--reason", "why"], "at most 255 characters", id="an endless name"),
        pytest.param(["--by", "two\nlines", "--reason", "why"], "must be one line", id="a name of two lines"),
    ],
)
def test_nobody_acts_without_a_name_and_a_reason(run, escalated, verb, arguments, said):
    """A decision about money that nobody has made cannot be asked about."""
    command_id = escalated(reference="r-1")

    done = run(verb, command_id, *arguments)

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert said in done.err
    assert "state: escalated" in run("show", command_id).out


@pytest.mark.parametrize(
    ("verb", "state", "why"),
    [
        ("retry", "stored", "it is pending; only an escalated command"),
        ("retry", "succeeded", "it is succeeded; only an escalated command"),
        ("resolve", "stored", "it is pending; only an escalated command"),
        ("cancel", "succeeded", "it is succeeded; only a pending or escalated one can be"),
        ("cancel", "retrying", "an attempt of it is in doubt"),
        ("recheck", "stored", "it is pending; only an escalated command"),
    ],
)
def test_a_refused_verb_is_exit_1_with_its_reason(run, request, verb, state, why):
    """The refusal is the safety; the reason is the way on."""
    command_id = request.getfixturevalue(state)(reference="r-1")

    done = run(verb, command_id, *WHO)

    assert (1, 1) == (done.code, done.err.count("\n"))
    assert why in done.err


def test_a_command_whose_key_window_has_closed_is_not_retried(run, escalated):
    """The provider has forgotten the key: sending again could move the money twice."""
    command_id = escalated(reference="r-1")

    done = run("retry", command_id, *WHO, RETRY__KEY_WINDOW_SECONDS="0.001")

    assert (1, 1) == (done.code, done.err.count("\n"))
    assert "no longer honours its idempotency key" in done.err


def test_one_refusal_does_not_hold_back_the_others(run, escalated, succeeded):
    """Of the two hundred commands of an outage, one was decided meanwhile."""
    first, second = escalated(order_id="o-1", reference="r-1"), escalated(order_id="o-2", reference="r-2")
    done_already = succeeded(order_id="o-3", reference="r-3")

    done = run("resolve", first, done_already, NOBODY, second, *WHO, "--json")

    assert 1 == done.code
    rows = json.loads(done.out)
    assert [True, False, False, True] == [row["was_done"] for row in rows]
    assert ["succeeded", "succeeded", None, "succeeded"] == [row["state"] for row in rows]
    assert "only an escalated command" in rows[1]["why_not"]
    assert 2 == done.err.count("\npost-purchase: ") + done.err.startswith("post-purchase: ")


def test_people_see_what_was_done(run, escalated):
    """A silent success is asked about again."""
    command_id = escalated(reference="r-1")

    done = run("cancel", command_id, *WHO)

    assert (0, f"id\tverb\tdone\tstate\n{command_id}\tcancel\tyes\tcancelled\n", "") == done


# --- recheck and amend -------------------------------------------------------------------------------------


def test_a_recheck_has_it_read_by_the_workers(run_json, run, escalated):
    """The command line itself asks no provider: it has no lease, and may be a laptop."""
    command_id = escalated(reference="r-1")

    (done,) = run_json("recheck", command_id, *WHO)

    assert (True, "pending") == (done["was_done"], done["state"])
    assert "being read back: recheck" in run("show", command_id).out


@pytest.fixture
def amended(tmp_path):
    """A file with what a command shall be instead."""

    def write(*lines, **fields):
        line = {"kind": "capture", "account": "klarna-eu", "order_id": "order-1", "amount": 900} | fields
        file = tmp_path / "amended.json"
        file.write_text("\n".join(lines or [json.dumps(line)]))
        return file

    return write


def test_an_amended_command_is_stored_under_a_new_key(run_json, rejected, amended):
    """The old key would bring back the old refusal."""
    old = rejected(reference="r-1")

    new = run_json("amend", old, amended(), *WHO)

    shown = run_json("show", new["id"])
    assert (str(old), 900, "pending") == (shown["replaces"], shown["amount"], shown["state"])
    assert run_json("show", old)["idempotency_key"] != new["idempotency_key"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "is not valid JSON"),
        (['{"kind": "capture", "account": "klarna-eu", "order_id": "order-1"}'], "amount"),
        (["{}", "{}"], "holds 2 lines"),
    ],
    ids=["no JSON", "no amount", "two"],
)
def test_a_file_that_is_no_command_amends_nothing(run, rejected, amended, lines, said):
    """Half an amendment is none."""
    old = rejected(reference="r-1")

    done = run("amend", old, amended(*lines), *WHO)

    assert (2, "") == (done.code, done.out)
    assert said in done.err
    assert 1 == len(json.loads(run("list", "--json").out))


@pytest.mark.parametrize(
    ("state", "fields", "why"),
    [
        ("rejected", {"order_id": "order-2"}, "its order_id is 'order-1'"),
        ("succeeded", {}, "it is succeeded"),
        ("escalated", {}, "not known to be absent"),
    ],
)
def test_an_amendment_that_is_not_safe_is_refused(run, request, amended, state, fields, why):
    """Exit 1, the reason, and nothing stored."""
    old = request.getfixturevalue(state)(reference="r-1")

    done = run("amend", old, amended(**fields), *WHO)

    assert (1, "") == (done.code, done.out)
    assert why in done.err
    assert 1 == len(json.loads(run("list", "--json").out))
