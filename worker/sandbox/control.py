"""Decides how the sandbox is driven from another process: which path and JSON of the control port is which verb.

The verbs themselves are `site.py` and `world.py`; `SandboxControl` is the other end of the line, with the methods that
`Sandbox` has.
"""

import json
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote
from urllib.request import ProxyHandler, Request as HttpRequest, build_opener

from .errors import SandboxError
from .site import Site
from .wire import Answer, Delivery, Request, json_answer, read_json

Json = dict[str, Any]
_Kinds = Mapping[str, type | types.UnionType]

_ORDER_FIELDS: _Kinds = {
    "order_id": str | None,
    "amount": int,
    "currency": str,
    "status": str,
    "expires_at": str | None,
}
_TRANSACTION_FIELDS: _Kinds = {
    "transaction_id": str | None,
    "amount": str,
    "currency": str,
    "captured": bool,
    "merchant_transaction_id": str | None,
    "expires_at": str | None,
}
_RECORD_FIELDS: _Kinds = {"collection": str, "record_id": str, "fields": dict}
_FAULT_FIELDS: _Kinds = {
    "kind": str,
    "order_id": str | None,
    "path": str | None,
    "method": str | None,
    "times": int | None,
    "skip": int,
}
_QUOTA_FIELDS: _Kinds = {
    "category": str,
    "partner": int,
    "acquiring_partner": int | None,
    "kinds": list | None,
    "provider": str,
}
_CLOCK_FIELDS: _Kinds = {"advance_seconds": int | float}
_OUTAGE_FIELDS: _Kinds = {"seconds": int | float | None}

#: Whoever drives a sandbox waits for a verb, never for a slow exchange; so a silent control port is a broken one.
_TIMEOUT_SECONDS = 10


