"""What a shop asks for during a run: every kind of command of both providers, in small stories of one order each.

Decides which commands there are and in which order they are stored; a seed decides all of it. The shop itself does what
shops do: one transaction for what belongs together, and once more under the same reference when it does not know
whether its commit came through.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.commands import Command
from worker.domain.klarna_commands import KLARNA_COMMANDS
from worker.ports import StoreUnavailable
from worker.sandbox import SandboxControl
from worker.wiring import Services

KLARNA, BLUESNAP = "klarna-eu", "bluesnap-us"

Json = dict[str, Any]
Wish = tuple[str, str, Json]  # kind, the id it is about, its fields
_Story = Callable[[int], tuple[list[Json], list[Wish]]]

_PAID = {"currency": "USD", "vaulted_shopper_id": 20_781_033}
_RECORD = {"fields": {"firstName": "Ann", "lastName": "Example"}}
_ADDRESS = {"shipping_address": {"city": "Knoxville"}}
_PARCEL = [{"shipping_company": "DHL"}]

#: Stands in a wish for the id of the capture that the order came with.
CAPTURE_ID = "<capture>"


def _order(number: int, status: str = "AUTHORIZED") -> Json:
    return {"order_id": f"order-{number}", "amount": 100_000, "status": status}


def _sold(number: int) -> tuple[list[Json], list[Wish]]:
    order = f"order-{number}"
    wishes: list[Wish] = [
        ("acknowledge", order, {}),
        ("update_merchant_references", order, {"merchant_reference1": f"R-{number}"}),
        ("capture", order, {"amount": 1_000}),
        ("capture", order, {"amount": 2_000}),
        ("add_order_shipping_info", order, {"shipping_info": _PARCEL}),
        ("refund", order, {"amount": 300}),
        ("read_order", order, {}),
        ("read_captures", order, {}),
    ]

    return [_order(number)], wishes


def _looked_after(number: int) -> tuple[list[Json], list[Wish]]:
    order = f"order-{number}"
    wishes: list[Wish] = [
        ("add_capture_shipping_info", order, {"capture_id": CAPTURE_ID, "shipping_info": _PARCEL}),
        ("trigger_send_out", order, {"capture_id": CAPTURE_ID}),
        ("read_capture", order, {"capture_id": CAPTURE_ID}),
        ("read_due_date_options", order, {"capture_id": CAPTURE_ID}),
        ("extend_due_date", order, {"capture_id": CAPTURE_ID, "number_of_days": 10}),
        ("refund", order, {"amount": 100}),
        ("refund", order, {"amount": 150}),
        ("release_remaining_authorization", order, {}),
    ]

    return [_order(number, "PART_CAPTURED")], wishes


def _changed(number: int) -> tuple[list[Json], list[Wish]]:
    order = f"order-{number}"
    wishes: list[Wish] = [
        ("update_authorization", order, {"amount": 90_000}),
        ("update_customer_details", order, _ADDRESS),
        ("extend_authorization_time", order, {}),
        ("capture", order, {"amount": 500}),
        ("read_refund", order, {"refund_id": "no-such-refund"}),
    ]

    return [_order(number)], wishes


def _given_up(number: int) -> tuple[list[Json], list[Wish]]:
    order = f"order-{number}"

    return [_order(number)], [("update_customer_details", order, _ADDRESS), ("cancel", order, {})]


def _without_keys(number: int) -> tuple[list[Json], list[Wish]]:
    order = f"order-{number}"
    wishes: list[Wish] = [
        ("capture", order, {"amount": 700, "keyed": False}),
        ("refund", order, {"amount": 200, "keyed": False}),
        ("add_order_shipping_info", order, {"shipping_info": _PARCEL, "keyed": False}),
    ]

    return [_order(number)], wishes


def _card(number: int) -> tuple[list[Json], list[Wish]]:
    transaction = str(50_000_000 + number)
    wishes: list[Wish] = [
        ("capture", transaction, {"amount": 900, "currency": "USD"}),
        ("refund", transaction, {"amount": 100, "currency": "USD"}),
        ("refund", transaction, {"amount": 200, "currency": "USD"}),
        ("read_transaction", transaction, {}),
    ]

    return [{"transaction_id": transaction, "amount": "10.00"}], wishes


def _card_given_up(number: int) -> tuple[list[Json], list[Wish]]:
    transaction, other = str(50_000_000 + number), str(60_000_000 + number)
    wishes: list[Wish] = [("auth_reversal", transaction, {}), ("cancel_pending_refund", other, {})]
    world = [{"transaction_id": transaction, "amount": "10.00"}, {"transaction_id": other, "captured": True}]

    return world, wishes


def _paid(number: int) -> tuple[list[Json], list[Wish]]:
    wishes: list[Wish] = [
        ("sale", f"sale-{number}", {"amount": 500, "merchant_transaction_id": f"s-{number}", **_PAID}),
        ("authorize", f"authorize-{number}", {"amount": 600, "merchant_transaction_id": f"a-{number}", **_PAID}),
        ("create_alt_transaction", f"alt-{number}", {"amount": 700, "currency": "USD"}),
        ("create_on_demand_subscription", f"demand-{number}", {"currency": "USD"}),
        ("charge_on_demand_subscription", str(70_000_000 + number), {"amount": 800, "currency": "USD"}),
        ("place_batch_order", f"batch-{number}", _RECORD),
        ("keyed_post", f"post-{number}", {"path": "/vendors", **_RECORD}),
    ]

    return [], wishes


def _kept(number: int) -> tuple[list[Json], list[Wish]]:
    record = str(80_000_000 + number)
    shelves = {
        "shopper": "vaulted-shoppers",
        "plan": "recurring/plans",
        "subscription": "recurring/subscriptions",
        "vendor": "vendors",
    }
    wishes: list[Wish] = []
    for noun in shelves:
        changed = {"fields": {"firstName": "Ben", "lastName": noun}}
        wishes += [(f"create_{noun}", f"new-{noun}-{number}", _RECORD), (f"update_{noun}", record, changed)]
        wishes.append((f"read_{noun}", record, {}))
    wishes.append(("charge_subscription", record, _RECORD))
    world = [{"collection": shelf, "record_id": record, "fields": {"firstName": "Ann"}} for shelf in shelves.values()]

    return world, wishes


#: Account, story, and how often it is told compared with the others.
_STORIES: Sequence[tuple[str, _Story, int]] = (
    (KLARNA, _sold, 8),
    (KLARNA, _looked_after, 3),
    (KLARNA, _changed, 2),
    (KLARNA, _given_up, 2),
    (KLARNA, _without_keys, 2),
    (BLUESNAP, _card, 6),
    (BLUESNAP, _card_given_up, 2),
    (BLUESNAP, _paid, 2),
    (BLUESNAP, _kept, 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a seed asks for: the world it begins in, and the wishes in the order in which they are stored."""

    world: Sequence[Json]
    wishes: Sequence[tuple[str, Wish]]

    @classmethod
    def of(cls, seed: int, *, commands: int) -> Load:
        """Make up so many commands, or a few more: no story ends in its middle."""
        chance = random.Random(f"load {seed}")
        weights = [weight for *_, weight in _STORIES]
        world: list[Json] = []
        told: list[list[tuple[str, Wish]]] = []
        number = 0
        while sum(map(len, told)) < commands:
            number += 1
            # Each story is told before chance has a word.
            account, story, _ = (
                _STORIES[number - 1] if number <= len(_STORIES) else chance.choices(_STORIES, weights)[0]
            )
            begins_with, wishes = story(number)
            world += begins_with
            told.append([(account, wish) for wish in wishes])

        return cls(world=world, wishes=list(_mixed(told, chance)))


