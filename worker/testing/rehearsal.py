"""A rehearsal: the whole worker in one process, on a clock that is set by hand, against a sandbox.

Decides what stands in for what in a shop's tests. The services, the transport and the sandbox's HTTP are the real ones.
The clock is moved instead of waited for, and the database with its quotas, the executor and the sandbox go by it; what
would go to the broker is carried out at its moment, and the desk keeps what it is told. Leaves every decision about a
command to the services, as `wiring` builds them, and the fixtures to `plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self
from uuid import UUID

from sqlalchemy import Engine

from ..config import load
from ..domain.commands import Command
from ..domain.errors import CommandNotFound, PostPurchaseError
from ..domain.state import FINAL, State
from ..hosting import standing_in
from ..ports import Filter, StoredCommand
from ..providers.transport import CurlTransport
from ..resources import migrations_dir, settings_dir
from ..sandbox import Sandbox
from ..service import inspect
from ..service.enqueue import Enqueued
from ..service.operate import Operator
from ..store import migrate
from ..store.clock import ManualClock
from ..store.engine import SqlStore
from ..wiring import Services
from .stand_ins import RecordingDesk, RecordingPublisher

#: What the sandbox demands unless it is told otherwise.
_CREDENTIALS = {"username": "sandbox", "password": "sandbox"}

#: How long a request may take, in real seconds, for a sandbox is not on the clock's side of the socket. On loopback an
#: answer takes milliseconds. Less would take a busy machine for a lost reply; more would make tests of a hanging
#: provider slow, which wait for it.
_TIMEOUT_SECONDS = 2.0

#: How far `run` moves the clock at the most. Longer than the ladder and than any key window, so that all that ends by
#: itself has ended; not longer than that, because somebody waits in front of it when something never ends.
_LONGEST = timedelta(days=2)

#: A lease is over a moment after its end; the databases keep time to the millisecond.
_STEP = timedelta(milliseconds=1)

#: As many commands as a test can mean.
_COMMANDS = 100_000


class StillPending(PostPurchaseError):
    """Commands were still not final after two days on the clock."""


class FollowedClock(ManualClock):
    """A clock that stands still until it is moved, and that a sandbox follows."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(_now_at(sandbox))
        self._sandbox = sandbox

    def advance(self, by: timedelta) -> None:
        """Move it forward. The sandbox runs on a little in real time, and is brought up when that is not enough."""
        super().advance(by)
        behind = self.now - _now_at(self._sandbox)
        if behind > timedelta(0):
            self._sandbox.leap(behind.total_seconds())


