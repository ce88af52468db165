"""Decides what BlueSnap's Payment API answers to a request: operations, refusals, bodies and headers.

Pure: it knows no socket and no fault. Which paths there are is `bluesnap_routes.py`, what the errors are called
`bluesnap_errors.py`, what a transaction allows `transactions.py`, what a body must look like `bluesnap_bodies.py`, what
else a merchant has there `records.py`, and that a key gets the same answer again `replay.py`. Written from what is
publicly known of the API and from nothing else in this project, so that it cannot repeat a mistake of the adapter it
tests.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count

from . import bluesnap_bodies as bodies
from .bluesnap_errors import CODE_BY_NAME, NAME_BY_STATUS
from .bluesnap_routes import METHODS_BY_TEMPLATE, PREFIX, UNKEYED, find_route
from .clock import Clock
from .errors import SandboxError
from .money import from_minor, is_currency, read_amount, written
from .past import Lag, Past
from .provider import Effect, Execution, Operation
from .records import SHELF_BY_COLLECTION, Record, Shelf
from .replay import InProgress, OtherRequest, Replay
from .switches import Switches
from .transactions import HeldRefund, Json, Problem, Refund, Refusal, Transaction, metadata_in
from .wire import Answer, Request, bare_xml_answer, html_answer, json_answer, read_json, xml_answer

KEY_HEADER = "Idempotency-Key"
VERSION_HEADER = "bluesnap-version"

_MOST_KEY_CHARACTERS = 64
_KEY = re.compile("[A-Za-z0-9-]+")

_VERSIONS = ("1.0", "2.0", "3.0")

_TYPES_BY_KIND = {"post_transaction": ("AUTH_ONLY", "AUTH_CAPTURE"), "put_transaction": ("CAPTURE", "AUTH_REVERSAL")}
_ALL_TYPES = [name for names in _TYPES_BY_KIND.values() for name in names]

_AMOUNTS = ("amount", "openToCapture", "balanceAmount")

#: The fields of an answer that say what was made.
_IDS = {shelf.id_field for shelf in SHELF_BY_COLLECTION.values()} | {"refundTransactionId"}

_FIRST_ID = 1_000_001


class _Ids:
    """The ids of all that is made here, one after the other, unless one is to be given out again."""

    def __init__(self) -> None:
        self._numbers = count(_FIRST_ID)
        self._last_by_noun: dict[str, str] = {}
        self._repeats = False

    def new(self, noun: str) -> str:
        """Give out an id for a new thing of a sort."""
        repeats, self._repeats = self._repeats, False
        if not (repeats and noun in self._last_by_noun):
            self._last_by_noun[noun] = str(next(self._numbers))

        return self._last_by_noun[noun]

    def repeat(self) -> None:
        """Let the next thing have the id of the last of its sort."""
        self._repeats = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What an operation works with once its body is read."""

    operation: Operation
    body: Json
    now: datetime
    lag: Lag | None
    version: str
    host: str

    @property
    def seen_at(self) -> datetime:
        """Say what time it is for the operation: an earlier one for a read that lags."""
        return self.now if self.lag is None or self.operation.is_change else self.lag.moment(self.now)

    @property
    def collection(self) -> str:
        """Say where the record is kept that the operation is about."""
        return self.operation.target or ""

    @property
    def shelf(self) -> Shelf:
        """Say how it is kept there."""
        return SHELF_BY_COLLECTION[self.collection]


