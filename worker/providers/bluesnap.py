"""BlueSnap's Payment API: which request each kind of command is, and what each answer means.

Decides method, path, headers and body per kind, and one of the seven outcomes per answer, both by literal tables.
Leaves the sending to the transport, the repeating to `domain/ladder`, the checking of fields to enqueue and the
judgement of what a read-back shows to `bluesnap_lookup`.

BlueSnap looks at a key on POST alone: a PUT or a DELETE is never safe to repeat, whatever is stored of it. A command
counts as done on any 2xx, a pending refund included, unless some gateway or login page may have given it. It counts as
refused only where BlueSnap itself said so by the name of an error. The number beside the name does not decide: one
number stands for many errors. A refusal that may speak of our own earlier request (already captured, already refunded,
a duplicate) is a refusal here; after an attempt whose fate is unknown the ladder believes none. Amounts in an answer
decide nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import unquote

from ..domain.errors import FieldProblem, InvalidCommand
from ..domain.finding import Ambiguous, Finding
from ..domain.ladder import Safety
from ..domain.outcome import InDoubt, NotNow, Outcome, Problem, Rejected, Succeeded, Throttled
from ..domain.redact import printable, readable, without
from ..ports import Answer, Held, NoAnswer, Request
from .bluesnap_lookup import LOOKUPS, NAMED_BY_CALLER, find, payment_name
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
from .reading import evidence, quoted

KEY_HEADER = "Idempotency-Key"
VERSION_HEADER = "bluesnap-version"

_SERVICES = "/services/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """How a kind of command is asked for. In `path`, `{order_id}` is an id, `{target}` a whole path with its query."""

    method: str
    path: str

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self.method == "GET"

    @property
    def honours_key(self) -> bool:
        """Whether BlueSnap looks at a key."""
        return self.method == "POST"

    @property
    def has_body(self) -> bool:
        """Whether something is sent along."""
        return self.method in {"POST", "PUT"}


def _operation(method: str, path: str) -> Operation:
    return Operation(method=method, path=path)


#: The operations of BlueSnap's description, one kind of command each.
OPERATIONS: Mapping[str, Operation] = {
    "capture": _operation("PUT", "/transactions"),
    "auth_reversal": _operation("PUT", "/transactions"),
    "refund": _operation("POST", "/transactions/refund/{order_id}"),
    "cancel_pending_refund": _operation("DELETE", "/transactions/pending-refund/{order_id}"),
    "authorize": _operation("POST", "/transactions"),
    "sale": _operation("POST", "/transactions"),
    "create_alt_transaction": _operation("POST", "/alt-transactions"),
    "create_on_demand_subscription": _operation("POST", "/recurring/ondemand"),
    "charge_on_demand_subscription": _operation("POST", "/recurring/ondemand/{order_id}"),
    "create_subscription": _operation("POST", "/recurring/subscriptions"),
    "update_subscription": _operation("PUT", "/recurring/subscriptions/{order_id}"),
    "charge_subscription": _operation("POST", "/subscriptions/{order_id}/subscription-charges"),
    "create_plan": _operation("POST", "/recurring/plans"),
    "update_plan": _operation("PUT", "/recurring/plans/{order_id}"),
    "create_shopper": _operation("POST", "/vaulted-shoppers"),
    "update_shopper": _operation("PUT", "/vaulted-shoppers/{order_id}"),
    "create_vendor": _operation("POST", "/vendors"),
    "update_vendor": _operation("PUT", "/vendors/{order_id}"),
    "place_batch_order": _operation("POST", "/batch/order-placement"),
    "keyed_post": _operation("POST", "{target}"),
    "read_transaction": _operation("GET", "/transactions/{order_id}"),
    "read_subscription": _operation("GET", "/recurring/subscriptions/{order_id}"),
    "read_plan": _operation("GET", "/recurring/plans/{order_id}"),
    "read_vendor": _operation("GET", "/vendors/{order_id}"),
    "read_shopper": _operation("GET", "/vaulted-shoppers/{order_id}"),
}

#: What is kept of the body of a success: BlueSnap's name → ours.
KEPT: Mapping[str, str] = {
    "transactionId": "transaction_id",
    "refundTransactionId": "refund_transaction_id",
    "refundStatus": "refund_status",
    "subscriptionId": "subscription_id",
    "planId": "plan_id",
    "vendorId": "vendor_id",
    "vaultedShopperId": "vaulted_shopper_id",
}

#: Kinds whose success may be a 201 without a body: what the last part of `Location` is the id of.
LOCATED: Mapping[str, str] = {
    "create_on_demand_subscription": "subscription_id",
    "create_subscription": "subscription_id",
    "create_plan": "plan_id",
    "create_shopper": "vaulted_shopper_id",
    "create_vendor": "vendor_id",
}

_REUSED_KEY = "SAME_IDEMPOTENCY_KEY_WAS_ALREADY_IN_USE_WITH_PREVIOUS_DIFFERENT_REQUEST"

#: Names of errors in other 4xx answers. A name that is not here is a refusal for good.
BY_ERROR_NAME: Mapping[str, Failure] = {
    # the processor may have acted
    "BLS_CONNECTION_PROBLEM": InDoubt,
    "PROCESSING_TIMEOUT": InDoubt,
    "SYSTEM_TECHNICAL_ERROR": InDoubt,
    "THE_ISSUER_IS_UNAVAILABLE_OR_OFFLINE": InDoubt,
    # names no cause
    "PAYMENT_GENERAL_FAILURE": InDoubt,
    # the request that holds the key has not ended, or nobody could look
    "IDEMPOTENCY_SERVICE_TIMEOUT": InDoubt,
    "REQUEST_WITH_SAME_IDEMPOTENCY_KEY_ALREADY_IN_PROGRESS": InDoubt,
    # nothing was done now: not cleared yet, another refund is under way, another call is at it
    "REFUND_GENERAL_FAILURE": NotNow,
    "REFUND_IN_PROCESS": NotNow,
    "TRANSACTION_LOCKED": NotNow,
    # this request was not executed; an earlier one with its key perhaps, and sending it again would not tell
    _REUSED_KEY: Rejected,
    # may speak of an earlier request of ours: believed on a first attempt only, see `ladder`
    "PROCESSING_DUPLICATE": Rejected,
    "TRANSACTION_ALREADY_CAPTURED": Rejected,
    "TRANSACTION_ALREADY_EXISTS": Rejected,
    "AUTHORIZATION_AMOUNT_ALREADY_REVERSED": Rejected,
}

#: The names of errors that come without one, where the number has only one meaning.
BY_CODE: Mapping[str, str] = {
    "14004": "REFUND_GENERAL_FAILURE",
    "14006": "REFUND_MAX_AMOUNT_FAILURE",
    "14009": "REFUND_ALREADY_DONE",
    "14022": "REFUND_ALREADY_DONE_IN_FULL",
    "14023": "REFUND_IN_PROCESS",
    "15011": "FRAUD_DETECTED",
    "20008": "TRANSACTION_ID_REQUIRED",
    "20010": "TRANSACTION_ALREADY_CAPTURED",
    "60101": _REUSED_KEY,
    "60102": "REQUEST_WITH_SAME_IDEMPOTENCY_KEY_ALREADY_IN_PROGRESS",
    "60103": "IDEMPOTENCY_KEY_MAX_LENGTH_LIMIT_EXCEEDED",
    "60104": "INVALID_IDEMPOTENCY_KEY",
    "60106": "IDEMPOTENCY_SERVICE_TIMEOUT",
}

#: A name that no table has, but that speaks of one of these, does not say that nothing was done.
_UNCERTAIN = re.compile(r"TIME_?D?_?OUT|TECHNICAL|CONNECTION|UNAVAILABLE|OFFLINE|SYSTEM_(?:ERROR|FAILURE)")

#: Of several errors in one answer the first of these decides.
_GRAVEST_FIRST: tuple[Failure, ...] = (InDoubt, Rejected, NotNow)

#: What BlueSnap says when a call was turned away at one of its five thresholds, before it was looked at.
THRESHOLDS: tuple[str, ...] = (
    "client request rate is too high",
    "client request concurrency is too high",
    "request rate for service is too high",
    "request concurrency to specific service is too high",
    "service is temporarily unavailable",
)
_AT_A_THRESHOLD = frozenset({423, 503})

#: How BlueSnap says that something does not exist, or belongs to somebody else: it does not tell them apart.
_NOT_YOURS = "not authorized to view"

#: What a person has to know about a key that was in use for something else.
_EARLIER_REQUEST = (
    "An earlier request under this key may have been executed: read at BlueSnap before anything is sent under a new key"
)

#: What stands at the top of a body and is nobody's secret: it may be quoted back in a message.
_PLAIN = frozenset({"amount", "cancelSubscriptions", "cardTransactionType", "currency", "taxAmount", "transactionId"})

_LONGEST_XML = 65_536
_MOST_ENTRIES = 20

_BARE_LINE = re.compile(r"\s*<xml>([^<>]{1,500})</xml>\s*", re.IGNORECASE)
_XML_FIELD = re.compile(r"<(error-name|code|description)>([^<]{0,2000})</")
_LAST_SEGMENT = re.compile(r"/([^/?#]+)/?(?:[?#].*)?$")
_SAFE_TARGET = re.compile(r"(?:/(?!\.\.?(?:[/?]|\Z))[A-Za-z0-9._~:-]+)+(?:\?[A-Za-z0-9._~%&=-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One error of an answer. `name` is empty where BlueSnap gave neither a name nor a number of one meaning."""

    name: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueSnap:
    """`ports.Provider` for one account at BlueSnap's Payment API.

    `keyed` False says that keys are not enabled for the account; it counts for commands that were stored before, too.
    `merchant_id` is the account's number at BlueSnap; without it no payment can be found by the caller's name for it.
    """

    account: str
    base_url: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    keyed: bool = True
    version: str = "3.0"
    merchant_id: int | None = None
    _services_url: str = field(init=False, repr=False)
    _authorization: str = field(init=False, repr=False)
    _headers: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_services_url", self.base_url.rstrip("/") + _SERVICES)
        object.__setattr__(self, "_authorization", basic(self.username, self.password))
        # Without both types BlueSnap may answer an error in XML, whether or not there is a body.
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": user_agent(),
            VERSION_HEADER: self.version,
        }
        object.__setattr__(self, "_headers", headers)

    def safety(self, kind: str, *, keyed: bool) -> Safety:
        """Say how far a command of this kind may be repeated when its fate is unknown."""
        operation = OPERATIONS.get(kind)
        if operation is None:
            # A kind of another version's: it is not sent, but whoever holds it must be able to decide.
            return Safety.UNKEYED
        if operation.is_read:
            return Safety.READ
        if self._has_key(operation, keyed=keyed):
            return Safety.KEYED
        return Safety.UNKEYED_READABLE if self.reads_back(kind) else Safety.UNKEYED

    def request(self, held: Held) -> Request:
        """Build the request: the same bytes and, where one counts, the same key on every attempt."""
        operation = operation_of(held.kind, OPERATIONS)
        headers = dict(self._headers)
        has_key = self._has_key(operation, keyed=held.keyed)
        if has_key:
            headers[KEY_HEADER] = held.idempotency_key

        return Request(
            method=operation.method,
            url=self._services_url + _path(held, operation),
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
            case Answer(status=status) if status in DONE and operation_of(held.kind, OPERATIONS).is_read:
                return _read(held, answer)
            case Answer(status=status) if status in DONE:
                return self._changed(held, answer)
            case Answer():
                return _not_done(held, answer)

    def reads_back(self, kind: str) -> bool:
        """Whether this kind's effect can be looked up at BlueSnap."""
        return kind in LOOKUPS and (kind not in NAMED_BY_CALLER or self.merchant_id is not None)

    def lookup(self, held: Held) -> Request | None:
        """Build the read of what the command is about, or of the payment by the caller's own name."""
        if not self.reads_back(held.kind):
            return None
        path = _path(held, OPERATIONS[LOOKUPS[held.kind].read])
        if held.kind in NAMED_BY_CALLER:
            name = payment_name(held)
            if not name:
                return None
            path = f"/transactions/{segment(held.kind, 'merchant_transaction_id', name)},{self.merchant_id}"

        return self._read_of(path)

    def probe(self, order_id: str) -> Request:
        """Build the read of a transaction; that there may be none by that id is an answer like any other."""
        return self._read_of(f"/transactions/{segment('probe', 'order_id', order_id)}")

    def _read_of(self, path: str) -> Request:
        return Request(
            method="GET",
            url=self._services_url + path,
            headers=self._headers,
            body=None,
            authorization=self._authorization,
            repeatable=True,
        )

    def finding(self, held: Held, answer: Answer | NoAnswer) -> Finding | Outcome:
        """Say what the record shows of a command."""
        match answer:
            case NoAnswer():
                return unanswered(answer)
            case Answer(status=status) if status in DONE:
                found = find(held, content_of(answer))
                return found or InDoubt(problem=_problem(held, answer, unread(answer), ""))
            case Answer():
                return _not_found(held, answer) or _not_done(held, answer)

    def _changed(self, held: Held, answer: Answer) -> Succeeded | InDoubt:
        """Believe a 2xx on a change, with or without an id; but no page or fragment that may be a stranger's."""
        ids, echo = _ids(held.kind, answer), self._echo(held, answer)
        if may_be_a_strangers(answer) and not ids and not echo.get("key_echoed"):
            return InDoubt(problem=_problem(held, answer, unexplained(answer), ""))
        is_pending = ids.get("refund_status", "").upper() == "PENDING"

        return Succeeded(result={**ids, **echo}, status=answer.status, settled=not is_pending)

    def _has_key(self, operation: Operation, *, keyed: bool) -> bool:
        return keyed and self.keyed and operation.honours_key

    def _echo(self, held: Held, answer: Answer) -> Mapping[str, bool]:
        """Whether a keyed answer names its key, as one does that was given before."""
        if not self._has_key(operation_of(held.kind, OPERATIONS), keyed=held.keyed):
            return {}

        return {"key_echoed": answer.headers.get(KEY_HEADER.lower(), "").strip() == held.idempotency_key}


def _path(held: Held, operation: Operation) -> str:
    if operation.path == "{target}":
        if _SAFE_TARGET.fullmatch(held.target or "") is None:
            raise InvalidCommand(held.kind, [FieldProblem(field="target", message="is not a path with its query")])
        return held.target or ""
    if "{order_id}" not in operation.path:
        return operation.path

    return operation.path.format(order_id=segment(held.kind, "order_id", held.order_id))


# --- what an answer means ----------------------------------------------------------------------------------


def _read(held: Held, answer: Answer) -> Succeeded | InDoubt:
    content = content_of(answer)
    if content is None:
        return InDoubt(problem=_problem(held, answer, unread(answer), ""))

    return Succeeded(result={"answer": content}, status=answer.status)


def _not_done(held: Held, answer: Answer) -> Outcome:
    entries = list(_entries(answer)) if answer.complete else []
    line = _bare_line(answer)
    deciding = _gravest(entries)
    name = deciding.name if deciding else ""
    if answer.status in BY_STATUS:
        failure, ours = BY_STATUS[answer.status]
    elif answer.status in _AT_A_THRESHOLD and line.casefold().rstrip(".") in THRESHOLDS:
        failure, ours = Throttled, "threshold_reached"
    elif answer.status in REFUSED and name:
        failure, ours = _meaning(name), ""
    else:
        failure, ours = InDoubt, unexplained(answer)

    message = "; ".join(entry.description for entry in entries if entry.description) or line or _plain_text(answer)
    code = readable(name, LONGEST_CODE) or ours
    if name == _REUSED_KEY:
        message = f"{_EARLIER_REQUEST}. {message}"

    return failure(problem=_problem(held, answer, code, message))


def _not_found(held: Held, answer: Answer) -> Ambiguous | None:
    """Say that there is nothing, or more than one thing, to look at; None when the answer says something else."""
    if answer.status not in REFUSED or not answer.complete:
        return None
    entries = list(_entries(answer))
    said = " ".join([*(entry.description for entry in entries), _bare_line(answer)]).casefold()
    if any(entry.name == "MULTIPLE_TRANSACTIONS_FOUND" for entry in entries):
        return Ambiguous(evidence="BlueSnap has several transactions by the name that the command gave.")
    if _NOT_YOURS in said:
        told = "BlueSnap shows no such record to this account, which it also says of what belongs to another:"
        return Ambiguous(evidence=evidence(f"{told} {quoted(held.order_id)}."))

    return None


def _gravest(entries: Sequence[_Entry]) -> _Entry | None:
    named = [entry for entry in entries if entry.name]

    return min(named, key=lambda entry: _GRAVEST_FIRST.index(_meaning(entry.name)), default=None)


def _meaning(name: str) -> Failure:
    known = BY_ERROR_NAME.get(name)
    if known is not None:
        return known

    return InDoubt if _UNCERTAIN.search(name) else Rejected


def _problem(held: Held, answer: Answer, code: str, message: str) -> Problem:
    """Say why in the provider's words, without what was sent about a person."""
    sent = json.loads(held.payload) if held.payload else {}
    personal = {name: value for name, value in sent.items() if name not in _PLAIN} if isinstance(sent, dict) else sent
    kept = without(message[:LONGEST_RAW_MESSAGE], personal)

    return Problem(code=code, message=readable(kept, LONGEST_MESSAGE), status=answer.status)


def _ids(kind: str, answer: Answer) -> Mapping[str, str]:
    """Find the ids of what was made. That there are none changes nothing: it was made."""
    content = json_object(answer.body) if answer.complete else None
    found = {ours: identifier((content or {}).get(name)) for name, ours in KEPT.items()}
    processing = (content or {}).get("processingInfo")
    if isinstance(processing, dict):
        found["processing_status"] = identifier(processing.get("processingStatus"))
    if kind in LOCATED:
        place = _LAST_SEGMENT.search(answer.headers.get("location", ""))
        found[LOCATED[kind]] = found[LOCATED[kind]] or identifier(unquote(place[1]) if place else "")

    return {name: value for name, value in found.items() if value}


# --- the forms in which BlueSnap explains itself -----------------------------------------------------------


def _entries(answer: Answer) -> Iterator[_Entry]:
    """Read the errors of a body: JSON in two forms, XML in one; none in HTML, a bare line, a broken or an empty one."""
    content = json_object(answer.body)
    if content is None:
        for parts in _xml_messages(answer.body):
            yield _entry(parts.get("error-name"), parts.get("code"), parts.get("description"))
        return

    match content.get("message"):
        case list() as listed:
            messages = listed[:_MOST_ENTRIES]
        case dict() as single:
            messages = [single]
        case _:
            yield _entry(content.get("errorName"), content.get("errorCode"), content.get("errorDescription"))
            return
    for message in messages:
        if isinstance(message, dict):
            yield _entry(message.get("errorName"), message.get("code"), message.get("description"))


def _entry(name: object, code: object, description: object) -> _Entry:
    spoken = printable(name).strip().upper() if isinstance(name, str) else ""
    # A boolean is a number to Python; as text it is none of ours.
    number = str(code).strip() if isinstance(code, str | int) else ""

    return _Entry(
        name=spoken or BY_CODE.get(number, ""), description=description.strip() if isinstance(description, str) else ""
    )


def _xml_messages(body: bytes) -> Iterator[dict[str, str]]:
    """Read BlueSnap's XML by its few tags; nothing is expanded, and what declares anything is not read."""
    text = body[: _LONGEST_XML + 1].decode("utf-8-sig", "replace")
    if len(text) > _LONGEST_XML or "<!" in text or not re.match(r"\s*<(?:\?xml|messages)\b", text):
        return
    head, *messages = text.split("<message>")
    if "<messages" not in head:
        return
    for message in messages[:_MOST_ENTRIES]:
        inside = message.partition("</message>")[0]
        yield {found[1]: unescape(found[2]).strip() for found in _XML_FIELD.finditer(inside)}


def _bare_line(answer: Answer) -> str:
    """Read a body that is one line between bare tags, as BlueSnap's doorkeeper writes; empty for any other."""
    if not answer.complete or len(answer.body) > LONGEST_RAW_MESSAGE:
        return ""
    found = _BARE_LINE.fullmatch(answer.body.decode("utf-8-sig", "replace"))

    return unescape(found[1]).strip() if found else ""


def _plain_text(answer: Answer) -> str:
    """Read a body that is a sentence and no markup, for people; nothing is decided by it."""
    if not answer.complete or len(answer.body) > LONGEST_RAW_MESSAGE:
        return ""
    text = answer.body.decode("utf-8-sig", "replace")

    return "" if re.search(r"[<>{}\[\]]", text) else text.strip()
