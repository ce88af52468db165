"""The services of a host process: one set per application and process, made at its first enqueue.

Decides where a host's settings come from: the environment of the process, or what an application gives in its place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from .config import load
from .wiring import Services

_lock = threading.Lock()

#: What stands in for the services of all hosts, by process.
_stand_ins: dict[int, Services] = {}


def _renew_lock() -> None:
    """Give a forked process a lock of its own: a thread that held it in the parent is not there to let it go."""
    global _lock  # noqa: PLW0603  # one lock for one process
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Host:
    """One application of a host: its settings, and its services in each process."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Read settings from `environ`, else from the environment of the process."""
        self.environ = environ
        self._services: dict[int, Services] = {}

    def require_settings(self) -> None:
        """Demand settings that can be used; opens nothing.

        Raises:
            ConfigurationError: With every problem, one line each.
        """
        load(environ=self.environ, require_credentials=False)

    def services(self) -> Services:
        """Return this process's services; a host that forks gets new ones in each process.

        Inherited ones stay referenced and untouched: collecting them would close connections of the parent process.

        Raises:
            ConfigurationError: The settings do not say what is needed; the message names what is missing.
        """
        with _lock:
            found = _stand_ins.get(os.getpid()) or self._services.get(os.getpid())
            if found is None:
                # A host only stores commands; credentials are the workers' business.
                found = self._services[os.getpid()] = Services(load(environ=self.environ, require_credentials=False))

            return found

    def worker_services(self, stopping: Callable[[], bool]) -> Services:
        """Make services for a worker process of the host's, which sends and so needs credentials."""
        return Services(load(environ=self.environ), stopping=stopping)


_process = Host()


def outbox() -> Services:
    """Return the services of a process whose settings are its environment."""
    return _process.services()


@contextmanager
def standing_in(services: Services) -> Iterator[None]:
    """Let every host of this process use these services for a while, whatever its settings say; for tests."""
    process = os.getpid()
    with _lock:
        before = _stand_ins.get(process)
        _stand_ins[process] = services
    try:
        yield
    finally:
        with _lock:
            del _stand_ins[process]
            if before is not None:
                _stand_ins[process] = before
