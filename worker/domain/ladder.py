"""What follows from an attempt: the one place where an outcome becomes a decision.

Decides, from outcome, safety class, rungs climbed, doubt and the age of the key, whether a command is
finished, waits, or goes to a person, and when it may be sent at all. Pure: time and chance are arguments.
Where what became of it can be read at the provider, that is done first (`read_back`); what follows from
such a read is `judge`'s. Leaves to `state` which columns a decision writes, to the store the writing, to `ticket` the
grouping.

Source of the waits and of the key window: Klarna's retry policy (5 s, 5 min, 5 h, then escalate; a key is
honoured for 24 h from the first attempt). Source of the rules: DESIGN §2 and the rulings of §11.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from . import state
from .outcome import (
    InDoubt,
    NotNow,
    NotSent,
    Outcome,
    Problem,
    Rejected,
    Succeeded,
    Throttled,
    Unauthorized,
)
from .read_back import Purpose, ReadBack
from .state import Transition
from .ticket import Reason

#: How long a provider honours a key, from the first attempt: Klarna's policy says 24 h, BlueSnap's pages "up to 24 h".
KEY_LIFETIME = timedelta(hours=24)


class Safety(StrEnum):
    """How far a command may be repeated when the fate of a send is unknown."""

    READ = "read"  # changes nothing: always repeatable
    KEYED = "keyed"  # same key and same bytes, inside the key window
    UNKEYED_READABLE = "unkeyed-readable"  # without a key, but what became of it can be read
    UNKEYED = "unkeyed"  # never repeated blindly

    @property
    def has_key(self) -> bool:
        """Whether the provider recognises a repeat."""
        return self is Safety.KEYED

    @property
    def is_unkeyed(self) -> bool:
        """Whether a repeat would be a second change."""
        return self in {Safety.UNKEYED, Safety.UNKEYED_READABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The waits and windows of one account.

    `ladder` holds the waits after the first, second and third failed attempt, in order. `key_window` is how long a
    command may be sent under its key, from its first send. `key_margin` is kept free at the end of the key's life at
    the provider, because a request sent then may reach the provider later. `read_pause` passes before each read that
    may find a command absent: longer than a request can take. After `throttle_patience` of nothing but 429 a person is
    told; the command goes on waiting. `absence_lifetime` is how long that finding counts. A
    pending effect is read every `settle_every`, for at most `settle_within`.
    """

    ladder: tuple[timedelta, ...]
    key_window: timedelta
    key_margin: timedelta
    throttle_base: timedelta
    throttle_cap: timedelta
    throttle_patience: timedelta
    read_pause: timedelta
    absence_lifetime: timedelta
    settle_every: timedelta
    settle_within: timedelta

    @property
    def tries(self) -> int:
        """How many attempts the ladder allows: the first, and one after each wait."""
        return len(self.ladder) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What has become of a command so far, as far as a decision needs it.

    `readable` says that what became of it can be read at the provider; `absent_at` when it was last known to be absent.
    """

    safety: Safety
    readable: bool = False
    failures: int = 0
    throttles: int = 0
    throttled_at: datetime | None = None
    in_doubt: bool = False
    first_sent_at: datetime | None = None
    absent_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A transition, and why a person must know of it (None: nobody needs to)."""

    transition: Transition
    reason: Reason | None = None


def safety_without_provider(*, keyed: bool) -> Safety:
    """The safety class of a command whose account is not configured here: what carries no key may be a change."""
    return Safety.KEYED if keyed else Safety.UNKEYED


def key_deadline(standing: Standing, policy: Policy) -> datetime | None:
    """Until when the command may be sent under its key; None when no key bounds it or nothing was sent yet."""
    if not standing.safety.has_key or standing.first_sent_at is None:
        return None

    return key_end(standing.first_sent_at, policy)


def key_end(first_sent_at: datetime, policy: Policy) -> datetime:
    """Until when a key counts that was first sent then."""
    return first_sent_at + key_age(policy)


def key_age(policy: Policy) -> timedelta:
    """How old the first send under a key may be for the key to count."""
    return min(policy.key_window, KEY_LIFETIME - policy.key_margin)


def refuse_send(standing: Standing, policy: Policy, *, now: datetime) -> Reason | None:
    """Say why the command must not be sent now; None when it may. Asked right before every send."""
    if _too_late(standing, policy, now):
        return Reason.KEY_WINDOW_CLOSED
    if standing.safety.is_unkeyed and standing.in_doubt and not is_absent(standing, policy, now):
        return Reason.NOT_SAFE_TO_RETRY
    return None


