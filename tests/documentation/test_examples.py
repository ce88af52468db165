"""What the pages show works as it stands: settings load, code runs, and the ways out lead out."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import sqlite3
import tomllib
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData
from typer.testing import CliRunner

from worker import Capture, IdempotencyConflict
from worker.cli import app
from worker.config import SETTINGS, environment_name, load
from worker.resources import migrations_dir
from worker.sandbox import Sandbox
from worker.store import migrate
from worker.store.engine import build_engine
from worker.testing import FollowedClock, Rehearsal

ROOT = Path(__file__).resolve().parents[2]

ACCOUNTS = {"klarna-eu": "klarna", "bluesnap-us": "bluesnap"}


def blocks(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")

    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def assigned(block):
    """What a block of a shell puts into the environment; what only the reader knows is given an example's value."""
    pairs = (word.partition("=") for line in block.splitlines() for word in shlex.split(line, comments=True))

    return {name: value.replace("//…", "//db.internal/shop") for name, sign, value in pairs if sign and name.isupper()}


@pytest.fixture
def secrets(tmp_path):
    """Files instead of those that a page names under `/run/secrets`."""

    def at(environ):
        for name, value in environ.items():
            if name.endswith("_FILE"):
                (tmp_path / Path(value).name).write_text("a secret", encoding="utf-8")
        return {
            name: str(tmp_path / Path(value).name) if name.endswith("_FILE") else value
            for name, value in environ.items()
        }

    return at


@pytest.fixture
def engine_at():
    made = []

    def at(url):
        wait = timedelta(seconds=5)
        made.append(build_engine(url, pool_size=1, busy_timeout=wait, connect_timeout=wait, statement_timeout=wait))
        return made[-1]

    yield at
    for each in made:
        each.dispose()


@pytest.fixture
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.fixture
def command_line():
    """Runs a line of a page on a database, with what only the reader knows filled in."""

    def call(line, url, **filled):
        words = [filled.get(word, word) for word in shlex.split(line)]
        told = {"POST_PURCHASE_PROFILE": "test", "POST_PURCHASE_DATABASE__URL": url}
        done = CliRunner(env=told).invoke(app, words[1:], prog_name="post-purchase", catch_exceptions=False)
        assert 0 == done.exit_code, done.stderr
        return done.stdout

    return call


# --- settings


@pytest.mark.parametrize("page", ["README.md", "docs/deploy.md"])
def test_the_environment_that_a_page_shows_starts_a_worker(page, secrets):
    """It is the first thing that is copied, and a worker with half of it ends at once."""
    [shown] = [each for each in map(assigned, blocks(page, "sh")) if "POST_PURCHASE_PROFILE" in each]

    settings = load(environ=secrets(shown))

    assert ("production", ["klarna-eu"]) == (settings.profile, list(settings.accounts))


def test_the_accounts_that_the_page_shows_are_read(tmp_path, secrets):
    """They are laid over a profile of the reader's own."""
    shown = [tomllib.loads(each)["accounts"] for each in blocks("docs/configuration.md", "toml")]
    accounts = {name: secrets_in(account, secrets) for each in shown for name, account in each.items()}
    login = {"username": "shop", "password": "a secret"}
    overrides = {
        "database.url": "postgresql://db.internal/shop",
        "broker.url": "rediss://redis.internal",
        "accounts": {
            name: account if "username_file" in account else {**account, **login} for name, account in accounts.items()
        },
    }

    settings = load("production", environ={}, overrides=overrides)

    assert {"klarna-eu", "bluesnap-us", "shop-7"} == set(settings.accounts)


def secrets_in(account, secrets):
    in_capitals = secrets({name.upper(): value for name, value in account.items()})

    return {name.lower(): value for name, value in in_capitals.items()}


def test_the_override_for_compose_names_what_is_there():
    """Compose takes a service or a variable that nobody knows without a word."""
    [override] = blocks("docs/deploy.md", "yaml")
    services = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").partition("\nservices:\n")[2]
    known = set(map(environment_name, SETTINGS))

    named = re.findall(r"^  ([a-z-]+):$", override, re.MULTILINE)
    told = re.findall(r"^      ([A-Z_]+): \S+$", override, re.MULTILINE)

    assert named
    assert [] == [each for each in named if f"\n  {each}:\n" not in services]
    assert ["POST_PURCHASE_DATABASE__URL", "POST_PURCHASE_BROKER__URL"] == told
    assert set(told) <= known


def test_the_unit_for_systemd_starts_and_stops_a_worker_as_the_page_says():
    """A unit with a shorter patience kills calls in flight at each deployment."""
    [shown] = blocks("docs/deploy.md", "ini")
    unit = configparser.ConfigParser()
    unit.optionxform = str
    unit.read_string(shown)
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())
    settings = load("production", environ={}, overrides=NOTHING_CONNECTED, require_credentials=False).http

    service = unit["Service"]

    assert service["ExecStart"].endswith(f"/{procfile['worker']}")
    assert ("mixed", "always") == (service["KillMode"], service["Restart"])
    assert int(service["TimeoutStopSec"]) > settings.connect_timeout_seconds + settings.total_timeout_seconds + 30


