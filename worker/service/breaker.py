"""When to stop sending for an account whose provider is ill, and how to begin again.

Decides, for one process, after how many ailing outcomes in a row an account is paused for all of them, and that it
begins again with one call at a time, twice as many with each good answer. Who falls ill again on the way is left alone
for twice as long: its reads are answered and its changes are not, and each try costs a rung. Leaves to `domain.pause`
what is a sign of what, to the store the pause itself, which all processes see, and to `probe` when it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..domain.finding import Finding
from ..domain.ladder import Policy, key_age
from ..domain.outcome import Outcome
from ..domain.pause import ALL_KINDS, Cause, Pause, ailment

#: Doubling ends here; every cap is reached long before.
_MOST_DOUBLINGS = 30

_WHY: Mapping[Cause, str] = {
    Cause.BREAKER: "{count} sends in a row were not answered, or not in a way that tells what became of them",
    Cause.CREDENTIALS: "{count} sends in a row were answered with 401",
}


@dataclass(slots=True)
class _Health:
    """What this process has seen of one account: signs in a row, by cause, and how carefully it begins again.

    `relapses` counts how often it fell ill while it did so.
    """

    signs: dict[Cause, int] = field(default_factory=dict)
    careful: int | None = None
    relapses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """That an account must be paused, why, and when it is first tried again."""

    account: str
    cause: Cause
    why: str
    probe_in: timedelta

    def pause(self, policy: Policy, *, now: datetime) -> Pause:
        """Say what is to be stored."""
        return Pause(
            account=self.account,
            kind=ALL_KINDS,
            cause=self.cause,
            by="breaker",
            why=self.why,
            edge=key_age(policy),
            probe_at=now + self.probe_in,
        )


class Breaker:
    """Counts the ailing outcomes of one process.

    `most` says after how many in a row of each cause an account is paused, `probe_in` when it is first tried again, and
    `probe_cap` when at the latest, after relapses.
    """

    def __init__(self, *, most: Mapping[Cause, int], probe_in: timedelta, probe_cap: timedelta) -> None:
        self._most = most
        self._probe_in = probe_in
        self._probe_cap = probe_cap
        self._healths: dict[str, _Health] = {}

    def note(self, account: str, outcome: Outcome | Finding) -> Trip | None:
        """Take note of an outcome; say so when the account must be paused."""
        health = self._healths.setdefault(account, _Health())
        cause = ailment(outcome)
        if cause is None:
            health.signs.clear()
            health.careful = None if health.careful is None else health.careful * 2
            return None

        health.signs[cause] = health.signs.get(cause, 0) + 1
        # Who begins again does not need to be told as often.
        if health.careful is None and health.signs[cause] < self._most[cause]:
            return None

        count, health.signs[cause] = health.signs[cause], 0
        health.relapses = 0 if health.careful is None else health.relapses + 1
        health.careful = 1
        probe_in = min(self._probe_cap, self._probe_in * 2 ** min(health.relapses, _MOST_DOUBLINGS))

        return Trip(account=account, cause=cause, why=_WHY[cause].format(count=count), probe_in=probe_in)

    def careful(self, account: str, most: int) -> int:
        """How many calls of an account may be under way at once, of the `most` that it may have when it is well."""
        health = self._healths.get(account)
        if health is None or health.careful is None:
            return most
        if health.careful >= most:
            health.careful = None
            return most

        return health.careful