def is_absent(standing: Standing, policy: Policy, moment: datetime) -> bool:
    """Whether the command is known, at that moment, to have no effect at the provider."""
    return standing.absent_at is not None and moment - standing.absent_at <= policy.absence_lifetime


def hold(standing: Standing, policy: Policy, reason: Reason, *, problem: Problem | None, at: datetime) -> Decision:
    """Keep a command that must not be sent from being sent: read back where that can be, else to a person."""
    return _escalate(standing, policy, reason, problem, failures=standing.failures, at=at)


def decide(
    outcome: Outcome,
    standing: Standing,
    policy: Policy,
    *,
    ended_at: datetime,
    chance: float,
    pause: timedelta = timedelta(0),
    ended_here: bool = True,
) -> Decision:
    """Turn the outcome of an attempt into what happens next.

    Args:
        outcome: What the attempt ended with.
        standing: The command as it stood when the attempt was made.
        policy: The account's waits and windows.
        ended_at: Database time at which the attempt ended; waits run from here.
        chance: A number in [0, 1) that spreads the waits after a 429 (full jitter).
        pause: For how long at least nothing of the account may be sent after a 429, as the limiter says.
        ended_here: Whether the process that made the attempt also ended it. If not, it may have stood still, and may
            still send.
    """
    match outcome:
        case Succeeded():
            return _finish(outcome, standing, policy, ended_at=ended_at)
        case Rejected(problem=problem) if standing.in_doubt or standing.absent_at is not None:
            # Even where it was found absent: what arrived after the readings may be why it is refused now.
            return _look_first(
                standing,
                policy,
                ReadBack(purpose=Purpose.REFUSAL, reason=Reason.REFUSED_AFTER_DOUBT),
                problem,
                failures=standing.failures,
                at=ended_at,
            )
        case Rejected(problem=problem):
            return Decision(transition=state.reject(failures=standing.failures, problem=problem), reason=Reason.REFUSED)
        case Unauthorized(problem=problem):
            return _escalate(
                standing, policy, Reason.CREDENTIALS_REFUSED, problem, failures=standing.failures, at=ended_at
            )
        case Throttled(problem=problem):
            wait = max(pause, back_off(standing, policy, chance=chance))
            return _defer(standing, policy, problem, ended_at=ended_at, due_at=ended_at + wait)
        case NotSent(problem=problem) if standing.safety.is_unkeyed:
            return _unkeyed(standing, policy, problem, ended_at=ended_at, ended_here=ended_here)
        case NotNow(problem=problem) | NotSent(problem=problem):
            return _climb(standing, policy, problem, ended_at=ended_at)
        case InDoubt(problem=problem):
            after = replace(standing, in_doubt=standing.safety is not Safety.READ, absent_at=None)
            if standing.safety.is_unkeyed:
                return _unkeyed(after, policy, problem, ended_at=ended_at, ended_here=ended_here)
            return _climb(after, policy, problem, ended_at=ended_at)


def _finish(outcome: Succeeded, standing: Standing, policy: Policy, *, ended_at: datetime) -> Decision:
    """Be done; but follow what is only pending, and tell a person when a repeat was not recognised as one."""
    kept = {**outcome.result, "correlation_id": outcome.correlation_id}
    if not outcome.settled and standing.readable:
        read_back = ReadBack(
            purpose=Purpose.SETTLEMENT, reason=Reason.NOT_SETTLED, until=ended_at + policy.settle_within
        )
        transition = state.read_back_at(
            ended_at + policy.settle_every,
            failures=standing.failures,
            in_doubt=False,
            problem=None,
            read_back=read_back,
            result=kept,
        )
    else:
        transition = state.succeed(failures=standing.failures, result=kept)
    was_ignored = standing.in_doubt and standing.safety.has_key and outcome.result.get("key_echoed") is False

    return Decision(transition=transition, reason=Reason.KEYS_NOT_ENABLED if was_ignored else None)


