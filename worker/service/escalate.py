"""Tell a desk of a ticket until the desk has taken it: that it is open, what is added, that it has closed.

Decides what a case file holds and when a telling is tried again: exponentially later, without end, because a ticket
that could not be opened, or that a person still looks at, is itself durable work. Leaves the words to the desks, and
whether a closing is worth telling to the store. Runs any number of times for one ticket: a lease keeps two from telling
at once, and a desk recognises a repeat by the ticket's id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from ..domain.errors import DeskUnavailable
from ..domain.ladder import Policy
from ..domain.ticket import Case, CaseFile
from ..ports import Account, Store, StoredCommand, TicketDesk, TicketWork
from .accounts import key_window_left

log = structlog.get_logger(__name__)

#: More commands than this are told in several announcements.
_CASES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What came of telling a ticket: told, nothing or postponed.

    `external_ref` is the desk's own reference, `problem` why the desk did not take it.
    """

    verb: str
    external_ref: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalator:
    """Tells one desk.

    Attributes:
        lease: How long a telling may take before another process may try.
        retry_base: The wait after the first failed telling; doubled with each further one.
        retry_cap: The longest wait between two tellings.
        append_interval: The least time between two announcements of one ticket.
    """

    store: Store
    desk: TicketDesk
    accounts: Mapping[str, Account]
    fallback: Policy
    lease: timedelta
    retry_base: timedelta
    retry_cap: timedelta
    append_interval: timedelta
    chance: Callable[[], float]

    def escalate(self, ticket_id: UUID) -> Telling:
        """Tell the desk what it does not know of a ticket yet; return what came of it.

        Raises:
            StoreUnavailable: The database is away; sweep will ask again.
        """
        with self.store.begin() as transaction:
            work = transaction.claim_ticket(ticket_id, lease=self.lease, cases=_CASES)
            now = transaction.now
        if work is None:
            return Telling(verb="nothing")

        try:
            external_ref = self._tell(work, now)
        except DeskUnavailable as error:
            return self._postpone(work, str(error))

        with self.store.begin() as transaction:
            transaction.land_ticket(work, desk=self.desk.name, external_ref=external_ref, next_in=self.append_interval)
        log.info(
            "ticket.told",
            ticket_id=str(ticket_id),
            desk=self.desk.name,
            external_ref=external_ref,
            total=work.total,
            closed=work.closing is not None,
        )

        return Telling(verb="told", external_ref=external_ref)

    def _tell(self, work: TicketWork, now: datetime) -> str:
        case_file = CaseFile(
            ticket_id=work.ticket_id,
            account=work.account,
            reason=work.reason,
            opened_at=work.opened_at,
            cases=tuple(self._case(each, work, now) for each in work.commands),
            total=work.total,
            closing=work.closing,
        )
        if work.closing is not None:
            # Without one, the worker that was opening it died: every desk takes its ticket's id for a reference too.
            external_ref = work.external_ref or f"{self.desk.name}:{work.ticket_id}"
            self.desk.close(external_ref, case_file)

            return external_ref

        if work.external_ref is None or work.desk != self.desk.name:
            return self.desk.open(case_file)

        self.desk.append(work.external_ref, case_file)

        return work.external_ref

    def _case(self, command: StoredCommand, work: TicketWork, now: datetime) -> Case:
        return Case(
            command_id=command.id,
            account=command.account,
            kind=command.kind,
            order_id=command.order_id,
            reference=command.reference,
            amount=command.amount,
            idempotency_key=command.idempotency_key,
            state=command.state.value,
            in_doubt=command.in_doubt,
            key_window_left=key_window_left(command, self.accounts, self.fallback, now=now),
            problem=command.problem,
            attempts=tuple(work.attempts[command.id]),
            readings=tuple(work.readings[command.id]),
        )

    def _postpone(self, work: TicketWork, problem: str) -> Telling:
        ceiling = min(self.retry_cap, self.retry_base * 2 ** min(work.tries, 30))
        retry_in = ceiling * (0.5 + self.chance() / 2)
        with self.store.begin() as transaction:
            transaction.postpone_ticket(work, retry_in=retry_in, problem=problem)
        log.warning(
            "ticket.postponed",
            ticket_id=str(work.ticket_id),
            desk=self.desk.name,
            tries=work.tries + 1,
            retry_in_seconds=round(retry_in.total_seconds(), 1),
            problem=problem,
        )

        return Telling(verb="postponed", problem=problem)
