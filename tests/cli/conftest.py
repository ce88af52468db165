"""The command line in this process and as a process of its own, and commands in every state to look at."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog
from typer.testing import CliRunner

import worker
from worker import Capture
from worker.cli import app
from worker.config import load
from worker.domain.ladder import Safety, Standing, decide
from worker.domain.outcome import InDoubt, Problem, Rejected, Succeeded
from worker.service.record import Decided, record
from worker.wiring import Services

CHECKOUT = Path(worker.__file__).parent.parent


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and (
            "process_environment" in item.fixturenames or "[postgresql" in item.nodeid  # both start processes
        ):
            item.add_marker(pytest.mark.slow)


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def untouched():
    """The logging of the process as it was: other tests have their own ideas of it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def environment(sqlite_url):
    """What the process is told: a database of its own with the schema in it, and a broker in its memory."""
    return {
        "POST_PURCHASE_PROFILE": "test",
        "POST_PURCHASE_DATABASE__URL": sqlite_url,
        "POST_PURCHASE_LOG__LEVEL": "info",
    }


@pytest.fixture
def run(environment):
    """Runs a command in this process."""

    def call(*arguments, stdin=None, **changes):
        told = environment | {f"POST_PURCHASE_{name}": value for name, value in changes.items()}
        done = CliRunner(env=told).invoke(
            app, [str(each) for each in arguments], input=stdin, prog_name="post-purchase", catch_exceptions=False
        )
        return Run(done.exit_code, done.stdout, done.stderr)

    return call


@pytest.fixture
def run_json(run):
    """Runs a command that succeeds, and reads what it printed."""

    def call(*arguments, **options):
        done = run(*arguments, "--json", **options)
        assert (0, 1) == (done.code, done.out.count("\n")), done
        return json.loads(done.out)

    return call


@pytest.fixture
def count(run_json):
    """How many commands are stored."""
    return lambda: len(run_json("list", "--limit", 10_000))


@pytest.fixture
def process_environment(environment):
    """The environment of a process that finds the checkout wherever it is started."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("POST_PURCHASE_")}
    return {**inherited, "PYTHONPATH": str(CHECKOUT), **environment}


@pytest.fixture
def start(process_environment, tmp_path):
    """Starts the command line as a process of its own, which does not outlive the test."""
    started = []

    def call(*arguments, **changes):
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *(str(each) for each in arguments)],
            env=process_environment | {f"POST_PURCHASE_{name}": value for name, value in changes.items()},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run_process(start):
    """Runs a command as a process of its own, and waits for its end."""

    def call(*arguments, **changes):
        process = start(*arguments, **changes)
        out, err = process.communicate(timeout=60)
        return Run(process.returncode, out, err)

    return call


@pytest.fixture
def until():
    """Waits for a fact."""

    def wait(fact, *, within=30.0):
        deadline = time.monotonic() + within
        while not (found := fact()):
            assert time.monotonic() < deadline, f"it did not come true within {within} s"
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture
def file(tmp_path):
    """Writes a file of lines; a mapping becomes JSON."""

    def write(*lines, name="orders.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"".join(_bytes(line) + b"\n" for line in lines))
        return path

    return write


def _bytes(line):
    match line:
        case bytes():
            return line
        case str():
            return line.encode()
        case _:
            return json.dumps(line).encode()


@pytest.fixture
def capture():
    """A capture as a line of a file."""

    def build(**changes):
        fields = {"kind": "capture", "account": "klarna-eu", "order_id": "order-1", "amount": 1000} | changes
        return {name: value for name, value in fields.items() if value is not None}

    return build


# --- commands in every state -------------------------------------------------------------------------------

NO_ANSWER = Problem(code="no_answer", message="No answer within 2 s", status=None, correlation_id="corr-1")
REFUSED = Problem(code="CAPTURE_NOT_ALLOWED", message="Not enough left", status=403, correlation_id="corr-2")


@pytest.fixture
def services(environment):
    """The services that the commands under test open for themselves."""
    made = Services(load("test", environ=environment, require_credentials=False))
    yield made
    made.close()


@pytest.fixture
def stored(services):
    """Stores a command as a shop does, and carries it to where an attempt's outcome leads."""

    def store(outcome=None, *, failures=0, kind=Capture, **fields):
        given = {"account": "klarna-eu", "order_id": "order-1", "amount": 1000} | fields
        command = kind(**{name: value for name, value in given.items() if value is not None})
        with services.store.engine.begin() as connection:
            (enqueued,) = services.enqueue(connection, [command])
        if outcome is not None:
            _attempt(services, enqueued.id, outcome, failures)
        return enqueued.id

    return store


def _attempt(services, command_id, outcome, failures):
    (held,) = services.store.claim([command_id], limit=1, lease=timedelta(seconds=90))
    with services.store.begin() as transaction:
        (held,) = transaction.open_attempts([held], holder="test:1")
    with services.store.begin() as transaction:
        standing = Standing(safety=Safety.KEYED, failures=failures, first_sent_at=held.first_sent_at)
        decision = decide(outcome, standing, services.fallback, ended_at=transaction.now, chance=0.5)
        record(
            transaction,
            [Decided(held=held, decision=decision, outcome=outcome, ended_at=transaction.now)],
            desk="log",
        )


@pytest.fixture
def succeeded(stored):
    return lambda **fields: stored(
        Succeeded(result={"capture_id": "capture-1"}, status=201, correlation_id="corr-0"), **fields
    )


@pytest.fixture
def rejected(stored):
    return lambda **fields: stored(Rejected(problem=REFUSED), **fields)


@pytest.fixture
def retrying(stored):
    """Pending again, with an attempt in doubt."""
    return lambda **fields: stored(InDoubt(problem=NO_ANSWER), **fields)


@pytest.fixture
def escalated(stored):
    """Escalated in doubt, because its third retry failed too."""
    return lambda **fields: stored(InDoubt(problem=NO_ANSWER), failures=3, **fields)
