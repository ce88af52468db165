"""Klarna Order Management v1: which request each kind of command is, and what each answer means.

Decides method, path, headers and body per kind, and one of the seven outcomes per answer, both by literal tables.
Leaves the sending to the transport, the repeating to `domain/ladder`, the checking of fields to enqueue and the
judgement of what a read-back shows to `klarna_lookup`. A command counts as done on any 2xx and as refused only where
Klarna itself said so with an error code; an answer that some gateway, firewall or login page may have given leaves it
in doubt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from ..domain.finding import Finding
from ..domain.ladder import Safety
from ..domain.outcome import InDoubt, NotNow, Outcome, Problem, Rejected, Succeeded
from ..domain.redact import readable, without
from ..ports import Answer, Held, NoAnswer, Request
from .http import (
    BY_STATUS,
    DONE,
    LONGEST_CODE,
    LONGEST_MESSAGE,
    LONGEST_RAW_MESSAGE,
    REFUSED,
    Failure,
    basic,
    content_of,
    identifier,
    json_object,
    may_be_a_strangers,
    operation_of,
    segment,
    unanswered,
    unexplained,
    unread,
    user_agent,
)
from .klarna_lookup import LOOKUPS, find, unknown_order

KEY_HEADER = "Klarna-Idempotency-Key"
CORRELATION_HEADER = "klarna-correlation-id"

_ORDERS = "/ordermanagement/v1/orders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """How a kind of command is asked for. `path` stands below the order; `{target}` is what the command is about."""

    method: str
    path: str
    has_body: bool

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self.method == "GET"


def _read(path: str) -> Operation:
    return Operation(method="GET", path=path, has_body=False)


def _post(path: str, *, has_body: bool) -> Operation:
    return Operation(method="POST", path=path, has_body=has_body)


def _patch(path: str) -> Operation:
    return Operation(method="PATCH", path=path, has_body=True)


#: The operations of Klarna's description, one kind of command each.
OPERATIONS: Mapping[str, Operation] = {
    "acknowledge": _post("/acknowledge", has_body=False),
    "capture": _post("/captures", has_body=True),
    "refund": _post("/refunds", has_body=True),
    "cancel": _post("/cancel", has_body=False),
    "release_remaining_authorization": _post("/release-remaining-authorization", has_body=False),
    "update_authorization": _patch("/authorization"),
    "extend_authorization_time": _post("/extend-authorization-time", has_body=False),
    "update_customer_details": _patch("/customer-details"),
    "update_merchant_references": _patch("/merchant-references"),
    "add_order_shipping_info": _post("/shipping-info", has_body=True),
    "add_capture_shipping_info": _post("/captures/{target}/shipping-info", has_body=True),
    "trigger_send_out": _post("/captures/{target}/trigger-send-out", has_body=False),
    "extend_due_date": _patch("/captures/{target}/extend-due-date"),
    "read_order": _read(""),
    "read_capture": _read("/captures/{target}"),
    "read_captures": _read("/captures"),
    "read_refund": _read("/refunds/{target}"),
    "read_due_date_options": _read("/captures/{target}/extend-due-date-options"),
}

#: Kinds that make something with an id: its name in the result, the header that carries it, its place in `Location`.
CREATED_ID: Mapping[str, tuple[str, str, re.Pattern[str]]] = {
    "capture": ("capture_id", "capture-id", re.compile(r"/captures/([^/?#]+)/?(?:[?#].*)?$")),
    "refund": ("refund_id", "refund-id", re.compile(r"/refunds/([^/?#]+)/?(?:[?#].*)?$")),
}

#: Error codes of other 4xx answers that are not a refusal for good: the buyer could not be charged now.
BY_ERROR_CODE: Mapping[str, Failure] = {"PAYMENT_METHOD_FAILED": NotNow}

#: Kinds whose payload is about a person: what was sent is taken out of Klarna's message about it.
PERSONAL = frozenset({"update_customer_details"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Klarna:
    """`ports.Provider` for one account at Klarna Order Management v1 (or at Kustom, which speaks the same).

    `keyed` False says that the account's keys are not honoured; it counts for commands that were stored before, too.
    """

    account: str
    base_url: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    keyed: bool = True
    _orders_url: str = field(init=False, repr=False)
    _authorization: str = field(init=False, repr=False)
    _headers: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_orders_url", self.base_url.rstrip("/") + _ORDERS)
        object.__setattr__(self, "_authorization", basic(self.username, self.password))
        object.__setattr__(self, "_headers", {"Accept": "application/json", "User-Agent": user_agent()})

    def safety(self, kind: str, *, keyed: bool) -> Safety:
        """Say how far a command of this kind may be repeated when its fate is unknown."""
        operation = OPERATIONS.get(kind)
        if operation is not None and operation.is_read:
            return Safety.READ
        # Also for a kind of another version's: it is not sent, but whoever holds it must be able to decide.
        if keyed and self.keyed:
            return Safety.KEYED
        return Safety.UNKEYED_READABLE if self.reads_back(kind) else Safety.UNKEYED

    def request(self, held: Held) -> Request:
        """Build the request: the same bytes and the same key on every attempt."""
        operation = operation_of(held.kind, OPERATIONS)
        headers = dict(self._headers)
        if operation.has_body:
            headers["Content-Type"] = "application/json"
        has_key = held.keyed and self.keyed and not operation.is_read
        if has_key:
            headers[KEY_HEADER] = held.idempotency_key

        return Request(
            method=operation.method,
            url=f"{self._orders_url}/{segment(held.kind, 'order_id', held.order_id)}{_below_order(held, operation)}",
            headers=headers,
            body=held.payload if operation.has_body else None,
            authorization=self._authorization,
            repeatable=operation.is_read or has_key,
        )

    def outcome(self, held: Held, answer: Answer | NoAnswer) -> Outcome:
        """Say what the answer means."""
        match answer:
            case NoAnswer():
                return unanswered(answer)
            case Answer(status=status) if status in DONE:
                return _done(held, answer)
            case Answer():
                return _not_done(held, answer)

    def reads_back(self, kind: str) -> bool:
        """Whether this kind's effect can be looked up at Klarna."""
        return kind in LOOKUPS

    def lookup(self, held: Held) -> Request | None:
        """Build the read of the order: it shows captures, refunds, totals and fields of one moment."""
        if held.kind not in LOOKUPS:
            return None

        return self._read_of(held.kind, held.order_id)

    def probe(self, order_id: str) -> Request:
        """Build the read of an order."""
        return self._read_of("probe", order_id)

    def _read_of(self, kind: str, order_id: str) -> Request:
        return Request(
            method="GET",
            url=f"{self._orders_url}/{segment(kind, 'order_id', order_id)}",
            headers=self._headers,
            body=None,
            authorization=self._authorization,
            repeatable=True,
        )

    def finding(self, held: Held, answer: Answer | NoAnswer) -> Finding | Outcome:
        """Say what the order shows of a command."""
        match answer:
            case NoAnswer():
                return unanswered(answer)
            case Answer(status=status) if status in DONE:
                found = find(held, content_of(answer))
                return found or InDoubt(problem=_problem(held, answer, unread(answer), None))
            case Answer():
                outcome = _not_done(held, answer)
                return unknown_order(held) if _is_unknown(outcome) else outcome


