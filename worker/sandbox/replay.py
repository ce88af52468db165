"""Decides whether an idempotency key was used before, and that it then gets the first answer again.

A key is honoured for so long from its *first* use on the sandbox's own clock, 24 hours unless switched otherwise;
afterwards it is a new key. Whether a repeat must be the same request is the provider's business: at Klarna only the key
counts for the merchant as a whole, at BlueSnap path and body must be the same too.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from .clock import Clock
from .switches import Switches
from .wire import Answer

_FIRST_ERROR_STATUS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class InProgress:
    """The first request with the key is still at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRequest:
    """The first request with the key was another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    at: datetime
    content: bytes
    answer: Answer | InProgress


class Replay:
    """The keys of one merchant at one provider and the first answer to each."""

    def __init__(self, *, clock: Clock, switches: Switches) -> None:
        self._clock, self._switches = clock, switches
        self._use_by_key: dict[str, _Use] = {}

    def begin(self, key: str, *, content: bytes = b"") -> Answer | InProgress | OtherRequest | None:
        """Use a key: the first answer or why there is none; None for a key that is new and is now at work."""
        now = self._clock.now()
        self._forget_before(now - timedelta(hours=self._switches.key_window_hours))
        use = self._use_by_key.get(key)
        if use is None:
            self._use_by_key[key] = _Use(at=now, content=content, answer=InProgress())
            return None

        return use.answer if use.content == content else OtherRequest()

    def finish(self, key: str, answer: Answer) -> None:
        """Keep the first answer of a key, or forget the key if it was an error and errors are not kept."""
        use = self._use_by_key.get(key)
        if use is None:
            return
        if self._switches.replay_errors or answer.status < _FIRST_ERROR_STATUS:
            self._use_by_key[key] = _Use(at=use.at, content=use.content, answer=answer)
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
