from __future__ import annotations

import gzip
import json
from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine, text, update

from worker.cli import prune
from worker.ports import Filter
from worker.store.schema import command


@pytest.fixture
def old(services, succeeded, rejected, monkeypatch):
    """Three commands that were made and ended a year ago, one of them with an open ticket."""
    with services.store.begin() as transaction:
        year_ago = transaction.now - timedelta(days=365)
    with monkeypatch.context() as patched:
        patched.setattr("worker.domain.key.time", SimpleNamespace(time_ns=lambda: int(year_ago.timestamp() * 1e9)))
        ids = [succeeded(reference="parcel-1"), succeeded(reference="parcel-2", order_id="order-2")]
        rejected(reference="parcel-3", order_id="order-3")
    with services.store.engine.begin() as connection:
        connection.execute(update(command).values(finalized_at=year_ago))

    return ids


def left(services):
    with services.store.begin() as transaction:
        return {each.reference for each in transaction.listed(Filter(), limit=10)}


def test_what_ended_long_ago_is_pruned(run_json, services, old, stored):
    """That is all it is for; what is young, or with a person, stays."""
    stored(reference="parcel-4", order_id="order-4")

    done = run_json("prune", "--older-than", 90)

    assert {"dry_run": False, "commands": 2, "tickets": 0, "waiting": 0} == done
    assert {"parcel-3", "parcel-4"} == left(services)


def test_a_dry_run_only_counts(run, run_json, services, old):
    """People look before they remove what was paid."""
    counted = run_json("prune", "--older-than", 90, "--dry-run")
    shown = run("prune", "--older-than", 90, "--dry-run")

    lines = [{"account": "klarna-eu", "state": "succeeded", "commands": 2}]
    assert {"dry_run": True, "commands": 2, "counts": lines} == counted
    assert (0, "account\tstate\tcommands\nklarna-eu\tsucceeded\t2\n", "") == shown
    assert {"parcel-1", "parcel-2", "parcel-3"} == left(services)


def test_the_retention_is_that_of_the_settings_unless_told_otherwise(run_json, services, old):
    """A timer has nobody who remembers the number."""
    kept = run_json("prune", PRUNE__RETENTION_DAYS="400")

    pruned = run_json("prune", PRUNE__RETENTION_DAYS="300")

    assert (0, 2) == (kept["commands"], pruned["commands"])


def test_nothing_is_pruned_where_nobody_says_how_old(run, services, old):
    """There is no age that would be right for everybody's books."""
    done = run("prune")

    assert (2, "") == (done.code, done.out)
    assert "give --older-than, or set prune.retention_days" in done.err
    assert 3 == len(left(services))


@pytest.mark.parametrize("days", ["0", "-1", "soon"])
def test_a_retention_that_is_none_is_refused(run, services, old, days):
    """Zero days would take what a worker is just recording."""
    done = run("prune", "--older-than", days)

    assert 2 == done.code
    assert "--older-than" in done.err
    assert 3 == len(left(services))


def test_the_archive_is_written_where_it_is_told(run, old, tmp_path):
    """One file holds a batch; the name ends as tools for such files expect."""
    done = run("prune", "--older-than", 90, "--archive", tmp_path / "archive", PRUNE__BATCH_SIZE="1")

    files = sorted((tmp_path / "archive").rglob("*.jsonl.gz"))
    lines = [json.loads(gzip.decompress(file.read_bytes())) for file in files]
    assert (0, "commands: 2\ntickets: 0\n", "") == done
    assert sorted(str(each) for each in old) == [line["id"] for line in lines]


def test_an_archive_that_cannot_be_written_is_named(run, services, old, tmp_path):
    """Whoever runs it from a timer must learn that nothing was pruned."""
    (tmp_path / "file").write_text("")

    done = run("prune", "--older-than", 90, PRUNE__ARCHIVE_FOLDER=str(tmp_path / "file"))

    assert (1, "") == (done.code, done.out)
    assert "The archive of pruned commands could not be written; nothing was pruned" in done.err
    assert 3 == len(left(services))


def test_long_work_tells_how_far_it_has_come(run, old, monkeypatch):
    """A million commands take minutes, and somebody sits in front of it."""
    monkeypatch.setattr(prune, "_TELL_EVERY", 0.0)

    done = run("prune", "--older-than", 90, PRUNE__BATCH_SIZE="1")

    assert "post-purchase: pruned 1 commands so far" in done.err
    assert 0 == done.code


def test_show_tells_of_a_pruned_command_how_it_ended(run, old):
    """By its id or by its key, as one line; the key is what the provider's portal shows."""
    key = json.loads(run("show", old[0], "--json").out)["idempotency_key"]
    run("prune", "--older-than", 90)

    answers = [run("show", named) for named in (old[0], key)]

    for done in answers:
        assert (1, "", 1) == (done.code, done.out, done.err.count("\n"))
        assert "was pruned; only its key is kept" in done.err
        assert f"{old[0]} of klarna-eu is succeeded since" in done.err


def test_a_line_of_a_pruned_command_is_not_stored_again(run_json, file, capture, old):
    """A file whose fate is unknown is enqueued again, be it after years."""
    lines = file(capture(reference="parcel-1"), capture(reference="parcel-9", order_id="order-9"))
    run_json("prune", "--older-than", 90)

    again, new = run_json("enqueue", lines)

    assert (str(old[0]), "succeeded", False) == (again["id"], again["state"], again["was_stored"])
    assert new["was_stored"]


def test_upkeep_prunes_where_it_is_told_to(run_json, services, old):
    """Nobody has to think of it any more."""
    off = run_json("upkeep", "--once")
    on = run_json("upkeep", "--once", PRUNE__RETENTION_DAYS="90")

    assert "prune" not in off
    assert {"commands": 2, "tickets": 0, "left": 0, "waiting": 0} == on["prune"]
    assert {"parcel-3"} == left(services)


@pytest.fixture
def on_postgresql(environment, postgresql_url):
    """The commands of this test are on PostgreSQL."""
    environment["POST_PURCHASE_DATABASE__URL"] = postgresql_url

    return postgresql_url


@pytest.mark.slow
def test_a_transaction_that_stays_open_is_waited_for_and_named(on_postgresql, run, old, monkeypatch):
    """It may not have seen the keys; a run of a timer must not hang for it for ever."""
    monkeypatch.setattr(prune, "_PATIENCE", 0.5)
    monkeypatch.setattr(prune, "_TELL_EVERY", 0.2)
    other = create_engine(on_postgresql)
    with other.connect() as connection:
        connection.execute(text("SELECT 1"))
        refused = run("prune", "--older-than", 90, "--json")
    other.dispose()

    done = run("prune", "--older-than", 90, "--json")

    assert (1, 2) == (refused.code, json.loads(refused.out)["waiting"])
    assert "a transaction on this database has been open" in refused.err
    assert "pruned 0 commands so far, waiting" in refused.err
    assert (0, 2) == (done.code, json.loads(done.out)["commands"])
