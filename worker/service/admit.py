"""Which claimed commands may be sent now, which in a moment, and which must come back later.

Decides, for one task, by the provider's quotas and by how many calls of an account may be under way at once. Leaves the
quotas to the limiter, what becomes of a command that comes back later to `execute`, and whether it may be sent at all
to `domain.ladder`. A slot that is near is waited for with the lease in hand; a far one costs no lease, no attempt and
no rung.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from ..domain.quota import observed
from ..ports import Account, Answer, Grant, Held, RateLimiter, Want
from .breaker import Breaker

#: What a read-back counts as with the limiter, whatever it reads.
_READ_BACK = "read_back"

#: An account whose quota is used up is left alone by claims for so long, in seconds, or until its next slot is near.
_LEAVE_ALONE = 0.5

#: Commands that are claimed at the least, however little the last claim could be sent of.
_LEAST = 10

#: Slots this near, in seconds, are taken together: a transaction for each would cost more than it orders.
_TOGETHER = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """What may be sent at once, and in how many seconds the others may be claimed again."""

    now: Sequence[Held]
    later: Sequence[tuple[Held, float]]


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A command that waits for its slot; `at` is this process's own monotonic time."""

    at: float
    turn: int
    held: Held = field(compare=False)
    grant: Grant = field(compare=False)


class Admission:
    """What one task may send, and when."""

    def __init__(
        self,
        limiter: RateLimiter,
        breaker: Breaker,
        accounts: Mapping[str, Account],
        *,
        window: int,
        monotonic: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._limiter = limiter
        self._breaker = breaker
        self._accounts = accounts
        self._window = window
        self._monotonic = monotonic
        self._chance = chance
        self._turns = count()
        self._waiting: list[_Waiting] = []
        self._under_way: Counter[str] = Counter()
        self._left_alone: dict[str, float] = {}
        self._appetite = window

    @property
    def waiting(self) -> int:
        """How many commands wait for their slot."""
        return len(self._waiting)

    @property
    def appetite(self) -> int:
        """How many commands to claim at once: of many of which few may be sent, most would be claimed for nothing."""
        return self._appetite

    def left_alone(self) -> frozenset[str]:
        """Name the accounts of which nothing may be sent for a moment."""
        now = self._monotonic()
        self._left_alone = {name: until for name, until in self._left_alone.items() if until > now}
        full = {name for name, calls in self._under_way.items() if calls >= self._most(name)}

        return frozenset(full.union(self._left_alone))

    def sort(self, held: Sequence[Held]) -> Sorted:
        """Ask once for a slot for each of many commands; keep those that are near."""
        later: list[tuple[Held, float]] = []
        by_want: defaultdict[tuple[str, str], list[Held]] = defaultdict(list)
        for each in held:
            if self._under_way[each.account] >= self._most(each.account):
                later.append((each, 0.0))
                continue
            self._under_way[each.account] += 1
            by_want[each.account, _kind(each)].append(each)
        wants = [Want(account=account, kind=kind, count=len(each)) for (account, kind), each in by_want.items()]
        now = self._monotonic()
        for grant, wanting in zip(self._limiter.reserve(wants), by_want.values(), strict=True):
            self._take_up(grant, wanting, now, later)
        self._appetite = max(_LEAST, 2 * (len(held) - len(later))) if later else min(self._window, 2 * self._appetite)

        return Sorted(now=self.due(), later=later)

    def due(self) -> Sequence[Held]:
        """Take those whose slot has come."""
        now = self._monotonic()
        taken = []
        while self._waiting and self._waiting[0].at <= now:
            taken.append(heapq.heappop(self._waiting).held)

        return taken

    def next_in(self) -> float | None:
        """In how many seconds the next slots come; None when nothing waits for one."""
        return max(_TOGETHER, self._waiting[0].at - self._monotonic()) if self._waiting else None

    def ended(self, held: Iterable[Held]) -> None:
        """A call is over, or will not be made."""
        for each in held:
            self._under_way[each.account] -= 1

    def learn(self, held: Held, answer: Answer) -> None:
        """Tell the limiter what the headers of an answer say about quotas."""
        observation = observed(answer.headers)
        if observation is not None:
            self._limiter.observe(held.account, _kind(held), observation)

    def keep_still(self, held: Held, answer: Answer) -> tuple[float, Sequence[tuple[Held, float]]]:
        """After a 429: for how many seconds the account keeps still, and who of it must come back when."""
        pause = self._limiter.throttled(held.account, _kind(held), observed(answer.headers))
        stopped = self.stop(held.account)
        self._leave_alone(held.account, pause)

        return pause, [(each, pause * (1.0 + self._chance())) for each in stopped]

    def stop(self, account: str) -> Sequence[Held]:
        """Give back the slots of an account's commands that wait for one; return the commands."""
        stopped = [each for each in self._waiting if each.held.account == account]
        self._waiting = [each for each in self._waiting if each.held.account != account]
        heapq.heapify(self._waiting)
        grants = {id(each.grant): each.grant for each in stopped}
        for grant, unused in Counter(id(each.grant) for each in stopped).items():
            self._limiter.release(grants[grant], count=unused)
        self.ended(each.held for each in stopped)

        return [each.held for each in stopped]

    def _take_up(self, grant: Grant, wanting: Sequence[Held], now: float, later: list[tuple[Held, float]]) -> None:
        with_slot, without = wanting[: len(grant.slots)], wanting[len(grant.slots) :]
        for each, slot in zip(with_slot, grant.slots, strict=True):
            heapq.heappush(self._waiting, _Waiting(now + slot, next(self._turns), each, grant))
        later += zip(without, grant.later, strict=True)
        self.ended(without)
        if grant.later:
            self._leave_alone(grant.want.account, min(grant.later[0], _LEAVE_ALONE))

    def _leave_alone(self, account: str, seconds: float) -> None:
        until = self._monotonic() + seconds
        self._left_alone[account] = max(until, self._left_alone.get(account, until))

    def _most(self, name: str) -> int:
        account = self._accounts.get(name)

        return self._window if account is None else self._breaker.careful(name, account.max_in_flight)


def _kind(held: Held) -> str:
    return held.kind if held.read_back is None else _READ_BACK