def _below_order(held: Held, operation: Operation) -> str:
    if "{target}" not in operation.path:
        return operation.path

    return operation.path.format(target=segment(held.kind, "target", held.target or ""))


# --- what an answer means ----------------------------------------------------------------------------------


def _done(held: Held, answer: Answer) -> Succeeded | InDoubt:
    if not operation_of(held.kind, OPERATIONS).is_read:
        return _changed(held, answer)
    content = content_of(answer)
    if content is None:
        return InDoubt(problem=_problem(held, answer, unread(answer), None))

    return Succeeded(result={"answer": content}, status=answer.status, correlation_id=_correlation_id(answer, None))


def _changed(held: Held, answer: Answer) -> Succeeded | InDoubt:
    """Believe a 2xx on a change, with or without an id; but no page or fragment that somebody else may have sent."""
    created, correlation_id = _created_id(held.kind, answer), _correlation_id(answer, None)
    if may_be_a_strangers(answer) and not created and correlation_id is None:
        return InDoubt(problem=_problem(held, answer, unexplained(answer), None))

    return Succeeded(result=created, status=answer.status, correlation_id=correlation_id)


def _not_done(held: Held, answer: Answer) -> Outcome:
    error = json_object(answer.body) if answer.complete else None
    error_code = readable(_text(error, "error_code"), LONGEST_CODE)
    if answer.status in BY_STATUS:
        failure, ours = BY_STATUS[answer.status]
    elif answer.status in REFUSED and error_code:
        failure, ours = BY_ERROR_CODE.get(error_code, Rejected), ""
    else:
        failure, ours = InDoubt, unexplained(answer)

    return failure(problem=_problem(held, answer, error_code or ours, error))


def _is_unknown(outcome: Outcome) -> bool:
    """Whether Klarna itself says that there is no such order."""
    return (
        isinstance(outcome, Rejected)
        and outcome.problem.status == HTTPStatus.NOT_FOUND
        and outcome.problem.code == "NO_SUCH_ORDER"
    )


def _created_id(kind: str, answer: Answer) -> Mapping[str, str]:
    """Find the id of what was made. That there is none changes nothing: it was made."""
    if kind not in CREATED_ID:
        return {}
    name, header, place = CREATED_ID[kind]
    location = place.search(answer.headers.get("location", ""))
    found = answer.headers.get(header) or (unquote(location[1]) if location else "")
    readable_id = identifier(found)

    return {name: readable_id} if readable_id else {}


def _problem(held: Held, answer: Answer, code: str, error: Mapping[str, Any] | None) -> Problem:
    message = _message(error)
    if held.kind in PERSONAL:
        message = without(message, json.loads(held.payload))

    return Problem(
        code=code,
        message=readable(message, LONGEST_MESSAGE),
        status=answer.status,
        correlation_id=_correlation_id(answer, error),
    )


def _message(error: Mapping[str, Any] | None) -> str:
    """Join Klarna's messages; older services write one, without the plural."""
    listed = error.get("error_messages") if error else None
    messages = [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []

    message = "; ".join(messages) or _text(error, "error_messages") or _text(error, "error_message")

    return message[:LONGEST_RAW_MESSAGE]


def _text(error: Mapping[str, Any] | None, name: str) -> str:
    found = error.get(name) if error else None

    return found.strip() if isinstance(found, str) else ""


def _correlation_id(answer: Answer, error: Mapping[str, Any] | None) -> str | None:
    found = answer.headers.get(CORRELATION_HEADER) or _text(error, "correlation_id")

    return identifier(found) or None
