"""Whether a worker still hears its broker, and the end of one that does not.

Decides what deafness is: for as long as `broker.watch_seconds`, at several looks in a row, messages lay in the queue
that the worker consumes, it could have taken one, and it took none. A connection that a load balancer has forgotten
looks like an empty queue, and a main thread that waits for ever in a read says nothing at all; both leave upkeep
ticking, and orders waiting. A worker of our own then ends, because only a new process is sure to be without what ails
this one; a host's is only told of. Leaves starting a new one to the supervisor.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_stack
from typing import Any

import structlog
from billiard import active_children
from celery import signals
from celery.worker import state

from .publish import EXECUTE_QUEUE

log = structlog.get_logger(__name__)

#: How many looks there are in the time after which silence is deafness.
_LOOKS = 6

#: The innermost calls of the main thread that the log names.
_FRAMES = 12

#: What a supervisor takes for a failure; it may let alone a process that ended with 0.
_EXIT_CODE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is seen of a worker and its queue at one moment."""

    #: In seconds on a clock of the process.
    at: float
    #: It consumes the queue and nobody told it to stop.
    consumes: bool
    #: Nothing that it received is waiting or being done in its pool.
    is_idle: bool
    #: Its main loop has not turned since the last look, so that what it still counts as being done says nothing.
    is_stuck: bool
    #: How many messages it has received in its life, and how often it has connected anew: signs that it hears.
    received: int
    reconnected: int
    #: How many messages lie in the queue; None when the broker did not say.
    waiting: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Looks in a row, at each of which the worker could have taken a message that lay there and took none."""

    since: float
    looks: int
    last: Look

    def is_deafness(self, seconds: float) -> bool:
        """Whether it has lasted so long, and not only been seen at its two ends."""
        return self.looks >= _LOOKS and self.last.at - self.since >= seconds


def follow(before: Silence | None, look: Look) -> Silence | None:
    """Return the silence that a look begins or continues; None when it ends it or nothing can be said."""
    if not look.consumes or not (look.is_idle or look.is_stuck) or not look.waiting:
        return None
    if before is None or (before.last.received, before.last.reconnected) != (look.received, look.reconnected):
        return Silence(since=look.at, looks=1, last=look)

    return Silence(since=before.since, looks=before.looks + 1, last=look)


class Watch:
    """Looks at one worker from a thread of its main process."""

    def __init__(
        self, worker: Any, *, waiting: Callable[[], int | None], seconds: float, task_seconds: float | None
    ) -> None:
        """Watch a Celery worker.

        Args:
            worker: Celery's own object.
            waiting: Tells how many messages lie in the queue; None when the broker does not say.
            seconds: How long a silence must last.
            task_seconds: How long a task may take, for which the end of the process waits; None: it is not ours to end.
        """
        self._worker = worker
        self._waiting = waiting
        self._seconds = seconds
        self._task_seconds = task_seconds
        self._received = 0
        self._turns = 0
        self._seen = (-1, -1)
        signals.task_received.connect(self._count)

    def keep(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set or the worker is ended."""
        silence: Silence | None = None
        while not stop.wait(self._seconds / _LOOKS):
            silence = follow(silence, self._look())
            if silence is None or not silence.is_deafness(self._seconds):
                continue
            self._tell(silence)
            if self._task_seconds is not None:
                self._end(self._task_seconds)
            silence = None

    def _look(self) -> Look:
        received, turns = self._received, self._turns
        before, self._seen = self._seen, (received, turns)
        # Elsewhere than in front of a pool of processes, a task may be what the main thread is at.
        is_stuck = self._turn_soon() and turns == before[1] and bool(active_children())
        is_idle = not state.reserved_requests
        consumer = getattr(self._worker, "consumer", None)
        tasks = getattr(consumer, "task_consumer", None)
        consumes = not _is_told_to_stop() and tasks is not None and tasks.consuming_from(EXECUTE_QUEUE)
        may_be_silent = consumes and (is_idle or is_stuck) and received == before[0]

        return Look(
            at=time.monotonic(),
            consumes=consumes,
            is_idle=is_idle,
            is_stuck=is_stuck,
            received=received,
            reconnected=getattr(consumer, "restart_count", 0),
            waiting=self._waiting() if may_be_silent else None,
        )

    def _turn_soon(self) -> bool:
        """Have the main loop say that it turns; False where there is none."""
        hub = getattr(self._worker, "hub", None)
        if hub is not None:
            hub.call_soon(self._turn)

        return hub is not None

    def _turn(self) -> None:
        self._turns += 1

    def _count(self, sender: Any = None, **_: Any) -> None:
        if sender is getattr(self._worker, "consumer", None):
            self._received += 1

    def _tell(self, silence: Silence) -> None:
        log.error(
            "worker.deaf",
            queue=EXECUTE_QUEUE,
            messages=silence.last.waiting,
            seconds=round(silence.last.at - silence.since, 1),
            looks=silence.looks,
            main_loop_turns=not silence.last.is_stuck,
            main_thread_at=_main_thread_at(),
            action="restart this worker" if self._task_seconds is None else "ending, for the supervisor to start anew",
        )

    def _end(self, task_seconds: float) -> None:
        """End this process: as on SIGTERM, but with a code that says why; if it does not, all at once."""
        # A signal would do the same, with an exit code after which some supervisors start nothing.
        state.should_stop = _EXIT_CODE
        time.sleep(self._seconds / 4)
        # The main thread does not come back. Its pool processes may still be in calls: told to end, they finish those,
        # but stay to be given more. So they are told again.
        log.error("worker.deaf_killed", processes=len(active_children()), wait_seconds=task_seconds)
        gives_up = time.monotonic() + task_seconds
        while (left := active_children()) and time.monotonic() < gives_up:
            for each in left:
                each.terminate()
            time.sleep(0.1)
        for each in active_children():
            os.kill(each.pid, signal.SIGKILL)
        os._exit(_EXIT_CODE)


def _is_told_to_stop() -> bool:
    """Whether an end is under way. Celery tells it by an exit code, which may be 0."""
    return any(told is not None and told is not False for told in (state.should_stop, state.should_terminate))


def _main_thread_at() -> list[str]:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001  # Python has no other way

    return [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in extract_stack(frame)[-_FRAMES:]]
