"""Decides the way of a request through the sandbox: ledger, quota, faults, credentials, key, operation, answer.

It owns the providers, the switches, the faults, the ledger and the clock. It runs on one event loop and is touched from
nowhere else, so that nothing in it needs a lock. The operations are `klarna.py` and `bluesnap.py`, told apart by the
path; the sockets are `server.py`.
"""

import asyncio
import base64
import hmac
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

from .bluesnap import BlueSnap
from .bluesnap_routes import PREFIX as BLUESNAP_PREFIX
from .clock import Clock, stamp
from .errors import SandboxError
from .faults import BookedTwice, Delay, Disturbance, Fault, StaleRead
from .klarna import Klarna
from .ledger import Ledger, Seen
from .provider import Operation, Provider
from .quota import Quotas, Verdict
from .replay import InProgress, OtherRequest
from .script import Script
from .switches import Switches
from .wire import Answer, Delivery, Request

Json = dict[str, Any]


class World:
    """A merchant's world at the stand-in provider."""

    def __init__(
        self,
        *,
        username: str,
        password: str,
        create_orders: int | None,
        replay_errors: bool,
        accounts: Collection[tuple[str, str, str]] = (),
    ) -> None:
        self._anybody = (username, password)
        self._accounts = [(provider, (name, secret)) for provider, name, secret in accounts]
        self._clock = Clock()
        self._switches = Switches(replay_errors=replay_errors)
        self._klarna = Klarna(clock=self._clock, switches=self._switches, create_orders=create_orders)
        self._bluesnap = BlueSnap(clock=self._clock, switches=self._switches, create_orders=create_orders)
        self._quotas = Quotas(clock=self._clock, switches=self._switches)
        self._script = Script()
        self._ledger = Ledger()

    async def respond(self, request: Request) -> Delivery:
        """Take a request in, and say what the client gets."""
        provider = self._provider_of(request)
        seen = self._ledger.note_request(request, provider=provider.name, at=self._clock.now())
        verdict = self._admit(provider, request)
        if verdict is not None and not verdict.is_admitted:
            refusal = _with_headers(provider.throttled(), verdict)
            seen.status = refusal.status
            return Delivery(answer=refusal)
        order_id = provider.order_id_in(request)
        taken = self._script.take(request, provider=provider.name, order_id=order_id)
        if taken is None:
            delivery = Delivery(answer=_with_headers(await self._answer(provider, request, seen), verdict))
        else:
            seen.fault, fault = taken
            self._disturb(provider, fault, order_id)
            answer = await self._answer(provider, request, seen, fault=fault) if fault.executed else None
            delivery = fault.deliver(answer, provider)
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

    def create_transaction(
        self,
        transaction_id: str | None = None,
        *,
        amount: str = "10.00",
        currency: str = "USD",
        captured: bool = False,
        merchant_transaction_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> Json:
        """Put a card transaction into the merchant's world, authorized or captured too; no effect is noted."""
        if transaction_id is not None and not transaction_id:
            msg = "transaction_id must not be empty; leave it out to get a new one"
            raise SandboxError(msg)
        if expires_at is not None and expires_at.tzinfo is None:
            msg = f"expires_at must have a time zone, got {expires_at.isoformat()}"
            raise SandboxError(msg)
        transaction = self._bluesnap.open_transaction(
            transaction_id,
            amount=amount,
            currency=currency,
            captured=captured,
            merchant_transaction_id=merchant_transaction_id,
            expires_at=expires_at,
        )

        return transaction.shown(has_refund_details=True)

    def transaction(self, transaction_id: str) -> Json:
        """Show a card transaction as it stands now, with all that is known of its refunds."""
        transaction = self._bluesnap.find(transaction_id)
        if transaction is None:
            msg = f"there is no transaction {transaction_id}; make it with create_transaction"
            raise SandboxError(msg)

        return transaction.shown(has_refund_details=True)

    def create_record(self, collection: str, record_id: str, *, fields: Json) -> Json:
        """Put a shopper, plan, vendor, subscription or the like into the merchant's world; no effect is noted."""
        return self._bluesnap.put_record(collection, record_id, fields=fields)

    def switch(self, **values: object) -> None:
        """Set how the providers behave where the real ones are undocumented or depend on the account."""
        self._switches.set(**values)

    def switches(self) -> Json:
        """Show how the switches stand."""
        return self._switches.shown()

    def quota(self, category: str, **rules: Any) -> None:
        """Set how many requests a second a category takes."""
        self._quotas.set(category, **rules)

    def quotas(self) -> Json:
        """Show the quotas that are set, and what came of them second by second."""
        return self._quotas.shown()

    def clear_quotas(self) -> None:
        """Set no quota any more, and forget what came of those that were."""
        self._quotas.reset()

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
        """Begin again: no orders, transactions, keys, quotas, faults, effects or requests; all else as at first."""
        for part in (self._klarna, self._bluesnap, self._ledger, self._quotas, self._switches, self._clock):
            part.reset()
        self._script.clear()

    def health(self) -> Json:
        """Count what is here."""
        return {
            "now": stamp(self._clock.now()),
            "orders": len(self._klarna),
            "transactions": len(self._bluesnap),
            "effects": self._ledger.effect_count,
            "requests": self._ledger.request_count,
            "faults": len(self._script),
        }

    def _provider_of(self, request: Request) -> Provider:
        """Tell by the path whose request it is; what nobody knows is Klarna's to refuse."""
        is_bluesnap = f"{request.path}/".startswith(BLUESNAP_PREFIX)

        return self._bluesnap if is_bluesnap else self._klarna

    def _admit(self, provider: Provider, request: Request) -> Verdict | None:
        """Hold a request against the quota of its kind; what is not authorized or goes nowhere counts in none."""
        operation = provider.route(request)
        if isinstance(operation, Answer) or not self._is_authorized(provider, request):
            return None
        account = _credentials(request)[0].partition("+")[2]
        verdict = self._quotas.admit(provider=provider.name, kind=operation.kind, account=account)

        return replace(verdict, headers=()) if verdict is not None and not provider.tells_quota else verdict

    def _disturb(self, provider: Provider, fault: Fault, order_id: str | None) -> None:
        effect = fault.disturb(provider, order_id) if isinstance(fault, Disturbance) else None
        if effect is not None:
            self._ledger.note_effect(effect, provider=provider.name, actor="stranger", key=None, at=self._clock.now())

    async def _answer(self, provider: Provider, request: Request, seen: Seen, *, fault: Fault | None = None) -> Answer:
        """Check what stands before an operation, in the providers' order: size, credentials, path, key."""
        if request.is_too_large:
            return provider.too_large()
        if not self._is_authorized(provider, request):
            return provider.unauthorized()
        operation = provider.route(request)
        if isinstance(operation, Answer):
            return operation
        key = operation.key
        match provider.replay.begin(key, content=operation.content) if key else None:
            case Answer() as first:
                seen.is_replay = True
                return provider.replayed(first, key=key or "")
            case InProgress() | OtherRequest() as why:
                return provider.key_refused(why)
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds)
        answer = self._execute(provider, operation, request, fault=fault)
        if isinstance(fault, BookedTwice) and operation.is_change:
            self._execute(provider, replace(operation, key=None), request, actor="provider")

        return answer

    def _execute(
        self,
        provider: Provider,
        operation: Operation,
        request: Request,
        *,
        fault: Fault | None = None,
        actor: str = "client",
    ) -> Answer:
        """Carry out, note the effect and keep the answer for the key, with nothing running in between."""
        lag = fault.lag if isinstance(fault, StaleRead) else None
        execution = provider.execute(operation, request, lag=lag)
        if execution.effect is not None:
            self._ledger.note_effect(
                execution.effect, provider=provider.name, actor=actor, key=operation.key or None, at=self._clock.now()
            )
        if operation.key:
            provider.replay.finish(operation.key, execution.answer)

        return execution.answer

    def _is_authorized(self, provider: Provider, request: Request) -> bool:
        """Know the merchant by the user name, or by what stands before a plus sign in it: one of several accounts."""
        username, password = _credentials(request)
        known = [pair for name, pair in self._accounts if name == provider.name] or [self._anybody]

        return any(_is_same(username, password, *pair) for pair in known)


def _is_same(username: str, password: str, known: str, secret: str) -> bool:
    name, plus, account = username.partition("+")
    shown = name if plus and account and "+" not in known else username

    return hmac.compare_digest(f"{shown}:{password}".encode(), f"{known}:{secret}".encode())


def _credentials(request: Request) -> tuple[str, str]:
    scheme, _, encoded = (request.header("Authorization") or "").partition(" ")
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return "", ""
    username, _, password = decoded.partition(":")

    return (username, password) if scheme == "Basic" else ("", "")


def _with_headers(answer: Answer, verdict: Verdict | None) -> Answer:
    return answer if verdict is None else replace(answer, headers=answer.headers + verdict.headers)