class BlueSnap:
    """The merchant's transactions and records at BlueSnap, and the operations on them."""

    name = "bluesnap"
    tells_quota = False

    def __init__(self, *, clock: Clock, switches: Switches, create_orders: int | None = None) -> None:
        self.replay = Replay(clock=clock, switches=switches)
        self._clock, self._switches = clock, switches
        self._create_orders = create_orders
        self._ids = _Ids()
        self._transaction_by_id: dict[str, Transaction] = {}
        self._transactions_by_merchant_id: dict[str, list[Transaction]] = {}
        self._transaction_by_refund_id: dict[str, Transaction] = {}
        self._transactions_past = Past[Transaction](clock.now)
        self._record_by_place: dict[tuple[str, str], Record] = {}
        self._records_past = Past[Record](clock.now)
        self._verbs: Mapping[str, Callable[[_Step], Execution]] = {
            "cancel_pending_refund": self._cancel_pending_refund,
            "post_transaction": self._post_transaction,
            "put_transaction": self._put_transaction,
            "read_transaction": self._read_transaction,
            "refund": self._refund,
            "create_record": self._create_record,
            "read_record": self._read_record,
            "read_records": self._read_records,
            "update_record": self._update_record,
        }

    def __len__(self) -> int:
        return len(self._transaction_by_id)

    def reset(self) -> None:
        """Forget all transactions, records and keys."""
        self._transaction_by_id.clear()
        self._transactions_by_merchant_id.clear()
        self._transaction_by_refund_id.clear()
        self._transactions_past.reset()
        self._record_by_place.clear()
        self._records_past.reset()
        self._ids = _Ids()
        self.replay.reset()

    # what a driver does

    def open_transaction(
        self,
        transaction_id: str | None,
        *,
        amount: str,
        currency: str,
        captured: bool,
        merchant_transaction_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> Transaction:
        """Put a transaction into the merchant's world as a purchase leaves it."""
        if transaction_id is not None and self.find(transaction_id) is not None:
            msg = f"transaction {transaction_id} is there already; leave transaction_id out to get a new one"
            raise SandboxError(msg)
        if not is_currency(currency):
            msg = f"currency must have three letters, got {currency!r}"
            raise SandboxError(msg)
        read = read_amount(amount, currency)
        if not read:
            msg = f"amount must be decimal text above 0 with the digits of {currency}, got {amount!r}"
            raise SandboxError(msg)
        transaction = Transaction.opened(
            self._ids.new("transaction") if transaction_id is None else transaction_id,
            amount=read,
            currency=currency,
            is_sale=captured,
            now=self._clock.now(),
            body={"merchantTransactionId": merchant_transaction_id},
        )
        if expires_at is not None:
            transaction.expires_at = expires_at
        transaction.catch_up(self._clock.now())
        self._add(transaction)
        self._transactions_past.note(transaction.transaction_id, transaction, was_always_there=True)

        return transaction

    def put_record(self, collection: str, record_id: str, *, fields: Json) -> Json:
        """Put a record into the merchant's world as if it had always been there."""
        shelf = SHELF_BY_COLLECTION.get(collection)
        if shelf is None:
            msg = f"there is no collection {collection!r}; there are {', '.join(SHELF_BY_COLLECTION)}"
            raise SandboxError(msg)
        if not (record_id.isascii() and record_id.isdigit()):
            msg = f"record_id must be digits, as BlueSnap's ids are, got {record_id!r}"
            raise SandboxError(msg)
        if (collection, record_id) in self._record_by_place:
            msg = f"record {record_id} of {collection} is there already; give another record_id"
            raise SandboxError(msg)
        record = Record(record_id=record_id, parent_id="", fields=fields)
        self._record_by_place[collection, record_id] = record
        self._records_past.note(f"{collection} {record_id}", record, was_always_there=True)

        return record.shown(shelf)

    def find(self, transaction_id: str) -> Transaction | None:
        """Find a transaction as it stands now."""
        transaction = self._transaction_by_id.get(transaction_id)
        if transaction is not None:
            transaction.catch_up(self._clock.now())

        return transaction

    # the way of a request

    def order_id_in(self, request: Request) -> str | None:
        """Find the transaction or subscription that a request is about: path or body say so."""
        found = find_route(request.path)
        if found is not None and found[1]:
            return found[1][0]
        try:
            content = read_json(request.body)
        except ValueError:
            return None
        transaction_id = content.get("transactionId") if isinstance(content, dict) else None

        return None if transaction_id is None else str(transaction_id)

    def route(self, request: Request) -> Operation | Answer:
        """Find the operation of a request; what does not exist gets the answer of the front door."""
        if request.header(VERSION_HEADER) not in _VERSIONS:
            return self._refused(Refusal.of("INVALID_API_VERSION", "The API version is invalid"), request)
        found = find_route(request.path)
        if found is None:
            return html_answer(404, "Not Found")
        template, ids = found
        methods = METHODS_BY_TEMPLATE[template]
        if request.method not in methods:
            return self._refused(Refusal.of("INVALID_HTTP_METHOD", "The HTTP method is invalid"), request)
        kind, collection = methods[request.method]
        key = request.header(KEY_HEADER)
        counts = request.method == "POST" and template != UNKEYED and self._switches.bluesnap_keys
        problem = _key_problem(key) if key and counts else None
        if problem is not None:
            return self._refused(Refusal(problem), request)

        return Operation(
            kind=kind,
            order_id=ids[0] if ids else "",
            target=collection,
            key=key if counts else None,
            content=f"{request.path}?{request.query}\n".encode("latin-1") + request.body,
        )

    def execute(self, operation: Operation, request: Request, *, lag: Lag | None = None) -> Execution:
        """Carry out an operation, or refuse it; a read may be made to lag."""
        try:
            step = _Step(
                operation=operation,
                body=_body(operation, request),
                now=self._clock.now(),
                lag=lag,
                version=request.header(VERSION_HEADER) or "",
                host=request.header("Host") or "localhost",
            )
            return self._verbs[operation.kind](step)
        except Refusal as refusal:
            return Execution(answer=self._refused(refusal, request))

    def replayed(self, answer: Answer, *, key: str) -> Answer:
        """Send the first answer of a key again, and show by the key that this is what it is."""
        return replace(answer, headers=((KEY_HEADER, key), *answer.headers))

    # how things are worded

    def key_refused(self, why: InProgress | OtherRequest) -> Answer:
        """Answer to a key whose first request is still at work, or was another one."""
        return self.error(409 if isinstance(why, InProgress) else 422)

    def error(self, status: int, name: str | None = None) -> Answer:
        """Word an error of any status."""
        named = name or NAME_BY_STATUS.get(status, "PAYMENT_GENERAL_FAILURE")

        return self._error(status, Problem(name=named, description="The request could not be served"))

    def throttled(self) -> Answer:
        """Answer that there are too many requests."""
        return bare_xml_answer(429, "Too many requests")

    def unauthorized(self) -> Answer:
        """Answer to missing or wrong credentials: the page of the server below."""
        return html_answer(401, "HTTP Status 401", headers=(("WWW-Authenticate", 'Basic realm="bluesnap"'),))

    def too_large(self) -> Answer:
        """Answer to a body above the limit."""
        return html_answer(413, "HTTP Status 413")

    def without_id(self, answer: Answer, *, location: bool) -> Answer:
        """Leave the id out of the body, and `Location` out of the headers."""
        headers = tuple((name, value) for name, value in answer.headers if location or name != "Location")
        try:
            content = read_json(answer.body)
        except ValueError:
            return replace(answer, headers=headers)
        if isinstance(content, dict):
            content = {name: value for name, value in content.items() if name not in _IDS}

        return replace(answer, headers=headers, body=json.dumps(content, separators=(",", ":")).encode())

    # what faults do to the world

    def act_as_stranger(self, order_id: str, *, kind: str, amount: int | str | None) -> Effect | None:
        """Let somebody else capture or refund, without a key and without metadata."""
        transaction = self.find(order_id)
        if transaction is None:
            return None
        left = transaction.open_to_capture if kind == "capture" else transaction.balance
        if amount is None:
            wanted: Decimal | None = left
        else:
            currency = transaction.currency
            wanted = from_minor(amount, currency) if isinstance(amount, int) else read_amount(amount, currency)
        if not wanted or wanted > left:
            return None
        new_id = order_id
        try:
            if kind == "capture":
                transaction.capture(wanted, metadata=[])
            else:
                refund = self._new_refund(transaction, wanted, {}, now=self._clock.now())
                transaction.refund(refund, now=self._clock.now())
                self._transaction_by_refund_id[refund.refund_id] = transaction
                new_id = refund.refund_id
        except Refusal:
            return None
        self._note(transaction)

        return Effect(kind=kind, order_id=order_id, amount=written(wanted, transaction.currency), id=new_id)

    def expire(self, order_id: str) -> None:
        """Let the authorization expire now."""
        transaction = self.find(order_id)
        if transaction is not None:
            transaction.expires_at = min(transaction.expires_at, self._clock.now())
            transaction.catch_up(self._clock.now())
            self._note(transaction)

    def review(self, order_id: str, *, seconds: float, verdict: str) -> None:
        """Let the merchant's review be pending for so long, and then come to its verdict."""
        transaction, now = self.find(order_id), self._clock.now()
        if transaction is not None:
            transaction.review(until=now + timedelta(seconds=seconds), verdict=verdict, now=now)
            self._note(transaction)

    def hold_refund(self, order_id: str, *, seconds: float, ends: str) -> None:
        """Let the next refund of the transaction be pending for so long, and then come to its end."""
        transaction = self.find(order_id)
        if transaction is not None:
            transaction.held_refund = HeldRefund(seconds=seconds, ends=ends)

    def reuse_id(self, order_id: str | None) -> None:  # noqa: ARG002  # all ids here come from one row
        """Let the next thing that is made have the id of the last one."""
        self._ids.repeat()

    # card transactions

    def _post_transaction(self, step: _Step) -> Execution:
        body, is_sale = step.body, step.body.get("cardTransactionType") == "AUTH_CAPTURE"
        if body.get("vaultedShopperId") is None and body.get("pfToken") is None:
            raise Refusal.of("MISSING_SHOPPER_OR_CARD_HOLDER", "A vaulted shopper or a token is required")
        amount = _amount(body["amount"], body["currency"])
        if is_sale and not amount:  # an authorization of nothing asks whether the card is valid
            raise Refusal.of("VALIDATION_GENERAL_FAILURE", "amount must be above 0", property="amount")
        transaction = Transaction.opened(
            self._ids.new("transaction"),
            amount=amount,
            currency=body["currency"],
            is_sale=is_sale,
            now=step.now,
            body=body,
        )
        self._add(transaction)

        return self._changed(
            transaction, kind="auth_capture" if transaction.is_sale else "auth_only", amount=amount, step=step
        )

    def _put_transaction(self, step: _Step) -> Execution:
        body = step.body
        transaction = self._demand_named(body, step)
        if body.get("cardTransactionType") == "AUTH_REVERSAL":
            transaction.reverse(now=step.now, metadata=metadata_in(body))
            return self._changed(transaction, kind="auth_reversal", amount=transaction.amount, step=step)
        asked = None if body.get("amount") is None else _amount(body["amount"], transaction.currency)
        taken = transaction.capture(asked, metadata=metadata_in(body))

        return self._changed(transaction, kind="capture", amount=taken, step=step)

    def _read_transaction(self, step: _Step) -> Execution:
        transaction_id = step.operation.order_id
        refund = self._find_refund(transaction_id, step)
        if refund is not None:
            return Execution(answer=self._answer(refund.shown()))

        return Execution(answer=self._answer(self._shown(self._demand(transaction_id, step))))

    def _refund(self, step: _Step) -> Execution:
        body = step.body
        if step.operation.target == UNKEYED:
            transaction = self._demand_named({"merchantTransactionId": step.operation.order_id}, step)
        else:
            transaction = self._demand(step.operation.order_id, step)
        asked = body.get("amount")
        amount = transaction.balance if asked is None else _amount(asked, transaction.currency)
        refund = self._new_refund(transaction, amount, body, now=step.now)
        transaction.refund(refund, now=step.now)
        self._transaction_by_refund_id[refund.refund_id] = transaction
        self._note(transaction)
        content: Json = {"refundTransactionId": refund.entry(has_details=False)["refundTransactionId"]}
        if refund.tells_status:
            content |= {"amount": written(amount, transaction.currency), "refundStatus": refund.status}
            content |= {} if refund.reason is None else {"reason": refund.reason}
        told = body.get("cancelSubscriptions")
        effect = Effect(
            kind="refund",
            order_id=transaction.transaction_id,
            amount=written(amount, transaction.currency),
            id=refund.refund_id,
            reference=_reference(body),
            # BlueSnap's trap: who does not say so cancels the buyer's subscriptions along with the refund.
            details={"cancelSubscriptions": True if told is None else told, "refundStatus": refund.status},
        )

        return Execution(answer=self._answer(content), effect=effect)

    def _cancel_pending_refund(self, step: _Step) -> Execution:
        named = step.operation.order_id
        owner = self._transaction_by_refund_id.get(named)
        transaction = self._demand(named, step) if owner is None else owner
        transaction.catch_up(step.now)
        refund = transaction.cancel_pending_refund(None if owner is None else named)
        self._note(transaction)
        effect = Effect(
            kind="cancel_pending_refund",
            order_id=transaction.transaction_id,
            amount=written(refund.amount, refund.currency),
            id=refund.refund_id,
        )

        return Execution(answer=Answer(status=200), effect=effect)

    def _new_refund(self, transaction: Transaction, amount: Decimal, body: Json, *, now: datetime) -> Refund:
        switches = self._switches
        held, transaction.held_refund = transaction.held_refund, None
        if held is None:
            status, ends = switches.bluesnap_refund_status or "SUCCESS", switches.bluesnap_pending_ends
            pending_for = timedelta(hours=switches.bluesnap_pending_hours)
        else:
            status, ends, pending_for = "PENDING", held.ends, timedelta(seconds=held.seconds)

        return Refund(
            refund_id=self._ids.new("refund"),
            currency=transaction.currency,
            amount=amount,
            refunded_at=now,
            status=status,
            settles_at=now + pending_for,
            settles_as=ends,
            tells_status=held is not None or switches.bluesnap_refund_status is not None,
            reason=body.get("reason"),
            metadata=metadata_in(body),
        )

    def _changed(self, transaction: Transaction, *, kind: str, amount: Decimal, step: _Step) -> Execution:
        """Note a change of a transaction, and answer with what the transaction is now and the amount of the change."""
        self._note(transaction)
        shown = written(amount, transaction.currency)
        effect = Effect(
            kind=kind,
            order_id=transaction.transaction_id,
            amount=shown,
            id=transaction.transaction_id,
            reference=_reference(step.body),
        )

        return Execution(answer=self._answer({**self._shown(transaction), "amount": shown}), effect=effect)

    def _add(self, transaction: Transaction) -> None:
        self._transaction_by_id[transaction.transaction_id] = transaction
        if transaction.merchant_transaction_id is not None:
            self._transactions_by_merchant_id.setdefault(transaction.merchant_transaction_id, []).append(transaction)

    def _note(self, transaction: Transaction) -> None:
        self._transactions_past.note(transaction.transaction_id, transaction)

    def _shown(self, transaction: Transaction) -> Json:
        return transaction.shown(has_refund_details=self._switches.bluesnap_refund_details)

    def _demand_named(self, body: Json, step: _Step) -> Transaction:
        """Find the transaction that a body names: by its id, otherwise by the merchant's own."""
        if body.get("transactionId") is not None:
            return self._demand(str(body["transactionId"]), step)
        if body.get("merchantTransactionId") is None:
            raise Refusal.of("TRANSACTION_ID_REQUIRED", "The transaction's id is required")

        return self._demand(f"{body['merchantTransactionId']},", step)

    def _demand(self, transaction_id: str, step: _Step) -> Transaction:
        """Find a transaction by its id, or by the merchant's with a comma behind it; a stale read finds what was."""
        if "," in transaction_id:
            every = self._transactions_by_merchant_id.get(transaction_id.rpartition(",")[0], [])
        else:
            if self.find(transaction_id) is None and self._create_orders is not None:
                amount = written(from_minor(self._create_orders, "USD"), "USD")
                self.open_transaction(transaction_id, amount=amount, currency="USD", captured=False)
            every = [each] if (each := self.find(transaction_id)) is not None else []
        found = [seen for each in every if (seen := self._seen(each, step)) is not None]
        if len(found) > 1:
            raise Refusal.of("MULTIPLE_TRANSACTIONS_FOUND", f"Multiple transactions found with {transaction_id}")
        if not found:
            raise _unknown(transaction_id)
        found[0].catch_up(step.seen_at)

        return found[0]

    def _seen(self, transaction: Transaction, step: _Step) -> Transaction | None:
        if step.lag is None or step.operation.is_change:
            return transaction

        return self._transactions_past.look(transaction.transaction_id, step.lag)

    def _find_refund(self, refund_id: str, step: _Step) -> Refund | None:
        owner = self._transaction_by_refund_id.get(refund_id)
        seen = None if owner is None else self._seen(owner, step)
        if seen is None:
            return None
        seen.catch_up(step.seen_at)

        return next((refund for refund in seen.refunds if refund.refund_id == refund_id), None)

    # records

    def _create_record(self, step: _Step) -> Execution:
        collection, shelf = step.collection, step.shelf
        record = Record(record_id=self._ids.new(shelf.noun), parent_id=step.operation.order_id, fields=step.body)
        self._put(collection, record)
        effect = Effect(
            kind=f"create_{shelf.noun}",
            order_id=record.parent_id or record.record_id,
            id=record.record_id,
            reference=_reference(step.body),
        )
        if _answers_without_body(step):
            location = f"http://{step.host}{PREFIX}{collection}/{record.record_id}"
            return Execution(answer=Answer(status=201, headers=(("Location", location),)), effect=effect)

        return Execution(answer=self._answer(record.shown(shelf)), effect=effect)

    def _update_record(self, step: _Step) -> Execution:
        record = self._demand_record(step).changed(step.body, shelf=step.shelf)
        self._put(step.collection, record)
        effect = Effect(
            kind=f"update_{step.shelf.noun}",
            order_id=record.record_id,
            id=record.record_id,
            reference=_reference(step.body),
        )
        if _answers_without_body(step):
            return Execution(answer=Answer(status=204), effect=effect)

        return Execution(answer=self._answer(record.shown(step.shelf)), effect=effect)

    def _read_record(self, step: _Step) -> Execution:
        return Execution(answer=self._answer(self._demand_record(step).shown(step.shelf)))

    def _read_records(self, step: _Step) -> Execution:
        ours = [
            self._seen_record(record, step)
            for (collection, _), record in self._record_by_place.items()
            if collection == step.collection and record.parent_id == step.operation.order_id
        ]

        return Execution(
            answer=self._answer({step.shelf.noun: [record.shown(step.shelf) for record in ours if record is not None]})
        )

    def _put(self, collection: str, record: Record) -> None:
        self._record_by_place[collection, record.record_id] = record
        self._records_past.note(f"{collection} {record.record_id}", record)

    def _demand_record(self, step: _Step) -> Record:
        record = self._record_by_place.get((step.collection, step.operation.order_id))
        seen = None if record is None else self._seen_record(record, step)
        if seen is None:
            raise _unknown(step.operation.order_id)

        return seen

    def _seen_record(self, record: Record, step: _Step) -> Record | None:
        if step.lag is None or step.operation.is_change:
            return record

        return self._records_past.look(f"{step.collection} {record.record_id}", step.lag)

    # answers

    def _answer(self, content: Json) -> Answer:
        shown = _with_numbers(content) if self._switches.bluesnap_amounts == "number" else content

        return json_answer(200, shown)

    def _refused(self, refusal: Refusal, request: Request) -> Answer:
        """Word a refusal: in XML for whoever does not accept JSON."""
        if "json" not in (request.header("Accept") or ""):
            named = [(each.name, _code_text(each), each.description) for each in refusal.problems]
            return xml_answer(refusal.status, *named)

        return self._error(refusal.status, *refusal.problems)

    def _error(self, status: int, *problems: Problem) -> Answer:
        return json_answer(status, {"message": [self._entry(problem) for problem in problems]})

    def _entry(self, problem: Problem) -> Json:
        entry: Json = {"description": problem.description}
        if problem.name is not None:
            entry["errorName"] = problem.name
            if problem.name in CODE_BY_NAME:
                number = CODE_BY_NAME[problem.name]
                entry["code"] = number if self._switches.bluesnap_codes == "number" else str(number)
        if problem.property is not None:
            entry["invalidProperty"] = {"name": problem.property}

        return entry


def _body(operation: Operation, request: Request) -> Json:
    """Read the body of an operation that takes one; everything wrong with it is named at once."""
    if not bodies.takes_body(operation.kind):
        return {}
    try:
        content = read_json(request.body) if request.body else {}
    except ValueError as error:
        raise Refusal.of("VALIDATION_GENERAL_FAILURE", "The body is not valid JSON") from error
    if not isinstance(content, dict):
        raise Refusal.of("VALIDATION_GENERAL_FAILURE", "The body is not a JSON object")
    types = _TYPES_BY_KIND.get(operation.kind)
    if types is not None and content.get("cardTransactionType") not in types:
        is_other_verb = content.get("cardTransactionType") in _ALL_TYPES
        name = "INVALID_HTTP_METHOD" if is_other_verb else "INVALID_TRANSACTION_TYPE"
        raise Refusal.of(name, f"cardTransactionType must be one of {', '.join(types)} with this method")
    problems = bodies.problems_of(operation.kind, content)
    if problems:
        raise Refusal(
            *(
                Problem(name="VALIDATION_GENERAL_FAILURE", description=text, property=text.partition(" ")[0])
                for text in problems
            )
        )

    return content


def _answers_without_body(step: _Step) -> bool:
    """Tell what answers 201 or 204 with nothing: vendors, and shoppers in the first version."""
    return step.collection == "vendors" or (step.collection == "vaulted-shoppers" and step.version == "1.0")


def _key_problem(key: str) -> Problem | None:
    if len(key) > _MOST_KEY_CHARACTERS:
        return Problem(
            name="IDEMPOTENCY_KEY_MAX_LENGTH_LIMIT_EXCEEDED",
            description=f"The idempotency key has more than {_MOST_KEY_CHARACTERS} characters",
        )
    if not _KEY.fullmatch(key):
        return Problem(
            name="INVALID_IDEMPOTENCY_KEY", description="The idempotency key has other characters than a-Z0-9-"
        )

    return None


def _amount(text: str, currency: str) -> Decimal:
    amount = read_amount(text, currency)
    if amount is None:
        description = f"amount must be decimal text with the digits of {currency}"
        raise Refusal.of("VALIDATION_GENERAL_FAILURE", description, property="amount")

    return amount


def _unknown(thing_id: str) -> Refusal:
    """Refuse what does not exist, in the words for what belongs to somebody else: BlueSnap does not tell them apart."""
    description = f"User is not authorized to view transaction {thing_id}"

    return Refusal(Problem(name=None, description=description), status=403)


def _reference(body: Json) -> str | None:
    """Take for a reference what the client would find its request by: its first metadata, else its own id."""
    metadata = metadata_in(body)
    found = metadata[0]["metaValue"] if metadata else body.get("merchantTransactionId")

    return found if isinstance(found, str) else None


def _code_text(problem: Problem) -> str | None:
    return None if problem.name not in CODE_BY_NAME else str(CODE_BY_NAME[problem.name])


def _with_numbers(content: object) -> object:
    """Show amounts as JSON numbers; with 15 digits or fewer the shortest form of a float is the exact one."""
    match content:
        case dict():
            return {
                name: _as_number(value) if name in _AMOUNTS and isinstance(value, str) else _with_numbers(value)
                for name, value in content.items()
            }
        case list():
            return [_with_numbers(item) for item in content]
        case _:
            return content


def _as_number(text: str) -> int | float:
    amount = Decimal(text)

    return int(amount) if amount == amount.to_integral_value() else float(amount)
