"""`ports.RateLimiter` over any place where buckets are kept.

Decides which buckets a command counts in, which of the provider's words are news, whom a 429 concerns, and what happens
while the place is away. Leaves the arithmetic to `slots` and the keeping to `redis`, `database` and `local`.

*Away.* Nobody knows then what the other processes send, so nothing is sent: every command is told to come back after a
moment, spread so that they do not come back at once. Sending at a guess would flood the provider or, shared out among a
guessed number of processes, waste the quota; and a quota that is exceeded earns more than one pause. What is not sent
costs no attempt and no rung. The first such answer is logged, and after `alarm` seconds an error says so for people.

*News.* An answer's headers repeat what is in force a thousand times. Only a quota that differs from what this process
last saw in force is passed on, and while it differs from the configured one, again within a quarter of the time that
it is kept, so that it does not fade while the provider still says it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from ..domain.quota import AccountRates, Bucket, Level, Observation
from ..ports import BucketLine, Grant, LimiterUnavailable, Want
from .slots import Order, Reply

log = structlog.get_logger(__name__)

#: A quota that was learned and is still said is passed on this many times while it is kept.
_REMINDERS = 4


class Place(Protocol):
    """Where buckets are kept, on one clock for all who share them."""

    def carry_out(self, keys: Sequence[str], order: Order) -> Reply:
        """Do what `slots.carry_out` does with the buckets of these keys, all at once and with nobody in between.

        Raises:
            LimiterUnavailable: Nothing was done, or nobody knows.
        """

    def close(self) -> None:
        """Give back what is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How quotas are used.

    Attributes:
        near: How far ahead a slot may lie, in seconds.
        use: The share of a quota that is aimed at; what is left takes up the jitter of the network.
        headroom: The share of a bucket that is kept for kinds that go first, while there are any.
        keep: How many seconds a learned quota holds; in as many again it goes back to the configured one.
        base: The first back-off after a 429, in seconds, before jitter.
        cap: The longest.
        away: When to come back while the place is away, in seconds, before jitter.
        alarm: After how many seconds away people are told.
    """

    near: float
    use: float
    headroom: float
    keep: float
    base: float
    cap: float
    away: float
    alarm: float


@dataclass(slots=True, kw_only=True)
class _Known:
    """What this process last saw in force for a bucket, and until when it need not say again what the provider says."""

    quota: float | None
    quiet_until: float = 0.0


@dataclass(slots=True, kw_only=True)
class Limiter:
    """Shares the provider's quotas.

    `accounts` are those that have quotas: a command of any other is granted at once, and refused by whoever looks for
    its account. `chance` gives numbers in [0, 1), `monotonic` is this process's own clock.
    """

    place: Place
    accounts: Mapping[str, AccountRates]
    terms: Terms
    monotonic: Callable[[], float]
    chance: Callable[[], float]
    _known: dict[Bucket, _Known] = field(default_factory=dict, init=False)
    _puzzled: set[str] = field(default_factory=set, init=False)
    _away_since: float | None = field(default=None, init=False)
    _asks_again_at: float = field(default=0.0, init=False)
    _is_alarmed: bool = field(default=False, init=False)

    # reserve

    def reserve(self, wants: Sequence[Want]) -> Sequence[Grant]:
        """Take the slots that are near, at every level or not at all, and say when the rest may come back."""
        bounded = [want for want in wants if want.account in self.accounts and want.count > 0]
        reply: Reply | None = {"wants": []}
        if bounded:
            buckets, order = self._order_for(bounded)
            reply = self._ask(buckets, order)
            if reply is not None:
                self._note_quotas(buckets, reply)
        answers = iter(reply["wants"]) if reply is not None else None
        grants = []
        for want in wants:
            if want.account not in self.accounts or want.count <= 0:
                grants.append(Grant(want=want, slots=(0.0,) * max(0, want.count), later=()))
            elif answers is None:
                grants.append(Grant(want=want, slots=(), later=self._away(want.count)))
            else:
                bucket = self.accounts[want.account].buckets(want.kind)[0].key
                grants.append(_granted(want, next(answers), bucket=bucket))

        return grants

    def _order_for(self, wants: Sequence[Want]) -> tuple[list[Bucket], dict[str, Any]]:
        indexes: dict[Bucket, int] = {}
        asked = []
        for want in wants:
            rates = self.accounts[want.account]
            buckets = [indexes.setdefault(bucket, len(indexes)) for bucket in rates.buckets(want.kind)]
            goes_first = rates.goes_first(want.kind)
            asked.append({"who": want.account, "count": want.count, "first": goes_first, "buckets": buckets})

        return list(indexes), {
            "do": "reserve",
            "near": round(self.terms.near * 1_000),
            "use": self.terms.use,
            "headroom": self.terms.headroom,
            "chance": self.chance(),
            "wants": asked,
        }

    def _away(self, count: int) -> tuple[float, ...]:
        return tuple(sorted(self.terms.away * (1 + self.chance()) for _ in range(count)))

    def release(self, grant: Grant, *, count: int) -> None:
        """Give back the last `count` slots of a grant: nothing will be sent in them."""
        if count <= 0 or not grant.cells:
            return
        rates = self.accounts[grant.want.account]
        order = {
            "do": "release",
            "cells": list(grant.cells[-count:]),
            "first": rates.goes_first(grant.want.kind),
        }
        self._ask(rates.buckets(grant.want.kind), order)

    # learn

    def observe(self, account: str, kind: str, observation: Observation) -> None:
        """Take note of what the quota headers of an answer said; costs nothing when that is known."""
        rates = self.accounts.get(account)
        if rates is None:
            return
        if observation.unread and account not in self._puzzled:
            self._puzzled.add(account)
            log.warning("quota.unread", account=account, pieces=list(observation.unread), meaning="ignored from now on")
        said = observation.quota_by_bucket(rates, rates.table.category(kind))
        now = self.monotonic()
        news = {bucket: quota for bucket, quota in said.items() if self._is_news(bucket, quota, now)}
        if not news:
            return
        reply = self._ask(list(news), {"do": "observe", "told": list(news.values())})
        if reply is None:
            return
        for (bucket, quota), in_force in zip(news.items(), reply["quotas"], strict=True):
            known = self._known.get(bucket)
            if known is None or known.quota != in_force:
                log.info("quota.learned", bucket=bucket.key, told=quota, in_force=in_force, configured=bucket.quota)
            self._known[bucket] = _Known(quota=in_force, quiet_until=now + self.terms.keep / _REMINDERS)

    def _is_news(self, bucket: Bucket, quota: float, now: float) -> bool:
        expected = quota if bucket.ceiling is None else min(quota, bucket.ceiling)
        known = self._known.get(bucket)
        if known is None:
            return quota != bucket.quota
        # Redis shortens a fraction.
        if known.quota is None or not math.isclose(known.quota, expected, rel_tol=1e-9):
            return True

        return quota != bucket.quota and now >= known.quiet_until

    def _note_quotas(self, buckets: Sequence[Bucket], reply: Reply) -> None:
        for bucket, quota in zip(buckets, reply["quotas"], strict=True):
            known = self._known.setdefault(bucket, _Known(quota=None))
            known.quota = None if quota < 0 else quota

    def throttled(self, account: str, kind: str, observation: Observation | None, *, sent_ago: float = 0.0) -> float:
        """Keep the bucket still that a 429 came from; return for how many seconds.

        What was sent before the last stillness ended, `sent_ago` seconds, is no reason for a further one.

        Where the headers do not tell whose quota was used up, it is the account's own: the others of its acquiring
        partner find out by their own answers, and if they do, each keeps still.
        """
        rates = self.accounts.get(account)
        if rates is None:
            return self.terms.base * self.chance()
        level = (observation and observation.exhausted) or Level.PARTNER
        buckets = rates.buckets(kind)
        concerned = [bucket for bucket in buckets if bucket.level is level] or list(buckets[:1])
        order = {
            "do": "throttled",
            "base": round(self.terms.base * 1_000),
            "cap": round(self.terms.cap * 1_000),
            "chance": self.chance(),
            "age": round(sent_ago * 1_000),
        }
        reply = self._ask(concerned, order)
        if reply is None:
            return self._away(1)[0]

        return float(max(reply["waits"])) / 1_000

    # look

    def snapshot(self) -> Sequence[BucketLine]:
        """Show every bucket of the configured accounts.

        Raises:
            LimiterUnavailable: The place where they are kept is away.
        """
        buckets = list(
            dict.fromkeys(
                bucket
                for rates in self.accounts.values()
                for category in sorted({*rates.table.category_by_kind.values()})
                for bucket in rates.buckets_of(category)
            )
        )
        if not buckets:
            return []
        reply = self.place.carry_out([bucket.key for bucket in buckets], self._about(buckets, {"do": "look"}))

        return [_line(bucket, look) for bucket, look in zip(buckets, reply["looks"], strict=True)]

    def close(self) -> None:
        """Give back what is open."""
        self.place.close()

    # the place

    def _about(self, buckets: Sequence[Bucket], order: Order) -> Order:
        described = [{"quota": _number(bucket.quota), "ceiling": _number(bucket.ceiling)} for bucket in buckets]

        return {**order, "buckets": described, "keep": round(self.terms.keep * 1_000)}

    def _ask(self, buckets: Sequence[Bucket], order: Order) -> Reply | None:
        """Have an order carried out; None while the place is away, which is not asked with every breath then."""
        now = self.monotonic()
        if self._away_since is not None and now < self._asks_again_at:
            return None
        try:
            reply = self.place.carry_out([bucket.key for bucket in buckets], self._about(buckets, order))
        except LimiterUnavailable as error:
            self._note_away(error)
            return None
        if self._away_since is not None:
            log.warning("limiter.back", away_seconds=round(now - self._away_since, 1))
            self._away_since, self._is_alarmed = None, False

        return reply

    def _note_away(self, error: LimiterUnavailable) -> None:
        now = self.monotonic()
        self._asks_again_at = now + self.terms.away / 2
        if self._away_since is None:
            self._away_since = now
            log.warning("limiter.away", problem=str(error), meaning="nothing is sent; commands come back in a moment")
        elif not self._is_alarmed and now - self._away_since >= self.terms.alarm:
            self._is_alarmed = True
            log.error(
                "limiter.still_away",
                problem=str(error),
                away_seconds=round(now - self._away_since, 1),
                fix="nothing is sent until it is back: bring it up, or name another with limits.place",
            )


def _granted(want: Want, answer: Mapping[str, Any], *, bucket: str) -> Grant:
    # Lua knows no empty list; its JSON calls it an empty object.
    return Grant(
        want=want,
        slots=tuple(each / 1_000 for each in answer["slots"]),
        later=tuple(each / 1_000 for each in answer["later"]),
        queue_seconds=answer["queue"] / 1_000,
        cells=tuple(int(each) for each in answer["cells"]),
        bucket=bucket,
    )


def _line(bucket: Bucket, look: Mapping[str, Any]) -> BucketLine:
    has_learned = look["learned"] >= 0

    return BucketLine(
        bucket=bucket,
        learned=float(look["learned"]) if has_learned else None,
        learned_seconds=look["age"] / 1_000 if has_learned else None,
        in_force=float(look["quota"]) if look["quota"] >= 0 else None,
        used=int(look["used"]),
        ahead=int(look["ahead"]),
        still_seconds=look["still"] / 1_000,
        throttled=int(look["throttled"]),
        queue_seconds=look["queue"] / 1_000,
    )


def _number(quota: float | None) -> float:
    return -1 if quota is None else quota