class Control:
    """The control port's side of the line."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._verbs: Mapping[tuple[str, str], Callable[[Json], Awaitable[Answer]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/effects"): self._effects,
            ("GET", "/requests"): self._requests,
            ("GET", "/switches"): self._switches,
            ("POST", "/orders"): self._create_order,
            ("POST", "/transactions"): self._create_transaction,
            ("POST", "/records"): self._create_record,
            ("POST", "/switches"): self._switch,
            ("GET", "/quotas"): self._quotas,
            ("POST", "/quotas"): self._quota,
            ("DELETE", "/quotas"): self._clear_quotas,
            ("POST", "/faults"): self._fault,
            ("DELETE", "/faults"): self._clear_faults,
            ("POST", "/clock"): self._advance,
            ("POST", "/outage"): self._refuse_connections,
            ("DELETE", "/outage"): self._accept_connections,
            ("POST", "/reset"): self._reset,
        }

    async def respond(self, request: Request) -> Delivery:
        """Carry out a verb; one that cannot be carried out is answered with the reason."""
        try:
            return Delivery(answer=await self._answer(request))
        except SandboxError as error:
            return Delivery(answer=json_answer(422, {"error": str(error)}))

    async def _answer(self, request: Request) -> Answer:
        collection, _, thing_id = request.path.removeprefix("/").partition("/")
        if request.method == "GET" and collection == "orders" and thing_id:
            return json_answer(200, self._site.world.order(unquote(thing_id)))
        if request.method == "GET" and collection == "transactions" and thing_id:
            return json_answer(200, self._site.world.transaction(unquote(thing_id)))
        verb = self._verbs.get((request.method, request.path))
        if verb is None:
            known = ", ".join(f"{method} {path}" for method, path in self._verbs)
            return json_answer(404, {"error": f"there is no {request.method} {request.path}; there are {known}"})
        return await verb(_content(request))

    async def _health(self, _content: Json) -> Answer:
        return json_answer(200, self._site.health())

    async def _effects(self, _content: Json) -> Answer:
        return json_answer(200, self._site.world.effects())

    async def _requests(self, _content: Json) -> Answer:
        return json_answer(200, self._site.world.requests())

    async def _create_order(self, content: Json) -> Answer:
        return json_answer(201, self._site.world.create_order(**order_fields(content)))

    async def _create_transaction(self, content: Json) -> Answer:
        return json_answer(201, self._site.world.create_transaction(**transaction_fields(content)))

    async def _create_record(self, content: Json) -> Answer:
        return json_answer(201, self._site.world.create_record(**record_fields(content)))

    async def _switches(self, _content: Json) -> Answer:
        return json_answer(200, self._site.world.switches())

    async def _switch(self, content: Json) -> Answer:
        self._site.world.switch(**content)

        return Answer(status=204)

    async def _quotas(self, _content: Json) -> Answer:
        return json_answer(200, self._site.world.quotas())

    async def _quota(self, content: Json) -> Answer:
        for required in ("category", "partner"):
            _demand(content, _QUOTA_FIELDS, required=required)
        self._site.world.quota(**content)

        return Answer(status=204)

    async def _clear_quotas(self, _content: Json) -> Answer:
        self._site.world.clear_quotas()

        return Answer(status=204)

    async def _fault(self, content: Json) -> Answer:
        rules = {name: value for name, value in content.items() if name in _FAULT_FIELDS}
        _demand(rules, _FAULT_FIELDS, required="kind")
        self._site.world.fault(**content)

        return Answer(status=204)

    async def _clear_faults(self, _content: Json) -> Answer:
        self._site.world.clear_faults()

        return Answer(status=204)

    async def _advance(self, content: Json) -> Answer:
        _demand(content, _CLOCK_FIELDS, required="advance_seconds")
        self._site.world.advance(content["advance_seconds"])

        return Answer(status=204)

    async def _refuse_connections(self, content: Json) -> Answer:
        _demand(content, _OUTAGE_FIELDS)
        self._site.refuse_connections(content.get("seconds"))

        return Answer(status=204)

    async def _accept_connections(self, _content: Json) -> Answer:
        self._site.accept_connections()

        return Answer(status=204)

    async def _reset(self, _content: Json) -> Answer:
        await self._site.reset()

        return Answer(status=204)


class SandboxControl:
    """Drives a sandbox that runs in another process, by the methods that `Sandbox` has."""

    def __init__(self, control_url: str) -> None:
        self.control_url = control_url.rstrip("/")
        # A proxy that the environment names must not come between a driver and its own machine.
        self._opener = build_opener(ProxyHandler({}))

    @property
    def base_url(self) -> str:
        """Ask where the provider's port is reached."""
        return str(self.health()["base_url"])

    def create_order(
        self,
        order_id: str | None = None,
        *,
        amount: int = 10_000,
        currency: str = "EUR",
        status: str = "AUTHORIZED",
        expires_at: datetime | None = None,
    ) -> Json:
        """Put an order into the merchant's world."""
        fields = {
            "order_id": order_id,
            "amount": amount,
            "currency": currency,
            "status": status,
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }
        order: Json = self._call("POST", "/orders", fields)

        return order

    def order(self, order_id: str) -> Json:
        """Show an order as it stands now."""
        order: Json = self._call("GET", f"/orders/{quote(order_id, safe='')}")

        return order

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
        """Put a card transaction into the merchant's world."""
        fields = {
            "transaction_id": transaction_id,
            "amount": amount,
            "currency": currency,
            "captured": captured,
            "merchant_transaction_id": merchant_transaction_id,
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }
        transaction: Json = self._call("POST", "/transactions", fields)

        return transaction

    def transaction(self, transaction_id: str) -> Json:
        """Show a card transaction as it stands now."""
        transaction: Json = self._call("GET", f"/transactions/{quote(transaction_id, safe='')}")

        return transaction

    def create_record(self, collection: str, record_id: str, *, fields: Json) -> Json:
        """Put a shopper, plan, vendor, subscription or the like into the merchant's world."""
        content = {"collection": collection, "record_id": record_id, "fields": fields}
        record: Json = self._call("POST", "/records", content)

        return record

    def switch(self, **values: object) -> None:
        """Set how the providers behave where the real ones are undocumented or depend on the account."""
        self._call("POST", "/switches", values)

    def switches(self) -> Json:
        """Show how the switches stand."""
        switches: Json = self._call("GET", "/switches")

        return switches

    def quota(
        self,
        category: str,
        *,
        partner: int,
        acquiring_partner: int | None = None,
        kinds: Sequence[str] | None = None,
        provider: str = "klarna",
    ) -> None:
        """Set how many requests a second a category takes, for each account and for all of them together."""
        rules = {"partner": partner, "acquiring_partner": acquiring_partner, "provider": provider}
        self._call("POST", "/quotas", {"category": category, "kinds": kinds and list(kinds), **rules})

    def quotas(self) -> Json:
        """Show the quotas that are set, and for each second how many requests were let through and how many not."""
        quotas: Json = self._call("GET", "/quotas")

        return quotas

    def clear_quotas(self) -> None:
        """Set no quota any more, and forget what came of those that were."""
        self._call("DELETE", "/quotas")

    def fault(
        self,
        kind: str,
        *,
        order_id: str | None = None,
        path: str | None = None,
        method: str | None = None,
        times: int | None = 1,
        skip: int = 0,
        **options: object,
    ) -> None:
        """Script a fault for the next requests that fit."""
        rules = {"order_id": order_id, "path": path, "method": method, "times": times, "skip": skip}
        self._call("POST", "/faults", {"kind": kind, **rules, **options})

    def clear_faults(self) -> None:
        """Strike out all faults to come."""
        self._call("DELETE", "/faults")

    def effects(self) -> list[Json]:
        """Show every effect, oldest first."""
        effects: list[Json] = self._call("GET", "/effects")

        return effects

    def requests(self) -> list[Json]:
        """Show every request, oldest first."""
        requests: list[Json] = self._call("GET", "/requests")

        return requests

    def refuse_connections(self, seconds: float | None = None) -> None:
        """Refuse connections for so many real seconds, or until told to accept them."""
        self._call("POST", "/outage", {"seconds": seconds})

    def accept_connections(self) -> None:
        """Accept connections again."""
        self._call("DELETE", "/outage")

    def advance(self, seconds: float) -> None:
        """Let time pass in the sandbox."""
        self._call("POST", "/clock", {"advance_seconds": seconds})

    def reset(self) -> None:
        """Begin again with an empty world and an open port."""
        self._call("POST", "/reset")

    def health(self) -> Json:
        """Tell what is there and whether it can be reached."""
        health: Json = self._call("GET", "/health")

        return health

    def _call(self, method: str, path: str, content: Json | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = HttpRequest(self.control_url + path, data=body, method=method)  # noqa: S310  # the caller's own URL
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                text = answer.read()
        except HTTPError as error:
            with error:
                raise SandboxError(json.loads(error.read())["error"]) from None
        except URLError as error:
            msg = f"no sandbox answers at {self.control_url} ({error.reason}); start it with: post-purchase sandbox"
            raise SandboxError(msg) from error

        return json.loads(text) if text else None


def order_fields(content: object) -> Json:
    """Read an order to be made from JSON, as the arguments of `create_order`."""
    return _fields(content, _ORDER_FIELDS, noun="an order")


def transaction_fields(content: object) -> Json:
    """Read a card transaction to be made from JSON, as the arguments of `create_transaction`."""
    return _fields(content, _TRANSACTION_FIELDS, noun="a transaction")


def record_fields(content: object) -> Json:
    """Read a record to be made from JSON, as the arguments of `create_record`; it names all of them."""
    fields = _fields(content, _RECORD_FIELDS, noun="a record")
    for name in _RECORD_FIELDS:
        _demand(fields, _RECORD_FIELDS, required=name)

    return fields


def _fields(content: object, accepted: _Kinds, *, noun: str) -> Json:
    if not isinstance(content, dict):
        msg = f"{noun} must be a JSON object"
        raise SandboxError(msg)
    _demand(content, accepted)
    fields = dict(content)
    if fields.get("expires_at") is not None:
        fields["expires_at"] = _moment(fields["expires_at"])

    return fields


def _content(request: Request) -> Json:
    try:
        content = read_json(request.body) if request.body else {}
    except ValueError as error:
        msg = f"the body is not valid JSON: {error}"
        raise SandboxError(msg) from error
    if not isinstance(content, dict):
        msg = "the body must be a JSON object"
        raise SandboxError(msg)

    return content


def _demand(content: Json, accepted: _Kinds, *, required: str | None = None) -> None:
    for name, value in content.items():
        if name not in accepted:
            msg = f"unknown field {name!r}; known are {', '.join(accepted)}"
            raise SandboxError(msg)
        if not isinstance(value, accepted[name]) or (isinstance(value, bool) and accepted[name] is not bool):
            msg = f"{name} cannot be {value!r}"
            raise SandboxError(msg)
    if required is not None and required not in content:
        msg = f"the field {required} is missing"
        raise SandboxError(msg)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"expires_at must be a moment in ISO 8601, got {text!r}"
        raise SandboxError(msg) from error
