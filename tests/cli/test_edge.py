from __future__ import annotations

import json
import subprocess
import sys

import pytest

import worker

#: Beyond Python itself. A terminal answers within half a second only when little is imported.
HEAVY = ("sqlalchemy", "alembic", "celery", "kombu", "redis", "pycurl", "structlog", "h11", "rich")

COMMANDS = (
    *("enqueue", "list", "show", "stats", "tickets", "retry", "resolve", "cancel", "dispatch", "sweep", "upkeep"),
    *("sandbox", "check", "db upgrade", "db current", "db check", "db downgrade"),
)


def test_the_version_is_that_of_the_package(run):
    """Whoever reports a fault is asked for it first."""
    assert (0, f"post-purchase {worker.__version__}\n", "") == run("--version")


def test_without_a_command_it_says_what_there_is(run):
    """The first thing anybody types is the bare name."""
    done = run()

    assert 2 == done.code
    assert "Commands:" in done.out
    assert "enqueue" in done.out


@pytest.mark.parametrize("words", ["", "db", *COMMANDS])
def test_every_help_is_given_without_any_settings(run, words):
    """Help is wanted most when nothing works yet."""
    done = run(*words.split(), "--help", PROFILE="no-such-profile")

    assert (0, "") == (done.code, done.err)
    assert f"Usage: post-purchase {words}".rstrip() in done.out


@pytest.mark.parametrize("words", COMMANDS)
def test_every_help_has_an_example(run, words):
    """People copy an example sooner than they read a grammar."""
    assert "Examples:" in run(*words.split(), "--help").out


