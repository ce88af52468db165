"""Write what was decided: transitions, the ledger, and the tickets that follow, in one transaction.

Decides nothing. The fence decides which of the writes take place: an attempt whose lease was lost leaves its answer
in the ledger, marked late, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from ..domain import state
from ..domain.ladder import Decision
from ..domain.outcome import Outcome, Succeeded
from ..domain.state import FINAL
from ..domain.ticket import Reason
from ..ports import Ending, Escalation, Held, Move, Reading, Transaction

log = structlog.get_logger(__name__)

#: What is logged, by whether it was an attempt (else a read) and whether it was written.
_EVENT: Mapping[tuple[bool, bool], str] = {
    (True, True): "attempt.finished",
    (True, False): "attempt.superseded",
    (False, True): "reading.finished",
    (False, False): "reading.superseded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision for a held command. `outcome` is None where no attempt was made under this claim.

    `reading` is what a read told that was made instead of an attempt.
    """

    held: Held
    decision: Decision
    outcome: Outcome | None
    ended_at: datetime
    published_until: datetime | None = None
    reading: Reading | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What was written, and when in database time: the decisions whose fence matched, the tickets they touched."""

    at: datetime
    written: Sequence[Decided]
    tickets: Sequence[UUID]


def hand_back(held: Held, *, at: datetime) -> Decision:
    """Decide on a command that was claimed and not sent: as if it had not been claimed."""
    return Decision(
        transition=state.hand_back(
            at,
            failures=held.failures,
            throttles=held.throttles,
            throttled_at=held.throttled_at,
            in_doubt=held.in_doubt,
            problem=held.problem,
            result=held.result,
            read_back=held.read_back,
            absent_at=held.absent_at,
        )
    )


def record(transaction: Transaction, decided: Sequence[Decided], *, desk: str) -> Recorded:
    """Write decisions; each only where this process still holds the lease."""
    moves = [
        Move(held=each.held, transition=each.decision.transition, published_until=each.published_until)
        for each in decided
    ]
    applied = transaction.apply(moves)
    written = [each for each in decided if each.held.id in applied]
    superseded = [each for each in decided if each.held.id not in applied]
    transaction.close_attempts(_endings(written))
    transaction.close_attempts(_endings(superseded), late=True)
    transaction.note_readings([each.reading for each in written if each.reading is not None])
    tickets = transaction.link_tickets(
        [
            Escalation(command_id=each.held.id, account=each.held.account, reason=each.decision.reason)
            for each in written
            if each.decision.reason is not None
        ],
        desk=desk,
    )
    transaction.close_links(
        [
            each.held.id
            for each in written
            # Only a command that was claimed before can have a ticket from then.
            if each.decision.transition.to in FINAL and each.decision.reason is None and each.held.claims > 1
        ],
        # That a pending refund was settled says nothing of the one that was made beside it.
        kept=[Reason.KEYS_NOT_ENABLED],
    )

    return Recorded(at=transaction.now, written=written, tickets=tickets)


def announce(decided: Sequence[Decided], written: Sequence[Decided]) -> None:
    """Log what came of each attempt, after the commit."""
    done = {each.held.id for each in written}
    for each in decided:
        log.info(_EVENT[each.reading is None, each.held.id in done], **_facts(each))


def _endings(decided: Sequence[Decided]) -> list[Ending]:
    return [
        Ending(held=each.held, outcome=each.outcome, ended_at=each.ended_at)
        for each in decided
        if each.outcome is not None
    ]


def _facts(each: Decided) -> dict[str, object]:
    problem = each.decision.transition.problem
    answered = each.outcome.correlation_id if isinstance(each.outcome, Succeeded) else None
    due_at = each.decision.transition.due_at

    return {
        "command_id": each.held.id,
        "account": each.held.account,
        "kind": each.held.kind,
        "order_id": each.held.order_id,
        "attempt": each.held.attempt,
        "outcome": None if each.outcome is None else each.outcome.name,
        **({} if each.reading is None else {"purpose": each.reading.purpose.value, "verdict": each.reading.verdict}),
        "state": each.decision.transition.to.value,
        "reason": None if each.decision.reason is None else each.decision.reason.value,
        "code": None if problem is None else problem.code,
        "status": None if problem is None else problem.status,
        "correlation_id": answered if problem is None else problem.correlation_id,
        "due_at": None if due_at is None else due_at.isoformat(),
    }
