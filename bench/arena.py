"""What every scenario runs on: the servers that all share, and the worker processes of one contestant at a time.

Decides how a contestant is started, killed and measured, the same for all: CPU time by process, memory, and what the
provider counted. What is played is decided by the scenarios.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from . import ours
from .contestants import OURS, Contestant
from .machinery import CHECKOUT, Database, NotInTime, RedisServer, Stub, cpu_seconds, postgresql, wait_until

#: Of a server with some gigabytes, else the checkpoints of a drain are what is measured. Durability is as by default.
POSTGRESQL: Mapping[str, str] = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "max_connections": "300",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "none",  # only where queries are counted
}

#: What must be as it is for a promise to be one.
DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")


class Overdue(Exception):
    """A part of the bench took longer than it may."""


@contextmanager
def deadline(seconds: float, *, what: str) -> Iterator[None]:
    """End the block with an error after so many seconds, wherever it is."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Overdue(f"{what}: not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def memory(pids: Sequence[int]) -> dict[str, float]:
    """MiB of processes and their children: each one's peak, added up, and what is their own and their share now."""
    peak, share = 0.0, 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                    peak += _peak(each)
                    share += each.memory_full_info().pss

    return {"peak_rss_mib": round(peak / 2**20, 1), "pss_mib": round(share / 2**20, 1)}


