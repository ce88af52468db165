"""The services of a host process: one set per process, made at the first enqueue from the host's environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .config import load
from .wiring import Services

_lock = threading.Lock()
_services: dict[int, Services] = {}


def _renew_lock() -> None:
    """Give a forked process a lock of its own: a thread that held it in the parent is not there to let it go."""
    global _lock  # noqa: PLW0603  # one lock for one process
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def outbox() -> Services:
    """Return this process's services; a host that forks gets new ones in each process.

    Inherited ones stay referenced and untouched: collecting them would close connections of the parent process.

    Raises:
        ConfigurationError: The environment does not say what is needed; the message names what is missing.
    """
    with _lock:
        found = _services.get(os.getpid())
        if found is None:
            # A host only stores commands; credentials are the workers' business.
            found = _services[os.getpid()] = Services(load(require_credentials=False))

        return found


@contextmanager
def standing_in(services: Services) -> Iterator[None]:
    """Let `outbox` return these services in this process for a while, whatever its environment says; for tests."""
    process = os.getpid()
    with _lock:
        before = _services.get(process)
        _services[process] = services
    try:
        yield
    finally:
        with _lock:
            del _services[process]
            if before is not None:
                _services[process] = before
