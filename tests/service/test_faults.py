"""Every operation of both providers × every way to lose its answer: what the worker did, and what the provider did.

`docs/faults.md` shows the outcome, and is compared with it. `POST_PURCHASE_TEST_WRITES=1` writes it anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from textwrap import fill

import pytest

from tests.service.stage import ACCOUNT, BLUESNAP, Stage
from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.klarna_commands import KLARNA_COMMANDS
from worker.domain.state import State
from worker.providers.bluesnap import OPERATIONS
from worker.providers.bluesnap_lookup import LOOKUPS as BLUESNAP_LOOKUPS
from worker.providers.klarna import OPERATIONS as KLARNA_OPERATIONS
from worker.providers.klarna_lookup import LOOKUPS as KLARNA_LOOKUPS
from worker.store.engine import build_engine
from worker.store.schema import metadata

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
WRITES = os.environ.get("POST_PURCHASE_TEST_WRITES")

HEAD = (
    "| what went wrong | what became of it | sends | readings | in doubt | effects |",
    "| --- | --- | --- | --- | --- | --- |",
)
#: What the kinds of a table have in common, by the first of them.
TITLES = {
    (ACCOUNT, "acknowledge"): "Klarna, nothing to read",
    (ACCOUNT, "capture"): "Klarna, read back",
    (ACCOUNT, "extend_authorization_time"): "Klarna, a reading proves nothing",
    (ACCOUNT, "read_order"): "Reads",
    (BLUESNAP, "capture"): "BlueSnap without a key, read back",
    (BLUESNAP, "refund"): "BlueSnap's refunds",
    (BLUESNAP, "authorize"): "BlueSnap's payments",
    (BLUESNAP, "create_alt_transaction"): "BlueSnap with a key, nothing to read",
}
OPERATIONS_OF = {ACCOUNT: KLARNA_OPERATIONS, BLUESNAP: OPERATIONS}
KINDS = [(ACCOUNT, kind) for kind in KLARNA_COMMANDS] + [(BLUESNAP, kind) for kind in BLUESNAP_COMMANDS]
DAY = timedelta(hours=24)
PARCEL = [{"shipping_company": "DHL", "tracking_number": "T-1"}]
PERSON = {"firstName": "Ann", "lastName": "Example"}
USD = {"currency": "USD"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong with the first send, and for how long nobody looks after it then."""

    words: str
    kind: str
    options: dict
    down: timedelta = timedelta(0)
    has_keys: bool = True
    ignores_keys: bool = False


