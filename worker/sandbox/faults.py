"""Decides how each kind of fault shows: whether the operation is carried out, and what becomes of its answer.

Which request a fault befalls is `script.py`, and which bytes then go down the socket is `server.py`. A port that
refuses connections befalls no request: that is `site.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, get_type_hints

from .errors import SandboxError
from .klarna import refused
from .wire import Answer, Delivery, Ending, html_answer

#: Klarna's published form, one policy for each of the two levels; the first number is the quota nearest to exhaustion.
_RATE_LIMIT = '40, 40;w=1;name="account_payment-transaction-capture",100;w=1;name="psp_payment-transaction-capture"'

_LIST = b'["unexpected"]'
_GARBAGE = b"\x1f\x8b\x00 this is not JSON {"
_OBJECT = b'{"order_id":"f3392f8b-6116-4073-ab96-e330819e2c07","status":"AUTHORIZED"}'

_NO_CONTENT = 204

_CODE_BY_STATUS = {
    400: "BAD_VALUE",
    403: "NOT_ALLOWED",
    404: "NOT_FOUND",
    409: "CONFLICT",
    413: "REQUEST_TOO_LARGE",
    422: "UNPROCESSABLE_ENTITY",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_SERVER_ERROR",
    502: "TEMPORARILY_UNAVAILABLE",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}


class Fault(Protocol):
    """One way to misbehave; the fields that its constructor takes are its options."""

    @property
    def executed(self) -> bool:
        """Tell whether the operation is carried out all the same."""

    def deliver(self, answer: Answer | None, /) -> Delivery:
        """Turn the true answer, None when nothing was carried out, into what the client gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseIdle:
    """Close a kept-alive connection when the next request arrives on it; befalls no request on a fresh connection."""

    executed: bool = True

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Say nothing and close."""
        return Delivery(answer=None, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Wait before carrying out, as a slow provider does: a client that gave up may be wrong about what happened.

    The idempotency key is at work all the while, so a second request with it gets 409.
    """

    seconds: int | float = 1.0
    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, /) -> Delivery:
        """Answer as if nothing had been."""
        return Delivery(answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropReply:
    """Carry out, then close without a word."""

    executed: bool = field(default=True, init=False)

    def deliver(self, _answer: Answer | None, /) -> Delivery:
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

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Answer the error in place of the truth."""
        return Delivery(answer=_error(self.status, self.body, self.code))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Never answer: the connection is held until the client goes away, or for so many seconds."""

    executed: bool = False
    seconds: int | float | None = None

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Hold the connection."""
        return Delivery(answer=None, hold_seconds=self.seconds, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Html:
    """Answer the page of a gateway (502) or of a protection against floods (403) that stands before the provider."""

    status: int = 502
    executed: bool = False

    def __post_init__(self) -> None:
        _demand_error(self.status, "html")

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Answer the page; what stands before the provider knows no correlation id."""
        return Delivery(answer=_error(self.status, "html", None))


@dataclass(frozen=True, slots=True, kw_only=True)
class NoIdHeader:
    """Carry out and answer 201, but without `Capture-Id` or `Refund-Id`, and without `Location` if told so."""

    location: bool = True
    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, /) -> Delivery:
        """Leave headers out of the true answer."""
        left_out = {"Capture-Id", "Refund-Id"} | (set() if self.location else {"Location"})

        return Delivery(answer=answer and replace(answer, headers=_without(answer, left_out)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NonObject:
    """Answer a JSON list where an object should be."""

    status: int | None = None
    executed: bool = False

    def __post_init__(self) -> None:
        if self.status is not None:
            _demand_status(self.status)

    def deliver(self, answer: Answer | None, /) -> Delivery:
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

    def deliver(self, answer: Answer | None, /) -> Delivery:
        """Put the garbage in place of the body."""
        return Delivery(answer=_with_body(answer, self.status, _GARBAGE))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentMethodFailed:
    """Answer that the buyer could not be charged now: nothing was done, and later it may work with the same key."""

    executed: bool = field(default=False, init=False)

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Answer the one refusal of Klarna's that is not final."""
        return Delivery(answer=refused(403, "PAYMENT_METHOD_FAILED", "The payment method could not be charged"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Read the request to its end, then tear the connection down."""

    executed: bool = False

    def deliver(self, _answer: Answer | None, /) -> Delivery:
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

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Answer the refusal."""
        return Delivery(answer=refused(self.status, self.code, "The operation is not allowed", is_singular=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowBody:
    """Carry out, then let the body drip for so long; where there is no body, the head drips."""

    seconds: int | float = 5.0
    executed: bool = field(default=True, init=False)

    def deliver(self, answer: Answer | None, /) -> Delivery:
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

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Answer the status."""
        return Delivery(answer=_error(self.status, self.body, self.code))


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Answer that the quota is used up, with the quota headers or without; nothing is carried out."""

    headers: bool = True
    limit: str = _RATE_LIMIT
    remaining: int = 0
    reset: int = 1
    executed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not (self.limit.isascii() and self.limit.isprintable()):
            msg = f"limit must be printable ASCII, as headers are, got {self.limit!r}"
            raise SandboxError(msg)

    def deliver(self, _answer: Answer | None, /) -> Delivery:
        """Answer 429; Klarna sends no Retry-After."""
        answer = refused(429, "TOO_MANY_REQUESTS", "The rate limit is exceeded")
        quota = (
            ("X-Ratelimit-Limit", self.limit),
            ("X-Ratelimit-Remaining", str(self.remaining)),
            ("X-Ratelimit-Reset", str(self.reset)),
        )

        return Delivery(answer=replace(answer, headers=answer.headers + (quota if self.headers else ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """Promise more bytes than come, then close: the true answer when carried out, else a 200 or another status."""

    executed: bool = False
    status: int | None = None

    def __post_init__(self) -> None:
        if self.status is not None:
            _demand_status(self.status)

    def deliver(self, answer: Answer | None, /) -> Delivery:
        """Send the first half of the body."""
        whole = _with_body(answer, self.status, answer.body if answer and answer.body else _OBJECT)
        half = whole.body[: len(whole.body) // 2]

        return Delivery(
            answer=replace(whole, body=half), missing_bytes=len(whole.body) - len(half), ending=Ending.CLOSE
        )


KINDS: Mapping[str, type[Fault]] = {
    "close_idle": CloseIdle,
    "delay": Delay,
    "drop_reply": DropReply,
    "execute_then_status": ExecuteThenStatus,
    "hang": Hang,
    "html": Html,
    "no_id_header": NoIdHeader,
    "non_object": NonObject,
    "not_json": NotJson,
    "payment_method_failed": PaymentMethodFailed,
    "reset": Reset,
    "singular_error": SingularError,
    "slow_body": SlowBody,
    "status": Status,
    "throttle": Throttle,
    "truncated": Truncated,
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


def _error(status: int, body: str, code: str | None) -> Answer:
    if body == "html":
        return html_answer(status, "The service cannot be reached")
    answer = refused(status, code or _CODE_BY_STATUS.get(status, "UNEXPECTED_ERROR"), "The request could not be served")

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
