"""Decides what time it is in the sandbox: the real time plus what was advanced; everybody else here asks this clock."""

import time
from datetime import UTC, datetime

from .errors import SandboxError


class Clock:
    """The sandbox's own time, which a test may move forwards so that 24 hours pass at once."""

    def __init__(self) -> None:
        self._ahead_seconds = 0.0

    def now(self) -> datetime:
        """Tell the time here."""
        return datetime.fromtimestamp(time.time() + self._ahead_seconds, UTC)

    def advance(self, seconds: float) -> None:
        """Move the time forwards; it never goes back, because what has happened here has happened."""
        if not seconds >= 0:
            msg = f"the clock only goes forwards, so seconds must be 0 or more, got {seconds}"
            raise SandboxError(msg)
        self._ahead_seconds += seconds

    def reset(self) -> None:
        """Return to the real time."""
        self._ahead_seconds = 0.0


def stamp(moment: datetime) -> str:
    """Write a moment as the sandbox's ledger shows it, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
