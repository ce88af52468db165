"""Look for what nobody is looking after: leases that ran out, tickets whose desk has not been told.

Decides that an attempt whose lease ran out ended in doubt at `lease_until`, and that a claim without an attempt is
handed back without a rung. What follows from the doubt is decided where every outcome is (`domain.ladder`). Any
number of sweeps may run at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..domain import state
from ..domain.ladder import Decision, Policy, Standing, decide, safety_without_provider
from ..domain.outcome import InDoubt, Problem
from ..ports import Account, Expired, Publisher, Store
from .record import Decided, announce, record

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
        with self.store.begin() as transaction:
            decided = [self._decide(each, transaction.now) for each in transaction.take_expired(limit=self.limit)]
            recorded = record(transaction, decided, desk=self.desk)
            tickets = transaction.due_tickets(limit=self.limit, published_for=self.published_for)
        announce(decided, recorded.written)
        for ticket_id, label in tickets:
            self.publisher.escalate(ticket_id, label=label)

        return Counter(
            in_doubt=sum(each.outcome is not None for each in recorded.written),
            handed_back=sum(each.outcome is None for each in recorded.written),
            tickets=len(tickets),
        )

    def _decide(self, expired: Expired, now: datetime) -> Decided:
        if not expired.unanswered:
            transition = state.hand_back(
                now,
                failures=expired.failures,
                throttles=expired.throttles,
                in_doubt=expired.in_doubt,
                problem=expired.problem,
            )
            return Decided(held=expired, decision=Decision(transition=transition), outcome=None, ended_at=now)

        outcome = InDoubt(problem=_LEASE_EXPIRED)
        account = self.accounts.get(expired.account)
        by_key = safety_without_provider(keyed=expired.keyed)
        decision = decide(
            outcome,
            Standing(
                safety=by_key if account is None else account.provider.safety(expired.kind, keyed=expired.keyed),
                failures=expired.failures,
                throttles=expired.throttles,
                in_doubt=expired.in_doubt,
                first_sent_at=expired.first_sent_at,
            ),
            self.fallback if account is None else account.policy,
            ended_at=expired.lease_until,
            chance=self.chance(),
        )

        return Decided(held=expired, decision=decision, outcome=outcome, ended_at=expired.lease_until)