def _peak(process: psutil.Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1024

    return float(process.memory_info().rss)


@dataclass(slots=True, kw_only=True)
class Crew:
    """The worker processes of a contestant, as a supervisor keeps them."""

    contestant: Contestant
    python: str
    environment: Mapping[str, str]
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    spent: float = 0.0

    def start(self) -> None:
        """Start all."""
        for number in range(self.contestant.processes):
            self._log(number).unlink(missing_ok=True)
        self.processes = [self._start(number) for number in range(self.contestant.processes)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        arguments = [each.replace("%i", str(number)) for each in self.contestant.arguments]
        if self.contestant.module == OURS.module:
            arguments += ["--hostname", f"bench-{number}-{time.monotonic_ns()}@%h"]
        with self._log(number).open("ab") as log:
            return subprocess.Popen(
                [self.python, *arguments],
                env={**self.environment, "BENCH_NUMBER": str(number)},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _log(self, number: int) -> Path:
        return self.folder / f"{self.contestant.name}-{number}.log"

    def require_running(self) -> None:
        """Say what a worker said last, if it has ended by itself.

        Raises:
            NotInTime: One has.
        """
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                said = self._log(number).read_text(errors="replace")[-1_500:]
                raise NotInTime(f"worker {number} of {self.contestant.name} ended:\n{said}")

    def replace(self, number: int) -> None:
        """Kill one with everything that it started, and start another in its place."""
        process = self.processes[number]
        self.spent += cpu_seconds(process.pid)
        _kill(process)
        self.processes[number] = self._start(number)

    def cpu_seconds(self) -> float:
        """CPU time of all, the killed ones included."""
        return self.spent + sum(cpu_seconds(process.pid) for process in self.processes)

    def memory(self) -> dict[str, float]:
        """Memory of all."""
        return memory([process.pid for process in self.processes])

    def stop(self) -> None:
        """End them at once."""
        for process in self.processes:
            _kill(process)
        self.processes.clear()


def _kill(process: subprocess.Popen[bytes]) -> None:
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in descendants:  # one that made itself a session of its own
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


@dataclass(slots=True, kw_only=True)
class Bout:
    """One contestant with a database of its own and an empty Redis."""

    arena: Arena
    contestant: Contestant
    database_url: str
    environment: Mapping[str, str]
    crew: Crew

    def client(self, verb: str, *arguments: object, within: float = 60.0) -> dict[str, Any]:
        """Have the host do something; return what it tells."""
        return result_of(self.start_client(verb, *arguments), within=within, what=f"{self.contestant.name}: {verb}")

    def start_client(self, verb: str, *arguments: object) -> subprocess.Popen[str]:
        """Have the host do something, and do not wait for it."""
        return subprocess.Popen(
            [self.crew.python, "-m", "bench.client", self.contestant.module, verb, *map(str, arguments)],
            env=self.environment,
            cwd=self.arena.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cpu(self) -> dict[str, float]:
        """CPU seconds that each part has used so far."""
        arena = self.arena
        assert arena.redis.process is not None  # noqa: S101  # it was started before
        assert arena.stub.process is not None  # noqa: S101  # it was started before

        return {
            "worker": self.crew.cpu_seconds(),
            "postgresql": cpu_seconds(arena.database.pid),
            "redis": cpu_seconds(arena.redis.process.pid),
            "stub": cpu_seconds(arena.stub.process.pid),
        }

    def wait_for_effects(self, count: int, *, within: float) -> None:
        """Wait until the provider has carried out so many.

        Raises:
            NotInTime: It has not, or a worker has ended by itself.
        """
        wait_until(lambda: self._effects() >= count, within=within, what=f"{self.contestant.name}: {count} effects")

    def may_reach(self, count: int, *, within: float) -> bool:
        """Wait as long for so many effects; return whether they came about."""
        gives_up = time.monotonic() + within
        while (made := self._effects()) < count and time.monotonic() < gives_up:
            time.sleep(0.02)

        return made >= count

    def _effects(self) -> int:
        self.crew.require_running()

        return int(self.arena.stub.ask("count")["effects"])


def result_of(process: subprocess.Popen[str], *, within: float, what: str) -> dict[str, Any]:
    """Wait for a client; return what it tells.

    Raises:
        NotInTime: It was not done in time, or ended with an error.
    """
    with process:
        try:
            said, problem = process.communicate(timeout=within)
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise NotInTime(f"{what} not done within {within:g} s") from None
            raise
    if process.returncode != 0:
        raise NotInTime(f"{what} ended with {process.returncode}:\n{problem[-1_500:]}")
    told: dict[str, Any] = json.loads(said.strip().splitlines()[-1])

    return told


@dataclass(slots=True, kw_only=True)
class Arena:
    """The servers."""

    folder: Path
    database: Database
    redis: RedisServer
    stub: Stub
    peers_python: str | None

    @contextmanager
    def bout(
        self,
        contestant: Contestant,
        *,
        like: str | None = None,
        database: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Bout]:
        """Make room for one contestant; nothing of it runs when the block ends.

        It gets a new database that is prepared, or is a copy of `like`, or the one that is there under that name.
        """
        python = sys.executable if contestant.module == OURS.module else self.peers_python
        if python is None:
            raise NotInTime(f"{contestant.name}: the peers are not installed")
        if database is not None:
            database_url = self.database.named(database)
        elif like is not None:
            database_url = self.database.empty(f"bench_{contestant.name}", like=like)
        else:
            database_url = self.database.empty(f"bench_{contestant.name}")
        self.redis.client.flushall()
        self.stub.ask("set", latency=0.0, failures=0, is_logged=False)
        self.stub.ask("reset")
        everything = {**self._environment(database_url), **(environment or {})}
        crew = Crew(contestant=contestant, python=python, environment=everything, folder=self.folder)
        made = Bout(arena=self, contestant=contestant, database_url=database_url, environment=everything, crew=crew)
        try:
            if like is None and database is None:
                made.client("prepare")
            yield made
        finally:
            crew.stop()

    def _environment(self, database_url: str) -> dict[str, str]:
        rates, profile = self.folder / "rates.toml", self.folder / "bench.toml"
        rates.write_text(ours.rates(), encoding="utf-8")
        profile.write_text(
            ours.profile(
                database_url=database_url,
                redis_url=self.redis.url,
                provider_url=self.stub.url,
                rates_file=str(rates),
            ),
            encoding="utf-8",
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("POST_PURCHASE_")}

        return {
            **inherited,
            "PYTHONPATH": str(CHECKOUT),
            "POST_PURCHASE_PROFILE": str(profile),
            "BENCH_DATABASE_URL": database_url,
            "BENCH_REDIS_URL": self.redis.url,
            "BENCH_PROVIDER_URL": self.stub.url,
        }


@contextmanager
def arena(peers_python: str | None) -> Iterator[Arena]:
    """Start the servers; nothing of them is left when the block ends."""
    with tempfile.TemporaryDirectory(prefix="pp-bench-") as name, postgresql(POSTGRESQL) as database:
        folder = Path(name)
        made = Arena(
            folder=folder,
            database=database,
            redis=RedisServer(folder),
            stub=Stub(0.0, module="bench.fast_stub"),
            peers_python=peers_python,
        )
        try:
            made.redis.start()
            made.stub.start()
            yield made
        finally:
            made.stub.stop()
            made.redis.stop()
