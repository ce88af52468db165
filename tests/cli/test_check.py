from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import worker
from worker.cli import probes
from worker.config import load
from worker.domain.pause import ALL_KINDS, Cause, Pause
from worker.resources import migrations_dir
from worker.store import migrate
from worker.store.clock import DatabaseClock, ManualClock

#: Two groups of questions, each given up after 3 s, and a start on a busy machine.
SECONDS_WITH_EVERYTHING_AWAY = 20

NAMES = [
    *("package", "versions", "database", "schema", "clock", "oldest due", "pauses", "tickets"),
    *("broker", "workers", "upkeep"),
]


@pytest.fixture(autouse=True)
def _no_waiting_for_workers(request, monkeypatch):
    """Where there are none, nobody need be waited for."""
    if "real_worker" not in request.fixturenames:
        monkeypatch.setattr(probes, "_COLLECT_SECONDS", 0.01)


@pytest.fixture
def found(run):
    """What the doctor says, by the name of the check; and the exit code."""

    def call(**changes):
        done = run("check", "--json", **changes)
        answer = json.loads(done.out)
        assert NAMES == [finding["name"] for finding in answer["checks"]]
        assert (done.code == 0) is answer["ok"]
        return {finding["name"]: finding for finding in answer["checks"]}

    return call


@pytest.fixture
def hole():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_what_can_be_well_without_a_worker_is_well(found):
    """Each answer stands by itself."""
    seen = found()

    assert {"ok"} == {seen[name]["status"] for name in NAMES[:8]}
    assert "warn" == seen["broker"]["status"]
    assert ("fail", "none answers") == (seen["workers"]["status"], seen["workers"]["found"])
    assert "celery --app worker worker" in seen["workers"]["fix"]
    assert "post-purchase upkeep" in seen["upkeep"]["fix"]


def test_it_names_the_package_that_is_imported(found):
    """Two installations on one machine have cost many an afternoon."""
    assert f"worker {worker.__version__} at {Path(worker.__file__).parent}" == found()["package"]["found"]


def test_it_warns_of_another_worker_in_the_working_directory(found, tmp_path, monkeypatch):
    """Celery puts the working directory first on the path, and would start that one."""
    (tmp_path / "worker.py").write_text("")
    monkeypatch.chdir(tmp_path)

    package = found()["package"]

    assert "warn" == package["status"]
    assert str(tmp_path / "worker.py") in package["fix"]


def test_it_names_the_versions(found):
    """They are the first question of every report of a fault."""
    names = [part.split()[0] for part in found()["versions"]["found"].split(", ")]

    assert ["python", "celery", "kombu", "redis", "sqlalchemy"] == names


def test_a_missing_schema_fails_and_names_the_fix(found, tmp_path):
    """What needs the tables is then not asked."""
    seen = found(DATABASE__URL=f"sqlite:///{tmp_path}/new.db")

    assert ("ok", "fail") == (seen["database"]["status"], seen["schema"]["status"])
    assert "post-purchase db upgrade" == seen["schema"]["fix"]
    assert "not asked: the schema does not fit" == seen["oldest due"]["found"]


def test_a_database_that_is_away_fails_with_its_address(found):
    """The password stays out of it: the output is pasted into tickets."""
    seen = found(DATABASE__URL="postgresql://shop:hunter2@127.0.0.1:1/shop")

    assert "fail" == seen["database"]["status"]
    assert "postgresql+psycopg://shop:***@127.0.0.1:1/shop: " in seen["database"]["found"]
    assert "POST_PURCHASE_DATABASE__URL" in seen["database"]["fix"]
    assert "hunter2" not in json.dumps(seen)
    assert "not asked: the database does not answer" == seen["schema"]["found"]


