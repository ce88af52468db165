"""Try whether the provider of a paused account is well again, with one read at a time.

Decides when a pause by the machine ends: once a read is answered in a way that an ill provider, or one that refuses the
account, would not answer. Accounts are asked side by side, so that one whose provider hangs keeps no other waiting.
Leaves to `breaker` when a pause begins. Any number of probers may run at once; the store gives each probe to one of
them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from ..domain.key import new_id
from ..domain.pause import Cause
from ..domain.ticket import Reason
from ..ports import Account, Answer, NoAnswer, Probe, Store, Transport
from .operate import start_again

log = structlog.get_logger(__name__)

_BY = "probe"

_SERVER_ERRORS = range(500, 600)
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Prober:
    """Probes paused accounts.

    Attributes:
        every: The wait after the first probe that failed; doubled with each further one.
        cap: The longest wait.
        reply: The longest that an answer may take.
        limit: Of commands that wait for credentials, how many one run sends again.
    """

    store: Store
    transport: Callable[[], Transport]
    accounts: Mapping[str, Account]
    every: timedelta
    cap: timedelta
    reply: timedelta
    limit: int

    def run_once(self) -> Counter[str]:
        """Make the probes that are due; return counts.

        Raises:
            StoreUnavailable: The database is away; nothing was changed.
        """
        with self.store.begin() as transaction:
            due = transaction.take_probes(sorted(self.accounts), every=self.every, cap=self.cap)
        counts = Counter(probed=len(due), resumed=0)
        for probe, answer in self._answered(due):
            if _is_well(probe, answer):
                self._end(probe)
                counts["resumed"] += 1

        return counts

    def _answered(self, due: list[Probe]) -> Iterator[tuple[Probe, Answer | NoAnswer]]:
        """Ask for all, and give each as it is answered; an account that is paused for two causes is asked once."""
        transport = self.transport()
        by_account: defaultdict[str, list[Probe]] = defaultdict(list)
        for probe in due:
            by_account[probe.account].append(probe)
        asked = {new_id(): probes for probes in by_account.values()}
        for tag, (probe, *_) in asked.items():
            transport.send(tag, self.accounts[probe.account].provider.probe(probe.order_id))
        while asked:
            ended = transport.collect(self.reply.total_seconds())
            for tag, answer in ended:
                # One that an earlier run gave up, because its database went away, is nobody's any more.
                for probe in asked.pop(tag, ()):
                    yield probe, answer
            if not ended:
                return

    def _end(self, probe: Probe) -> None:
        with self.store.begin() as transaction:
            transaction.end_pauses(
                probe.account, kind=probe.kind, causes=[probe.cause], by=_BY, why="a read was answered"
            )
            if probe.cause is Cause.CREDENTIALS:
                start_again(transaction, probe.account, Reason.CREDENTIALS_REFUSED, by=_BY, limit=self.limit)
        log.info("account.resumed", account=probe.account, cause=probe.cause.value, by=_BY)


def _is_well(probe: Probe, answer: Answer | NoAnswer) -> bool:
    if isinstance(answer, NoAnswer) or answer.status in _SERVER_ERRORS or not answer.complete:
        return False

    return probe.cause is not Cause.CREDENTIALS or answer.status != _UNAUTHORIZED