NOTHING_CONNECTED = {"database.url": "postgresql://db.internal/shop", "broker.url": "rediss://redis.internal"}


# --- code


def test_the_code_of_the_front_page_stores_and_captures(engine_at, sqlite_url, sandbox):
    """It is what people judge the whole by."""
    engine = engine_at(sqlite_url)
    orders = [sandbox.create_order(amount=12900, currency="EUR")["order_id"]]
    names = {
        "engine": engine,
        "mark_as_sent": lambda connection, _parcel: connection.exec_driver_sql("SELECT 1"),
        "parcel": SimpleNamespace(id=7),
        "order": SimpleNamespace(klarna_order_id=orders[0]),
    }
    with Rehearsal(engine, sandbox=sandbox, clock=FollowedClock(sandbox), accounts=ACCOUNTS) as rehearsal:
        storing, bluesnap = blocks("README.md", "python")
        exec(storing, names)  # noqa: S102  # the page's own example
        with engine.begin() as names["connection"]:
            exec(bluesnap, names)  # noqa: S102  # the page's own example

        first, second = rehearsal.commands()
        rehearsal.run(until="now")
        with pytest.raises(IdempotencyConflict), engine.begin() as names["connection"]:
            exec(storing.partition("with engine")[0] + OTHERWISE, names)  # noqa: S102  # as its text promises

        assert "succeeded" == rehearsal.state(first.id)
        assert ("parcel-7", 12900, "bluesnap-us") == (first.reference, first.amount, second.account)


OTHERWISE = """
capture = Capture(account="klarna-eu", order_id=order.klarna_order_id, amount=1, reference=f"parcel-{parcel.id}")
enqueue(connection, capture)
"""


def test_the_filter_for_another_alembic_leaves_our_tables_alone(engine_at, sqlite_url):
    """Without it the host's next migration drops every payment."""
    [code] = blocks("docs/hosting.md", "python")
    given = {}
    names = {"context": SimpleNamespace(configure=lambda *_, **options: given.update(options))}

    exec(code, names)  # noqa: S102  # the page's own example
    with engine_at(sqlite_url).connect() as connection:
        seen = [
            compare_metadata(MigrationContext.configure(connection, opts=options), MetaData())
            for options in ({}, given)
        ]

    assert "post_purchase_command" in str(seen[0])
    assert [] == seen[1]


# --- what is typed, and comes back


def test_the_first_lines_of_the_command_line_say_what_the_page_says(command_line, tmp_path):
    """What a reader sees at once is what they compare."""
    first, said = blocks("docs/command-line.md", "console")[0].splitlines()[:2]

    answer = command_line(first.removeprefix("$ "), f"sqlite:///{tmp_path}/new.db")

    assert said == answer.strip()
    assert said.endswith(migrate.newest(migrations_dir()))


def test_the_line_that_is_shown_for_enqueue_is_taken(command_line, sqlite_url, tmp_path):
    """The format of a file is learned from its example."""
    [line] = blocks("docs/command-line.md", "json")
    file = tmp_path / "orders.jsonl"
    file.write_text(line, encoding="utf-8")

    [stored] = json.loads(command_line("post-purchase enqueue FILE --json", sqlite_url, FILE=str(file)))

    assert ("capture", True) == (stored["kind"], stored["was_stored"])


def test_after_a_disaster_what_was_sent_since_the_backup_is_not_paid_twice(command_line, engine_at, sandbox, tmp_path):
    """A backup does not know what was sent after it was made; the page's steps are what stands between."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").partition("## Recover from a disaster")[2]
    pause, look = (re.search(rf"`(post-purchase {verb} [^`]+)`", page)[1] for verb in ("pause", "list"))
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    command_line("post-purchase db upgrade", f"sqlite:///{live}")
    clock, order = FollowedClock(sandbox), sandbox.create_order(amount=1000)["order_id"]
    with Rehearsal(engine_at(f"sqlite:///{live}"), sandbox=sandbox, clock=clock, accounts=ACCOUNTS) as rehearsal:
        rehearsal.enqueue(Capture(account="klarna-eu", order_id=order, amount=1000, reference="parcel-1"))
        with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
        rehearsal.run(until="final")
    sent = len(sandbox.requests())

    url = f"sqlite:///{backup}"
    command_line("post-purchase db upgrade", url)
    command_line(pause, url, ACCOUNT="klarna-eu", NAME="on call")
    with Rehearsal(engine_at(url), sandbox=sandbox, clock=clock, accounts=ACCOUNTS) as rehearsal:
        rehearsal.run(until="now")
        while_paused = len(sandbox.requests())
        [waiting] = json.loads(command_line(look, url))
        command_line("post-purchase resume klarna-eu --by 'on call' --reason 'looked up'", url)
        rehearsal.run(until="final")

        assert (sent, "pending", True) == (while_paused, waiting["state"], waiting["keyed"])
        assert ["succeeded"] == [each.state for each in rehearsal.commands()]
    assert sent < len(sandbox.requests())
    assert 1 == len(sandbox.effects())
