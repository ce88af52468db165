"""One database of each kind for the whole contract suite, emptied after each test, and commands in any state in it.

A database of its own for every test would cost more time than all the statements under test together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, create_engine, delete, event, make_url, text

from worker.domain import state
from worker.domain.key import new_id
from worker.domain.outcome import Outcome, Problem, Succeeded
from worker.domain.state import State, Transition
from worker.domain.ticket import Reason
from worker.ports import Action, Ending, Escalation, Held, Move, NewCommand, StoredCommand
from worker.resources import migrations_dir
from worker.store import migrate
from worker.store.clock import ManualClock
from worker.store.engine import SqlStore, build_engine
from worker.store.schema import metadata

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=90)
PUBLISHED_FOR = timedelta(seconds=10)
REFUSED = Problem(code="CAPTURE_NOT_ALLOWED", message="Not enough left.", status=403, correlation_id="c-403")
NO_ANSWER = Problem(code="no_answer", message="No answer within 30 s.")


def _engine(url: str) -> Engine:
    engine = build_engine(
        url,
        pool_size=20,
        busy_timeout=timedelta(seconds=20),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=timedelta(seconds=30),
    )
    migrate.upgrade(engine, migrations_dir())

    return engine


@pytest.fixture(scope="session")
def _on_postgresql(postgresql_server: str) -> Iterator[Engine]:
    admin = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    name = f"pp_store_{uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
        # Nobody pulls the plug on a test: waiting for the disk would only cost time.
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit TO off'))
    engine = _engine(make_url(postgresql_server).set(database=name).render_as_string(hide_password=False))
    yield engine
    engine.dispose()
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture(scope="session")
def _on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = _engine(f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous = OFF"))
    engine.dispose()  # connections from here on do not wait for the disk
    yield engine
    engine.dispose()


def _emptied(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))


@pytest.fixture
def on_postgresql(_on_postgresql: Engine) -> Iterator[Engine]:
    """An engine on a PostgreSQL database whose tables are empty."""
    yield _on_postgresql
    _emptied(_on_postgresql)


@pytest.fixture
def on_sqlite(_on_sqlite: Engine) -> Iterator[Engine]:
    """An engine on an SQLite database whose tables are empty."""
    yield _on_sqlite
    _emptied(_on_sqlite)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Engine:
    """An engine on a database whose tables are empty, once on each kind."""
    return request.getfixturevalue(f"on_{request.param}")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def store(database: Engine, clock: ManualClock) -> SqlStore:
    return SqlStore(database, clock=clock)


@dataclass(frozen=True, slots=True)
class Given:
    """Commands brought to where a test begins, each step in a transaction of its own."""

    store: SqlStore
    _orders: list[None] = field(default_factory=list)

    def new(self, **fields: Any) -> NewCommand:
        """A command to store: a keyed capture of an order of its own, due now."""
        self._orders.append(None)
        unnamed = {
            "id": new_id(),
            "account": "klarna-eu",
            "kind": "capture",
            "order_id": f"order-{len(self._orders)}",
            "reference": None,
            "target": None,
            "amount": 1000,
            "keyed": True,
            "payload": b'{"captured_amount":1000}',
            "fingerprint": "f" * 64,
            "idempotency_key": str(uuid4()),
            "due_at": None,
            "published": False,
        }

        return NewCommand(**{**unnamed, **fields})

    def store_all(self, commands: Sequence[NewCommand]) -> list[UUID]:
        with self.store.begin() as transaction:
            transaction.insert_commands(commands, published_for=PUBLISHED_FOR)

        return [each.id for each in commands]

    def pending(self, count: int = 1, **fields: Any) -> list[UUID]:
        return self.store_all([self.new(**fields) for _ in range(count)])

    def one(self, **fields: Any) -> UUID:
        return self.pending(1, **fields)[0]

    def held(self, **fields: Any) -> Held:
        """A command whose lease is held and that has not been sent."""
        return self.claim(self.one(**fields))

    def held_many(self, count: int, **fields: Any) -> list[Held]:
        """Commands whose leases are held, in the order in which they were stored."""
        ids = self.pending(count, **fields)
        held = {each.id: each for each in self.store.claim(ids, limit=count, lease=LEASE)}

        return [held[each] for each in ids]

    def claim(self, command_id: UUID) -> Held:
        (held,) = self.store.claim([command_id], limit=1, lease=LEASE)

        return held

    def sent(self, **fields: Any) -> Held:
        """A command whose lease is held and whose attempt is open."""
        return self.open(self.held(**fields))

    def open(self, held: Held) -> Held:
        with self.store.begin() as transaction:
            (opened,) = transaction.open_attempts([held], holder="host:1")

        return opened

    def sent_many(self, count: int, **fields: Any) -> list[Held]:
        """Commands whose leases are held and whose attempts are open."""
        held = self.held_many(count, **fields)
        with self.store.begin() as transaction:
            return list(transaction.open_attempts(held, holder="host:1"))

    def ended(self, held: Held, outcome: Outcome, *, late: bool = False) -> None:
        with self.store.begin() as transaction:
            ending = Ending(held=held, outcome=outcome, ended_at=transaction.now)
            transaction.close_attempts([ending], late=late)

    def moved(self, held: Held, transition: Transition, *, published_until: datetime | None = None) -> bool:
        with self.store.begin() as transaction:
            written = transaction.apply([Move(held=held, transition=transition, published_until=published_until)])

        return held.id in written

    def now(self, wanted: State, **fields: Any) -> UUID:
        """A command in the wanted state; it was sent once, unless it is pending."""
        if wanted is State.PENDING:
            return self.one(**fields)
        held = self.sent(**fields)
        match wanted:
            case State.SUCCEEDED:
                self.moved(held, state.succeed(failures=0, result={"capture_id": "c-1"}))
            case State.REJECTED:
                self.moved(held, state.reject(failures=0, problem=REFUSED))
            case State.ESCALATED | State.CANCELLED:
                self.moved(held, state.escalate(failures=1, in_doubt=True, problem=NO_ANSWER))
        if wanted is State.CANCELLED:
            self.operated(held.id, state.cancel(failures=1, problem=NO_ANSWER), verb="cancel")

        return held.id

    def operated(self, command_id: UUID, transition: Transition, *, verb: str) -> bool:
        with self.store.begin() as transaction:
            stored = transaction.lock_command(command_id)
            return transaction.operate(stored, transition, self.action(stored, verb=verb))

    def action(self, stored: StoredCommand, *, verb: str) -> Action:
        return Action(
            command_id=stored.id,
            verb=verb,
            by="operator",
            why="looked it up at the provider",
            state_before=stored.state,
            in_doubt_before=stored.in_doubt,
        )

    def linked(self, command_id: UUID, reason: Reason, *, account: str = "klarna-eu") -> UUID:
        """Escalate a command to a ticket; return the ticket."""
        with self.store.begin() as transaction:
            escalation = Escalation(command_id=command_id, account=account, reason=reason)
            (ticket_id,) = transaction.link_tickets([escalation], desk="log")

        return ticket_id

    def row(self, command_id: UUID) -> StoredCommand:
        with self.store.begin() as transaction:
            found = transaction.find(command_id)
        assert found is not None

        return found


@pytest.fixture
def given(store: SqlStore) -> Given:
    return Given(store)


@pytest.fixture
def done() -> Succeeded:
    return Succeeded(result={"capture_id": "c-1"}, status=201, correlation_id="c-201")


@pytest.fixture
def at_once() -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """Call a function with 0, 1, 2 … in as many threads, all of which start at the same instant."""

    def run(threads: int, call: Callable[[int], Any]) -> list[Any]:
        answers: list[Any] = [None] * threads
        start = threading.Barrier(threads)

        def work(number: int) -> None:
            start.wait()
            try:
                answers[number] = call(number)
            except Exception as error:  # noqa: BLE001  # the test says which it expects
                answers[number] = error

        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

        return answers

    return run
