"""The bookshop's migrations and ours on one database, neither aware of the other."""

import json

import pytest
from sqlalchemy import column, create_engine, inspect, select, table

from worker.resources import migrations_dir
from worker.store.migrate import newest

#: For what is asked of the tables that are there in the end, however they came to be.
ONE_ORDER = pytest.mark.parametrize("migrated", ["theirs first"], indirect=True)

FLASK = ("flask", "--app", "bookshop")

#: What the bookshop's own comparison would do to our tables if it were not told to leave them alone.
UNTOLD = """
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from bookshop import create_app
from bookshop.extensions import db
with create_app().app_context(), db.engine.connect() as connection:
    for change in compare_metadata(MigrationContext.configure(connection), db.metadata):
        print(change[0], getattr(change[1], "name", ""))
"""


@pytest.fixture
def flask(call, environment, test_settings):
    def flask(*words):
        done = call(*FLASK, *words, environment={**environment, **test_settings})
        assert 0 == done.returncode, done.stdout + done.stderr

        return done.stdout + done.stderr

    return flask


@pytest.fixture(scope="module")
def databases():
    """What the migrations made, by the order in which they ran: each takes two processes and some seconds."""
    return {}


@pytest.fixture(params=["ours first", "theirs first"])
def migrated(request, flask, folder, databases):
    """Both schemas on one database, in either order."""
    file = folder / "instance" / "bookshop.db"
    if request.param not in databases:
        steps = [("post-purchase", "db", "upgrade"), ("db", "upgrade")]
        for words in steps if request.param == "ours first" else steps[::-1]:
            flask(*words)
        databases[request.param] = file.read_bytes()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(databases[request.param])


@pytest.fixture
def tables(environment, folder):
    """The tables of the database, with the version in those that hold one."""

    def tables():
        engine = create_engine(
            environment.get("FLASK_SQLALCHEMY_DATABASE_URI", f"sqlite:///{folder}/instance/bookshop.db")
        )
        with engine.connect() as connection:
            names = inspect(connection).get_table_names()
            versions = {
                name: connection.scalar(select(column("version_num")).select_from(table(name)))
                for name in names
                if "version" in name
            }
        engine.dispose()

        return dict.fromkeys(names) | versions

    return tables


def test_each_side_keeps_a_version_of_its_own(migrated, tables):
    """One number for two histories would send one of them astray."""
    found = tables()

    assert ("1000", newest(migrations_dir())) == (found["alembic_version"], found["post_purchase_schema_version"])


@ONE_ORDER
def test_the_bookshops_autogenerate_leaves_our_tables_alone(migrated, flask, call, environment, test_settings):
    """Without being told, the next `flask db migrate` would drop every payment."""
    untold = call("python", "-c", UNTOLD, environment={**environment, **test_settings}).stdout

    checked = flask("db", "check")

    assert "remove_table post_purchase_command" in untold
    assert "No new upgrade operations detected" in checked


@ONE_ORDER
def test_a_new_migration_of_the_bookshops_holds_nothing_of_ours(migrated, flask, folder):
    """What autogenerate writes is applied by people who read only half of it."""
    with (folder / "bookshop" / "models.py").open("a") as models:
        models.write("    note: Mapped[str | None]\n")

    flask("db", "migrate", "--message", "notes", "--rev-id", "1001")

    [written] = (folder / "migrations" / "versions").glob("1001_*.py")
    assert "'note'" in written.read_text()
    assert "post_purchase" not in written.read_text()


def test_the_bookshop_can_take_its_own_back(migrated, flask, tables):
    """Each side goes up and down by itself."""
    flask("db", "downgrade", "base")

    assert "bookshop_order" not in tables()
    assert newest(migrations_dir()) == tables()["post_purchase_schema_version"]
    assert json.loads(flask("post-purchase", "db", "check", "--json").splitlines()[0])["fits"]
