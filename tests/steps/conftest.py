"""Slots in which processes are killed: each has a database, a desk, a prefix at the broker and a healthy process.

A slot is used again and again, because making all this costs more time than a death and what follows it. All share one
sandbox and one broker. Whoever is killed is forked from a process that has imported everything and opened nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

import worker
from tests.steps import doomed, stories
from worker.sandbox import Sandbox

CHECKOUT = Path(worker.__file__).parent.parent

#: So many deaths at once: most of the time of each is waiting for a lease to run out.
SLOTS = 12

#: An exit code can be read once, and `multiprocessing` reads those of all that have ended whenever it starts a process:
#: of two threads that read one at the same moment, one is told 255.
_CODES = threading.Lock()

#: Both providers take a number for an order; one must not begin with another, and each is used once.
_ORDERS = count(100_000)

#: So often is a story told that goes another way.
_TELLINGS = 4

#: A healthy process needs seconds; a machine that does many other things at once needs more of them.
_PATIENCE = 150

_TABLES = "parcel, post_purchase_command, post_purchase_ticket, post_purchase_pause, post_purchase_action"

#: Whatever is not decided, not told to a desk, not told to the shop, or paused.
_UNSAFE = """
    SELECT (SELECT count(*) FROM post_purchase_command WHERE state IN ('pending', 'executing'))
         + (SELECT count(*) FROM post_purchase_command WHERE finalized_at IS NOT NULL AND tell_at IS NOT NULL)
         + (SELECT count(*) FROM post_purchase_ticket WHERE state <> 'closed' AND due_at IS NOT NULL)
         + (SELECT count(*) FROM post_purchase_pause WHERE ended_at IS NULL)
"""

_COMMANDS = """
    SELECT *,
           ARRAY(SELECT t.reason FROM post_purchase_ticket t JOIN post_purchase_ticket_command l ON l.ticket_id = t.id
                  WHERE l.command_id = c.id AND l.closed_at IS NULL ORDER BY 1) AS tickets,
           ARRAY(SELECT a.verb FROM post_purchase_action a WHERE a.command_id = c.id ORDER BY a.at) AS actions
      FROM post_purchase_command c
     ORDER BY seq
"""


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def nursery():
    """Where processes are forked from."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), before]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.steps.doomed"])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before

    return context


# -------------------------------------------------------------------------------------------------------------- desk


class _Desk(ThreadingHTTPServer):
    """Takes tickets, one list a path."""

    daemon_threads = True

    def __init__(self) -> None:
        self.told: dict[str, list[dict[str, object]]] = {}
        super().__init__(("127.0.0.1", 0), _Taker)


class _Taker(BaseHTTPRequestHandler):
    server: _Desk

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.told.setdefault(self.path, []).append(body)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def desk():
    with _Desk() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# ------------------------------------------------------------------------------------------------------------- slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One command, once nobody has anything left to do.

    `sends` counts what arrived at the sandbox, `attempts` what our ledger says was sent.
    """

    state: str
    in_doubt: bool
    tickets: tuple[str, ...]
    effects: int
    attempts: int
    sends: int
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What came of a story. `parcels` says for each order that the shop shipped how often it was marked as paid."""

    commands: tuple[Found, ...]
    parcels: tuple[int, ...]
    told: frozenset[str]
    open_tickets: frozenset[str]
    seconds: float


