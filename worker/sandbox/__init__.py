"""A stand-in for the payment provider: a real HTTP server with scripted faults and a ledger of effects.

It behaves as Klarna's Order Management v1 and BlueSnap's Payment API do, as far as public sources say. `Sandbox` runs
it beside a test, `serve` as a process, and `SandboxControl` drives one that runs elsewhere. It imports nothing of the
rest of `worker`, so that it cannot share a mistake with what it tests.
"""

from .control import SandboxControl
from .errors import SandboxError
from .running import Sandbox, serve

__all__ = ["Sandbox", "SandboxControl", "SandboxError", "serve"]
