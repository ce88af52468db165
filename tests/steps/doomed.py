"""A process that ends by SIGKILL right before or right after one of its steps, and one that takes over from it.

Decides what a step is: a call of a port (`worker.ports`) by which something may become true outside of the process, the
commit of a transaction, and what a story names besides. The worker knows nothing of it: its parts are wrapped from
here, before it begins. Leaves to `stories` what the process does, and to the tests what must hold afterwards.
"""

from __future__ import annotations

import heapq
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self
from uuid import UUID

from kombu import Connection as BrokerConnection, Consumer, Message

from tests.steps import stories
from worker import ports
from worker.config import load
from worker.domain.errors import PostPurchaseError
from worker.duties import duties
from worker.logs import configure
from worker.publish import ESCALATE_TASK, EXECUTE_TASK
from worker.wiring import Services, build_celery

#: What a process only asks of its own memory; and that a transaction begins is no step, while its commit is one.
_INWARD = frozenset({"begin", "may_hold"})


def calls_of(port: type) -> frozenset[str]:
    """Name the calls of a port that are steps."""
    named = {name for name, value in vars(port).items() if inspect.isfunction(value) and name[0] != "_"}

    return frozenset(named - _INWARD - ({"reserve"} if port is ports.Publisher else set()))


#: So many times slower runs the clock by which a process gives up early.
_SLOWER = 30

#: To write nothing is no step.
_NOTHING = ([], (), set())

#: The calls of each part that are steps. A provider's are none: it translates, and nothing comes of that outside.
CALLS: Mapping[str, frozenset[str]] = {
    "Store": calls_of(ports.Store),
    # With the two verbs that only a host that is told needs.
    "Transaction": calls_of(ports.Transaction) | {"take_untold", "tell_later"},
    "Transport": calls_of(ports.Transport),
    "RateLimiter": calls_of(ports.RateLimiter),
    "Publisher": calls_of(ports.Publisher),
    "TicketDesk": calls_of(ports.TicketDesk),
}


@dataclass(slots=True)
class Steps:
    """The steps that this process has taken; it ends right before or right after the one at `position`."""

    position: int | None = None
    moment: str = ""
    note: Path | None = None
    taken: list[str] = field(default_factory=list)

    def take(self, name: str, call: Callable[[], object]) -> object:
        """Take a step. To look for answers and find none is no step."""
        if (self.position, self.moment) == (len(self.taken), "before"):
            self._die()
        came = call()
        if name == "Transport.collect" and not came:
            return came
        self.taken.append(name)
        if (self.position, self.moment) == (len(self.taken) - 1, "after"):
            self._die()

        return came

    def write_down(self) -> None:
        """Leave behind which steps were taken."""
        if self.note is not None:
            self.note.write_text(json.dumps(self.taken))

    def _die(self) -> None:
        self.write_down()
        os.kill(os.getpid(), signal.SIGKILL)


class Stepped:
    """A part of the worker whose calls are steps."""

    def __init__(self, part: object, port: str, steps: Steps) -> None:
        self._part, self._port, self._steps = part, port, steps

    def __getattr__(self, name: str) -> object:
        found = getattr(self._part, name)
        if name not in CALLS[self._port]:
            return found

        def call(*args: object, **kwargs: object) -> object:
            if args and args[0] in _NOTHING:
                return found(*args, **kwargs)
            return self._steps.take(f"{self._port}.{name}", partial(found, *args, **kwargs))

        return call


class SteppedStore(Stepped):
    """A store whose transactions' calls and commits are steps."""

    @contextmanager
    def begin(self) -> Iterator[Stepped]:
        block = self._part.begin()
        transaction = block.__enter__()
        try:
            yield Stepped(transaction, "Transaction", self._steps)
        except BaseException:
            if not block.__exit__(*sys.exc_info()):
                raise
        else:
            self._steps.take(stories.COMMIT, lambda: block.__exit__(None, None, None))

    def borrow(self, connection: object) -> Stepped:
        return Stepped(self._part.borrow(connection), "Transaction", self._steps)


