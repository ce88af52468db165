"""A Celery worker one of whose processes ends by SIGKILL, once, right before or after a call that only Celery makes.

Which one is said by the environment: `DIES_AT` names the call, `DIES` the moment, and `DIED` the file that is there
once it has happened, so that the process that takes its place lives.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

from worker.celery import app
from worker.process import WorkerProcess
from worker.service.dispatch import Dispatcher
from worker.service.sweep import Sweeper

__all__ = ["app"]

CALLS: dict[str, tuple[type, str]] = {
    "task execute": (WorkerProcess, "execute"),
    "task escalate": (WorkerProcess, "escalate"),
    "tick dispatch": (Dispatcher, "run_once"),
    "tick sweep": (Sweeper, "run_once"),
}


def _die_once() -> None:
    try:
        os.close(os.open(os.environ["DIED"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _doomed(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def doomed(*args: Any, **kwargs: Any) -> Any:
        if os.environ["DIES"] == "before":
            _die_once()
        came = call(*args, **kwargs)
        # A tick that found nothing is none to die after.
        if os.environ["DIES"] == "after" and any(came.values()):
            _die_once()

        return came

    return doomed


_owner, _name = CALLS[os.environ["DIES_AT"]]
setattr(_owner, _name, _doomed(getattr(_owner, _name)))
