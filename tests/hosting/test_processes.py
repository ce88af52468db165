"""What only shows in processes of their own: a crash between commit and publish, and many that begin at once."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from worker.ports import Filter
from worker.store.clock import ManualClock
from worker.store.engine import SqlStore

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 20
DIED = 7

#: A host that dies at a chosen moment around its commit. Its database and the moment are arguments.
DYING_HOST = """
import os, sys
from sqlalchemy import create_engine, event
import worker
from worker.hosting import outbox

url, moment = sys.argv[1:]
engine = create_engine(url)

class Dies:
    def reserve(self):
        return True
    def execute(self, ids, *, label, countdown=None):
        os._exit(7)

outbox().__dict__["publisher"] = Dies()
with engine.connect() as connection:
    worker.enqueue(connection, worker.Capture(account="klarna-eu", order_id="order-1", amount=1000))
    if moment == "before the commit":
        os._exit(7)
    connection.commit()
raise SystemExit("it lived on")
"""

#: A server that loads the application once and then forks, as web servers do; each child enqueues the same parcel.
FORKING_HOST = """
import os, sys
from sqlalchemy import create_engine
import worker
from worker.hosting import outbox

url, processes = sys.argv[1], int(sys.argv[2])
parents_services = outbox()
gate_read, gate_write = os.pipe()
answer_read, answer_write = os.pipe()
for _ in range(processes):
    if os.fork() == 0:
        os.close(gate_write)
        engine = create_engine(url)
        with engine.connect() as connection:
            assert outbox() is not parents_services
            connection.begin()
            os.read(gate_read, 1)  # until the parent closes its end
            enqueued = worker.enqueue(
                connection, worker.Capture(account="klarna-eu", order_id="order-1", amount=1000, reference="parcel-1")
            )
            connection.commit()
        os.write(answer_write, f"{enqueued.id} {enqueued.was_stored}\\n".encode())
        os._exit(0)
os.close(gate_write)
os.close(answer_write)
answers = os.fdopen(answer_read).read().splitlines()
codes = [os.wait()[1] for _ in range(processes)]
print("\\n".join(answers))
raise SystemExit(any(codes))
"""


def run(code, *arguments, url):
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, url, *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "POST_PURCHASE_PROFILE": "test",
            "POST_PURCHASE_DATABASE__URL": url,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def store(database_url):
    """The store as the worker sees it, once on each kind; its clock is set by the test."""
    engine = create_engine(database_url)
    yield lambda clock=None: SqlStore(engine, clock=clock)
    engine.dispose()


def commands(store):
    with store.begin() as transaction:
        return transaction.listed(Filter(), limit=100)


def test_a_crash_between_commit_and_publish_loses_nothing(store, database_url):
    """The one moment in which the command is promised and nobody has been told; dispatch finds it."""
    done = run(DYING_HOST, "after the commit", url=database_url)
    assert DIED == done.returncode, done.stderr
    (row,) = commands(store())

    clock = ManualClock(row.published_until)
    with store(clock).begin() as transaction:
        due = transaction.take_due(
            limit=10, window=10, horizon=timedelta(minutes=6), published_for=timedelta(seconds=10)
        )

    assert [row.id] == [each.id for each in due]


def test_a_crash_before_the_commit_leaves_nothing(store, database_url):
    """The host's own change is gone with it; a capture that stayed would be for nothing."""
    done = run(DYING_HOST, "before the commit", url=database_url)

    assert DIED == done.returncode, done.stderr
    assert [] == commands(store())


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_twenty_processes_that_enqueue_the_same_reference_at_once_store_one_command(store, database_url):
    """One row, and every one of them learns its id, whichever came first."""
    done = run(FORKING_HOST, str(PROCESSES), url=database_url)

    assert 0 == done.returncode, done.stderr
    answers = [line.split() for line in done.stdout.splitlines()]
    (row,) = commands(store())
    assert [str(row.id)] * PROCESSES == [command_id for command_id, _ in answers]
    assert ["False"] * (PROCESSES - 1) + ["True"] == sorted(was_stored for _, was_stored in answers)