def _mixed(told: list[list[tuple[str, Wish]]], chance: random.Random) -> Iterator[tuple[str, Wish]]:
    """Tell a dozen stories at a time, each in its own order."""
    waiting = [list(reversed(story)) for story in reversed(told)]
    open_ones: list[list[tuple[str, Wish]]] = []
    while waiting or open_ones:
        while waiting and len(open_ones) < 12:
            open_ones.append(waiting.pop())
        one = chance.choice(open_ones)
        yield one.pop()
        if not one:
            open_ones.remove(one)


def commands_of(load: Load, control: SandboxControl, *, seed: int) -> list[Command]:
    """Make the commands, under references of their own."""
    capture_ids: dict[str, str] = {}
    made = []
    for number, (account, (kind, order_id, fields)) in enumerate(load.wishes):
        if fields.get("capture_id") == CAPTURE_ID:
            if order_id not in capture_ids:
                capture_ids[order_id] = control.order(order_id)["captures"][0]["capture_id"]
            fields = {**fields, "capture_id": capture_ids[order_id]}  # noqa: PLW2901  # the same wish, complete
        kinds = {KLARNA: KLARNA_COMMANDS, BLUESNAP: BLUESNAP_COMMANDS}[account]
        more = {} if kind.startswith("read_") else {"reference": f"{seed}-{number}"}
        made.append(kinds[kind](account=account, order_id=order_id, **more, **fields))

    return made


@dataclass(slots=True, eq=False)
class Shop:
    """Stores commands at a steady pace, whatever happens to the database meanwhile."""

    services: Services
    commands: Sequence[Command]
    seconds: float
    chance: random.Random
    stored: list[UUID] = field(default_factory=list)
    repeats: int = 0
    _thread: threading.Thread | None = None
    _is_over: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._store, name="shop", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether every command was confirmed."""
        return len(self.stored) == len(self.commands)

    def close(self) -> None:
        """End, done or not."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _store(self) -> None:
        begins = time.monotonic()
        left = list(self.commands)
        while left and not self._is_over.is_set():
            size = self.chance.choice([1, 1, 2, 5, 20, 60])
            batch, left = left[:size], left[size:]
            self._store_until_known(batch)
            share = 1 - len(left) / len(self.commands)
            self._is_over.wait(max(0.0, begins + share * self.seconds - time.monotonic()))

    def _store_until_known(self, batch: Sequence[Command]) -> None:
        while not self._is_over.is_set():
            try:
                with self.services.store.engine.begin() as connection:
                    enqueued = self.services.enqueue(connection, batch)
            except (SQLAlchemyError, StoreUnavailable):
                # Whether the commit came through is not known; a repeat under the same references is harmless.
                self.repeats += 1
                self._is_over.wait(0.2)
            else:
                self.stored += [each.id for each in enqueued]
                return
