"""Decides what Klarna's Order Management v1 answers to a request: paths, operations, error codes, bodies and headers.

Pure: it knows no socket, no fault and no idempotency key. What an order allows is `orders.py`, what a body must look
like `bodies.py`, and that a key gets the same answer again `replay.py`. Written from the public description of the
API and from nothing else in this project, so that it cannot repeat a mistake of the adapter it tests.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

from . import bodies
from .clock import Clock
from .errors import SandboxError
from .money import read_amount, to_minor
from .orders import Capture, Json, Order, Refund, Refusal
from .past import Lag, Past
from .provider import Effect, Execution, Operation
from .replay import InProgress, OtherRequest, Replay
from .switches import Switches
from .wire import Answer, Request, html_answer, json_answer, read_json

KEY_HEADER = "Klarna-Idempotency-Key"
CORRELATION_HEADER = "Klarna-Correlation-Id"

_PREFIX = "/ordermanagement/v1/orders/"

#: What stands behind the order's id, with `*` for a capture's or refund's id → what each method does there.
_KINDS: Mapping[str, Mapping[str, str]] = {
    "": {"GET": "read_order"},
    "acknowledge": {"POST": "acknowledge"},
    "authorization": {"PATCH": "update_authorization"},
    "cancel": {"POST": "cancel"},
    "captures": {"GET": "read_captures", "POST": "capture"},
    "captures/*": {"GET": "read_capture"},
    "captures/*/extend-due-date": {"PATCH": "extend_due_date"},
    "captures/*/extend-due-date-options": {"GET": "read_due_date_options"},
    "captures/*/shipping-info": {"POST": "add_capture_shipping_info"},
    "captures/*/trigger-send-out": {"POST": "trigger_send_out"},
    "customer-details": {"PATCH": "update_customer_details"},
    "extend-authorization-time": {"POST": "extend_authorization_time"},
    "merchant-references": {"PATCH": "update_merchant_references"},
    "refunds": {"POST": "refund"},
    "refunds/*": {"GET": "read_refund"},
    "release-remaining-authorization": {"POST": "release_remaining_authorization"},
    "shipping-info": {"POST": "add_order_shipping_info"},
}

#: Where the description names an unknown order otherwise than NO_SUCH_ORDER.
_UNKNOWN_ORDER = {"refund": "NOT_FOUND", "read_refund": "NOT_FOUND"}


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


def refused(status: int, code: str, *messages: str, is_singular: bool = False) -> Answer:
    """Build an error answer with Klarna's error object, in the old singular form if need be."""
    correlation_id = str(uuid4())
    texts = {"error_message": " ".join(messages)} if is_singular else {"error_messages": list(messages)}
    content = {"error_code": code, **texts, "correlation_id": correlation_id}

    return json_answer(status, content, headers=((CORRELATION_HEADER, correlation_id),))


