"""What a test needs of the outside world: a rehearsal for a shop's tests, and the stand-ins that ours are made with.

Decides what is public here. `Rehearsal` is the whole worker in one process on one clock, `plugin` brings it to pytest
as fixtures, and `stand_ins` are a provider, a broker and a desk without sockets. Importing this package imports none
of them: pytest imports it at each start, wanted or not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .rehearsal import FollowedClock, Rehearsal, StillPending
    from .stand_ins import ManualClock, Message, RecordingDesk, RecordingPublisher, SandboxTransport, Told, World

__all__ = [
    "FollowedClock",
    "ManualClock",
    "Message",
    "RecordingDesk",
    "RecordingPublisher",
    "Rehearsal",
    "SandboxTransport",
    "StillPending",
    "Told",
    "World",
]

_OF_REHEARSAL = frozenset({"FollowedClock", "Rehearsal", "StillPending"})

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Find a public name where it lives."""
        if name not in __all__:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)

        return getattr(import_module(".rehearsal" if name in _OF_REHEARSAL else ".stand_ins", __name__), name)
