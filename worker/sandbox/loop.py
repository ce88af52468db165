"""Decides what time the timers of a sandbox beside a test go by: real time, and on top of it what it was told to leap.

What is delayed for a minute ends when a client that waits on a clock of its own has waited a minute. Were it not so,
that client would look for the effect of a request that is still at work, not find it, and be wrong.
"""

import asyncio

#: A timer wakes a future in the first turn of a loop, the future its task in the next; one more for what that began.
_TURNS = 3


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time can be moved forwards."""

    def __init__(self) -> None:
        self._ahead_seconds = 0.0
        super().__init__()

    def time(self) -> float:
        """Tell the time in seconds since some moment."""
        return super().time() + self._ahead_seconds

    async def leap(self, seconds: float) -> None:
        """Move the time forwards; what has become due by that has begun when this returns."""
        self._ahead_seconds += seconds
        for _ in range(_TURNS):
            await asyncio.sleep(0)