def test_a_broker_that_refuses_fails_with_its_address(found):
    """Nothing is lost by it, and the fix says so."""
    seen = found(BROKER__URL="redis://:hunter2@127.0.0.1:1/0")

    assert "fail" == seen["broker"]["status"]
    assert "redis://:***@127.0.0.1:1/0: " in seen["broker"]["found"]
    assert "POST_PURCHASE_BROKER__URL" in seen["broker"]["fix"]
    assert "hunter2" not in json.dumps(seen)
    assert ["not asked: the broker does not answer"] * 2 == [seen[name]["found"] for name in ("workers", "upkeep")]


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_servers_that_swallow_everything_cost_seconds(found, hole, scheme):
    """A doctor that hangs on the sick is no help at night."""
    began = time.monotonic()

    seen = found(DATABASE__URL=f"postgresql://shop@127.0.0.1:{hole}/shop", BROKER__URL=f"{scheme}://127.0.0.1:{hole}/0")

    assert SECONDS_WITH_EVERYTHING_AWAY > time.monotonic() - began
    assert ("fail", "fail") == (seen["database"]["status"], seen["broker"]["status"])


def test_a_question_that_is_never_answered_is_left_behind(monkeypatch):
    """Not every wait has a timeout of its own: asking for the address of a name has none."""
    monkeypatch.setattr(probes, "_PATIENCE_SECONDS", 0.05)
    answered = threading.Event()

    with pytest.raises(TimeoutError):
        probes._within(lambda: answered.wait(60))

    answered.set()


def test_open_tickets_are_pointed_out(found, escalated):
    """Somebody must look; the system itself is well."""
    escalated(reference="r-1")

    assert {"name": "tickets", "status": "warn", "found": "1 open", "fix": "post-purchase tickets --open"} == found()[
        "tickets"
    ]


def test_what_an_operator_paused_is_pointed_out_with_the_way_back(found, run):
    """It stays paused until somebody remembers it."""
    who = ("--by", "on call", "--reason", "maintenance")
    run("pause", "klarna-eu", *who)
    run("pause", "klarna-eu", "--kind", "refund", *who)

    pauses = found()["pauses"]

    whole, one_kind = pauses["found"].split("; ")
    assert "warn" == pauses["status"]
    assert whole.startswith(f"klarna-eu since {datetime.now(UTC):%Y-%m-%d}")
    assert whole.endswith("operator, by on call, maintenance")
    assert one_kind.startswith("refund of klarna-eu since ")
    assert (
        "post-purchase resume klarna-eu --by NAME --reason TEXT; "
        "post-purchase resume klarna-eu --kind refund --by NAME --reason TEXT"
    ) == pauses["fix"]


@pytest.mark.parametrize(
    ("cause", "fix"),
    [
        (Cause.BREAKER, "see what ails the provider"),
        (Cause.CREDENTIALS, "mend the credentials and restart the workers"),
    ],
)
def test_what_the_machine_paused_is_pointed_out_with_what_ails(found, services, cause, fix):
    """It ends by itself, but only when somebody has mended what is broken."""
    with services.store.begin() as transaction:
        transaction.begin_pause(
            Pause(
                account="klarna-eu",
                kind=ALL_KINDS,
                cause=cause,
                by="breaker",
                why="10 sends in a row",
                edge=timedelta(hours=23),
                probe_at=transaction.now,
            )
        )

    pauses = found()["pauses"]

    assert "warn" == pauses["status"]
    assert pauses["found"].endswith(f": {cause.value}, by breaker, 10 sends in a row")
    assert pauses["fix"].startswith(fix)


def test_a_command_that_has_waited_long_is_pointed_out(found, stored):
    """It is the surest sign that nobody works, whatever the processes say of themselves."""
    stored(reference="r-1", due_at=(datetime.now(UTC) - timedelta(minutes=2)).isoformat())

    oldest = found()["oldest due"]

    assert "warn" == oldest["status"]
    assert oldest["found"].startswith("waits for 2 min")


