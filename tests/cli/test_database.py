from __future__ import annotations

import json
import sqlite3

import pytest

HEAD = "0004"


@pytest.fixture
def empty(tmp_path):
    """A database without a schema."""
    return f"sqlite:///{tmp_path}/new/empty.db"


@pytest.fixture
def change(sqlite_url):
    """Changes the database behind the back of the migrations."""

    def execute(statement):
        connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
        connection.execute(statement)
        connection.commit()
        connection.close()

    return execute


def test_upgrade_brings_an_empty_database_up(run, empty):
    """It is the first command of every installation."""
    assert (0, f"The schema went from none to {HEAD}\n", "") == run("db", "upgrade", DATABASE__URL=empty)


def test_upgrade_can_be_repeated(run_json, empty):
    """Every start of every machine runs it."""
    run_json("db", "upgrade", DATABASE__URL=empty)

    assert {"before": HEAD, "current": HEAD} == run_json("db", "upgrade", DATABASE__URL=empty)


def test_upgrade_says_when_there_is_nothing_to_do(run):
    """Whoever runs it by hand wants to know whether anything happened."""
    assert (0, f"The schema is at {HEAD}; nothing to do\n", "") == run("db", "upgrade")


def test_current_shows_what_is_and_what_should_be(run, run_json, empty):
    """The two versions side by side say who is behind."""
    assert {"current": HEAD, "newest": HEAD} == run_json("db", "current")
    assert {"current": None, "newest": HEAD} == run_json("db", "current", DATABASE__URL=empty)
    assert f"current: none\nnewest: {HEAD}\n" == run("db", "current", DATABASE__URL=empty).out


def test_check_finds_an_equal_schema_equal(run, run_json):
    """The green case must be green, or nobody believes the red one."""
    assert {"fits": True, "current": HEAD, "newest": HEAD, "differences": []} == run_json("db", "check")
    assert 0 == run("db", "check").code


def test_check_lists_what_differs(run, change):
    """A hand-made change surprises the next migration, unless it is found before."""
    change("ALTER TABLE post_purchase_command ADD COLUMN by_hand TEXT")
    change("DROP INDEX ix_post_purchase_ticket_due")

    done = run("db", "check")

    assert 1 == done.code
    assert "by_hand" in done.out
    assert "ix_post_purchase_ticket_due" in done.out
    assert "post-purchase: The schema has the version of this code, but not its tables: 2 differences" in done.err


def test_check_of_an_empty_database_names_the_fix(run, empty):
    """Missing is the most common of all differences."""
    done = run("db", "check", "--json", DATABASE__URL=empty)

    assert 1 == done.code
    assert False is json.loads(done.out)["fits"]
    assert "post-purchase db upgrade" in done.err


@pytest.mark.parametrize("words", ["db upgrade", "db check", "list"])
def test_a_schema_from_the_future_is_left_alone(run, change, words):
    """Old code on a new schema would write rows that the new code does not understand."""
    change("UPDATE post_purchase_schema_version SET version_num = '9999'")

    done = run(*words.split())

    assert 1 == done.code
    assert "newer than this code" in done.err
    assert "Traceback" not in done.err


def test_downgrade_takes_everything_away(run_json):
    """A trial installation must be removable."""
    assert {"before": HEAD, "current": None} == run_json("db", "downgrade", "--to", "base")
    assert {"current": None, "newest": HEAD} == run_json("db", "current")


def test_downgrade_to_a_version_that_is_not_there_changes_nothing(run, run_json):
    """A slip of the finger must not cost tables."""
    done = run("db", "downgrade", "--to", "0815")

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert {"current": HEAD, "newest": HEAD} == run_json("db", "current")


@pytest.mark.parametrize("words", ["upgrade", "current", "check", "downgrade --to base"])
def test_a_database_that_is_away_is_exit_3(run, words):
    """The release step of a deployment waits and tries again on this code, and on no other."""
    done = run("db", *words.split(), DATABASE__URL="postgresql://shop:hunter2@127.0.0.1:1/shop")

    assert (3, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert "hunter2" not in done.err