@dataclass(slots=True, kw_only=True)
class Slot:
    """Where one process after another is killed, and a healthy one takes over."""

    name: str
    environment: dict[str, str]
    engine: Engine
    sandbox: Sandbox
    desk: _Desk
    folder: Path
    context: multiprocessing.context.BaseContext
    _healthy: multiprocessing.process.BaseProcess = field(init=False)
    _line: multiprocessing.connection.Connection = field(init=False)

    def open(self) -> Slot:
        """Start the healthy process."""
        self._line, other = multiprocessing.Pipe()
        self._healthy = self.context.Process(
            target=doomed.take_over, args=(self.environment, self.folder / f"{self.name}.log", other)
        )
        with _CODES:
            self._healthy.start()
        other.close()

        return self

    def ready(self) -> None:
        """Wait until the healthy process is."""
        assert self._line.recv() == "ready"

    def close(self) -> None:
        """Leave nothing running."""
        self._line.close()
        self._healthy.join(5)
        self._healthy.kill()
        self._healthy.join()
        self.engine.dispose()

    def live(self, story: str, position: int | None = None, moment: str = "") -> tuple[list[str], End]:
        """Live through a story: up to a step, where the process is killed, or to its end; and then to safety.

        A process that is slow for once takes another way than the story's, such as to hand back what it has no time
        left for; then it is told once more.
        """
        told = stories.STORIES[story]
        wanted = list(told.steps if position is None else told.steps[: position + (moment == "after")])
        for _ in range(_TELLINGS):
            order, log = self._begin(told, moment)
            process = self.context.Process(
                target=doomed.live_and_die,
                args=(story, order, self.environment, log, None if told.is_ended_outside else position, moment),
            )
            with _CODES:
                process.start()
            if told.is_ended_outside:
                self._await_provider(order, process, log)
                process.kill()
            assert _has_ended(process, within=60), log.read_text()
            with _CODES:
                code = process.exitcode
            assert code in {0, -signal.SIGKILL}, log.read_text()
            noted = log.with_suffix(".steps")
            taken = json.loads(noted.read_text()) if noted.exists() else wanted
            if taken == wanted:
                break

        assert code == (0 if position is None else -signal.SIGKILL), taken

        return taken, self._end(story, order)

    def _await_provider(self, order: str, process: multiprocessing.process.BaseProcess, log: Path) -> None:
        """Wait until the request has arrived there, and was carried out if it is to be."""
        while not any(order in each["path"] + each["body"] for each in self.sandbox.requests()):
            assert not _has_ended(process), log.read_text()
            time.sleep(0.01)

    def _begin(self, story: stories.Story, moment: str) -> tuple[str, Path]:
        with self.engine.begin() as connection:
            connection.execute(text(f"TRUNCATE {_TABLES} CASCADE"))
        self.desk.told.pop(f"/{self.name}", None)
        order = str(next(_ORDERS))
        for kind, options, which in story.faults_at(moment):
            self.sandbox.fault(kind, order_id=f"{order}{which}", **options)

        return order, self.folder / f"{order}.log"

    def _end(self, story: str, order: str) -> End:
        died = time.monotonic()
        self._line.send((story, order))
        assert self._line.recv() == "at work"
        while not (is_safe := self._is_safe()) and time.monotonic() < died + _PATIENCE:
            time.sleep(0.03)
        seconds = time.monotonic() - died
        self._line.send("stop")
        assert self._line.recv() == "at rest"
        end = self._look(order, seconds)
        assert is_safe, f"not safe after {seconds:.0f} s: {end}"

        return end

    def _is_safe(self) -> bool:
        assert not _has_ended(self._healthy), (self.folder / f"{self.name}.log").read_text()
        with self.engine.connect() as connection:
            return connection.execute(text(_UNSAFE)).scalar_one() == 0

    def _look(self, order: str, seconds: float) -> End:
        with self.engine.connect() as connection:
            rows = connection.execute(text(_COMMANDS)).all()
            parcels = connection.execute(text("SELECT paid FROM parcel ORDER BY order_id")).scalars().all()
            tickets = connection.execute(text("SELECT id FROM post_purchase_ticket WHERE state <> 'closed'")).scalars()
            open_tickets = frozenset(map(str, tickets))
        effects = self.sandbox.effects()
        requests = [each for each in self.sandbox.requests() if each["method"] != "GET"]

        return End(
            commands=tuple(
                Found(
                    state=row.state,
                    in_doubt=row.in_doubt,
                    tickets=tuple(row.tickets),
                    effects=sum(_is_effect_of(row, each) for each in effects),
                    attempts=row.attempts,
                    sends=sum(_is_send_of(row, each) for each in requests),
                    actions=tuple(row.actions),
                )
                for row in rows
            ),
            parcels=tuple(parcels),
            told=frozenset(each["ticket_id"] for each in self.desk.told.get(f"/{self.name}", ())),
            open_tickets=open_tickets,
            seconds=seconds,
        )