class Klarna:
    """The merchant's orders at Klarna, and the operations on them."""

    name = "klarna"
    tells_quota = True

    def __init__(self, *, clock: Clock, switches: Switches, create_orders: int | None = None) -> None:
        self.replay = Replay(clock=clock, switches=switches)
        self._clock = clock
        self._create_orders = create_orders
        self._order_by_id: dict[str, Order] = {}
        self._past = Past[Order](clock.now)

    def __len__(self) -> int:
        return len(self._order_by_id)

    def reset(self) -> None:
        """Forget all orders and keys."""
        self._order_by_id.clear()
        self._past.reset()
        self.replay.reset()

    def add(self, order: Order) -> None:
        """Put an order into the merchant's world."""
        if order.order_id in self._order_by_id:
            msg = f"order {order.order_id} is there already; leave order_id out to get a new one"
            raise SandboxError(msg)
        self._order_by_id[order.order_id] = order
        self._past.note(order.order_id, order, was_always_there=True)

    def open_order(self, order_id: str | None, *, amount: int, currency: str) -> Order:
        """Make a fresh authorized order, not yet in the merchant's world."""
        return Order.opened(
            str(uuid4()) if order_id is None else order_id,
            amount=amount,
            currency=currency,
            number=len(self._order_by_id) + 1,
            now=self._clock.now(),
        )

    def find(self, order_id: str) -> Order | None:
        """Find an order as it stands now."""
        order = self._order_by_id.get(order_id)
        if order is not None:
            order.catch_up(self._clock.now())

        return order

    def order_id_in(self, request: Request) -> str | None:
        """Find the order that a request is about: its path says so."""
        found = re.match(re.escape(_PREFIX) + "([^/]+)", request.path)

        return unquote(found[1]) if found else None

    def route(self, request: Request) -> Operation | Answer:
        """Find the operation of a request; a path or method that does not exist gets the answer of the front door."""
        order_part, *behind = request.path.removeprefix(_PREFIX).split("/")
        target = behind[1] if len(behind) > 1 else None
        template = "/".join("*" if index == 1 else part for index, part in enumerate(behind))
        kinds = _KINDS.get(template)
        if not request.path.startswith(_PREFIX) or "" in (order_part, *behind) or kinds is None:
            return _with_correlation(html_answer(404, "Not Found"))
        if request.method not in kinds:
            return _with_correlation(Answer(status=405, headers=(("Allow", ", ".join(kinds)),)))
        operation = Operation(
            kind=kinds[request.method],
            order_id=unquote(order_part),
            target=None if target is None else unquote(target),
        )

        return replace(operation, key=request.header(KEY_HEADER)) if operation.is_change else operation

    def execute(self, operation: Operation, request: Request, *, lag: Lag | None = None) -> Execution:
        """Carry out an operation, or refuse it; a read may be made to lag."""
        try:
            order = self._demand(operation)
            if lag is not None and not operation.is_change:
                order = self._past.look(operation.order_id, lag) or order
                order.catch_up(lag.moment(self._clock.now()))
            step = Step(
                order=order, target=operation.target or "", body=_body(operation, request), now=self._clock.now()
            )
            execution = _change(operation, step, request) if operation.is_change else _read(operation, step)
        except Refusal as refusal:
            return Execution(answer=refused(refusal.status, refusal.code, *refusal.messages))
        if execution.effect is not None:
            self._past.note(order.order_id, order)

        return execution

    def replayed(self, answer: Answer, *, key: str) -> Answer:  # noqa: ARG002  # it is BlueSnap that shows the key
        """Send the first answer of a key again as it was."""
        return answer

    def key_refused(self, why: InProgress | OtherRequest) -> Answer:  # noqa: ARG002  # here only the key counts
        """Answer to a key whose first request is still at work; the list of messages is empty, as Klarna's may be."""
        return refused(409, "CONFLICT")

    def error(self, status: int, name: str | None = None) -> Answer:
        """Word an error of any status."""
        code = name or _CODE_BY_STATUS.get(status, "UNEXPECTED_ERROR")

        return refused(status, code, "The request could not be served")

    def throttled(self) -> Answer:
        """Answer that there are too many requests; Klarna sends no Retry-After."""
        return refused(429, "TOO_MANY_REQUESTS", "The rate limit is exceeded")

    def unauthorized(self) -> Answer:
        """Answer to missing or wrong credentials: a page, not an object."""
        page = html_answer(401, "Unauthorized", headers=(("WWW-Authenticate", 'Basic realm="klarna"'),))

        return _with_correlation(page)

    def too_large(self) -> Answer:
        """Answer to a body above the limit."""
        return refused(413, "REQUEST_TOO_LARGE", "The request body is above 1 MB")

    def without_id(self, answer: Answer, *, location: bool) -> Answer:
        """Leave the id's headers out of an answer."""
        left_out = {"Capture-Id", "Refund-Id"} | (set() if location else {"Location"})

        return replace(answer, headers=tuple((name, value) for name, value in answer.headers if name not in left_out))

    def act_as_stranger(self, order_id: str, *, kind: str, amount: int | str | None) -> Effect | None:
        """Let somebody else capture or refund, without a key and without a reference."""
        order = self.find(order_id)
        if order is None:
            return None
        left = order.remaining_authorized_amount if kind == "capture" else order.captured_amount - order.refunded_amount
        units = left if amount is None else _units(amount, order.purchase_currency)
        if not 1 <= units <= left:
            return None
        try:
            if kind == "capture":
                new_id = order.capture({"captured_amount": units}, now=self._clock.now()).capture_id
            else:
                new_id = order.refund({"refunded_amount": units}, now=self._clock.now()).refund_id
        except Refusal:
            return None
        self._past.note(order_id, order)

        return Effect(kind=kind, order_id=order_id, amount=units, id=new_id)

    def expire(self, order_id: str) -> None:
        """Let the authorization expire now."""
        order = self.find(order_id)
        if order is not None:
            order.expires_at = min(order.expires_at, self._clock.now())
            order.catch_up(self._clock.now())
            self._past.note(order_id, order)

    def review(self, order_id: str, *, seconds: float, verdict: str) -> None:
        """Let the fraud check be pending for so long, and then come to its verdict."""
        order, now = self.find(order_id), self._clock.now()
        if order is not None:
            order.review(until=now + timedelta(seconds=seconds), verdict=verdict, now=now)
            self._past.note(order_id, order)

    def hold_refund(self, order_id: str, *, seconds: float, ends: str) -> None:
        """Do nothing: a refund at Klarna is never pending."""

    def reuse_id(self, order_id: str | None) -> None:
        """Let the next capture or refund of the order have the id of its last one."""
        order = None if order_id is None else self.find(order_id)
        if order is not None:
            order.reuses_id = True

    def _demand(self, operation: Operation) -> Order:
        order = self.find(operation.order_id)
        if order is None and self._create_orders is not None:
            order = self.open_order(operation.order_id, amount=self._create_orders, currency="EUR")
            self.add(order)
        if order is not None:
            return order
        if not _is_uuid(operation.order_id):
            raise Refusal("INVALID_ORDER_ID", "The order id is not a UUID", status=400)
        raise Refusal(_UNKNOWN_ORDER.get(operation.kind, "NO_SUCH_ORDER"), "There is no such order", status=404)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an operation works with once its order is found and its body read."""

    order: Order
    target: str
    body: Json
    now: datetime


_CHANGES: Mapping[str, Callable[[Step], Capture | Refund | None]] = {
    "acknowledge": lambda step: step.order.acknowledge(),
    "add_capture_shipping_info": lambda step: step.order.add_shipping_info(step.body, capture_id=step.target),
    "add_order_shipping_info": lambda step: step.order.add_shipping_info(step.body),
    "cancel": lambda step: step.order.cancel(),
    "capture": lambda step: step.order.capture(step.body, now=step.now),
    "extend_authorization_time": lambda step: step.order.extend_authorization_time(now=step.now),
    "extend_due_date": lambda step: step.order.extend_due_date(step.target),
    "refund": lambda step: step.order.refund(step.body, now=step.now),
    "release_remaining_authorization": lambda step: step.order.release_remaining_authorization(),
    "trigger_send_out": lambda step: step.order.trigger_send_out(step.target),
    "update_authorization": lambda step: step.order.update_authorization(step.body),
    "update_customer_details": lambda step: step.order.update_customer_details(step.body),
    "update_merchant_references": lambda step: step.order.update_merchant_references(step.body),
}

_READS: Mapping[str, Callable[[Step], object]] = {
    "read_capture": lambda step: step.order.find_capture(step.target).shown(),
    "read_captures": lambda step: [capture.shown() for capture in step.order.captures],
    "read_due_date_options": lambda step: step.order.due_date_options(step.target),
    "read_order": lambda step: step.order.shown(),
    "read_refund": lambda step: step.order.find_refund(step.target).shown(),
}


def _body(operation: Operation, request: Request) -> Json:
    """Read the body of an operation that takes one; everything wrong with it is named at once."""
    if not bodies.takes_body(operation.kind):
        return {}
    try:
        content = read_json(request.body)
    except ValueError as error:
        raise Refusal("BAD_VALUE", "The body is not valid JSON", status=400) from error
    if not isinstance(content, dict):
        raise Refusal("BAD_VALUE", "The body is not a JSON object", status=400)
    problems = bodies.problems_of(operation.kind, content)
    if problems:
        is_address = all(problem.startswith("shipping_address.") for problem in problems)
        raise Refusal("INVALID_ADDRESS" if is_address else "UNPROCESSABLE_ENTITY", *problems, status=422)

    return content


def _read(operation: Operation, step: Step) -> Execution:
    return Execution(answer=_with_correlation(json_answer(200, _READS[operation.kind](step))))


def _change(operation: Operation, step: Step, request: Request) -> Execution:
    effect = Effect(kind=operation.kind, order_id=operation.order_id, id=operation.target)
    match _CHANGES[operation.kind](step):
        case Capture(capture_id=new_id, captured_amount=amount, reference=reference):
            answer = _created(("Capture-Id", new_id), f"captures/{new_id}", order=step.order, request=request)
            return Execution(answer=answer, effect=replace(effect, amount=amount, id=new_id, reference=reference))
        case Refund(refund_id=new_id, refunded_amount=amount, reference=reference):
            answer = _created(("Refund-Id", new_id), f"refunds/{new_id}", order=step.order, request=request)
            return Execution(answer=answer, effect=replace(effect, amount=amount, id=new_id, reference=reference))
        case None:
            total = step.order.order_amount if operation.kind == "update_authorization" else None
            return Execution(answer=_with_correlation(Answer(status=204)), effect=replace(effect, amount=total))


def _created(id_header: tuple[str, str], behind: str, *, order: Order, request: Request) -> Answer:
    host = request.header("Host") or "localhost"
    location = f"http://{host}{_PREFIX}{quote(order.order_id, safe='')}/{behind}"

    return _with_correlation(Answer(status=201, headers=(id_header, ("Location", location))))


def _with_correlation(answer: Answer) -> Answer:
    return replace(answer, headers=((CORRELATION_HEADER, str(uuid4())), *answer.headers))


def _units(amount: int | str, currency: str) -> int:
    """Take an integer for minor units, and a text for major ones as BlueSnap writes them."""
    if isinstance(amount, int):
        return amount
    read = read_amount(amount, currency)

    return 0 if read is None else to_minor(read, currency)


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
