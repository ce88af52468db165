"""What the services need from the outside, as Protocols, and the values that cross those borders.

Decides the shape of a request, an answer, a stored command and every statement the services may ask of the
store. Leaves each implementation to its own folder: `store`, `providers`, `desks`, `limits`, `publish`. Each port has a
real implementation and, where a real one is slow to set up, a shipped one for tests in `testing`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from .domain.errors import PostPurchaseError
from .domain.finding import Finding
from .domain.ladder import Policy, Safety
from .domain.outcome import Outcome, Problem
from .domain.pause import Cause, Pause
from .domain.quota import Bucket, Observation
from .domain.read_back import Purpose, ReadBack
from .domain.state import State, Transition
from .domain.ticket import AttemptLine, CaseFile, Closing, ReadingLine, Reason, TicketState


class StoreUnavailable(PostPurchaseError):
    """The database could not be reached or gave up the transaction; nothing of it was stored."""


# --- providers and their transport -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request, ready to send. `body` None means that none is sent.

    `authorization` is the value of the Authorization header; it never appears in a `repr`. `repeatable` says
    that a silent repeat by the HTTP library would be harmless (a read, or a keyed change); otherwise the
    transport uses a fresh connection.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    authorization: str = field(repr=False)
    repeatable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete or incomplete HTTP answer. Header names are lower case; `complete` is False when it broke off.

    `was_repeated`: the HTTP library had sent the request before, unasked, on a kept connection that then died. That
    earlier sending may have been carried out, so a refusal in this answer says nothing about it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    complete: bool = True
    was_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """No answer came. `sent` is False only when the connection never came up (DNS, connect, TLS).

    `code` is one of ours, lower case: resolve_failed, connect_failed, tls_failed, no_answer, reset, send_failed.
    """

    sent: bool
    code: str
    message: str


class Transport(Protocol):
    """Sends requests concurrently over pooled, verified connections and hands back answers as they arrive."""

    @property
    def in_flight(self) -> int:
        """How many requests were sent and not yet collected."""

    def send(self, tag: UUID, request: Request) -> None:
        """Take one request; returns at once. `tag` must not be in flight already.

        It leaves with `flush`, or with the next `collect` that waits.
        """

    def flush(self) -> None:
        """Have leave what was taken; returns at once."""

    def collect(self, within: float) -> Sequence[tuple[UUID, Answer | NoAnswer]]:
        """Return what has ended, waiting at most `within` seconds for the first."""


class Provider(Protocol):
    """Translates commands into requests and answers into outcomes for one account. Knows no retry, no state."""

    def safety(self, kind: str, *, keyed: bool) -> Safety:
        """Say how far a command of this kind may be repeated when its fate is unknown."""

    def request(self, held: Held) -> Request:
        """Build the request: the same bytes and the same key on every attempt."""

    def outcome(self, held: Held, answer: Answer | NoAnswer) -> Outcome:
        """Say what the answer means."""

    def reads_back(self, kind: str) -> bool:
        """Say whether what became of a command of this kind can be read."""

    def lookup(self, held: Held) -> Request | None:
        """Build the read that shows whether the command took effect; None where this one cannot be read back."""

    def probe(self, order_id: str) -> Request:
        """Build a read that tells, whatever it is answered, whether the provider is well."""

    def finding(self, held: Held, answer: Answer | NoAnswer) -> Finding | Outcome:
        """Say what a lookup's answer shows of the command; an outcome, never a success, where it shows nothing.

        Where the command's own success gave a result, that result tells which effect is meant.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the services need to know of an account. `max_in_flight` counts calls under way at once in a process."""

    provider: Provider
    policy: Policy
    max_in_flight: int


