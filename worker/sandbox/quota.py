"""Decides which requests are too many, and what the quota headers say; none are until a quota is set.

Two levels are checked at once, as Klarna does: the account's own quota, and that of the acquiring partner, which all
accounts here share. An account is what follows a plus sign in the user name: `sandbox+shop-1`. A request that is too
many is not carried out and does not count.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .clock import Clock, stamp
from .errors import SandboxError
from .switches import Switches
from .wire import Headers

Json = dict[str, Any]

#: Seconds of which is known how many requests there were: more than any trial lasts.
_MOST_SECONDS = 3_600

_PREFIXES = ("account", "psp")


@dataclass(slots=True, kw_only=True)
class _Quota:
    """How many requests a second a category takes, at each of its levels."""

    category: str
    provider: str
    kinds: frozenset[str] | None
    levels: tuple[int, ...]
    taken: dict[tuple[int, str], deque[float]] = field(default_factory=dict)
    """Level and account → the moments of the last second at which a request was let through."""

    def fits(self, provider: str, kind: str) -> bool:
        return provider == self.provider and (self.kinds is None or kind in self.kinds)

    def shown(self) -> Json:
        return {
            "category": self.category,
            "provider": self.provider,
            "kinds": None if self.kinds is None else sorted(self.kinds),
            "partner": self.levels[0],
            "acquiring_partner": self.levels[1] if self.levels[1:] else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a request is let through, and what is said of the quota."""

    is_admitted: bool
    headers: Headers


class Quotas:
    """The quotas that are set, and what came of them."""

    def __init__(self, *, clock: Clock, switches: Switches) -> None:
        self._clock = clock
        self._switches = switches
        self._quotas: list[_Quota] = []
        self._counts: dict[tuple[int, str, str], list[int]] = {}

    def set(
        self,
        category: str,
        *,
        partner: int,
        acquiring_partner: int | None = None,
        kinds: Sequence[str] | None = None,
        provider: str = "klarna",
    ) -> None:
        """Set a category's quota anew; of several that a request fits, the one that names its kind counts."""
        given = (partner,) if acquiring_partner is None else (partner, acquiring_partner)
        if any(quota < 0 for quota in given) or not category.isascii() or not category.isprintable():
            msg = f"a quota is a printable name and 0 or more requests a second, got {category!r} and {given}"
            raise SandboxError(msg)
        self._quotas = [quota for quota in self._quotas if (quota.category, quota.provider) != (category, provider)]
        named = None if kinds is None else frozenset(kinds)
        self._quotas.append(_Quota(category=category, provider=provider, kinds=named, levels=given))
        self._quotas.sort(key=lambda quota: quota.kinds is None)

    def admit(self, *, provider: str, kind: str, account: str) -> Verdict | None:
        """Let a request through or not; None where no quota is set for its kind."""
        quota = next((quota for quota in self._quotas if quota.fits(provider, kind)), None)
        if quota is None:
            return None
        now = self._clock.now().timestamp()
        limits = [max(0, round(level * self._switches.quota_factor)) for level in quota.levels]
        logs = [quota.taken.setdefault((number, "" if number else account), deque()) for number in range(len(limits))]
        begins = float(int(now)) if self._switches.quota_window == "calendar" else now - 1.0
        for log in logs:
            while log and log[0] <= begins:
                log.popleft()
        is_admitted = all(len(log) < limit for log, limit in zip(logs, limits, strict=True))
        if is_admitted:
            for log in logs:
                log.append(now)
        self._count(int(now), quota.category, account, is_admitted=is_admitted)
        left = [max(0, limit - len(log)) for log, limit in zip(logs, limits, strict=True)]

        return Verdict(is_admitted=is_admitted, headers=self._headers(quota.category, limits, left))

    def shown(self) -> Json:
        """Show the quotas that are set, and for each second how many requests were let through and how many not."""
        return {
            "quotas": [quota.shown() for quota in self._quotas],
            "seconds": [
                {
                    "at": stamp(datetime.fromtimestamp(second, self._clock.now().tzinfo)),
                    "category": category,
                    "account": account,
                    "admitted": admitted,
                    "throttled": throttled,
                }
                for (second, category, account), (admitted, throttled) in sorted(self._counts.items())
            ],
        }

    def reset(self) -> None:
        """Set no quota, and forget what came of those that were."""
        self._quotas.clear()
        self._counts.clear()

    def _headers(self, category: str, limits: Sequence[int], left: Sequence[int]) -> Headers:
        if not self._switches.quota_headers:
            return ()
        nearest = min(range(len(limits)), key=lambda level: left[level])
        policies = [f'{limit};w=1;name="{prefix}_{category}"' for prefix, limit in zip(_PREFIXES, limits, strict=False)]

        return (
            ("X-Ratelimit-Limit", f"{limits[nearest]}, {','.join(policies)}"),
            ("X-Ratelimit-Remaining", str(left[nearest])),
            ("X-Ratelimit-Reset", "1"),
        )

    def _count(self, second: int, category: str, account: str, *, is_admitted: bool) -> None:
        counts = self._counts.setdefault((second, category, account), [0, 0])
        counts[0 if is_admitted else 1] += 1
        oldest = next(iter(self._counts))
        if oldest[0] < second - _MOST_SECONDS:
            del self._counts[oldest]
