"""Decides the way of a request through the sandbox: ledger, script of faults, credentials, key, operation, answer.

It owns the orders, the keys, the faults, the ledger and the clock. It runs on one event loop and is touched from
nowhere else, so that nothing in it needs a lock. The operations are `klarna.py`; the sockets are `server.py`.
"""

import asyncio
import base64
import hmac
from datetime import datetime
from typing import Any

from . import klarna
from .clock import Clock, stamp
from .errors import SandboxError
from .faults import Delay
from .klarna import Klarna, Operation
from .ledger import Ledger, Seen
from .replay import InProgress, Replay
from .script import Script
from .wire import Answer, Delivery, Request

Json = dict[str, Any]


class World:
    """A merchant's world at the stand-in provider."""

    def __init__(self, *, username: str, password: str, create_orders: int | None, replay_errors: bool) -> None:
        self._credentials = b"Basic " + base64.b64encode(f"{username}:{password}".encode())
        self._clock = Clock()
        self._klarna = Klarna(clock=self._clock, create_orders=create_orders)
        self._replay = Replay(clock=self._clock, keeps_errors=replay_errors)
        self._script = Script()
        self._ledger = Ledger()

    async def respond(self, request: Request) -> Delivery:
        """Take a request in, and say what the client gets."""
        seen = self._ledger.note_request(request, at=self._clock.now())
        taken = self._script.take(request, order_id=klarna.order_id_in(request.path))
        if taken is None:
            delivery = Delivery(answer=await self._answer(request, seen))
        else:
            seen.fault, fault = taken
            wait_seconds = fault.seconds if isinstance(fault, Delay) else 0
            answer = await self._answer(request, seen, wait_seconds=wait_seconds) if fault.executed else None
            delivery = fault.deliver(answer)
        seen.status = None if delivery.answer is None else delivery.answer.status

        return delivery

    def create_order(
        self,
        order_id: str | None = None,
        *,
        amount: int = 10_000,
        currency: str = "EUR",
        status: str = "AUTHORIZED",
        expires_at: datetime | None = None,
    ) -> Json:
        """Put an order into the merchant's world, with the life behind it that its status needs; no effect is noted."""
        if order_id is not None and not order_id:
            msg = "order_id must not be empty; leave it out to get a new one"
            raise SandboxError(msg)
        if amount < 1:
            msg = f"amount must be 1 or more minor units, got {amount}"
            raise SandboxError(msg)
        if expires_at is not None and expires_at.tzinfo is None:
            msg = f"expires_at must have a time zone, got {expires_at.isoformat()}"
            raise SandboxError(msg)
        now = self._clock.now()
        order = self._klarna.open_order(order_id, amount=amount, currency=currency)
        order.bring_to(status, now=now)
        if expires_at is not None:
            order.expires_at = expires_at
        order.catch_up(now)
        self._klarna.add(order)

        return order.shown()

    def order(self, order_id: str) -> Json:
        """Show an order as it stands now."""
        order = self._klarna.find(order_id)
        if order is None:
            msg = f"there is no order {order_id}; make it with create_order"
            raise SandboxError(msg)

        return order.shown()

    def fault(self, kind: str, **rules: Any) -> None:
        """Script a fault for the next requests that fit."""
        self._script.add(kind, **rules)

    def clear_faults(self) -> None:
        """Strike out all faults to come."""
        self._script.clear()

    def effects(self) -> list[Json]:
        """Show every effect, oldest first."""
        return self._ledger.effects()

    def requests(self) -> list[Json]:
        """Show every request, oldest first."""
        return self._ledger.requests()

    def advance(self, seconds: float) -> None:
        """Let time pass here: keys are forgotten, authorizations expire."""
        self._clock.advance(seconds)

    def reset(self) -> None:
        """Begin again: no orders, keys, faults, effects or requests, and the real time."""
        for part in (self._klarna, self._replay, self._ledger, self._clock):
            part.reset()
        self._script.clear()

    def health(self) -> Json:
        """Count what is here."""
        return {
            "now": stamp(self._clock.now()),
            "orders": len(self._klarna),
            "effects": self._ledger.effect_count,
            "requests": self._ledger.request_count,
            "faults": len(self._script),
        }

    async def _answer(self, request: Request, seen: Seen, *, wait_seconds: float = 0) -> Answer:
        """Check what stands before an operation, in Klarna's order: size, credentials, path, key."""
        if request.is_too_large:
            return klarna.too_large()
        if not self._is_authorized(request):
            return klarna.unauthorized()
        operation = klarna.route(request)
        if isinstance(operation, Answer):
            return operation
        key = request.header(klarna.KEY_HEADER) if operation.is_change else None
        match self._replay.begin(key) if key else None:
            case Answer() as first:
                seen.is_replay = True
                return first
            case InProgress():
                return klarna.conflict()
        if wait_seconds:
            await asyncio.sleep(wait_seconds)

        return self._execute(operation, request, key=key)

    def _execute(self, operation: Operation, request: Request, *, key: str | None) -> Answer:
        """Carry out, note the effect and keep the answer for the key, with nothing running in between."""
        execution = self._klarna.execute(operation, request)
        if execution.effect is not None:
            self._ledger.note_effect(execution.effect, key=key, at=self._clock.now())
        if key:
            self._replay.finish(key, execution.answer)

        return execution.answer

    def _is_authorized(self, request: Request) -> bool:
        given = request.header("Authorization") or ""

        return hmac.compare_digest(given.encode(), self._credentials)
