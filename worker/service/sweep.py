"""Look for what nobody is looking after: leases that ran out, tickets whose desk has not been told.

Decides that an attempt whose lease ran out ended in doubt at `lease_until`, and not by the hand of the process that
made it, and that a claim without an attempt, such as one for a read, is handed back without a rung. What follows from
the doubt is decided where every outcome is (`domain.ladder`). Any number of sweeps may run at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..domain.ladder import Policy, decide
from ..domain.outcome import InDoubt, Problem
from ..ports import Account, Expired, Publisher, Store
from .accounts import policy, standing
from .record import Decided, Recorded, announce, hand_back, record

_LEASE_EXPIRED = Problem(
    code="lease_expired", message="the worker that sent this ended or stood still before it could record an answer"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweeper:
    """Takes over from processes that are gone, a bounded number of commands at a time.

    Attributes:
        limit: How many commands, and how many tickets, one run takes.
        published_for: After how long a ticket whose message was lost is handed out again.
    """

    store: Store
    publisher: Publisher
    accounts: Mapping[str, Account]
    fallback: Policy
    desk: str
    limit: int
    published_for: timedelta
    chance: Callable[[], float]

    def run_once(self) -> Counter[str]:
        """Take over expired leases, then have untold tickets told; return counts.

        Raises:
            StoreUnavailable: The database is away; nothing was changed.
        """
        recorded = self._take_over()
        # A transaction of its own: what keeps one lease from being taken over must not keep tickets from being told.
        with self.store.begin() as transaction:
            tickets = transaction.due_tickets(limit=self.limit, published_for=self.published_for)
        for ticket_id, label in tickets:
            self.publisher.escalate(ticket_id, label=label)

        return Counter(
            in_doubt=sum(each.outcome is not None for each in recorded.written),
            handed_back=sum(each.outcome is None for each in recorded.written),
            tickets=len(tickets),
        )

    def _take_over(self) -> Recorded:
        with self.store.begin() as transaction:
            decided = [self._decide(each, transaction.now) for each in transaction.take_expired(limit=self.limit)]
            recorded = record(transaction, decided, desk=self.desk)
        announce(decided, recorded.written)

        return recorded

    def _decide(self, expired: Expired, now: datetime) -> Decided:
        if not expired.unanswered:
            return Decided(held=expired, decision=hand_back(expired, at=now), outcome=None, ended_at=now)

        outcome = InDoubt(problem=_LEASE_EXPIRED)
        decision = decide(
            outcome,
            standing(expired, self.accounts),
            policy(expired, self.accounts, self.fallback),
            ended_at=expired.lease_until,
            chance=self.chance(),
            ended_here=False,
        )

        return Decided(held=expired, decision=decision, outcome=outcome, ended_at=expired.lease_until)
