"""The services of a host process: one set per process, made at the first enqueue from the host's environment."""

from __future__ import annotations

import os
import threading

from .config import load
from .wiring import Services

_lock = threading.Lock()
_services: dict[int, Services] = {}


def outbox() -> Services:
    """Return this process's services; a host that forks gets new ones in each process.

    Raises:
        ConfigurationError: The environment does not say what is needed; the message names what is missing.
    """
    with _lock:
        found = _services.get(os.getpid())
        if found is None:
            _services.clear()
            # A host only stores commands; credentials are the workers' business.
            found = _services[os.getpid()] = Services(load(require_credentials=False))

        return found
