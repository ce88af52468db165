"""Decides whether an idempotency key was used before, and that it then gets the first answer again.

As Klarna has it, only the key counts, for the merchant as a whole: not the body, not the path, not the order. A key is
honoured for 24 hours from its *first* use on the sandbox's own clock; afterwards it is a new key.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from .clock import Clock
from .wire import Answer

KEY_WINDOW = timedelta(hours=24)

_FIRST_ERROR_STATUS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class InProgress:
    """The first request with the key is still at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    at: datetime
    answer: Answer | InProgress


class Replay:
    """The keys of one merchant and the first answer to each."""

    def __init__(self, *, clock: Clock, keeps_errors: bool = True) -> None:
        self._clock = clock
        self._keeps_errors = keeps_errors
        self._use_by_key: dict[str, _Use] = {}

    def begin(self, key: str) -> Answer | InProgress | None:
        """Use a key: the first answer or its being at work, None for a key that is new and is now at work."""
        now = self._clock.now()
        self._forget_before(now - KEY_WINDOW)
        use = self._use_by_key.get(key)
        if use is None:
            self._use_by_key[key] = _Use(at=now, answer=InProgress())

        return None if use is None else use.answer

    def finish(self, key: str, answer: Answer) -> None:
        """Keep the first answer of a key, or forget the key if it was an error and errors are not kept."""
        use = self._use_by_key.get(key)
        if use is None:
            return
        if self._keeps_errors or answer.status < _FIRST_ERROR_STATUS:
            self._use_by_key[key] = _Use(at=use.at, answer=answer)
        else:
            del self._use_by_key[key]

    def reset(self) -> None:
        """Forget all keys."""
        self._use_by_key.clear()

    def _forget_before(self, moment: datetime) -> None:
        """Drop the oldest keys; a dict keeps them in the order of their first use."""
        while self._use_by_key:
            key = next(iter(self._use_by_key))
            if self._use_by_key[key].at > moment:
                return
            del self._use_by_key[key]