class Rehearsal:
    """A worker in this process, for tests: `with Rehearsal(engine, sandbox=sandbox, clock=clock) as rehearsal: …`.

    Within the block, `worker.enqueue` of this process belongs to the rehearsal, so the code under test is picked up as
    it is, as long as it commits to the same database.

    Attributes:
        sandbox: The provider: make orders and faults in it, and read its effects and requests.
        clock: What time it is for the worker, its database and the sandbox.
        engine: The database. Its worker's tables are made when they are not there.
        desk: Keeps every ticket that a person would have been told of.
        publisher: Keeps every message that the broker would have had.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        sandbox: Sandbox,
        clock: ManualClock,
        accounts: Mapping[str, str | Mapping[str, object]],
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Put a worker together.

        Args:
            engine: Of the database that the code under test stores its commands in.
            sandbox: One that runs.
            clock: One that the sandbox follows.
            accounts: The name of each account, and which provider it is at or, in full, its settings.
            settings: Laid over the default settings, nested or by dotted names. The environment is not asked.
                Quotas are kept in the database, whatever they say: its clock is the one that is set.
        """
        self.engine, self.sandbox, self.clock = engine, sandbox, clock
        self.publisher = RecordingPublisher(clock=clock)
        self._services = Services(
            load(
                settings_dir() / "default.toml",
                environ={},
                overrides={
                    "database.url": "sqlite://",
                    "broker.url": "memory://",
                    "http.connect_timeout_seconds": _TIMEOUT_SECONDS,
                    "http.total_timeout_seconds": _TIMEOUT_SECONDS,
                    **(settings or {}),
                    "limits.place": "database",
                    "accounts": {name: _account(account, sandbox) for name, account in accounts.items()},
                },
            )
        )
        self.desk = RecordingDesk(name=self._services.settings.tickets.desk)
        # Before their first use, so that nothing is built that would connect to anything else.
        self._services.store = SqlStore(engine, clock=clock)
        self._services.publisher = self._services.upkeep_publisher = self.publisher
        self._services.desk = self.desk
        self._began = clock.now
        self._open = ExitStack()

    def __enter__(self) -> Self:
        executor = self._services.executor
        self._executor = replace(executor, monotonic=self._monotonic, wait=self._wait, chance=lambda: 0.5)
        if isinstance(executor.transport, CurlTransport):
            self._open.callback(executor.transport.close)
        if migrate.current(self.engine) is None:
            migrate.upgrade(self.engine, migrations_dir())
        migrate.require(self.engine, migrations_dir())
        self._open.enter_context(standing_in(self._services))

        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    # doing

    def enqueue(self, command: Command) -> Enqueued:
        """Store one command in a transaction of its own; the code under test calls `worker.enqueue` in its own."""
        with self.engine.begin() as connection:
            return self._services.enqueue(connection, [command])[0]

    def run(self, *, until: Literal["final", "now"] | timedelta = "final") -> None:
        """Let the worker work, and move the clock to whatever comes next.

        Args:
            until: `"final"`: until every command is final or waits for a person who has been told. `"now"`: do what is
                due, and leave the clock where it is. A duration: let so much time pass.

        Raises:
            StillPending: Something goes on for longer than two days on the clock.
        """
        ends_at = self.clock.now + _patience(until)
        self._do_what_is_due()
        while (moment := self._next_moment()) is not None and moment <= ends_at:
            self.clock.advance(max(moment - self.clock.now, _STEP))
            self._do_what_is_due()
        if until == "final" and moment is not None:
            raise StillPending(self._what_is_pending())
        if isinstance(until, timedelta):
            self.clock.advance(max(ends_at - self.clock.now, timedelta(0)))

    def operator(self, *, by: str, why: str) -> Operator:
        """Act as a person who decides about a ticket: `retry`, `resolve` and `cancel`."""
        return self._services.operator(by=by, why=why)

    # looking

    def state(self, command: Enqueued | StoredCommand | UUID) -> State:
        """Say where a command stands."""
        command_id = command if isinstance(command, UUID) else command.id
        with self._services.store.read() as transaction:
            found = transaction.find(command_id)
        if found is None:
            raise CommandNotFound(str(command_id))

        return found.state

    def show(self, command: Enqueued | StoredCommand | UUID) -> dict[str, Any]:
        """Show everything about a command, as `post-purchase show --json` does: attempts, outcomes, tickets."""
        with self._services.store.read() as transaction:
            return inspect.show(
                transaction,
                command if isinstance(command, UUID) else command.id,
                accounts=self._services.accounts,
                fallback=self._services.fallback,
            )

    def commands(self) -> list[StoredCommand]:
        """List every command in the database, oldest first: those that the code under test enqueued too."""
        with self._services.store.read() as transaction:
            return list(transaction.listed(Filter(), limit=_COMMANDS))[::-1]

    # the worker's own time

    def _do_what_is_due(self) -> None:
        """Be sweep, dispatch and the tasks, until none of them finds anything."""
        while True:
            self._services.sweeper.run_once()  # first: what it hands back is due, and dispatch hands it out
            self._services.dispatcher.run_once()
            messages = self.publisher.deliver()
            if not messages:
                return
            for each in messages:
                if each.task == "execute":
                    self._executor.execute(each.ids)
                else:
                    self._services.escalator.escalate(each.ids[0])

    def _next_moment(self) -> datetime | None:
        with self._services.store.read() as transaction:
            stored = transaction.next_moment()
        moments = [each.due_at for each in self.publisher.waiting]

        return min(moments if stored is None else [*moments, stored], default=None)

    def _what_is_pending(self) -> str:
        pending = [each for each in self.commands() if each.state not in FINAL]
        first = ", ".join(f"{each.kind} of {each.order_id} ({each.state})" for each in pending[:5])

        return (
            f"{len(pending)}, such as {first or 'a ticket that its desk does not take'}. "
            "End the fault that holds them up, or run for a while only: run(until=timedelta(hours=1))"
        )

    def _monotonic(self) -> float:
        return (self.clock.now - self._began).total_seconds()

    def _wait(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


def _now_at(sandbox: Sandbox) -> datetime:
    return datetime.fromisoformat(sandbox.health()["now"])


def _account(account: str | Mapping[str, object], sandbox: Sandbox) -> dict[str, object]:
    given = {"provider": account} if isinstance(account, str) else account

    return {"base_url": sandbox.base_url, **_CREDENTIALS, **given}


def _patience(until: Literal["final", "now"] | timedelta) -> timedelta:
    match until:
        case "final":
            return _LONGEST
        case "now":
            return timedelta(0)
        case timedelta():
            return until