def wrap(services: Services, steps: Steps) -> None:
    """Have every part of a process's services take steps."""
    build_transport = services._transport
    parts = vars(services)
    parts["store"] = SteppedStore(services.store, "Store", steps)
    parts["_transport"] = lambda: Stepped(build_transport(), "Transport", steps)
    parts["limiter"] = Stepped(services.limiter, "RateLimiter", steps)
    parts["publisher"] = Stepped(services.publisher, "Publisher", steps)
    parts["upkeep_publisher"] = Stepped(services.upkeep_publisher, "Publisher", steps)
    parts["desk"] = Stepped(services.desk, "TicketDesk", steps)
    # By its own clock it is never slow, so that it takes the same steps on a busy machine.
    services._per_thread.executor = replace(services.executor, monotonic=lambda: time.monotonic() / _SLOWER)


def _settle_in(environment: Mapping[str, str], log: Path) -> None:
    """Be a process of its own: settings, standard streams."""
    os.environ.update(environment)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)


def live_and_die(
    name: str, order: str, environment: Mapping[str, str], log: Path, position: int | None, moment: str
) -> None:
    """Live through a story, up to a step; without one, to its end, and write down the steps."""
    _settle_in(environment, log)
    story = stories.STORIES[name]
    steps = Steps(position=position, moment=moment, note=log.with_suffix(".steps"))
    cast = stories.cast(story, order, environment, steps)
    configure(cast.services.settings.log)
    story.before(cast)
    cast.services.limiter.snapshot()  # a first connection takes long enough for a slot to be missed
    wrap(cast.services, steps)
    story.act(cast)
    steps.write_down()


def take_over(environment: Mapping[str, str], log: Path, orders: Connection) -> None:
    """Be a healthy worker with its upkeep: work when told to, rest when told to, until the other end hangs up."""
    _settle_in(environment, log)
    services = Services(load(environ=environment))
    configure(services.settings.log)
    tell = stories.telling(environment)
    with suppress(EOFError), _Worker(services) as worker:
        orders.send("ready")
        while True:
            name, order = orders.recv()
            stories.STORIES[name].after(stories.Cast(services=services, aside=services, order=order, steps=Steps()))
            orders.send("at work")
            while not orders.poll():
                worker.work()
                tell()
            orders.recv()
            orders.send("at rest")


class _Worker:
    """Does with messages what a Celery worker does: takes them, holds them until their time, runs them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._app = build_celery("successor", services.settings)
        self._duties = duties(services)
        self._due: dict[str, float] = {}
        self._held: list[tuple[float, int, str, object]] = []
        self._count = 0

    def __enter__(self) -> Self:
        self._connection: BrokerConnection = self._app.connection_for_read()
        self._consumer: Consumer = self._app.amqp.TaskConsumer(
            self._connection.default_channel, callbacks=[self._take], accept=["json"]
        )
        self._consumer.consume()

        return self

    def __exit__(self, *_: object) -> None:
        self._connection.release()

    def work(self) -> None:
        """Tick what is due, take what is there, run what is to be run."""
        for duty in self._duties:
            if self._due.get(duty.name, 0.0) <= time.monotonic():
                duty.tick()
                self._due[duty.name] = time.monotonic() + duty.interval
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=0.02)
        while self._held and self._held[0][0] <= time.time():
            _, _, task, argument = heapq.heappop(self._held)
            with suppress(PostPurchaseError):
                self._run(task, argument)

    def _take(self, body: object, message: Message) -> None:
        message.ack()
        eta = message.headers.get("eta")
        at = 0.0 if eta is None else datetime.fromisoformat(eta).timestamp()
        self._count += 1
        heapq.heappush(self._held, (at, self._count, message.headers["task"], body[0][0]))

    def _run(self, task: str, argument: object) -> None:
        match task:
            case _ if task == EXECUTE_TASK:
                self._services.executor.execute([UUID(each) for each in argument])
            case _ if task == ESCALATE_TASK:
                self._services.escalator.escalate(UUID(argument))