# --- commands in the store ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCommand:
    """A command to store. `due_at` None means now; `published` that its message follows the commit at once.

    One that amends another has the other's id in `replaces`, in `turn` the other's place within the order, and in
    `tell_at` whether the host wanted to be told of the other's end.
    """

    id: UUID
    account: str
    kind: str
    order_id: str
    reference: str | None
    target: str | None
    amount: int | None
    keyed: bool
    payload: bytes = field(repr=False)
    fingerprint: str
    idempotency_key: str
    due_at: datetime | None
    published: bool
    replaces: UUID | None = None
    turn: int | None = None
    tell_at: datetime | None = None
    trace_context: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCommand:
    """A command as stored; times are database time. See `store/schema.py` for each column's story."""

    id: UUID
    seq: int
    account: str
    kind: str
    order_id: str
    reference: str | None
    target: str | None
    amount: int | None
    keyed: bool
    payload: bytes = field(repr=False)
    fingerprint: str
    idempotency_key: str
    state: State
    claims: int
    attempts: int
    failures: int
    throttles: int
    throttled_at: datetime | None
    due_at: datetime
    lease_until: datetime | None
    first_sent_at: datetime | None
    in_doubt: bool
    published_until: datetime | None
    replaces: UUID | None
    turn: int | None
    result: Mapping[str, Any] | None = field(repr=False)
    problem: Problem | None
    read_back: ReadBack | None
    absent_at: datetime | None
    trace_context: Mapping[str, str] | None
    created_at: datetime
    finalized_at: datetime | None
    tell_at: datetime | None = None
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedCommand:
    """What is kept for ever of a command whose row is gone: enough to know a late duplicate, and how it ended."""

    id: UUID
    account: str
    idempotency_key: str
    fingerprint: str
    state: State
    finalized_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """A command that may be pruned: final for long enough, with nothing left to be done about it."""

    id: UUID
    account: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A command whose lease this process holds. `claims` is the fence; `attempt` the number of the open attempt.

    With `read_back` it was claimed for a read, and nothing of it may be sent; `result` is then what is known already.
    """

    id: UUID
    account: str
    kind: str
    order_id: str
    target: str | None
    keyed: bool
    payload: bytes = field(repr=False)
    idempotency_key: str
    claims: int
    attempt: int
    failures: int
    throttles: int
    in_doubt: bool
    first_sent_at: datetime | None
    lease_until: datetime
    problem: Problem | None
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    read_back: ReadBack | None = None
    absent_at: datetime | None = None
    throttled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(Held):
    """A command whose lease has run out. `unanswered` is True when an attempt was opened under that lease."""

    unanswered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A command that dispatch hands to the broker, with what its label needs."""

    id: UUID
    account: str
    kind: str
    order_id: str
    failures: int
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What came of one attempt. `ended_at` is database time."""

    held: Held
    outcome: Outcome
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one read of a read-back told. `verdict` is a finding's name, or `unread`. `read_at` is database time."""

    held: Held
    purpose: Purpose
    verdict: str
    evidence: str
    read_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A transition to write for a held command. `published_until` goes with a transition to pending."""

    held: Held
    transition: Transition
    published_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """A command that must be linked to an open ticket."""

    command_id: UUID
    account: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What an operator did to a command. `by` and `why` are required of every verb."""

    command_id: UUID
    verb: str
    by: str
    why: str
    state_before: State
    in_doubt_before: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketWork:
    """A ticket whose lease this process holds, with the commands its desk has not been told of, or with its closing.

    `external_ref` None: not opened yet; otherwise the name that `desk` gave it. `total` counts every open command of
    the ticket, of a closed one all; `more` says that some beyond `commands` wait to be told.
    """

    ticket_id: UUID
    account: str
    reason: Reason
    opened_at: datetime
    desk: str
    external_ref: str | None
    tries: int
    commands: tuple[StoredCommand, ...]
    attempts: Mapping[UUID, Sequence[AttemptLine]]
    readings: Mapping[UUID, Sequence[ReadingLine]]
    total: int
    more: bool
    closing: Closing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketLine:
    """A ticket as it is listed for one command or for an account."""

    id: UUID
    account: str
    reason: Reason
    state: TicketState
    desk: str
    external_ref: str | None
    opened_at: datetime
    closed_at: datetime | None
    commands: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLine:
    """What an operator did, as it is shown."""

    verb: str
    by: str
    why: str
    state_before: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which commands to list; None does not restrict."""

    state: State | None = None
    account: str | None = None
    order_id: str | None = None
    kind: str | None = None
    in_doubt: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A paused account that is to be probed, and an order of it that can be read."""

    account: str
    kind: str
    cause: Cause
    order_id: str