def test_help_imports_nothing_heavy(process_environment):
    """It must be there at once, not after a second of imports."""
    code = (
        "import sys\n"
        "from worker.cli import app\n"
        "try:\n    app(['--help'], prog_name='post-purchase')\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=process_environment, capture_output=True, text=True, check=True
    )

    assert set() == set(HEAVY) & set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param("lst", "No such command 'lst'", id="unknown command"),
        pytest.param("list --stat pending", "No such option: --stat", id="unknown option"),
        pytest.param("list --state done", "'done' is not one of 'pending'", id="unknown state"),
        pytest.param("list --kind captur", "'captur' is not one of", id="unknown kind"),
        pytest.param("list --limit 0", "'--limit'", id="a limit of nothing"),
        pytest.param("show 17", "'ID'", id="no id"),
        pytest.param("show", "Missing argument 'ID'", id="a missing id"),
        pytest.param("db", "Missing command", id="a missing subcommand"),
        pytest.param("--set lease list", "'lease' is not KEY=VALUE", id="a setting without a value"),
        pytest.param("sandbox --port 70000", "'--port'", id="no port"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(run, words, said):
    """A script tells its own mistakes from failures of the system by the code, a person by the line."""
    done = run(*words.split())

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert said in done.err
    assert done.err.startswith("post-purchase: ")


def test_an_argument_that_is_not_utf_8_is_refused(process_environment):
    """A database takes no half characters, and would say so much less clearly."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "list", "--order", b"\xff"],
        env=process_environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (2, "", "post-purchase: argument 3 is not UTF-8 text\n") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"PROFILE": "nope"}, "'nope' is not a profile", id="unknown profile"),
        pytest.param({"DATABSE__URL": "x"}, "did you mean POST_PURCHASE_DATABASE__URL?", id="unknown setting"),
        pytest.param({"LEASE__SECONDS": "1"}, "lease.seconds is 1 and must be above", id="a lease that is too short"),
        pytest.param(
            {"ACCOUNTS__KLARNA_EU__BASE_URL": "http://provider.example"}, "must start with https://", id="plain http"
        ),
    ],
)
def test_settings_that_cannot_be_used_are_said_and_exit_2(run, changes, said):
    """Nothing may start with settings that are not understood."""
    done = run("list", **changes)

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert said in done.err


def test_every_problem_of_the_settings_gets_its_line(run):
    """One run for each mistake would be a poor way to find them all."""
    done = run("list", LEASE__SECONDS="x", SWEEP__BATCH_SIZE="0", TYPO="1")

    assert 3 == done.err.count("\npost-purchase: ") + done.err.startswith("post-purchase: ")


def test_a_setting_given_as_an_argument_wins(run, sqlite_url):
    """An argument is the nearest wish; everything else was said before."""
    done = run("--set", f"database.url={sqlite_url}", "stats", "--json", DATABASE__URL="sqlite:////no/such/folder/x.db")

    assert (0, "") == (done.code, done.err)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("retry.ladder_seconds=1,2", "argument retry.ladder_seconds must be three numbers"),
        ("sweep.batch_size=many", "argument sweep.batch_size must be a whole number, at least 1, got 'many'"),
        ("accounts.klarna-eu.keyed=maybe", "argument accounts.klarna-eu.keyed must be true or false"),
        ("sweep.size=3", "argument sweep.size is not a setting; did you mean sweep.batch_size?"),
    ],
)
def test_a_setting_given_as_an_argument_is_judged_as_any_other(run, assignment, said):
    """Its text is read as the environment's is, and refused in the same words."""
    done = run("--set", assignment, "list")

    assert 2 == done.code
    assert said in done.err


def test_a_profile_given_as_an_argument_wins(run, tmp_path, sqlite_url):
    """The file of a deployment is tried without touching the environment."""
    own = tmp_path / "own.toml"
    own.write_text(f'database.url = "{sqlite_url}"\nbroker.url = "memory://"\n', encoding="utf-8")

    done = run("--profile", own, "stats", "--json", PROFILE="nope")

    assert 0 == done.code


def test_a_database_that_is_away_is_exit_3_and_says_where(run):
    """The reader needs the address that was tried and the name of the setting, and never the password."""
    done = run("list", DATABASE__URL="postgresql://shop:hunter2@127.0.0.1:1/shop")

    assert (3, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert "postgresql+psycopg://shop:***@127.0.0.1:1/shop" in done.err
    assert "POST_PURCHASE_DATABASE__URL" in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize(
    "words",
    ["list", "stats", "tickets", "dispatch", "sweep", "upkeep --once", "enqueue -"]
    + ["show 019ab3c4-0000-7000-8000-00000000000f"]
    + [f"{verb} 019ab3c4-0000-7000-8000-00000000000f --by op --reason why" for verb in ("retry", "resolve", "cancel")],
)
def test_a_missing_schema_is_exit_1_and_names_the_fix(run, tmp_path, words):
    """Half-working on a foreign schema is worse than stopping."""
    done = run(*words.split(), DATABASE__URL=f"sqlite:///{tmp_path}/new.db")

    assert (1, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert "post-purchase db upgrade" in done.err


@pytest.mark.parametrize("words", ["list", "stats", "tickets", "dispatch", "sweep", "upkeep --once", "db current"])
def test_no_credentials_are_needed_to_look_after_commands(run, tmp_path, sqlite_url, words):
    """Whoever looks at the books needs no key to the till."""
    own = tmp_path / "own.toml"
    own.write_text(
        f'database.url = "{sqlite_url}"\nbroker.url = "memory://"\n'
        '[accounts.klarna-eu]\nprovider = "klarna"\nregion = "eu"\nenvironment = "production"\n'
        'username_file = "no-such-file"\npassword_file = "no-such-file"\n',
        encoding="utf-8",
    )

    assert 0 == run("--profile", own, *words.split()).code


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    """Hiding the unexpected would make it unfindable."""
    monkeypatch.setattr("worker.service.inspect.stats", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run("stats")


def test_a_reader_that_has_seen_enough_harms_nothing(start, services, stored):
    """`post-purchase list | head -1` is what people do; it is no failure of anything."""
    for number in range(3):
        stored(order_id=f"order-{number}", reference=f"r-{number}")
    process = start("list", "--json")

    process.stdout.close()

    assert "" == process.stderr.read()
    assert 0 == process.wait(60)


def test_the_result_is_alone_on_stdout(run, capture, file):
    """Scripts parse stdout; a log line in it would break them one day at random."""
    done = run("enqueue", file(capture()), "--json", BROKER__URL="redis://127.0.0.1:1/0")

    assert 1 == len(json.loads(done.out))
    assert "publish.failed" in done.err
