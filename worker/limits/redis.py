"""Buckets in Redis or Valkey: one script for all processes of all hosts, on the server's clock.

Decides how the script is called and which failures mean that the server is away. Leaves the arithmetic to `redis.lua`.
Nothing is repeated on a lost connection: an order that was carried out and whose answer was lost has taken slots that
nobody uses, which is harmless; a second one would be slots for the same commands once more.

A server that was flushed or restarted knows no bucket: what was handed out for the coming second is handed out again,
and that second's worth is the most by which a quota can be exceeded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from ..ports import LimiterUnavailable
from .slots import Order, Reply

_SCRIPT = (files(__package__) / "redis.lua").read_text(encoding="utf-8")


class RedisPlace:
    """Keeps buckets under keys that begin with `prefix`.

    Args:
        url: A URL of `redis://`, `rediss://` or `unix://`.
        prefix: Start of every key.
        timeout: Seconds for the connection, and for each answer.
        now: Stands in for the server's clock, in milliseconds; for tests.
    """

    def __init__(self, url: str, *, prefix: str, timeout: float, now: Callable[[], float] | None = None) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._prefix = f"{prefix}rate:"
        self._script = self._redis.register_script(_SCRIPT)
        self._now = now

    def carry_out(self, keys: Sequence[str], order: Order) -> Reply:
        """Have the script do it.

        Raises:
            LimiterUnavailable: The server did not answer, or could not.
        """
        told = order if self._now is None else {**order, "now": int(self._now())}
        names, arguments = [f"{self._prefix}{key}" for key in keys], [json.dumps(told)]
        try:
            return self._run(names, arguments)
        except RedisError as error:
            raise LimiterUnavailable(str(error)) from error

    def _run(self, names: Sequence[str], arguments: Sequence[str]) -> Reply:
        try:
            answer = self._script(keys=names, args=arguments)
        except NoScriptError:
            # Flushed between the loading and the call; with its text along, the script needs no loading.
            answer = self._redis.eval(_SCRIPT, len(names), *names, *arguments)
        reply: Reply = json.loads(answer)

        return reply

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
