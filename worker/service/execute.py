"""Carry commands from claim to recorded decision: claim → admit → call → decide → record.

Decides the order of the steps and what a task does while a backlog lasts: it stays and refills its window of calls
in flight with further due rows until none is left or its time is up, so that a slow answer never idles the other
slots. A command with a read-back is read about, in the same flow, and not sent. Leaves meanings to providers,
consequences to `domain.ladder` and, for reads, to `reconcile`, guards to the store. A batch of one is the same code. No
remote call happens inside a transaction: the claim is committed, then the intent, then the call is made,
then its decision is committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from ..domain.errors import PostPurchaseError
from ..domain.finding import Absent, Ambiguous, Done, Finding
from ..domain.ladder import Decision, Policy, Safety, Standing, decide, hold, refuse_send
from ..domain.outcome import InDoubt, NotSent, Outcome, Problem, Throttled
from ..domain.read_back import ReadBack
from ..ports import (
    Account,
    Answer,
    Due,
    Held,
    NoAnswer,
    Publisher,
    RateLimiter,
    Request,
    Store,
    StoreUnavailable,
    Transaction,
    Transport,
)
from .accounts import policy, standing
from .admit import Admission
from .breaker import Breaker, Trip
from .handout import hand_out
from .reconcile import judged, lookup
from .record import Decided, Recorded, announce, hand_back, record

log = structlog.get_logger(__name__)

#: While calls are in flight, the task looks for further due rows this often: a hung call must not idle the rest.
_LOOK_EVERY = 0.25

#: A task that cannot record for want of a database tries again this often, until its leases have run out.
_RECORD_PAUSE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a task takes on, and for how long.

    Attributes:
        window: Commands claimed at once, and so calls in flight at once, while the provider answers quickly.
        widest: Calls in flight at once at the most, however slowly it answers.
        lease: How long a claim holds.
        reply: The longest that a call may take; a call is not begun with less than this left of its lease.
        pump: How long a task stays while there is a backlog.
        record_delay: The longest that an answer waits for others to be recorded with it.
        horizon: How close `due_at` must be for a message with a countdown.
        published_for: How long dispatch leaves a row alone after its message should have arrived.
        message: How many ids share a message.
    """

    window: int
    widest: int
    lease: timedelta
    reply: timedelta
    pump: timedelta
    record_delay: timedelta
    horizon: timedelta
    published_for: timedelta
    message: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """Executes commands in this process, one task at a time.

    `accounts` are those that can be sent to, `fallback` is the policy for a command whose account is gone from the
    settings, `chance` gives numbers in [0, 1), `monotonic` and `wait` are this process's own clock, which only ever
    makes it give up early, and `stopping` says that the process is to end.
    """

    store: Store
    transport: Transport
    publisher: Publisher
    limiter: RateLimiter
    breaker: Breaker
    accounts: Mapping[str, Account]
    fallback: Policy
    limits: Limits
    desk: str
    holder: str
    monotonic: Callable[[], float]
    wait: Callable[[float], None]
    chance: Callable[[], float]
    stopping: Callable[[], bool]

    def execute(self, ids: Sequence[UUID]) -> Counter[str]:
        """Try commands once each, and whatever else is due while it lasts.

        Return counts by outcome, by state, by problem and by reason of a ticket.

        Raises:
            StoreUnavailable: The database was away when the first claim was made; nothing was taken.
        """
        return _Task(self).run(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A call that has ended; `at` is this process's own monotonic time, in seconds. A read may have found something."""

    held: Held
    outcome: Outcome | Finding
    at: float
    was_repeated: bool = False
    pause: float = 0.0


class _Task:
    """One run of `execute`: what it holds, and since when."""

    def __init__(self, executor: Executor) -> None:
        self.x = executor
        self.limits = executor.limits
        self.started = executor.monotonic()
        self.looked = self.started
        self.admission = Admission(
            executor.limiter,
            executor.breaker,
            executor.accounts,
            window=self.limits.window,
            widest=self.limits.widest,
            monotonic=executor.monotonic,
            chance=executor.chance,
        )
        self.requests: dict[UUID, Request | NotSent | Ambiguous] = {}
        self.sent: dict[UUID, Held] = {}
        self.ended: list[_Ended] = []
        self.trips: list[Trip] = []
        self.lease_ends: dict[tuple[UUID, int], float] = {}
        self.more = False
        self.counts: Counter[str] = Counter()

    def run(self, ids: Sequence[UUID]) -> Counter[str]:
        self._take(ids)
        self.more = len(ids) > 1
        while self.sent or self.ended or self.admission.waiting or self._may_look():
            if self._is_over():
                self.admission.let_go()
            elif self._may_look():
                self._look()
            self._begin_due()
            if self._must_record():
                self._record()
            if self._may_look():
                continue  # what was recorded has made room
            if self.sent:
                self._collect()
            elif not self.ended and (next_in := self.admission.next_in()) is not None:
                self.x.wait(min(next_in, _LOOK_EVERY))

        return self.counts

    # claim

    def _take(self, ids: Sequence[UUID] | None) -> int:
        """Claim commands and begin their calls; return how many were claimed."""
        began = self.x.monotonic()
        limit = self.limits.window if ids else self._room()
        if limit <= 0:
            return 0
        held = self.x.store.claim(ids, limit=limit, lease=self.limits.lease, without=self.admission.left_alone())
        self._send_ready()
        for each in held:
            self.lease_ends[each.id, each.claims] = began + self.limits.lease.total_seconds()
        self.counts["claimed"] += len(held)
        if held:
            self.admission.sort(held)

        return len(held)

    def _room(self) -> int:
        return self.admission.appetite(under_way=len(self.sent) + len(self.ended))

    def _is_over(self) -> bool:
        """Whether the time is up for which a task stays."""
        return self.x.monotonic() - self.started >= self.limits.pump.total_seconds()

    def _may_look(self) -> bool:
        """Whether to look for further due rows: there may be some, there is room, and nobody wants us to end."""
        now = self.x.monotonic()
        if self.x.stopping() or self._is_over():
            return False
        is_busy = bool(self.sent) or self.admission.waiting > 0
        may_rest = is_busy and (self.admission.is_to_rest or not self.more)
        if not (self.more or is_busy) or (self.trips and self.ended) or self._room() <= 0:
            # Until a pause is written, claims would bring more of what is to wait.
            return False

        return not may_rest or now - self.looked >= _LOOK_EVERY

    def _look(self) -> None:
        self.looked = self.x.monotonic()
        self.more = False
        try:
            self.more = self._take(None) > 0 and not self.admission.is_sated
        except StoreUnavailable as error:
            log.warning("execute.database_away", step="claim", problem=str(error))
        except Exception:
            # A bug in what is taken next must not cost the calls in flight their answers.
            log.exception("execute.claim_failed")

    # admit

    def _begin(self, held: Sequence[Held], *, later: Sequence[tuple[Held, float]]) -> None:
        """Write the intents, then send; what must not be sent is handed back, read about or goes to a person.

        What has ended meanwhile is recorded in the same transaction. `later` are commands that may be claimed again in
        so many seconds.
        """
        requests = {each.id: self._request(each) for each in held}
        try:
            with self.x.store.begin() as transaction:
                at = self._read_clocks(transaction)
                kept = self._admit(transaction, held, requests)
                kept |= {each.id: self._deferred(each, seconds, transaction) for each, seconds in later}
                free = [each for each in held if each.id not in kept]
                opened = transaction.open_attempts(
                    [each for each in free if each.read_back is None], holder=self.x.holder
                )
                decided = [*kept.values(), *self._decide_all(transaction, self.ended, at=at)]
                recorded = record(transaction, decided, desk=self.x.desk)
        except StoreUnavailable as error:
            # Nothing was sent. The leases run out, and sweep hands the commands back.
            log.warning("execute.database_away", step="admit", problem=str(error))
            self.admission.ended(held)
            if self.ended:
                # If it is written after all, it must be known before any of it can be claimed again.
                self._record()
            return
        except Exception:
            if not self.ended:
                raise
            # What has ended may be what cannot be written; it must not go down with what begins, nor the other way.
            log.exception("execute.record_failed", commands=len(self.ended))
            self._record()
            self._begin(held, later=later)
            return

        if self.ended:
            self.ended.clear()
            self.trips.clear()
        began = {each.id for each in opened}
        self.admission.ended(each for each in held if each.read_back is None and each.id not in began)
        self.admission.ended(each for each in held if each.read_back is not None and each.id in kept)
        begun = [*opened, *(each for each in free if each.read_back is not None)]
        self.requests |= {each.id: requests[each.id] for each in begun}
        self.admission.begun(begun)
        self._send_ready()
        self._follow_up(decided, recorded)

    def _begin_due(self) -> None:
        """Begin what is due in a moment, or a little later where something must be recorded; send what is due now."""
        found = self.admission.due(under_way=len(self.sent) + len(self.ended), early=self._must_record())
        if found.now or found.later:
            try:
                self._begin(found.now, later=found.later)
            except Exception:
                self.admission.ended(found.now)
                if not (self.sent or self.ended or self.admission.waiting):
                    raise
                # A bug in what is begun next must not cost the calls in flight their answers.
                log.exception("execute.begin_failed")
        self._send_ready()

    def _send_ready(self) -> None:
        ready = self.admission.ready()
        for each in ready:
            self._send(each, self.requests.pop(each.id))
        if not ready:
            return
        try:
            self.x.transport.flush()
        except Exception:
            # They are under way as far as anybody knows; whoever collects answers moves them on.
            log.exception("request.flush_failed", commands=len(ready))

    def _admit(
        self, transaction: Transaction, held: Sequence[Held], requests: Mapping[UUID, Request | NotSent | Ambiguous]
    ) -> dict[UUID, Decided]:
        """Decide, right before the send, which commands are not sent: their decisions by id."""
        kept: dict[UUID, Decided] = {}
        for each in held:
            request = requests[each.id]
            if each.read_back is not None and not isinstance(request, Request):
                kept[each.id] = self._judged(each, each.read_back, request, transaction.now)
            elif (decision := self._refusal(each, request, transaction)) is not None:
                kept[each.id] = Decided(held=each, decision=decision, outcome=None, ended_at=transaction.now)

        return kept

    def _refusal(self, held: Held, request: Request | NotSent | Ambiguous, transaction: Transaction) -> Decision | None:
        stands, waits = standing(held, self.x.accounts), policy(held, self.x.accounts, self.x.fallback)
        reason = refuse_send(stands, waits, now=transaction.now) if held.read_back is None else None
        if reason is not None:
            return hold(stands, waits, reason, problem=held.problem, at=transaction.now)
        if isinstance(request, NotSent):
            return decide(request, stands, waits, ended_at=transaction.now, chance=self.x.chance())
        if not self._has_time(held):
            return hand_back(held, at=transaction.now)
        return None

    def _deferred(self, held: Held, seconds: float, transaction: Transaction) -> Decided:
        """Put a command back until its slot is near; not past the end of its key window, which ends the waiting."""
        stands, waits = standing(held, self.x.accounts), policy(held, self.x.accounts, self.x.fallback)
        reason = refuse_send(stands, waits, now=transaction.now) if held.read_back is None else None
        if reason is not None:
            decision = hold(stands, waits, reason, problem=held.problem, at=transaction.now)
        else:
            decision = hand_back(held, at=transaction.now + timedelta(seconds=seconds))

        return Decided(held=held, decision=decision, outcome=None, ended_at=transaction.now)

    def _has_time(self, held: Held) -> bool:
        left = self.lease_ends[held.id, held.claims] - self.x.monotonic()

        return left > self.limits.reply.total_seconds()

    # call

    def _request(self, held: Held) -> Request | NotSent | Ambiguous:
        account = self.x.accounts.get(held.account)
        if account is None:
            message = f"account {held.account!r} is not configured in this worker"
            return NotSent(problem=Problem(code="account_not_configured", message=message))
        try:
            return account.provider.request(held) if held.read_back is None else lookup(held, account)
        except Exception:
            log.exception("request.not_built", command_id=str(held.id), kind=held.kind)
            message = "the worker could not build the request; its log says why"
            return NotSent(problem=Problem(code="request_not_built", message=message))

    def _send(self, held: Held, request: Request | NotSent | Ambiguous) -> None:
        assert isinstance(request, Request)  # noqa: S101  # what could not be built was not admitted
        if not self._has_time(held):
            message = "this process stood still between its intent and the call; nothing was sent"
            self._end(held, NotSent(problem=Problem(code="lease_too_short", message=message)))
            return
        try:
            self.x.transport.send(held.id, request)
        except PostPurchaseError as error:
            self._end(held, NotSent(problem=Problem(code="request_not_sent", message=str(error))))
        except Exception:
            log.exception("request.send_failed", command_id=str(held.id), kind=held.kind)
            message = "the worker failed while sending, and part of the request may have left; its log says why"
            self._end(held, InDoubt(problem=Problem(code="send_failed", message=message)))
        else:
            self.sent[held.id] = held

    def _collect(self) -> None:
        """Take the answers that are there; wait for the first of them no longer than the recording may wait."""
        patience = min(_LOOK_EVERY, self.admission.next_in() or _LOOK_EVERY)
        if self.ended:
            patience = min(patience, self._record_at() - self.x.monotonic())
        self._take_answers(max(0.0, patience))

    def _take_answers(self, within: float) -> None:
        for command_id, answer in self.x.transport.collect(within):
            held = self.sent.pop(command_id, None)
            if held is not None:
                self._take_answer(held, answer)
            else:
                # Sent by a task of this process that died; its lease runs out, and sweep takes over.
                log.warning("answer.unclaimed", command_id=str(command_id))

    def _take_answer(self, held: Held, answer: Answer | NoAnswer) -> None:
        outcome = self._outcome(held, answer)
        if (trip := self.x.breaker.note(held.account, outcome)) is not None:
            self._stop_sending(trip)
        if not isinstance(answer, Answer):
            self._end(held, outcome)
            return
        pause = 0.0
        if isinstance(outcome, Throttled):
            pause = self.admission.keep_still(held, answer)
        else:
            self.admission.learn(held, answer)
        self._end(held, outcome, was_repeated=answer.was_repeated, pause=pause)

    def _stop_sending(self, trip: Trip) -> None:
        """Have the account paused with the next recording, and hand back what waits for its slot."""
        self.trips.append(trip)
        self.admission.stop(trip.account)

    def _outcome(self, held: Held, answer: Answer | NoAnswer) -> Outcome | Finding:
        provider = self.x.accounts[held.account].provider
        try:
            return provider.outcome(held, answer) if held.read_back is None else provider.finding(held, answer)
        except Exception:
            log.exception("answer.not_understood", command_id=str(held.id), kind=held.kind)
            message = "the worker could not read the answer; its log says why"
            return InDoubt(problem=Problem(code="answer_not_understood", message=message))

    def _end(self, held: Held, outcome: Outcome | Finding, *, was_repeated: bool = False, pause: float = 0.0) -> None:
        self.admission.ended([held])
        self.ended.append(
            _Ended(held=held, outcome=outcome, at=self.x.monotonic(), was_repeated=was_repeated, pause=pause)
        )
        self.counts[outcome.name] += 1

    # decide

    def _stood(self, ended: _Ended) -> Standing:
        """How the command stood when the answer came: in doubt too if the HTTP library had sent it once before."""
        stood = standing(ended.held, self.x.accounts)
        is_in_doubt = ended.was_repeated and stood.safety is not Safety.READ

        return replace(stood, in_doubt=True, absent_at=None) if is_in_doubt else stood

    def _read_clocks(self, transaction: Transaction) -> float:
        """Return this process's own time at the moment that counts as now in a transaction."""
        _ = transaction.now

        return self.x.monotonic()

    def _decide_all(self, transaction: Transaction, ended: Sequence[_Ended], *, at: float) -> Sequence[Decided]:
        """Decide what comes of calls that have ended, and pause the accounts whose provider they show to be ill."""
        if ended:
            self._pause(transaction)

        return [self._decide(each, transaction, at=at) for each in ended]

    def _decide(self, ended: _Ended, transaction: Transaction, *, at: float) -> Decided:
        ended_at = transaction.now - timedelta(seconds=at - ended.at)
        if ended.held.read_back is not None:
            decided = self._judged(ended.held, ended.held.read_back, ended.outcome, ended_at)
        else:
            assert not isinstance(ended.outcome, Done | Absent | Ambiguous)  # noqa: S101  # only a read finds something
            decision = decide(
                ended.outcome,
                self._stood(ended),
                policy(ended.held, self.x.accounts, self.x.fallback),
                ended_at=ended_at,
                chance=self.x.chance(),
                pause=timedelta(seconds=ended.pause),
            )
            decided = Decided(held=ended.held, decision=decision, outcome=ended.outcome, ended_at=ended_at)
        due_at = decided.decision.transition.due_at
        if due_at is None or due_at - transaction.now > self.limits.horizon or not self.x.publisher.may_hold():
            return decided

        return replace(decided, published_until=due_at + self.limits.published_for)

    def _judged(self, held: Held, read_back: ReadBack, found: Outcome | Finding, read_at: datetime) -> Decided:
        return judged(
            held,
            read_back,
            found,
            read_at=read_at,
            accounts=self.x.accounts,
            fallback=self.x.fallback,
            chance=self.x.chance(),
        )

    # record

    def _must_record(self) -> bool:
        if not self.ended:
            return False

        return not self.sent or self.x.monotonic() >= self._record_at()

    def _record_at(self) -> float:
        return self.ended[0].at + self.limits.record_delay.total_seconds()

    def _record(self) -> None:
        """Write what has ended, in one transaction."""
        ended, self.ended = self.ended, []
        if not self._is_written(ended) and len(ended) > 1:
            # One of them cannot be written; the others must not go down with it.
            for each in ended:
                self._is_written([each])

    def _is_written(self, ended: Sequence[_Ended]) -> bool:
        """Write endings; False when a bug kept them from it. Their leases run out, and sweep takes over."""
        try:
            self._write(ended)
        except Exception:
            log.exception("execute.record_failed", commands=len(ended))
            return False
        return True

    def _write(self, ended: Sequence[_Ended]) -> None:
        """Write endings; with the database away, try until their leases have run out."""
        while True:
            try:
                with self.x.store.begin() as transaction:
                    decided = self._decide_all(transaction, ended, at=self._read_clocks(transaction))
                    recorded = record(transaction, decided, desk=self.x.desk)
                self._send_ready()
            except StoreUnavailable as error:
                if self.x.monotonic() > max(self.lease_ends[each.held.id, each.held.claims] for each in ended):
                    log.error("execute.not_recorded", commands=len(ended))  # noqa: TRY400  # logged with each try
                    return
                log.warning("execute.database_away", step="record", problem=str(error))
                self._bide()
            else:
                self.trips.clear()
                self._follow_up(decided, recorded)
                return

    def _pause(self, transaction: Transaction) -> None:
        """Pause the accounts whose provider is ill, for every process."""
        for trip in self.trips:
            account = self.x.accounts[trip.account]
            pause = trip.pause(account.policy, now=transaction.now)
            if transaction.begin_pause(pause):
                log.warning("account.paused", account=trip.account, cause=trip.cause.value, why=trip.why)

    def _bide(self) -> None:
        """Let a moment pass; an answer that lies unread for longer than its call may take would count as none."""
        began = self.x.monotonic()
        if self.sent:
            self._take_answers(_RECORD_PAUSE)
        self.x.wait(max(0.0, _RECORD_PAUSE - (self.x.monotonic() - began)))

    def _follow_up(self, decided: Sequence[Decided], recorded: Recorded) -> None:
        """After the commit: log, hand retries to the broker, have desks told, let go what waited."""
        announce(decided, recorded.written)
        for each in decided:
            self.lease_ends.pop((each.held.id, each.held.claims), None)
        for each in recorded.written:
            self.counts[f"now_{each.decision.transition.to}"] += 1
            self._count_why(each)
        self.counts["superseded"] += len(decided) - len(recorded.written)
        # Whatever became of it, a command that is executing no more lets others of its order go.
        self.more = self.more or bool(recorded.written)
        self._publish_retries(recorded)
        for ticket_id in recorded.tickets:
            self.x.publisher.escalate(ticket_id, label=f"ticket {ticket_id}")

    def _count_why(self, each: Decided) -> None:
        """Count the problem and the reason of what did not just succeed: people read the counts in Flower."""
        problem, reason = each.decision.transition.problem, each.decision.reason
        if each.outcome is not None and problem is not None:
            self.counts[problem.code if problem.status is None else f"{problem.status} {problem.code}"] += 1
        if reason is not None:
            self.counts[f"ticket_{reason}"] += 1

    def _publish_retries(self, recorded: Recorded) -> None:
        waiting = [
            Due(
                id=each.held.id,
                account=each.held.account,
                kind=each.held.kind,
                order_id=each.held.order_id,
                failures=each.decision.transition.failures,
                due_at=each.decision.transition.due_at,
            )
            for each in recorded.written
            if each.published_until is not None and each.decision.transition.due_at is not None
        ]
        hand_out(self.x.publisher, waiting, now=recorded.at, size=self.limits.message, tries=self.x.fallback.tries)
