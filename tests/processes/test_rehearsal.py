from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import worker
from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.klarna_commands import KLARNA_COMMANDS, Capture, ReadOrder

CHECKOUT = Path(worker.__file__).parent.parent
SCRIPT = CHECKOUT / "examples" / "run.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The rehearsal of `make run`, run once, in a folder where nothing is yet."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("POST_PURCHASE_")}
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])

    return subprocess.run(
        [sys.executable, SCRIPT, "--json"],
        env={**inherited, "PYTHONPATH": path},
        cwd=tmp_path_factory.mktemp("rehearsal"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


@pytest.fixture(scope="module")
def report(done):
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def commands(report):
    return {each["reference"]: each for each in report["commands"]}


@pytest.fixture(scope="module")
def script():
    """The script as a module, so that its judgement can be put to the test."""
    spec = importlib.util.spec_from_file_location("rehearsal", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rehearsal"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["rehearsal"]


def test_the_rehearsal_ends_by_itself_and_agrees(done, report):
    """It is the first thing that anybody runs, and its verdict is what the product promises."""
    assert (0, True) == (done.returncode, report["agrees"]), done.stderr
    assert 80 <= len(report["commands"])
    assert [] == [each for each in report["commands"] if each["state"] in ("pending", "executing")]


def test_every_kind_of_both_providers_takes_part(report):
    """A kind that is left out is one that nobody has seen at work."""
    seen = {(each["account"], each["kind"]) for each in report["commands"]}

    assert {
        *(("klarna-eu", kind) for kind in KLARNA_COMMANDS),
        *(("bluesnap-us", kind) for kind in BLUESNAP_COMMANDS),
    } == seen


@pytest.mark.parametrize(
    ("reference", "found", "state", "effects"),
    [
        ("parcel-2005", ["done"], "succeeded", 1),  # the reply was lost after the capture
        ("parcel-2006", ["absent", "absent"], "succeeded", 1),  # before it: sent again
        ("parcel-2007", ["ambiguous"], "escalated", 0),  # a stranger captured the same amount
        ("parcel-2010", ["absent", "done"], "succeeded", 1),  # the first read lagged behind
        ("parcel-1019", ["done"], "succeeded", 1),  # refused, because it was done already
    ],
)
def test_what_nobody_knew_was_read_back_before_money_moved_again(commands, reference, found, state, effects):
    """A capture at BlueSnap has no key: only its own records tell whether a lost reply was a yes."""
    command = commands[reference]

    # A read that this machine was too slow for tells nothing, and is made again.
    verdicts = [each["verdict"] for each in command["readings"] if each["verdict"] != "unread"]

    assert (found, state, effects) == (verdicts, command["state"], len(command["effects"]))


def test_a_pending_refund_was_followed_until_the_provider_settled_it(commands):
    """Pending is a yes that can still become a no."""
    command = commands["return-2017"]

    purposes = {each["purpose"] for each in command["readings"]}

    assert ("succeeded", {"settlement"}, 1) == (command["state"], purposes, len(command["effects"]))


def test_what_a_stranger_did_is_told_apart_from_what_was_asked_for(report):
    """Otherwise the count would be right for the wrong reason."""
    assert [("stranger", "38486407")] == [(each["actor"], each["order_id"]) for each in report["effects_of_nobody"]]


@pytest.mark.parametrize(
    ("state", "in_doubt", "amounts", "agrees"),
    [
        ("succeeded", False, [1000], True),
        ("succeeded", False, [], False),
        ("succeeded", False, [1000, 1000], False),
        ("succeeded", False, [999], False),
        ("escalated", True, [1000], True),
        ("escalated", True, [], True),
        ("escalated", True, [1000, 1000], False),
        ("escalated", False, [1000], False),
        ("rejected", False, [], True),
        ("rejected", False, [1000], False),
    ],
)
def test_the_verdict_says_no_where_ledger_and_effects_differ(script, state, in_doubt, amounts, agrees):
    """A verdict that cannot be bad is worth nothing."""
    capture = Capture(account="klarna-eu", order_id="order-1", amount=1000, reference="parcel-1")
    effects = [{"amount": amount} for amount in amounts]

    reckoned = script.Reckoned(
        line={"state": state, "in_doubt": in_doubt}, command=capture, readings=[], effects=effects
    )

    assert agrees == reckoned.agrees


def test_a_read_that_changed_something_would_be_a_difference(script):
    """A read is repeated as often as anybody likes, so it must not do anything."""
    read = ReadOrder(account="klarna-eu", order_id="order-1", reference="read-1")
    line = {"state": "succeeded", "in_doubt": False}

    verdicts = [
        script.Reckoned(line=line, command=read, readings=[], effects=effects).agrees
        for effects in ([], [{"amount": None}])
    ]

    assert [True, False] == verdicts
