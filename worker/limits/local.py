"""Buckets in the memory of one process: for a worker that is alone, and for tests.

Decides nothing. A second process would have quotas of its own, and both together twice what the provider allows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .slots import Order, Reply, State, carry_out


class LocalPlace:
    """Keeps buckets in this process, on its own clock: `now` gives milliseconds that never go back."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._states: dict[str, State] = {}
        self._lock = threading.Lock()

    def carry_out(self, keys: Sequence[str], order: Order) -> Reply:
        """Do what is asked of the buckets, with nobody in between."""
        with self._lock:
            states = [self._states.setdefault(key, {}) for key in keys]

            return carry_out(order, states, now=int(self._now()))

    def close(self) -> None:
        """Nothing is open."""
