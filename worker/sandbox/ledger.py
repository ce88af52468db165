"""Keeps what happened: every effect on the merchant's world and every request; decides nothing.

The list of effects is what tests count: it grows by exactly one at each execution that changed something, and a replay
adds nothing to it.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .clock import stamp
from .provider import Effect
from .wire import Request

Json = dict[str, Any]

#: A sandbox that serves for days must not fill the memory with requests; effects are all kept.
MOST_REQUESTS = 100_000


@dataclass(slots=True, kw_only=True)
class Seen:
    """One request, and what became of it as soon as that is known."""

    number: int
    at: datetime
    request: Request
    provider: str
    status: int | None = None
    fault: str | None = None
    is_replay: bool = False

    def shown(self) -> Json:
        """Show the request without its credentials."""
        request = self.request
        headers = {name: value for name, value in request.headers if name.lower() != "authorization"}

        return {
            "number": self.number,
            "at": stamp(self.at),
            "provider": self.provider,
            "method": request.method,
            "path": f"{request.path}?{request.query}" if request.query else request.path,
            "headers": headers,
            "body": request.body.decode(errors="replace"),
            "connection": request.connection,
            "status": self.status,
            "fault": self.fault,
            "replayed": self.is_replay,
        }


class Ledger:
    """The effects and the requests, in the order in which they happened."""

    def __init__(self) -> None:
        self._effects: list[Json] = []
        self._requests: deque[Seen] = deque(maxlen=MOST_REQUESTS)
        self._request_count = 0

    def note_effect(
        self, effect: Effect, *, provider: str, actor: str = "client", key: str | None, at: datetime
    ) -> None:
        """Append what one execution changed, by the client's doing, a stranger's or the provider's own."""
        self._effects.append(
            {
                "number": len(self._effects) + 1,
                "at": stamp(at),
                "provider": provider,
                "actor": actor,
                "kind": effect.kind,
                "order_id": effect.order_id,
                "amount": effect.amount,
                "id": effect.id,
                "reference": effect.reference,
                "key": key,
                "details": dict(effect.details),
            }
        )

    def note_request(self, request: Request, *, provider: str, at: datetime) -> Seen:
        """Append a request that has just arrived."""
        self._request_count += 1
        seen = Seen(number=self._request_count, at=at, request=request, provider=provider)
        self._requests.append(seen)

        return seen

    @property
    def effect_count(self) -> int:
        """Count all effects."""
        return len(self._effects)

    @property
    def request_count(self) -> int:
        """Count all requests, those too that are not kept any more."""
        return self._request_count

    def effects(self) -> list[Json]:
        """Show all effects, oldest first."""
        return [dict(effect) for effect in self._effects]

    def requests(self) -> list[Json]:
        """Show the requests that are kept, oldest first."""
        return [seen.shown() for seen in self._requests]

    def reset(self) -> None:
        """Start an empty ledger, numbers included."""
        self._effects.clear()
        self._requests.clear()
        self._request_count = 0
