import pytest
from sqlalchemy import create_engine, text

from worker.store import migrate

#: A person who has mistyped a setting does not wait for it longer than for any other command.
QUICKLY = 10.0


@pytest.fixture
def environment(sqlite_url, broker, sandbox, settings_for):
    return settings_for(sqlite_url, broker.url, sandbox.base_url)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"DATABSE__URL": "sqlite://"}, "did you mean POST_PURCHASE_DATABASE__URL?", id="an unknown setting"
        ),
        pytest.param({"ACCOUNTS__KLARNA_EU__PASSWORD": ""}, "has no password", id="no credentials"),
        pytest.param(
            {"DATABASE__URL": "sqlite:///empty.db"}, "Run `post-purchase db upgrade`", id="a database without a schema"
        ),
    ],
)
def test_a_worker_that_cannot_work_refuses_to_start(new_worker, changes, sentence):
    """A worker that starts with half of what it needs takes commands and cannot finish them."""
    worker = new_worker(**changes)

    code = worker.ended(within=QUICKLY)

    assert 0 != code
    assert 1 == worker.log().count(sentence), worker.log()
    assert "Traceback" not in worker.log()


def test_a_worker_refuses_a_schema_newer_than_itself(new_worker, sqlite_url):
    """After a deployment was rolled back, old code would write rows that the new schema means differently."""
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608  # a constant
    engine.dispose()
    worker = new_worker()

    code = worker.ended(within=QUICKLY)

    [line] = worker.lines("worker.not_started")
    assert 2 == code
    assert "install the version that made it" in line["problem"]


def test_a_worker_whose_broker_does_not_come_says_how_to_mend_it(new_worker):
    """It could wait for ever; a supervisor's log with the fix in it is what wakes somebody."""
    worker = new_worker(BROKER__URL="redis://127.0.0.1:1/0", DATABASE__PATIENCE_SECONDS="3")

    code = worker.ended(within=20)

    [line] = worker.lines("worker.not_started")
    assert 2 == code
    assert worker.lines("broker.awaited")
    assert "broker.url" in line["fix"]
    assert "Traceback" not in worker.log()
