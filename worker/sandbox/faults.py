"""Decides how each kind of fault shows: whether the operation is carried out, and what becomes of its answer.

Which request a fault befalls is `script.py`, and which bytes then go down the socket is `server.py`. A port that
refuses connections befalls no request: that is `site.py`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, get_type_hints, runtime_checkable

from .errors import SandboxError
from .klarna import refused
from .past import Lag
from .provider import Effect, Provider
from .wire import Answer, Delivery, Ending, bare_xml_answer, html_answer, read_json, xml_answer

#: Klarna's published form, one policy for each of the two levels; the first number is the quota nearest to exhaustion.
_RATE_LIMIT = '40, 40;w=1;name="account_payment-transaction-capture",100;w=1;name="psp_payment-transaction-capture"'

_LIST = b'["unexpected"]'
_GARBAGE = b"\x1f\x8b\x00 this is not JSON {"
_OBJECT = b'{"order_id":"f3392f8b-6116-4073-ab96-e330819e2c07","status":"AUTHORIZED"}'

_NO_CONTENT = 204

_OUT_OF_REACH = "The service cannot be reached"

#: The lists of a read in which each thing that was done stands once.
_LISTS = ("captures", "refunds", "refund")

#: Decimal text in major units, or an integer in minor units.
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?")

#: What a line of XML says that comes from what stands before BlueSnap.
_LINE_BY_STATUS = {
    403: "User is not authorized to view transaction",
    423: "The resource is locked",
    429: "Too many requests",
    503: "Service unavailable",
}


class Fault(Protocol):
    """One way to misbehave; the fields that its constructor takes are its options."""

    @property
    def executed(self) -> bool:
        """Tell whether the operation is carried out all the same."""

    def deliver(self, answer: Answer | None, provider: Provider, /) -> Delivery:
        """Turn the true answer, None when nothing was carried out, into what the client gets of the provider."""


@runtime_checkable
class Disturbance(Protocol):
    """A fault that changes the merchant's world just before the request which it befalls arrives there."""

    def disturb(self, provider: Provider, order_id: str | None, /) -> Effect | None:
        """Change the world around an order; the effect is what a stranger did, if anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseIdle:
    """Close a kept-alive connection when the next request arrives on it; befalls no request on a fresh connection."""

    executed: bool = True

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Say nothing and close."""
        return Delivery(answer=None, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Wait before carrying out, as a slow provider does: a client that gave up may be wrong about what happened.

    The idempotency key is at work all the while, so a second request with it gets 409.
    """

    seconds: int | float = 1.0
    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer as if nothing had been."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropReply:
    """Carry out, then close without a word."""

    executed: bool = field(default=True, init=False)

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Say nothing and close."""
        return Delivery(answer=None, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteThenStatus:
    """Carry out, then answer an error of the server."""

    status: int = 500
    body: str = "json"
    code: str | None = None
    executed: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        _demand_error(self.status, self.body)

    def deliver(self, _answer: Answer | None, provider: Provider, /) -> Delivery:
        """Answer the error in place of the truth."""
        return Delivery(answer=_error(provider, self.status, self.body, self.code))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Never answer: the connection is held until the client goes away, or for so many seconds."""

    executed: bool = False
    seconds: int | float | None = None

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Hold the connection."""
        return Delivery(answer=None, hold_seconds=self.seconds, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Html:
    """Answer the page of a gateway (502) or of a protection against floods (403) that stands before the provider."""

    status: int = 502
    executed: bool = False

    def __post_init__(self) -> None:
        _demand_error(self.status, "html")

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer the page; what stands before the provider knows no correlation id."""
        return Delivery(answer=html_answer(self.status, _OUT_OF_REACH))


@dataclass(frozen=True, slots=True, kw_only=True)
class NoIdHeader:
    """Carry out and answer the success, but without the id of what was made, and without `Location` if told so.

    At Klarna the id is in `Capture-Id` or `Refund-Id`, at BlueSnap in the body.
    """

    location: bool = True
    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, provider: Provider, /) -> Delivery:
        """Leave the id out of the true answer."""
        return Delivery(answer=answer and provider.without_id(answer, location=self.location))


@dataclass(frozen=True, slots=True, kw_only=True)
class NonObject:
    """Answer a JSON list where an object should be."""

    status: int | None = None
    executed: bool = False

    def __post_init__(self) -> None:
        if self.status is not None:
            _demand_status(self.status)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Put the list in place of the body."""
        return Delivery(answer=_with_body(answer, self.status, _LIST))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotJson:
    """Answer a body that calls itself JSON and is none."""

    status: int | None = None
    executed: bool = False

    def __post_init__(self) -> None:
        if self.status is not None:
            _demand_status(self.status)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Put the garbage in place of the body."""
        return Delivery(answer=_with_body(answer, self.status, _GARBAGE))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentMethodFailed:
    """Answer that the buyer could not be charged now: nothing was done, and later it may work with the same key."""

    executed: bool = field(default=False, init=False)

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer the one refusal of Klarna's that is not final."""
        return Delivery(answer=refused(403, "PAYMENT_METHOD_FAILED", "The payment method could not be charged"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Read the request to its end, then tear the connection down."""

    executed: bool = False

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Say nothing and reset."""
        return Delivery(answer=None, ending=Ending.RESET)


@dataclass(frozen=True, slots=True, kw_only=True)
class SingularError:
    """Refuse with the old form of the error object: one `error_message` in place of the list."""

    status: int = 403
    code: str = "NOT_ALLOWED"
    executed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _demand_error(self.status, "json")

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer the refusal."""
        return Delivery(answer=refused(self.status, self.code, "The operation is not allowed", is_singular=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowBody:
    """Carry out, then let the body drip for so long; where there is no body, the head drips."""

    seconds: int | float = 5.0
    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer the truth, slowly."""
        return Delivery(answer=answer, drip_seconds=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Answer a status, with an error object, a page or nothing for a body; nothing is carried out."""

    status: int = 503
    body: str = "json"
    code: str | None = None
    executed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _demand_error(self.status, self.body)

    def deliver(self, _answer: Answer | None, provider: Provider, /) -> Delivery:
        """Answer the status."""
        return Delivery(answer=_error(provider, self.status, self.body, self.code))


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Answer that the quota is used up, with the quota headers or without; nothing is carried out.

    BlueSnap publishes no quota, and answers with a line of XML.
    """

    headers: bool = True
    limit: str = _RATE_LIMIT
    remaining: int = 0
    reset: int = 1
    executed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not (self.limit.isascii() and self.limit.isprintable()):
            msg = f"limit must be printable ASCII, as headers are, got {self.limit!r}"
            raise SandboxError(msg)

    def deliver(self, _answer: Answer | None, provider: Provider, /) -> Delivery:
        """Answer 429."""
        answer = provider.throttled()
        quota = (
            ("X-Ratelimit-Limit", self.limit),
            ("X-Ratelimit-Remaining", str(self.remaining)),
            ("X-Ratelimit-Reset", str(self.reset)),
        )

        told = quota if self.headers and provider.tells_quota else ()

        return Delivery(answer=replace(answer, headers=answer.headers + told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """Promise more bytes than come, then close: the true answer when carried out, else a 200 or another status."""

    executed: bool = False
    status: int | None = None

    def __post_init__(self) -> None:
        if self.status is not None:
            _demand_status(self.status)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Send the first half of the body."""
        whole = _with_body(answer, self.status, answer.body if answer and answer.body else _OBJECT)
        half = whole.body[: len(whole.body) // 2]

        return Delivery(
            answer=replace(whole, body=half), missing_bytes=len(whole.body) - len(half), ending=Ending.CLOSE
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BareXml:
    """Answer one line of XML, as what stands before BlueSnap does; nothing is carried out unless told so."""

    status: int = 429
    text: str | None = None
    executed: bool = False

    def __post_init__(self) -> None:
        _demand_status(self.status, lowest=400)

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer the line."""
        text = self.text or _LINE_BY_STATUS.get(self.status, "Error")

        return Delivery(answer=bare_xml_answer(self.status, text))


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedTwice:
    """Carry out, and let the provider book the same once more: two equal captures with ids of their own."""

    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer as if nothing had been."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateId:
    """Let the capture, refund or record that the request makes have the id of the one before it."""

    executed: bool = field(default=True, init=False)

    def disturb(self, provider: Provider, order_id: str | None, /) -> None:
        """Make the provider forget to count."""
        provider.reuse_id(order_id)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer as if nothing had been."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """Let the authorization expire just before the request arrives."""

    executed: bool = field(default=True, init=False)

    def disturb(self, provider: Provider, order_id: str | None, /) -> None:
        """Bring the end forward."""
        if order_id is not None:
            provider.expire(order_id)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer what the expired authorization allows."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class FraudPending:
    """Put the order under review just before the request arrives, for so long, with a verdict at the end."""

    seconds: int | float = 86_400
    verdict: str = "ACCEPTED"
    executed: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        verdicts = ("ACCEPTED", "REJECTED")
        if self.verdict not in verdicts:
            msg = f"verdict must be one of {', '.join(verdicts)}, got {self.verdict!r}"
            raise SandboxError(msg)

    def disturb(self, provider: Provider, order_id: str | None, /) -> None:
        """Begin the review."""
        if order_id is not None:
            provider.review(order_id, seconds=self.seconds, verdict=self.verdict)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer what the review allows."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundPending:
    """Let the refund that the request makes be PENDING for so long on the sandbox's clock, and then SUCCESS or FAIL."""

    seconds: int | float = 259_200
    ends: str = "SUCCESS"
    executed: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        ends = ("SUCCESS", "FAIL")
        if self.ends not in ends:
            msg = f"ends must be one of {', '.join(ends)}, got {self.ends!r}"
            raise SandboxError(msg)

    def disturb(self, provider: Provider, order_id: str | None, /) -> None:
        """Have the next refund wait."""
        if order_id is not None:
            provider.hold_refund(order_id, seconds=self.seconds, ends=self.ends)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer that it is pending."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTwice:
    """Show each capture and refund of a read twice, id and all, although it was booked once."""

    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Double the lists of the true answer."""
        content = None if answer is None else _json_of(answer)
        if answer is None or content is None:
            return Delivery(answer=answer)

        return Delivery(answer=replace(answer, body=_compact(_doubled(content, is_list_of_bookings=True))))


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleRead:
    """Let a read show what was so many seconds ago on the sandbox's clock, or before the last so many changes.

    So that the first reads after a write do not see it: `times` says how many.
    """

    seconds: int | float | None = None
    changes: int = 1
    executed: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if self.changes < 1 or (self.seconds is not None and not self.seconds > 0):
            msg = f"a read lags by 1 change or more or by more than 0 s, got {self.changes} and {self.seconds}"
            raise SandboxError(msg)

    @property
    def lag(self) -> Lag:
        """Say how far the read lags behind."""
        return Lag(seconds=self.seconds, changes=self.changes)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer what was."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """Let somebody else capture or refund just before the request arrives: another system, or a person in the portal.

    An integer is minor units, a text major units; without an amount it is all that is left. What is impossible is left
    undone.
    """

    act: str = "capture"
    amount: int | str | None = None
    executed: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        acts = ("capture", "refund")
        if self.act not in acts:
            msg = f"act must be one of {', '.join(acts)}, got {self.act!r}"
            raise SandboxError(msg)
        if self.amount is not None and (self.amount == 0 or not _AMOUNT.fullmatch(str(self.amount))):
            msg = f"amount must be minor units above 0 or decimal text, got {self.amount!r}"
            raise SandboxError(msg)

    def disturb(self, provider: Provider, order_id: str | None, /) -> Effect | None:
        """Act, with no key and no reference of ours."""
        if order_id is None:
            return None

        return provider.act_as_stranger(order_id, kind=self.act, amount=self.amount)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer what the stranger left."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnexpectedShape:
    """Answer 200 with valid JSON of another shape: an object, an empty one, the answer in a list, null, a text."""

    shape: str = "object"
    status: int = 200
    executed: bool = False

    def __post_init__(self) -> None:
        _demand_status(self.status)
        if self.shape not in _SHAPES:
            msg = f"shape must be one of {', '.join(_SHAPES)}, got {self.shape!r}"
            raise SandboxError(msg)

    def deliver(self, answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Put the other shape in place of the body."""
        true = None if answer is None else _json_of(answer)

        return Delivery(answer=_with_body(answer, self.status, _compact(_SHAPES[self.shape](true))))


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlError:
    """Refuse in XML, in BlueSnap's form, although JSON was asked for; nothing is carried out unless told so."""

    status: int = 400
    name: str = "VALIDATION_GENERAL_FAILURE"
    code: str = "10001"
    executed: bool = False

    def __post_init__(self) -> None:
        _demand_status(self.status, lowest=400)

    def deliver(self, _answer: Answer | None, _provider: Provider, /) -> Delivery:
        """Answer the XML."""
        return Delivery(answer=xml_answer(self.status, (self.name, self.code, "The request could not be served")))


#: What an answer may look like instead of what it should, made from the true one, or from nothing.
_SHAPES: Mapping[str, Callable[[object], object]] = {
    "object": lambda true: {"data": true, "status": "ok"},
    "empty": lambda _true: {},
    "list": lambda true: [true],
    "empty_list": lambda _true: [],
    "null": lambda _true: None,
    "text": lambda _true: "ok",
    "number": lambda _true: 0,
}


KINDS: Mapping[str, type[Fault]] = {
    "bare_xml": BareXml,
    "booked_twice": BookedTwice,
    "close_idle": CloseIdle,
    "delay": Delay,
    "drop_reply": DropReply,
    "duplicate_id": DuplicateId,
    "execute_then_status": ExecuteThenStatus,
    "expire": Expire,
    "fraud_pending": FraudPending,
    "hang": Hang,
    "html": Html,
    "no_id_header": NoIdHeader,
    "non_object": NonObject,
    "not_json": NotJson,
    "payment_method_failed": PaymentMethodFailed,
    "refund_pending": RefundPending,
    "reset": Reset,
    "shown_twice": ShownTwice,
    "singular_error": SingularError,
    "slow_body": SlowBody,
    "stale_read": StaleRead,
    "status": Status,
    "stranger": Stranger,
    "throttle": Throttle,
    "truncated": Truncated,
    "unexpected_shape": UnexpectedShape,
    "xml_error": XmlError,
}

#: Faults that only one of the providers knows.
ONLY_AT: Mapping[str, str] = {
    "payment_method_failed": "klarna",
    "refund_pending": "bluesnap",
    "singular_error": "klarna",
}


def build_fault(kind: str, options: Mapping[str, Any]) -> Fault:
    """Make a fault of a kind with its options, each of which must be known and of the right type."""
    fault_type = KINDS.get(kind)
    if fault_type is None:
        msg = f"there is no fault {kind!r}; there are {', '.join(KINDS)}"
        raise SandboxError(msg)
    hints = get_type_hints(fault_type)
    known = [option.name for option in fields(fault_type) if option.init]  # type: ignore[arg-type]  # all are dataclasses
    for name, value in options.items():
        if name not in known:
            msg = f"the fault {kind} has no option {name!r}; it has {', '.join(known) or 'none'}"
            raise SandboxError(msg)
        if not isinstance(value, hints[name]) or (isinstance(value, bool) and hints[name] is not bool):
            msg = f"the option {name} of the fault {kind} cannot be {value!r}"
            raise SandboxError(msg)

    return fault_type(**options)


def _demand_status(status: int, *, lowest: int = 200, highest: int = 599) -> None:
    if not lowest <= status <= highest:
        msg = f"status must be {lowest} to {highest}, got {status}"
        raise SandboxError(msg)


def _demand_error(status: int, body: str) -> None:
    _demand_status(status, lowest=400)
    bodies = ("json", "empty", "html")
    if body not in bodies:
        msg = f"body must be one of {', '.join(bodies)}, got {body!r}"
        raise SandboxError(msg)


def _error(provider: Provider, status: int, body: str, code: str | None) -> Answer:
    if body == "html":
        return html_answer(status, _OUT_OF_REACH)
    answer = provider.error(status, code)

    return answer if body == "json" else replace(answer, headers=_without(answer, {"Content-Type"}), body=b"")


def _with_body(answer: Answer | None, status: int | None, body: bytes) -> Answer:
    """Give the true answer, or where there is none an answer of our own, another body that calls itself JSON."""
    kept = () if answer is None else _without(answer, {"Content-Type"})
    true_status = 200 if answer is None or answer.status == _NO_CONTENT else answer.status

    return Answer(
        status=true_status if status is None else status,
        headers=(*kept, ("Content-Type", "application/json")),
        body=body,
    )


def _without(answer: Answer, names: set[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in answer.headers if name not in names)


def _json_of(answer: Answer) -> object:
    """Read the body of an answer; None for one that is no JSON."""
    try:
        return read_json(answer.body)
    except ValueError:
        return None


def _compact(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _doubled(content: object, *, is_list_of_bookings: bool = False) -> object:
    if isinstance(content, dict):
        return {name: _doubled(value, is_list_of_bookings=name in _LISTS) for name, value in content.items()}
    if isinstance(content, list) and is_list_of_bookings:
        return [item for item in content for _ in range(2)]

    return content
