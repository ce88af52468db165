"""Keeps what things looked like after each change, so that a read may lag behind the writes; decides nothing.

Which read lags, and by how much, is scripted: `faults.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, Self, TypeVar

#: What is older than the sandbox itself was always there.
BEGINNING = datetime.min.replace(tzinfo=UTC)

#: A read that lags by more changes than these shows the oldest state that is kept.
_MOST_VERSIONS = 50


class Copied(Protocol):
    """Something that can be put away as it is now."""

    def copied(self) -> Self:
        """Make a copy that later changes leave alone."""


_T = TypeVar("_T", bound=Copied)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a read lags behind: so many seconds of the sandbox's clock, otherwise so many changes."""

    seconds: float | None
    changes: int

    def moment(self, now: datetime) -> datetime:
        """Say what time it is for the read."""
        return now if self.seconds is None else now - timedelta(seconds=self.seconds)


class Past(Generic[_T]):
    """The states that things of one sort have been in, by the id of the thing."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._versions_by_id: dict[str, list[tuple[datetime, _T | None]]] = {}

    def note(self, thing_id: str, thing: _T, *, was_always_there: bool = False) -> None:
        """Put away what a thing looks like after a change; before its first it did not exist, unless it always did."""
        versions = self._versions_by_id.setdefault(thing_id, [])
        if was_always_there:
            versions.append((BEGINNING, thing.copied()))
            return
        if not versions:
            versions.append((BEGINNING, None))
        versions.append((self._now(), thing.copied()))
        del versions[:-_MOST_VERSIONS]

    def look(self, thing_id: str, lag: Lag) -> _T | None:
        """Show a thing as it was; None when it was not there yet."""
        versions = self._versions_by_id.get(thing_id, [(BEGINNING, None)])
        if lag.seconds is None:
            version = versions[max(0, len(versions) - 1 - lag.changes)][1]
        else:
            moment = lag.moment(self._now())
            version = next((thing for at, thing in reversed(versions) if at <= moment), versions[0][1])

        return None if version is None else version.copied()

    def reset(self) -> None:
        """Forget everything."""
        self._versions_by_id.clear()
