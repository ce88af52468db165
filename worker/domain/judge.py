"""What follows from a read-back: the one place where what a read found becomes a decision.

Decides, from the finding and from what waits for it, whether a command is done, goes on, is read again or goes to a
person. Pure: time and chance are arguments. Leaves to `ladder` when a read-back is begun and when a command may be
sent at all, and to the providers what counts as an effect.

A read costs no rung. A finding of "absent" counts from the second in a row (Klarna publishes nothing on how soon a
read shows a change), each later after the attempt than a request can take. Source: DESIGN §2 and the rulings of §11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import state
from .finding import Absent, Ambiguous, Done, Finding
from .ladder import Decision, Policy, Standing, back_off
from .outcome import Outcome, Problem, Throttled
from .read_back import ABSENCES, Purpose, ReadBack
from .ticket import Reason

#: What ends in a ticket anyway is not kept from its person by the longest wait.
_SOON: frozenset[Purpose] = frozenset({Purpose.TICKET, Purpose.RECHECK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The command that was read about: how it stands, why it did not succeed, what is known of its effect."""

    standing: Standing
    read_back: ReadBack
    problem: Problem | None
    result: Mapping[str, Any] | None


def judge(found: Finding | Outcome, subject: Subject, policy: Policy, *, read_at: datetime, chance: float) -> Decision:
    """Turn what a read found, or the outcome of a read that told nothing, into what happens next.

    Args:
        found: What the read found, or how it failed.
        subject: The command.
        policy: The account's waits and windows.
        read_at: Database time of the read; waits run from here.
        chance: A number in [0, 1) that spreads the waits after a 429 (full jitter).
    """
    match found:
        case Done(settled=False):
            return _follow(found.result, subject, policy, read_at)
        case Done(result=result):
            return Decision(
                transition=state.succeed(
                    failures=subject.standing.failures,
                    result={**(subject.result or {}), **result, "read_back": True},
                )
            )
        case Absent():
            return _absent(subject, policy, read_at)
        case Ambiguous():
            return _to_a_person(subject)
        case Throttled():
            return _defer(subject, policy, read_at, chance)
        case _:
            return _unread(subject, policy, read_at)


def _follow(result: Mapping[str, Any], subject: Subject, policy: Policy, read_at: datetime) -> Decision:
    """It is there, as pending: read again later, until it is settled or has been pending for too long."""
    until = subject.read_back.until or read_at + policy.settle_within
    if read_at >= until:
        return _to_a_person(subject)

    return _read_again(
        read_at + policy.settle_every,
        subject,
        ReadBack(purpose=Purpose.SETTLEMENT, reason=Reason.NOT_SETTLED, until=until),
        result={**(subject.result or {}), **result},
        in_doubt=False,
    )


def _absent(subject: Subject, policy: Policy, read_at: datetime) -> Decision:
    standing, read_back = subject.standing, subject.read_back.found_absent()
    if read_back.absences < ABSENCES:
        return _read_again(read_at + policy.read_pause, subject, read_back)

    match read_back.purpose:
        case Purpose.REPEAT:
            return Decision(
                transition=state.retry_at(
                    max(read_at, read_back.resume_at or read_at),
                    failures=standing.failures,
                    in_doubt=False,
                    problem=subject.problem,
                    absent_at=read_at,
                )
            )
        case Purpose.REFUSAL if subject.problem is not None:
            return Decision(
                transition=state.reject(failures=standing.failures, problem=subject.problem), reason=Reason.REFUSED
            )
        case _:
            return _to_a_person(subject, absent_at=read_at)


def _unread(subject: Subject, policy: Policy, read_at: datetime) -> Decision:
    """The read told nothing: try again by the ladder's waits, which are not rungs of the command."""
    read_back = subject.read_back.failed()
    if read_back.until is not None and read_at < read_back.until:
        return _read_again(read_at + policy.settle_every, subject, read_back)
    waits = policy.ladder[:-1] if read_back.purpose in _SOON else policy.ladder
    if read_back.until is not None or read_back.failures > len(waits):
        return _to_a_person(subject)

    return _read_again(read_at + waits[read_back.failures - 1], subject, read_back)


def _defer(subject: Subject, policy: Policy, read_at: datetime, chance: float) -> Decision:
    standing = subject.standing

    return Decision(
        transition=state.defer_until(
            read_at + back_off(standing, policy, chance=chance),
            failures=standing.failures,
            throttles=standing.throttles + 1,
            throttled_at=standing.throttled_at or read_at,
            in_doubt=standing.in_doubt,
            problem=subject.problem,
            result=subject.result,
            read_back=subject.read_back,
        )
    )


def _read_again(
    due_at: datetime,
    subject: Subject,
    read_back: ReadBack,
    *,
    result: Mapping[str, Any] | None = None,
    in_doubt: bool | None = None,
) -> Decision:
    standing = subject.standing

    return Decision(
        transition=state.read_back_at(
            due_at,
            failures=standing.failures,
            in_doubt=standing.in_doubt if in_doubt is None else in_doubt,
            problem=subject.problem,
            read_back=read_back,
            result=subject.result if result is None else result,
        )
    )


def _to_a_person(subject: Subject, *, absent_at: datetime | None = None) -> Decision:
    """Stop here. What was pending and is given up is in doubt: sent again, it could be done twice."""
    is_unknown = subject.standing.in_doubt or subject.read_back.purpose is Purpose.SETTLEMENT

    return Decision(
        transition=state.escalate(
            failures=subject.standing.failures,
            in_doubt=is_unknown and absent_at is None,
            problem=subject.problem,
            result=subject.result,
            absent_at=absent_at,
        ),
        reason=subject.read_back.reason,
    )
