import time

import pytest

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
        pytest.param({"PROFILE": "sandbxo"}, "'sandbxo' is not a profile", id="an unknown profile"),
        pytest.param({"BROKER__URL": "localhost:6379"}, "must be a broker URL", id="a broker that is none"),
        pytest.param({"LEASE__SECONDS": "1"}, "lease.seconds", id="a lease shorter than its request"),
        pytest.param({"ACCOUNTS__KLARNA_EU__PASSWORD": ""}, "has no password", id="no credentials"),
        pytest.param({"TICKETS__DESK": "webhook"}, "tickets.webhook", id="a desk without an address"),
        pytest.param(
            {"DATABASE__URL": "sqlite:///empty.db"}, "Run `post-purchase db upgrade`", id="a database without a schema"
        ),
    ],
)
def test_a_worker_that_cannot_work_refuses_to_start(new_worker, changes, sentence):
    """A worker that starts with half of what it needs takes commands and cannot finish them."""
    began = time.monotonic()
    worker = new_worker(**changes)

    code = worker.ended(within=30)

    took = time.monotonic() - began
    assert 0 != code
    assert 1 == worker.log().count(sentence), worker.log()
    assert "Traceback" not in worker.log()
    assert took < QUICKLY