def _climb(standing: Standing, policy: Policy, problem: Problem, *, ended_at: datetime) -> Decision:
    """Wait for the next rung, or escalate when none is left or the key would be too old by then."""
    failures = standing.failures + 1
    if failures >= policy.tries:
        return _escalate(standing, policy, Reason.LADDER_EXHAUSTED, problem, failures=policy.tries, at=ended_at)

    due_at = ended_at + policy.ladder[failures - 1]
    if _too_late(standing, policy, due_at):
        return _escalate(standing, policy, Reason.KEY_WINDOW_CLOSED, problem, failures=failures, at=ended_at)

    return Decision(
        transition=state.retry_at(
            due_at, failures=failures, in_doubt=standing.in_doubt, problem=problem, absent_at=standing.absent_at
        )
    )


def _unkeyed(standing: Standing, policy: Policy, problem: Problem, *, ended_at: datetime, ended_here: bool) -> Decision:
    """Climb, but only over a read-back; where nothing can be read a person decides at once."""
    failures = min(standing.failures + 1, policy.tries)
    if failures >= policy.tries and standing.readable:
        read_back = ReadBack(purpose=Purpose.TICKET, reason=Reason.LADDER_EXHAUSTED)
    elif ended_here:
        resume_at = ended_at + policy.ladder[failures - 1] if failures < policy.tries else None
        read_back = ReadBack(purpose=Purpose.REPEAT, reason=Reason.NOT_SAFE_TO_RETRY, resume_at=resume_at)
    else:
        read_back = ReadBack(purpose=Purpose.TICKET, reason=Reason.NOT_SAFE_TO_RETRY)

    return _look_first(standing, policy, read_back, problem, failures=failures, at=ended_at)


def back_off(standing: Standing, policy: Policy, *, chance: float) -> timedelta:
    """How long to wait after one more 429: exponentially longer each time, with full jitter."""
    ceiling: timedelta = min(policy.throttle_cap, policy.throttle_base * 2 ** min(standing.throttles, 30))

    return ceiling * (1.0 - chance)


def _defer(standing: Standing, policy: Policy, problem: Problem, *, ended_at: datetime, due_at: datetime) -> Decision:
    """Back off; a 429 was not executed, so no rung is climbed."""
    if _too_late(standing, policy, due_at):
        return _escalate(standing, policy, Reason.KEY_WINDOW_CLOSED, problem, failures=standing.failures, at=ended_at)

    since = standing.throttled_at or ended_at
    is_long = ended_at - since >= policy.throttle_patience

    return Decision(
        transition=state.defer_until(
            due_at,
            failures=standing.failures,
            throttles=standing.throttles + 1,
            throttled_at=ended_at if is_long else since,
            in_doubt=standing.in_doubt,
            problem=problem,
            absent_at=standing.absent_at,
        ),
        # Told once, and again when as much time has passed again.
        reason=Reason.THROTTLED if is_long else None,
    )


def _too_late(standing: Standing, policy: Policy, moment: datetime) -> bool:
    """Whether the key counts no more then, and the command is not known to be absent either."""
    deadline = key_deadline(standing, policy)

    return deadline is not None and moment >= deadline and not is_absent(standing, policy, moment)


def _escalate(
    standing: Standing, policy: Policy, reason: Reason, problem: Problem | None, *, failures: int, at: datetime
) -> Decision:
    """Pass the command to a person; first read what is there, where that can tell the person anything."""
    is_worth_reading = standing.in_doubt or reason is Reason.KEY_WINDOW_CLOSED
    if is_worth_reading and reason is not Reason.CREDENTIALS_REFUSED:
        read_back = ReadBack(purpose=Purpose.TICKET, reason=reason)
        return _look_first(standing, policy, read_back, problem, failures=failures, at=at)

    return _to_a_person(standing, reason, problem, failures=failures)


def _look_first(
    standing: Standing,
    policy: Policy,
    read_back: ReadBack,
    problem: Problem | None,
    *,
    failures: int,
    at: datetime,
) -> Decision:
    """Read the provider's state before anything else is done; where it cannot be read, pass to a person at once."""
    if not standing.readable:
        return _to_a_person(standing, read_back.reason, problem, failures=failures)

    return Decision(
        transition=state.read_back_at(
            at + policy.read_pause,
            failures=failures,
            in_doubt=standing.in_doubt,
            problem=problem,
            read_back=read_back,
        )
    )


def _to_a_person(standing: Standing, reason: Reason, problem: Problem | None, *, failures: int) -> Decision:
    return Decision(
        transition=state.escalate(
            failures=failures, in_doubt=standing.in_doubt, problem=problem, absent_at=standing.absent_at
        ),
        reason=reason,
    )