def _has_ended(process, within=0.0):
    return bool(wait([process.sentinel], within))


def _is_effect_of(row, effect):
    if effect["key"] is not None:
        return effect["key"] == row.idempotency_key

    return (effect["order_id"], effect["kind"]) == (row.order_id, row.kind)


def _is_send_of(row, request):
    key = {name.lower(): value for name, value in request["headers"].items()}.get("klarna-idempotency-key")
    if key is not None:
        return key == row.idempotency_key

    return row.order_id in re.split(r"\W+", request["path"] + request["body"])


@pytest.fixture(scope="session")
def sandbox():
    with Sandbox(create_orders=100_000) as opened:
        yield opened


@pytest.fixture(scope="session")
def slots(nursery, sandbox, desk, broker_server, postgresql_server, _postgresql_template, tmp_path_factory):
    """As many slots as are used at once."""
    admin, template = _postgresql_template
    folder = tmp_path_factory.mktemp("deaths")
    names = [f"steps_{uuid.uuid4().hex[:12]}" for _ in range(SLOTS)]
    with ExitStack() as opened:
        made = []
        for name in names:
            with admin.connect() as connection:
                connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
            opened.callback(_drop, admin, name)
            url = make_url(postgresql_server).set(database=name)
            engine = create_engine(url, pool_size=1)
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE parcel (order_id text PRIMARY KEY, paid integer NOT NULL)"))
            slot = Slot(
                name=name,
                environment=_told(
                    name,
                    database=url.render_as_string(hide_password=False),
                    broker=broker_server,
                    provider=sandbox.base_url,
                    desk=f"http://127.0.0.1:{desk.server_port}/{name}",
                ),
                engine=engine,
                sandbox=sandbox,
                desk=desk,
                folder=folder,
                context=nursery,
            ).open()
            opened.callback(slot.close)
            made.append(slot)
        for slot in made:
            slot.ready()
        yield made


def _drop(admin, name):
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))


def _told(name, *, database, broker, provider, desk):
    """What all processes of a slot are told."""
    told = {
        "PROFILE": "test",
        "DATABASE__URL": database,
        "DATABASE__POOL_SIZE": "2",
        "BROKER__URL": broker,
        "BROKER__KEY_PREFIX": f"{name}:",
        "ACCOUNTS__KLARNA_EU__BASE_URL": provider,
        "ACCOUNTS__BLUESNAP_US__BASE_URL": provider,
        # Without a quota no slot can be missed by a process that is slow for once.
        "ACCOUNTS__KLARNA_EU__RATE_TABLE": "own",
        "ACCOUNTS__BLUESNAP_US__RATE_TABLE": "own",
        "HTTP__CONNECT_TIMEOUT_SECONDS": "0.5",
        "HTTP__TOTAL_TIMEOUT_SECONDS": "2",
        "LEASE__SECONDS": "4",
        "READ_BACK__PAUSE_SECONDS": "2.1",
        "RETRY__KEY_MARGIN_SECONDS": "60",
        "DISPATCH__INTERVAL_SECONDS": "0.2",
        "SWEEP__INTERVAL_SECONDS": "0.2",
        "BREAKER__INTERVAL_SECONDS": "0.2",
        # It looks for nothing else, so that a story has the same steps each time.
        "EXECUTE__PUMP_SECONDS": "0.001",
        "TICKETS__DESK": "webhook",
        "TICKETS__WEBHOOK__URL": desk,
        "TICKETS__WEBHOOK__SECRET": "made up",
        "TICKETS__WEBHOOK__TIMEOUT_SECONDS": "2",
        "TICKETS__LEASE_SECONDS": "3",
        "LOG__LEVEL": "info",
    }

    return {f"POST_PURCHASE_{key}": value for key, value in told.items()}