class Transaction(Protocol):
    """One transaction on the store; every method is one step of a command's life. Times are database time."""

    @property
    def now(self) -> datetime:
        """Database time at which this transaction first asked for it."""

    # enqueue
    def insert_commands(self, commands: Sequence[NewCommand], *, published_for: timedelta) -> set[UUID]:
        """Store the commands whose key is new to their account, pruned ones included; return the ids stored."""

    def find_by_key(self, keys: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], StoredCommand | PrunedCommand]:
        """Find commands by (account, idempotency key); of one that is pruned, what is kept of it."""

    def delete_commands(self, ids: Collection[UUID]) -> None:
        """Take back what this same transaction inserted."""

    # execute
    def open_attempts(self, held: Sequence[Held], *, holder: str) -> Sequence[Held]:
        """Write the intents of those whose lease is still ours; return them with `attempt` and `first_sent_at`."""

    def apply(self, moves: Sequence[Move]) -> set[UUID]:
        """Write transitions out of `executing`, each only where the fence still matches; return the ids written."""

    def close_attempts(self, endings: Sequence[Ending], *, late: bool = False) -> None:
        """Write what came of attempts. `late` marks an answer that arrived after the lease was lost."""

    def note_readings(self, readings: Sequence[Reading]) -> None:
        """Write what the reads of read-backs told."""

    def link_tickets(self, escalations: Sequence[Escalation], *, desk: str) -> Sequence[UUID]:
        """Link each command to exactly one open ticket, opening it where needed; return the tickets touched."""

    def close_links(self, command_ids: Collection[UUID], *, kept: Collection[Reason] = ()) -> None:
        """Unlink decided commands, but not from tickets of the reasons `kept`; one without open links is closed.

        A desk that may have heard of the ticket must then be told that it is.
        """

    # dispatch and sweep
    def take_due(self, *, limit: int, window: int, horizon: timedelta, published_for: timedelta) -> Sequence[Due]:
        """Mark due rows as handed out and return them; never more than `window` handed out and unclaimed."""

    def take_expired(self, *, limit: int) -> Sequence[Expired]:
        """Lock commands whose lease has run out."""

    def begin_pause(self, pause: Pause) -> bool:
        """Pause an account, or a kind of it; False when it is paused already for this cause."""

    def end_pauses(self, account: str, *, kind: str, causes: Collection[Cause], by: str, why: str) -> Sequence[Cause]:
        """End open pauses; return the causes of those that were ended."""

    def pauses(self) -> Sequence[tuple[Pause, datetime]]:
        """Read the open pauses, each with when it began, oldest first."""

    def take_probes(self, accounts: Collection[str], *, every: timedelta, cap: timedelta) -> list[Probe]:
        """Take the probes that are due, of accounts of which something waits; each is due again after a longer wait."""

    def take_escalated(self, account: str, reason: Reason, *, limit: int) -> Sequence[StoredCommand]:
        """Lock escalated commands whose open ticket has this reason."""

    def due_tickets(self, *, limit: int, published_for: timedelta) -> Sequence[tuple[UUID, str]]:
        """Mark tickets that must be told to their desk as handed out; return (ticket id, label)."""

    # escalate
    def claim_ticket(self, ticket_id: UUID, *, lease: timedelta, cases: int) -> TicketWork | None:
        """Take the lease on a ticket that has something to tell; None when there is nothing to do now."""

    def land_ticket(self, work: TicketWork, *, desk: str, external_ref: str, next_in: timedelta) -> None:
        """The desk took it: mark its cases announced; the rest follows after `next_in`.

        A ticket that closed meanwhile is due at once: the desk must hear of that last. With the closing all is told.
        """

    def postpone_ticket(self, work: TicketWork, *, retry_in: timedelta, problem: str) -> None:
        """The desk did not take it: try again later, unless it closed meanwhile and nobody ever heard of it."""

    # prune
    def prunable(self, *, before: datetime, after: UUID | None, limit: int) -> Sequence[Prunable]:
        """Find commands that ended before a moment and that nobody waits for, in the order of their ids."""

    def keep_keys(self, ids: Collection[UUID]) -> None:
        """Note the keys of final commands for ever; the commands stay."""

    def open_transactions(self) -> Collection[str]:
        """Name the transactions of others on this database that are open now."""

    def lock_prunable(self, ids: Collection[UUID], *, before: datetime) -> Sequence[UUID]:
        """Lock those whose keys are kept and that still may be pruned, but for what others hold."""

    def archived(self, ids: Collection[UUID]) -> Sequence[Mapping[str, Any]]:
        """Read all that is stored of commands, ready for JSON."""

    def prune(self, ids: Collection[UUID]) -> int:
        """Remove commands with all that belongs to them; return how many tickets went with them."""

    def find_pruned(self, command_id: UUID) -> PrunedCommand | None:
        """Read what is kept of a command that was pruned."""

    # operate and inspect
    def lock_command(self, command_id: UUID) -> StoredCommand | None:
        """Read a command and keep others from changing it until this transaction ends."""

    def operate(self, command: StoredCommand, transition: Transition, action: Action) -> bool:
        """Write an operator's transition where state and fence are still those of `command`; keep the action."""

    def note_action(self, action: Action) -> None:
        """Keep an operator's action that changes no state."""

    def find(self, command_id: UUID) -> StoredCommand | None:
        """Read a command."""

    def listed(self, wanted: Filter, *, limit: int) -> Sequence[StoredCommand]:
        """Read commands, newest first."""

    def attempts(self, command_ids: Collection[UUID]) -> Mapping[UUID, Sequence[AttemptLine]]:
        """Read the attempts of commands in order; a late answer follows the attempt it belongs to."""

    def readings(self, command_ids: Collection[UUID]) -> Mapping[UUID, Sequence[ReadingLine]]:
        """Read what the read-backs of commands told, oldest first."""

    def tickets(self, *, command_id: UUID | None = None, open_only: bool = False, limit: int) -> Sequence[TicketLine]:
        """Read tickets, newest first."""

    def actions(self, command_id: UUID) -> Sequence[ActionLine]:
        """Read what operators did to a command, oldest first."""

    def counts(self) -> Sequence[tuple[str, State, bool, int, int]]:
        """Count commands by (account, state, in doubt); with the sum of their amounts in minor units."""

    def first_sends_in_doubt(self) -> Mapping[str, datetime]:
        """When, by account, the longest-known command in doubt was first sent under its key: that key ends first."""

    def oldest_due_at(self) -> datetime | None:
        """When the longest-waiting due command became due: the age that tells whether anybody works."""


