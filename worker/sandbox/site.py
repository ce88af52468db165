"""Decides when the provider's port is open, and joins it with the world behind it into what a driver drives.

The verbs here run on the event loop of the sandbox. `running.py` calls them from another thread, `control.py` on
behalf of another process.
"""

import asyncio
from typing import Any

from .errors import SandboxError
from .server import Port
from .world import World

Json = dict[str, Any]


class Site:
    """A merchant's world and the port at which it is reached."""

    def __init__(self, world: World, port: Port) -> None:
        self.world = world
        self.port = port
        self._outage: asyncio.TimerHandle | None = None

    def refuse_connections(self, seconds: float | None = None) -> None:
        """Refuse connections for so many real seconds, or until told to accept them."""
        if seconds is not None and not seconds > 0:
            msg = f"seconds must be above 0, or null until further notice, got {seconds}"
            raise SandboxError(msg)
        self._forget_outage()
        self.port.refuse()
        if seconds is not None:
            self._outage = asyncio.get_running_loop().call_later(seconds, self.port.listen)

    def accept_connections(self) -> None:
        """Accept connections again."""
        self._forget_outage()
        self.port.listen()

    async def reset(self) -> None:
        """Begin again, with an open port and with nothing at work; idle connections stay."""
        await self.port.let_go()
        self.world.reset()
        self.accept_connections()

    async def close(self) -> None:
        """End every exchange and give the port back."""
        self._forget_outage()
        await self.port.close()

    def health(self) -> Json:
        """Tell what is here and whether it can be reached."""
        return {"base_url": self.port.url, "accepting": self.port.is_listening, **self.world.health()}

    def _forget_outage(self) -> None:
        if self._outage is not None:
            self._outage.cancel()
            self._outage = None
