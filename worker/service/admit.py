"""Which claimed commands may be sent now, which in a moment, and which must come back later.

Decides, for one task, by the provider's quotas and by how many calls of an account may be under way at once. Leaves the
quotas to the limiter, what becomes of a command that comes back later to `execute`, and whether it may be sent at all
to `domain.ladder`. A slot that is near is waited for with the lease in hand; a far one costs no lease, no attempt and
no rung.

A command goes through three places: it *waits* while its slot is near, it is *due* a moment before, when its intent is
written together with others', and it is *ready* from then to its very moment. Whoever sends late sends two seconds'
worth in one: a slot that was missed is asked for anew.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import UUID

from ..domain.quota import observed
from ..ports import Account, Answer, Grant, Held, RateLimiter, Want
from .breaker import Breaker

#: What a read-back counts as with the limiter, whatever it reads.
_READ_BACK = "read_back"

#: An account whose quota is used up is left alone by claims for so long, in seconds, or until its next slot is near.
_LEAVE_ALONE = 0.25

#: Commands that are claimed at the least, however little the last claim could be sent of.
_LEAST = 10

#: A claim costs the same whatever it brings. Where others use up the quota too, one that brought fewer than this many
#: to send is followed by a rest, and the next one brings more.
_LITTLE = 8

#: Intents are written when the next slot is so near, in seconds, and with it those of all slots that are not much
#: farther: many in one transaction, and no send has to wait for it.
_SOON = 0.05
_AHEAD = 0.15

#: Sends so near to one another, in seconds, leave together.
_TOGETHER = 0.005

#: A slot that was missed by more than this many seconds is somebody else's by the provider's count.
_MISSED = 0.1

#: Answers that take so long, in seconds, are what the narrowest window is for; slower ones widen it in proportion. With
#: each answer, what is known of how long they take moves by this part of the difference: one that hangs says little.
_QUICK = 0.05
_MOVES_BY = 0.02

#: So many times the window may wait for slots: with all of a second's worth ahead, one process can use a whole quota.
_FORESIGHT = 4


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
        widest: int,
        monotonic: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        """Have `window` calls under way at once, and up to `widest` while the provider is slow to answer."""
        self._limiter = limiter
        self._breaker = breaker
        self._accounts = accounts
        self._narrowest = min(window, widest)
        self._widest = widest
        self._takes = 0.0
        self._monotonic = monotonic
        self._chance = chance
        self._turns = count()
        self._waiting: list[_Waiting] = []
        self._begun: dict[UUID, _Waiting] = {}
        self._ready: list[_Waiting] = []
        self._later: list[tuple[Held, float]] = []
        self._sent_at: dict[UUID, float] = {}
        self._under_way: Counter[str] = Counter()
        self._left_alone: dict[str, float] = {}
        self._buckets: dict[tuple[str, str], str] = {}
        self._appetite = self._narrowest
        self._is_sated = False
        self._is_to_rest = False

    @property
    def window(self) -> int:
        """For how many calls under way or unrecorded at once to claim: the more, the longer the provider takes."""
        return min(self._widest, round(self._narrowest * max(1.0, self._takes / _QUICK)))

    @property
    def waiting(self) -> int:
        """How many commands wait: for their slot, for its very moment, or for being put off."""
        return len(self._waiting) + len(self._ready) + len(self._later)

    def appetite(self, *, under_way: int) -> int:
        """How many commands to claim at once, with so many calls under way or unrecorded.

        What waits for a later moment takes no place in the window. Of many of which few may be sent, most would be
        claimed for nothing.
        """
        now = self._monotonic()
        due = len(self._ready) + sum(each.at <= now for each in self._waiting)
        room = min(self.window - under_way - due, _FORESIGHT * self._narrowest - self.waiting)

        return min(room, self._appetite)

    def left_alone(self) -> frozenset[str]:
        """Name the accounts of which nothing may be sent for a moment."""
        now = self._monotonic()
        self._left_alone = {name: until for name, until in self._left_alone.items() if until > now}
        full = {name for name, calls in self._under_way.items() if calls >= self._most(name)}

        return frozenset(full.union(self._left_alone))

    @property
    def is_sated(self) -> bool:
        """Whether the last claim brought more than may be sent for now."""
        return self._is_sated

    @property
    def is_to_rest(self) -> bool:
        """Whether so little of what the last claim brought may be sent that another at once is not worth its price."""
        return self._is_to_rest

    def sort(self, held: Sequence[Held]) -> None:
        """Ask once for a slot for each of many commands; keep those that are near."""
        later: list[tuple[Held, float]] = []
        by_want: defaultdict[tuple[str, str], list[Held]] = defaultdict(list)
        for each in held:
            if self._under_way[each.account] >= self._most(each.account):
                later.append((each, 0.0))
                continue
            self._under_way[each.account] += 1
            by_want[each.account, _kind(each)].append(each)
        later += self._reserve(by_want)
        got = len(held) - len(later)
        self._is_sated = bool(later)
        self._is_to_rest = bool(later) and got < _LITTLE
        self._appetite = max(_LEAST, got + got // 4) if later else min(self._narrowest, 2 * self._appetite)
        self._put_off(later)

    def due(self, *, under_way: int, early: bool = False) -> Sorted:
        """Take those whose slot comes in a moment, and those that must come back later, for one transaction.

        Where there will be a transaction anyway, they are taken a little `early`. Claims keep to the window; a slot
        that is held must not be lost because answers of others are not recorded yet.
        """
        now = self._monotonic()
        at_most = self._widest - under_way
        self._ask_anew(now)
        if self._waiting and self._waiting[0].at > now + (_AHEAD if early else _SOON):
            return Sorted(now=(), later=())
        taken: list[Held] = []
        while len(taken) + len(self._ready) < at_most and self._waiting and self._waiting[0].at <= now + _AHEAD:
            each = heapq.heappop(self._waiting)
            self._begun[each.held.id] = each
            taken.append(each.held)
        later = [(each, max(0.0, at - now)) for each, at in self._later]
        self._later.clear()

        return Sorted(now=taken, later=later)

    def begun(self, held: Iterable[Held]) -> None:
        """Keep those whose intent is written, as they stand since, until their very moment."""
        for each in held:
            heapq.heappush(self._ready, replace(self._begun.pop(each.id), held=each))

    def ready(self) -> Sequence[Held]:
        """Take those whose moment has come."""
        now = self._monotonic()
        taken = []
        while self._ready and self._ready[0].at <= now:
            taken.append(heapq.heappop(self._ready).held)
        self._sent_at |= {each.id: now for each in taken}

        return taken

    def next_in(self) -> float | None:
        """In how many seconds to look again for those that are due or ready; None when nothing waits."""
        now = self._monotonic()
        moments = []
        if self._waiting:
            moments.append(max(_TOGETHER, self._waiting[0].at - _SOON - now))
        if self._ready:
            moments.append(max(_TOGETHER, self._ready[0].at - now))

        return min(moments, default=None)

    def ended(self, held: Iterable[Held]) -> None:
        """A call is over, or will not be made."""
        for each in held:
            self._under_way[each.account] -= 1
            self._begun.pop(each.id, None)
            sent_at = self._sent_at.pop(each.id, None)
            if sent_at is not None:
                took = min(self._monotonic() - sent_at, _QUICK * self._widest / self._narrowest)
                self._takes += (took - self._takes) * _MOVES_BY

    def learn(self, held: Held, answer: Answer) -> None:
        """Tell the limiter what the headers of an answer say about quotas."""
        observation = observed(answer.headers)
        if observation is not None:
            self._limiter.observe(held.account, _kind(held), observation)

    def keep_still(self, held: Held, answer: Answer) -> float:
        """After a 429: put off what waits for its bucket; return for how many seconds that keeps still."""
        self.learn(held, answer)
        sent_ago = self._monotonic() - self._sent_at.get(held.id, self._monotonic())
        pause = self._limiter.throttled(held.account, _kind(held), observed(answer.headers), sent_ago=sent_ago)
        bucket = self._buckets.get((held.account, _kind(held)), "")
        stopped = self._stop(lambda each: each.held.account == held.account and each.grant.bucket == bucket)
        self._leave_alone(held.account, min(pause, _LEAVE_ALONE))
        self._put_off([(each, pause * (1.0 + self._chance())) for each in stopped])

        return pause

    def stop(self, account: str) -> None:
        """Put off what waits for a slot of an account that is to be paused."""
        self._put_off([(each, 0.0) for each in self._stop(lambda each: each.held.account == account)])

    def let_go(self) -> None:
        """Put off what waits for a slot that others can use in time: nobody claims for the holes between."""
        if self._is_sated:
            in_time = self._monotonic() + _AHEAD
            self._put_off([(each, 0.0) for each in self._stop(lambda each: each.at > in_time)])

    def _stop(self, concerns: Callable[[_Waiting], bool]) -> Sequence[Held]:
        """Give back the slots of commands that wait for one; return the commands."""
        stopped = [each for each in self._waiting if concerns(each)]
        self._waiting = [each for each in self._waiting if not concerns(each)]
        heapq.heapify(self._waiting)
        grants = {id(each.grant): each.grant for each in stopped}
        for grant, unused in Counter(id(each.grant) for each in stopped).items():
            self._limiter.release(grants[grant], count=unused)
        self.ended(each.held for each in stopped)

        return [each.held for each in stopped]

    def _put_off(self, later: Iterable[tuple[Held, float]]) -> None:
        now = self._monotonic()
        self._later += [(each, now + seconds) for each, seconds in later]

    def _ask_anew(self, now: float) -> None:
        """Ask again for slots that were missed: a process that stood still must not catch up in one go."""
        missed: defaultdict[tuple[str, str], list[Held]] = defaultdict(list)
        while self._waiting and self._waiting[0].at < now - _MISSED:
            each = heapq.heappop(self._waiting)
            missed[each.held.account, _kind(each.held)].append(each.held)
        if missed:
            self._put_off(self._reserve(missed))

    def _reserve(self, by_want: Mapping[tuple[str, str], Sequence[Held]]) -> list[tuple[Held, float]]:
        """Ask for slots and keep what is near; return what must come back later."""
        wants = [Want(account=account, kind=kind, count=len(each)) for (account, kind), each in by_want.items()]
        now = self._monotonic()
        later: list[tuple[Held, float]] = []
        comes_back: dict[str, float] = {}
        has_all: set[str] = set()
        for grant, wanting in zip(self._limiter.reserve(wants), by_want.values(), strict=True):
            self._take_up(grant, wanting, now, later)
            if grant.later:
                name = grant.want.account
                comes_back[name] = min(grant.later[0], comes_back.get(name, _LEAVE_ALONE))
            else:
                has_all.add(grant.want.account)
        for name, seconds in comes_back.items():
            # With captures used up, there may be room for other kinds yet.
            if name not in has_all:
                self._leave_alone(name, seconds)

        return later

    def _take_up(self, grant: Grant, wanting: Sequence[Held], now: float, later: list[tuple[Held, float]]) -> None:
        self._buckets[grant.want.account, grant.want.kind] = grant.bucket
        with_slot, without = wanting[: len(grant.slots)], wanting[len(grant.slots) :]
        for each, slot in zip(with_slot, grant.slots, strict=True):
            heapq.heappush(self._waiting, _Waiting(now + slot, next(self._turns), each, grant))
        later += zip(without, grant.later, strict=True)
        self.ended(without)

    def _leave_alone(self, account: str, seconds: float) -> None:
        until = self._monotonic() + seconds
        self._left_alone[account] = max(until, self._left_alone.get(account, until))

    def _most(self, name: str) -> int:
        account = self._accounts.get(name)

        return self._narrowest if account is None else self._breaker.careful(name, account.max_in_flight)


def _kind(held: Held) -> str:
    return held.kind if held.read_back is None else _READ_BACK