TROUBLES = (
    Trouble(words="reply lost before execution", kind="reset", options={"executed": False}),
    Trouble(words="reply lost after execution", kind="drop_reply", options={}),
    Trouble(words="5xx after execution", kind="execute_then_status", options={"status": 500}),
    Trouble(words="key window closed, effect not there", kind="reset", options={"executed": False}, down=DAY),
    Trouble(words="key window closed, effect there", kind="drop_reply", options={}, down=DAY),
    Trouble(
        words="account without keys, lost before execution", kind="reset", options={"executed": False}, has_keys=False
    ),
    Trouble(words="account without keys, lost after execution", kind="drop_reply", options={}, has_keys=False),
    Trouble(
        words="keys ignored and nobody knew, lost after execution", kind="drop_reply", options={}, ignores_keys=True
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What came of one command in one trouble. `reason` is that of its open ticket, if it has one."""

    state: State
    in_doubt: bool
    reason: str | None
    attempts: int
    requests: int
    readings: tuple[str, ...]
    told: tuple[str, ...]
    effects: int

    @property
    def shown(self):
        ended = f"`{self.state.value}`" if self.reason is None else f"`{self.state.value}`, ticket `{self.reason}`"
        doubt = "yes" if self.in_doubt else "no"
        read = ", ".join(f"`{each}`" for each in self.readings) or "–"

        return f"{ended} | {self.attempts} | {read} | {doubt} | {self.effects}"


# --- one cell ----------------------------------------------------------------------------------------------


def founded(stage, account, kind, order_id, **fields):
    """Something that was there before the trouble; what came of making it."""
    command_id = stage.enqueue(commands_of(account)[kind](account=account, order_id=order_id, **fields))
    stage.execute(command_id)

    return stage.command(command_id).result


def commands_of(account):
    return KLARNA_COMMANDS if account == ACCOUNT else BLUESNAP_COMMANDS


def klarna_command(stage, kind):
    """A command that Klarna would carry out, about an order of its own."""
    is_captured = kind not in {"acknowledge", "cancel", "capture", "update_authorization"}
    order = stage.world.create_order(amount=10_000, status="PART_CAPTURED" if is_captured else "AUTHORIZED")
    order_id = order["order_id"]
    capture_id = order["captures"][0]["capture_id"] if is_captured else None
    fields: dict[str, Callable[[], dict]] = {
        "capture": lambda: {"amount": 1_000},
        "refund": lambda: {"amount": 200},
        "update_authorization": lambda: {"amount": 9_000},
        "update_customer_details": lambda: {"shipping_address": {"city": "Knoxville"}},
        "update_merchant_references": lambda: {"merchant_reference1": "10001"},
        "add_order_shipping_info": lambda: {"shipping_info": PARCEL},
        "add_capture_shipping_info": lambda: {"capture_id": capture_id, "shipping_info": PARCEL},
        "trigger_send_out": lambda: {"capture_id": capture_id},
        "extend_due_date": lambda: {"capture_id": capture_id, "number_of_days": 14},
        "read_capture": lambda: {"capture_id": capture_id},
        "read_refund": lambda: {"refund_id": founded(stage, ACCOUNT, "refund", order_id, amount=200)["refund_id"]},
        "read_due_date_options": lambda: {"capture_id": capture_id},
    }

    return KLARNA_COMMANDS[kind](account=ACCOUNT, order_id=order_id, **fields.get(kind, dict)())


def bluesnap_command(stage, kind):
    """A command that BlueSnap would carry out, about a thing of its own."""
    name, fields = "order-1", {}
    match kind.partition("_"):
        case ("capture", *_):
            name, fields = transaction(stage), {"amount": 500, **USD}
        case ("auth", *_):
            name = transaction(stage)
        case ("refund", *_):
            name, fields = transaction(stage, captured=True), {"amount": 500, **USD}
        case ("cancel", *_):
            name = transaction(stage, captured=True)
            stage.world.switch(bluesnap_refund_status="PENDING", bluesnap_pending_hours=720)
            stage.world.fault("stranger", act="refund", amount=500, order_id=name)
            founded(stage, BLUESNAP, "read_transaction", name)
        case ("authorize" | "sale", *_):
            fields = {"amount": 500, "vaulted_shopper_id": 1, "merchant_transaction_id": "cart-1", **USD}
        case ("charge", _, "on_demand_subscription"):
            name, fields = "1000001", {"amount": 500, **USD}
        case ("charge", *_):
            name, fields = "1000001", {"fields": {"amount": "5.00"}}
        case ("create", _, "alt_transaction" | "on_demand_subscription"):
            fields = {"amount": 500, "vaulted_shopper_id": 1, **USD}
        case ("keyed", *_):
            fields = {"path": "/recurring/plans", "fields": PERSON}
        case ("read", _, "transaction"):
            name = transaction(stage)
        case ("read" | "update", _, thing):
            made = founded(stage, BLUESNAP, f"create_{thing}", "order-1", fields=PERSON)
            name = made["vaulted_shopper_id" if thing == "shopper" else f"{thing}_id"]
            fields = {} if kind.startswith("read") else {"fields": {**PERSON, "lastName": "Other"}}
        case _:
            fields = {"fields": PERSON}

    return BLUESNAP_COMMANDS[kind](account=BLUESNAP, order_id=name, **fields)


def transaction(stage, *, captured=False):
    return stage.world.create_transaction(amount="10.00", captured=captured)["transactionId"]


def befall(account, kind, trouble):
    """Let one command of a kind meet a trouble in a world of its own, and live on for an hour."""
    engine = build_engine(
        "sqlite://",
        pool_size=1,
        busy_timeout=timedelta(seconds=1),
        connect_timeout=timedelta(seconds=1),
        statement_timeout=timedelta(seconds=1),
    )
    metadata.create_all(engine)
    stage = Stage(engine)
    try:
        return _befallen(stage, account, kind, trouble)
    finally:
        stage.close()
        engine.dispose()


def _befallen(stage, account, kind, trouble):
    if account == BLUESNAP:
        given = stage.accounts[BLUESNAP]
        stage.accounts[BLUESNAP] = replace(given, provider=replace(given.provider, merchant_id=10_001))
    command = klarna_command(stage, kind) if account == ACCOUNT else bluesnap_command(stage, kind)
    given = stage.accounts[account]
    stage.accounts[account] = replace(given, provider=replace(given.provider, keyed=trouble.has_keys))
    stage.world.switch(bluesnap_keys=not trouble.ignores_keys)
    # On a fresh connection: on a kept one the HTTP library itself would send a second time.
    stage.restart()
    effects_before, requests_before = len(stage.world.effects()), len(stage.world.requests())
    stage.world.fault(trouble.kind, **trouble.options)

    command_id = stage.enqueue(command)
    stage.execute(command_id)
    stage.advance(trouble.down.total_seconds())
    stage.work(timedelta(hours=1), tick=timedelta(minutes=15))

    after = stage.command(command_id)
    readings = stage.show(command_id)["readings"]
    (reason,) = stage.open_tickets(command_id) or [None]
    is_read = kind.startswith("read_")
    sent = [each for each in stage.world.requests()[requests_before:] if is_read or each["method"] != "GET"]

    return Cell(
        state=after.state,
        in_doubt=after.in_doubt,
        reason=reason,
        attempts=after.attempts,
        requests=len(sent),
        readings=tuple(each["verdict"] for each in readings),
        told=tuple(
            reading.evidence
            for told in stage.desk.told
            for case in told.case_file.cases
            if case.command_id == command_id
            for reading in case.readings
        ),
        effects=len([each for each in stage.world.effects()[effects_before:] if each["actor"] == "client"]),
    )


@cache
def row(account, kind):
    """What came of a kind in each trouble that can befall it, in order."""
    return tuple(
        (trouble, befall(account, kind, trouble)) for trouble in TROUBLES if can_befall(account, kind, trouble)
    )


def can_befall(account, kind, trouble):
    """Only what carries a key can have it ignored, and only at BlueSnap may an account lack keys unbeknown to it."""
    return not trouble.ignores_keys or (account == BLUESNAP and OPERATIONS[kind].honours_key)


# --- the laws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("account", "kind"), KINDS, ids=[f"{account}-{kind}" for account, kind in KINDS])
def test_no_lost_answer_makes_a_second_effect_or_a_wrong_end(account, kind):
    """Each operation is one line of what this project promises."""
    for trouble, cell in row(account, kind):
        where = (account, kind, trouble.words, cell)
        demand_the_truth(kind, trouble, cell, where)
        demand_evidence(account, kind, cell, where)
        # Our ledger counts what arrived there, no more and no less.
        assert cell.attempts == cell.requests, where
        assert cell.state in {State.SUCCEEDED, State.ESCALATED}, where


def demand_the_truth(kind, trouble, cell, where):
    """Done once where it says so, at most once where it does not; keys that are ignored unbeknown are told instead."""
    if kind.startswith("read_"):
        assert (State.SUCCEEDED, 0) == (cell.state, cell.effects), where
    elif trouble.ignores_keys:
        assert (State.SUCCEEDED, "keys_not_enabled", 2) == (cell.state, cell.reason, cell.effects), where
    elif cell.state is State.SUCCEEDED:
        assert cell.effects == 1, where
    else:
        assert cell.effects == (1 if cell.in_doubt and is_executed(trouble) else 0), where


def is_executed(trouble):
    return trouble.options.get("executed", True)


def demand_evidence(account, kind, cell, where):
    """Who is with a person has one ticket, and it says what was read wherever anything can be."""
    assert cell.reason is None or cell.state is State.ESCALATED or cell.reason == "keys_not_enabled", where
    if cell.state is State.ESCALATED:
        assert cell.reason is not None, where
        assert len(cell.told) == len(cell.readings), where
        assert all(cell.told), where
        assert bool(cell.readings) == (kind in {ACCOUNT: KLARNA_LOOKUPS, BLUESNAP: BLUESNAP_LOOKUPS}[account]), where


def test_every_operation_is_in_the_table():
    """A kind that is added must say what becomes of it."""
    assert {(account, kind) for account, kinds in OPERATIONS_OF.items() for kind in kinds} == set(KINDS)


# --- the page ----------------------------------------------------------------------------------------------


def markdown():
    """The tables as docs/faults.md shows them: kinds with the same outcome share one."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for account, kind in KINDS:
        shown = "\n".join(f"| {trouble.words} | {cell.shown} |" for trouble, cell in row(account, kind))
        groups.setdefault(shown, []).append((account, kind))
    tables = []
    for shown, kinds in groups.items():
        named = [
            fill(
                f"* {name}: {', '.join(f'`{kind}`' for at, kind in kinds if at == account)}",
                width=120,
                subsequent_indent="  ",
            )
            for account, name in ((ACCOUNT, "Klarna"), (BLUESNAP, "BlueSnap"))
            if any(at == account for at, _ in kinds)
        ]
        tables.append("\n".join([f"## {TITLES[kinds[0]]}", "", *named, "", *HEAD, shown]))

    return "\n\n".join(tables)


def test_the_page_shows_what_happened():
    """Whoever must decide whether to trust the worker reads it there."""
    page = PAGE.read_text("utf-8")
    before, _, shown = page.partition("## ")
    if WRITES:
        PAGE.write_text(before + markdown() + "\n", "utf-8")
        return

    assert markdown() == f"## {shown}".rstrip()