@pytest.mark.parametrize(
    ("by", "status", "said"),
    [
        (timedelta(seconds=90), "warn", "the database is 1 min 30 s ahead of this machine"),
        (timedelta(seconds=-90), "warn", "the database is 1 min 30 s behind this machine"),
        (timedelta(seconds=1), "ok", "ahead of this machine"),
    ],
)
def test_clocks_that_are_apart_are_pointed_out(found, monkeypatch, by, status, said):
    """Somebody will compare a log line of this machine with a row of that one."""
    moved = ManualClock(datetime.now(UTC) + by)
    monkeypatch.setattr(DatabaseClock, "expression", lambda _, dialect, **options: moved.expression(dialect, **options))

    clock = found()["clock"]

    assert status == clock["status"]
    assert said in clock["found"]


def test_people_see_a_table_and_the_exit_code_says_the_rest(run):
    """A monitor runs it and reads the code alone."""
    done = run("check")

    assert 1 == done.code
    assert "check\tstatus\tfound\tfix" == done.out.splitlines()[0]
    assert f"schema\tok\t{migrate.newest(migrations_dir())}\t" in done.out.splitlines()


# --- upkeep, as workers tell of it -------------------------------------------------------------------------


def told(last_at, **otherwise):
    moments = {**dict.fromkeys(("dispatch", "sweep", "probe"), last_at), **otherwise}

    return {duty: {"ticks": 1, "failures": 0, "last_at": moment, "last_counts": {}} for duty, moment in moments.items()}


@pytest.fixture
def upkeep():
    """What is found in the answers of workers."""
    settings = load("test", environ={}, require_credentials=False)

    return lambda replies, workers=("a",): probes._upkeep(replies, workers, settings)


def ago(**duration):
    return (datetime.now(UTC) - timedelta(**duration)).isoformat()


def test_an_upkeep_that_ticks_is_well(upkeep):
    """It told so a moment ago."""
    assert ("ok", "dispatch, sweep and probe tick in 1 of 1 workers") == (
        upkeep({"a": told(ago(seconds=1))}).status,
        upkeep({"a": told(ago(seconds=1))}).found,
    )


def test_a_probe_may_last_as_long_as_a_call(upkeep):
    """A provider that hangs is no reason to start a worker again; its tick takes 2 s longer than the others may."""
    assert "ok" == upkeep({"a": told(ago(seconds=1), probe=ago(seconds=12))}).status


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        pytest.param({"a": told(ago(minutes=5))}, "dispatch of a last ticked 20", id="it stood still"),
        pytest.param(
            {"a": told(ago(seconds=1), probe=ago(minutes=5))}, "probe of a last ticked 20", id="nobody ends a pause"
        ),
        pytest.param({"a": told(None)}, "dispatch of a has not ticked yet", id="it never began"),
        pytest.param({"a": {"error": "unknown command"}}, "dispatch of a has not ticked yet", id="it is too old"),
        pytest.param({"b": told(ago(seconds=1))}, "a does not tell of any", id="it is silent"),
    ],
)
def test_an_upkeep_that_does_not_tick_fails(upkeep, replies, said):
    """A worker that answers and does not look after anything is the failure nobody sees."""
    finding = upkeep(replies, ("a",))

    assert "fail" == finding.status
    assert said in finding.found
    assert "start it again" in finding.fix


# --- a real worker -----------------------------------------------------------------------------------------


@pytest.fixture
def real_worker(process_environment, broker_server, tmp_path):
    """A worker process on a real broker, with its log."""
    log = tmp_path / "worker.log"
    told = {
        "POST_PURCHASE_BROKER__URL": broker_server,
        "POST_PURCHASE_BROKER__KEY_PREFIX": f"check-{os.getpid()}:",
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", "worker", "worker", "--hostname", "under-test@%h"],
            env=process_environment | told,
            cwd=tmp_path,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    yield {name.removeprefix("POST_PURCHASE_"): value for name, value in told.items()}
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_with_a_worker_at_work_all_is_well(found, real_worker, until):
    """The green case, on the real broker and with the real remote control."""
    until(lambda: found(**real_worker)["upkeep"]["status"] == "ok", within=60)

    seen = found(**real_worker)

    assert {"ok"} == {finding["status"] for finding in seen.values()}
    assert "under-test@" in seen["workers"]["found"]