class Store(Protocol):
    """Where commands are kept. Raises `StoreUnavailable` when the database is away or gave up."""

    def begin(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that commits at the end of the block and rolls back when the block raises."""

    def claim(
        self, ids: Sequence[UUID] | None, *, limit: int, lease: timedelta, without: Collection[str] = ()
    ) -> Sequence[Held]:
        """Take the lease on due commands: of `ids`, or of whatever is due. At most one per order.

        `without` are accounts whose commands are left alone.
        """


class ArchiveUnavailable(PostPurchaseError):
    """The archive of pruned commands could not be written; nothing was pruned."""


class Archive(Protocol):
    """Where pruned commands are kept outside of the database."""

    def keep(self, commands: Sequence[Mapping[str, Any]], *, at: datetime) -> None:
        """Write commands so that they survive a power cut from here on.

        Raises:
            ArchiveUnavailable: They could not be written.
        """


# --- messages and tickets ----------------------------------------------------------------------------------


class Publisher(Protocol):
    """Hands ids to the broker. Never raises for a broker that is away: a message is a hint, the row the truth."""

    def reserve(self) -> bool:
        """Take one place among the single messages of this second; False: leave this command to dispatch."""

    def execute(self, ids: Sequence[UUID], *, label: str, countdown: float | None = None) -> bool:
        """Ask a worker to execute commands, after `countdown` seconds if given; False when it was not handed over."""

    def escalate(self, ticket_id: UUID, *, label: str) -> bool:
        """Ask a worker to tell a ticket to its desk; False when it was not handed over."""

    def may_hold(self) -> bool:
        """Whether one more message with a countdown may be handed to the broker now."""


class TicketDesk(Protocol):
    """Where people are told. All verbs are idempotent by the ticket's id and raise `DeskUnavailable`."""

    name: str

    def open(self, case_file: CaseFile) -> str:
        """Open a ticket; return the desk's own reference to it."""

    def append(self, external_ref: str, case_file: CaseFile) -> None:
        """Add further commands to an open ticket."""

    def close(self, external_ref: str, case_file: CaseFile) -> None:
        """Say that every command of a ticket has been decided; its case file has a `closing`."""


# --- the provider's quotas ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """So many commands of one kind of one account that a batch would like to send."""

    account: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a want got: a slot for some, and for the rest a moment to come back. Together they are `want.count`.

    Attributes:
        want: What was asked for.
        slots: Seconds from now at which one command each may be sent, soonest first. They are taken.
        later: Seconds from now after which one command each may ask again, soonest first. They hold nothing.
        queue_seconds: How far ahead those who were told to come back to this account's bucket reach.
        cells: Where the slots were taken; for `release`.
        bucket: What keeps still after a 429: the same for all kinds of the account that share its quota.
    """

    want: Want
    slots: tuple[float, ...]
    later: tuple[float, ...]
    queue_seconds: float = 0.0
    cells: tuple[int, ...] = field(default=(), repr=False)
    bucket: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketLine:
    """A bucket as it is shown. Quotas are commands a second; None: nothing is published, nothing was learned.

    Attributes:
        bucket: Which it is, with the configured quota.
        learned: What the provider said last, if that is not what is configured.
        learned_seconds: How long ago it said so.
        in_force: The quota that counts now.
        used: Slots of the last second.
        ahead: Slots already taken of the coming second.
        still_seconds: How much longer it keeps still after a 429.
        throttled: How many answers 429 it has seen.
        queue_seconds: How far ahead those who were told to come back reach.
    """

    bucket: Bucket
    learned: float | None
    learned_seconds: float | None
    in_force: float | None
    used: int
    ahead: int
    still_seconds: float
    throttled: int
    queue_seconds: float


class LimiterUnavailable(PostPurchaseError):
    """The place where processes share the provider's quotas could not be reached."""


class RateLimiter(Protocol):
    """Shares the provider's quotas among all processes. Never raises for a place that is away, but in `snapshot`."""

    def reserve(self, wants: Sequence[Want]) -> Sequence[Grant]:
        """Take the slots that are near, at every level or not at all, and say when the rest may come back."""

    def release(self, grant: Grant, *, count: int) -> None:
        """Give back the last `count` slots of a grant: nothing will be sent in them."""

    def observe(self, account: str, kind: str, observation: Observation) -> None:
        """Take note of what the quota headers of an answer said; costs nothing when that is known."""

    def throttled(self, account: str, kind: str, observation: Observation | None, *, sent_ago: float = 0.0) -> float:
        """Keep the bucket still that a 429 came from, to a request sent so long ago; return for how many seconds."""

    def snapshot(self) -> Sequence[BucketLine]:
        """Show every bucket of the configured accounts.

        Raises:
            LimiterUnavailable: The place where they are kept is away.
        """
