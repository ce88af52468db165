from __future__ import annotations

from datetime import timedelta

import pytest

from worker import Refund
from worker.domain.outcome import Problem, Unauthorized
from worker.domain.pause import ALL_KINDS, Cause, Pause

WHO = ("--by", "on call", "--reason", "announced maintenance")
ALL_IS_PAUSED = {"account": "klarna-eu", "kind": None, "is_paused": True}
REFUSED = Problem(code="unauthorized", message="Not authorized", status=401)


def claimed(services):
    return [each.id for each in services.store.claim(None, limit=10, lease=timedelta(seconds=90))]


@pytest.fixture
def paused_by_machine(services):
    """Pauses an account as a worker does."""

    def pause(cause):
        with services.store.begin() as transaction:
            transaction.begin_pause(
                Pause(
                    account="klarna-eu",
                    kind=ALL_KINDS,
                    cause=cause,
                    by="breaker",
                    why="in a row",
                    edge=timedelta(hours=23),
                    probe_at=transaction.now,
                )
            )

    return pause


def test_a_paused_account_is_left_alone_until_it_is_resumed(run_json, stored, services):
    """Maintenance was announced; nothing is sent into it, and nothing is forgotten over it."""
    command_id = stored(reference="r-1")

    paused = run_json("pause", "klarna-eu", *WHO)
    during = claimed(services)
    resumed = run_json("resume", "klarna-eu", *WHO)

    assert ALL_IS_PAUSED == paused
    assert {"account": "klarna-eu", "kind": None, "is_paused": False, "causes": ["operator"]} == resumed
    assert ([], [command_id]) == (during, claimed(services))


def test_one_kind_is_paused_and_the_others_go_on(run_json, stored, services):
    """Refunds wait for accounting; captures do not."""
    stored(reference="r-1", kind=Refund)
    capture = stored(reference="r-2")

    paused = run_json("pause", "klarna-eu", "--kind", "refund", *WHO)

    assert {**ALL_IS_PAUSED, "kind": "refund"} == paused
    assert [capture] == claimed(services)


def test_the_pause_of_one_kind_is_resumed_by_its_kind(run, run_json):
    """Resuming the account must not quietly let refunds go that somebody held back on purpose."""
    run("pause", "klarna-eu", "--kind", "refund", *WHO)

    whole = run("resume", "klarna-eu", *WHO)
    one_kind = run_json("resume", "klarna-eu", "--kind", "refund", *WHO)

    assert (1, "") == (whole.code, whole.out)
    assert "is not paused" in whole.err
    assert ["operator"] == one_kind["causes"]


def test_stats_show_what_is_paused_by_whom_and_why(run, run_json):
    """Whoever wonders why nothing moves finds it where they look first."""
    run("pause", "klarna-eu", "--kind", "refund", *WHO)

    (pause,) = run_json("stats")["pauses"]

    assert ("klarna-eu", "refund", "operator", "on call", "announced maintenance", None) == (
        *(pause[name] for name in ("account", "kind", "cause", "by", "why", "probe_at")),
    )
    assert "klarna-eu\trefund\toperator\ton call\tannounced maintenance" in run("stats").out


def test_people_see_what_was_done(run):
    """A silent success is asked about again."""
    paused, resumed = run("pause", "klarna-eu", *WHO), run("resume", "klarna-eu", *WHO)

    assert (0, "account: klarna-eu\npaused: yes\n", "") == paused
    assert (0, "") == (resumed.code, resumed.err)
    assert "paused: no\n" in resumed.out
    assert "operator" in resumed.out


@pytest.mark.parametrize("cause", [Cause.BREAKER, Cause.CREDENTIALS])
def test_what_the_machine_paused_is_resumed_by_hand_too(run_json, paused_by_machine, cause):
    """Whoever knows that the provider is back need not wait for a probe."""
    paused_by_machine(cause)

    resumed = run_json("resume", "klarna-eu", *WHO)

    assert [cause.value] == resumed["causes"]
    assert [] == run_json("stats")["pauses"]


def test_resuming_after_new_credentials_sends_the_escalated_ones_again(run_json, paused_by_machine, stored):
    """The few that told of the old password are not left behind."""
    command_id = stored(Unauthorized(problem=REFUSED), reference="r-1")
    paused_by_machine(Cause.CREDENTIALS)
    before = run_json("show", command_id)["state"]

    run_json("resume", "klarna-eu", *WHO)

    shown = run_json("show", command_id)
    assert ("escalated", "pending") == (before, shown["state"])
    assert ["retry", "on call", "klarna-eu is resumed"] == [shown["actions"][0][name] for name in ("verb", "by", "why")]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["pause", "nobody"], 2, "'nobody'", id="pause of no account"),
        pytest.param(["resume", "nobody"], 2, "'nobody'", id="resume of no account"),
        pytest.param(["pause", "klarna-eu", "--kind", "teleport"], 1, "no kind of its commands", id="no such kind"),
        pytest.param(["pause", "klarna-eu", "--kind", "sale"], 1, "no kind of its commands", id="another's kind"),
        pytest.param(["resume", "klarna-eu", "--kind", "teleport"], 1, "no kind of its commands", id="resume no kind"),
        pytest.param(["resume", "klarna-eu"], 1, "is not paused", id="not paused"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_is_paused(run, run_json, arguments, code, said):
    """A mistyped name must not look like a pause, for then everything is sent."""
    done = run(*arguments, *WHO)

    assert (code, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert said in done.err
    assert [] == run_json("stats")["pauses"]


def test_pausing_twice_is_refused_and_the_first_reason_stays(run, run_json):
    """Two people would each think that theirs is the pause to end."""
    run("pause", "klarna-eu", *WHO)

    again = run("pause", "klarna-eu", "--by", "another", "--reason", "another reason")

    assert (1, "") == (again.code, again.out)
    assert "paused by an operator already" in again.err
    assert ["on call"] == [each["by"] for each in run_json("stats")["pauses"]]


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--reason", "why"], "Missing option '--by'", id="nobody"),
        pytest.param(["--by", "operator"], "Missing option '--reason'", id="no reason"),
        pytest.param(["--by", " \t", "--reason", "why"], "'--by': is empty", id="a blank name"),
    ],
)
def test_nobody_pauses_without_a_name_and_a_reason(run, run_json, verb, arguments, said):
    """Money that is held up is asked about, and somebody must be able to answer."""
    done = run(verb, "klarna-eu", *arguments)

    assert (2, "") == (done.code, done.out)
    assert said in done.err
    assert [] == run_json("stats")["pauses"]
