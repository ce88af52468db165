"""What follows from an attempt: the one place where an outcome becomes a decision.

Decides, from outcome, safety class, rungs climbed, doubt and the age of the key, whether a command is
finished, waits, or goes to a person, and when it may be sent at all. Pure: time and chance are arguments.
Leaves to `state` which columns a decision writes, to the store the writing, to `ticket` the grouping.

Source of the waits and of the key window: Klarna's retry policy (5 s, 5 min, 5 h, then escalate; a key is
honoured for 24 h from the first attempt). Source of the rules: DESIGN §2 and the rulings of §11.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from .state import Transition
from .ticket import Reason

#: How long a provider honours a key, from the first attempt: Klarna's policy says 24 h, BlueSnap's pages "up to 24 h".
KEY_LIFETIME = timedelta(hours=24)


class Safety(StrEnum):
    """How far a command may be repeated when the fate of a send is unknown."""

    READ = "read"  # changes nothing: always repeatable
    KEYED = "keyed"  # same key and same bytes, inside the key window
    UNKEYED_READABLE = "unkeyed-readable"  # unkeyed, but what became of it can be read
    UNKEYED = "unkeyed"  # never repeated blindly


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The waits and windows of one account.

    `ladder` holds the waits after the first, second and third failed attempt, in order. `key_window` is how long a
    command may be sent under its key, from its first send. `key_margin` is kept free at the end of the key's life at
    the provider, because a request sent then may reach the provider later.
    """

    ladder: tuple[timedelta, ...]
    key_window: timedelta
    key_margin: timedelta
    throttle_base: timedelta
    throttle_cap: timedelta

    @property
    def tries(self) -> int:
        """How many attempts the ladder allows: the first, and one after each wait."""
        return len(self.ladder) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What has become of a command so far, as far as a decision needs it."""

    safety: Safety
    failures: int = 0
    throttles: int = 0
    in_doubt: bool = False
    first_sent_at: datetime | None = None


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
    if standing.safety is not Safety.KEYED or standing.first_sent_at is None:
        return None

    return standing.first_sent_at + min(policy.key_window, KEY_LIFETIME - policy.key_margin)


def refuse_send(standing: Standing, policy: Policy, *, now: datetime) -> Reason | None:
    """Say why the command must not be sent now; None when it may. Asked right before every send."""
    deadline = key_deadline(standing, policy)
    if deadline is not None and now >= deadline:
        return Reason.KEY_WINDOW_CLOSED
    if standing.safety is Safety.UNKEYED and standing.in_doubt:
        return Reason.NOT_SAFE_TO_RETRY
    return None


def hold(standing: Standing, reason: Reason, *, problem: Problem | None) -> Decision:
    """Escalate a command that must not be sent, without an attempt."""
    return Decision(
        transition=state.escalate(failures=standing.failures, in_doubt=standing.in_doubt, problem=problem),
        reason=reason,
    )


def decide(outcome: Outcome, standing: Standing, policy: Policy, *, ended_at: datetime, chance: float) -> Decision:
    """Turn the outcome of an attempt into what happens next.

    Args:
        outcome: What the attempt ended with.
        standing: The command as it stood when the attempt was made.
        policy: The account's waits and windows.
        ended_at: Database time at which the attempt ended; waits run from here.
        chance: A number in [0, 1) that spreads the waits after a 429 (full jitter).
    """
    match outcome:
        case Succeeded(result=result, correlation_id=correlation_id):
            kept = {**result, "correlation_id": correlation_id}
            return Decision(transition=state.succeed(failures=standing.failures, result=kept))
        case Rejected(problem=problem) if standing.in_doubt:
            return _escalate(standing, Reason.REFUSED_AFTER_DOUBT, problem, failures=standing.failures)
        case Rejected(problem=problem):
            return Decision(transition=state.reject(failures=standing.failures, problem=problem), reason=Reason.REFUSED)
        case Unauthorized(problem=problem):
            return _escalate(standing, Reason.CREDENTIALS_REFUSED, problem, failures=standing.failures)
        case Throttled(problem=problem):
            return _defer(standing, policy, problem, ended_at=ended_at, chance=chance)
        case NotNow(problem=problem):
            return _climb(standing, policy, problem, ended_at=ended_at, in_doubt=standing.in_doubt)
        case NotSent(problem=problem) if standing.safety is Safety.UNKEYED:
            failures = min(standing.failures + 1, policy.tries)
            return _escalate(standing, Reason.NOT_SAFE_TO_RETRY, problem, failures=failures)
        case NotSent(problem=problem):
            return _climb(standing, policy, problem, ended_at=ended_at, in_doubt=standing.in_doubt)
        case InDoubt(problem=problem) if standing.safety is Safety.UNKEYED:
            failures = min(standing.failures + 1, policy.tries)
            return _escalate(standing, Reason.NOT_SAFE_TO_RETRY, problem, failures=failures, in_doubt=True)
        case InDoubt(problem=problem):
            doubt = standing.safety is not Safety.READ
            return _climb(standing, policy, problem, ended_at=ended_at, in_doubt=doubt)


def _climb(standing: Standing, policy: Policy, problem: Problem, *, ended_at: datetime, in_doubt: bool) -> Decision:
    """Wait for the next rung, or escalate when none is left or the key would be too old by then."""
    failures = standing.failures + 1
    if failures >= policy.tries:
        return _escalate(standing, Reason.LADDER_EXHAUSTED, problem, failures=policy.tries, in_doubt=in_doubt)

    due_at = ended_at + policy.ladder[failures - 1]
    if _too_late(standing, policy, due_at):
        return _escalate(standing, Reason.KEY_WINDOW_CLOSED, problem, failures=failures, in_doubt=in_doubt)

    return Decision(transition=state.retry_at(due_at, failures=failures, in_doubt=in_doubt, problem=problem))


def _defer(standing: Standing, policy: Policy, problem: Problem, *, ended_at: datetime, chance: float) -> Decision:
    """Back off exponentially with full jitter; a 429 was not executed, so no rung is climbed."""
    ceiling = min(policy.throttle_cap, policy.throttle_base * 2 ** min(standing.throttles, 30))
    due_at = ended_at + ceiling * (1.0 - chance)
    if _too_late(standing, policy, due_at):
        return _escalate(standing, Reason.KEY_WINDOW_CLOSED, problem, failures=standing.failures)

    return Decision(
        transition=state.defer_until(
            due_at,
            failures=standing.failures,
            throttles=standing.throttles + 1,
            in_doubt=standing.in_doubt,
            problem=problem,
        )
    )


def _too_late(standing: Standing, policy: Policy, due_at: datetime) -> bool:
    deadline = key_deadline(standing, policy)

    return deadline is not None and due_at >= deadline


def _escalate(
    standing: Standing, reason: Reason, problem: Problem, *, failures: int, in_doubt: bool | None = None
) -> Decision:
    doubt = standing.in_doubt if in_doubt is None else in_doubt

    return Decision(transition=state.escalate(failures=failures, in_doubt=doubt, problem=problem), reason=reason)
