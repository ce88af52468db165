"""The bookshop's web process and its own Celery worker, on PostgreSQL and a real broker."""

import json
import signal
import sys
from collections import Counter

import pytest
from sqlalchemy import create_engine, select

from worker.store.schema import command

WORKER = (
    *("celery", "--app", "bookshop.celery_app", "worker", "--loglevel", "INFO", "--concurrency", "2"),
    *("--queues", "bookshop,post-purchase.execute,post-purchase.upkeep"),
)

#: A web process that dies the moment its commit is done and before its message leaves.
DIES = """
import os, signal
from bookshop import create_app
from bookshop.extensions import db
from bookshop.models import Order

app = create_app()
publisher = app.extensions["post_purchase"].host.services().publisher
publisher.execute = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with app.app_context():
    db.session.add(Order(id=1, klarna_id="k-1", amount=1000))
    db.session.commit()
app.test_client().post("/orders/1/ship")
"""

#: A web process in which somebody orders and the parcel leaves.
SHIPS = """
from bookshop import create_app

client = create_app().test_client()
number = client.post("/orders", json={"klarna_id": "k-1", "amount": 1000}).json["order"]
print(client.post(f"/orders/{number}/ship").text)
"""


@pytest.fixture
def told(environment, test_settings, call, postgresql_url):
    """What every process of the bookshop is told; its own tables are there."""
    told = {**environment, **test_settings}
    done = call("flask", "--app", "bookshop", "db", "upgrade", environment=told)
    assert 0 == done.returncode, done.stderr

    return told


@pytest.fixture
def states(postgresql_url):
    engine = create_engine(postgresql_url)

    def states():
        with engine.connect() as connection:
            return Counter(connection.scalars(select(command.c.state)))

    yield states
    engine.dispose()


@pytest.fixture
def orders(call, told):
    """The bookshop's orders, as it sees them."""
    code = """
import json
from bookshop import create_app
from bookshop.extensions import db
from bookshop.models import Order
with create_app().app_context():
    print(json.dumps([[each.is_shipped, each.mailed_from] for each in db.session.scalars(db.select(Order))]))
"""

    return lambda: json.loads(call(sys.executable, "-c", code, environment=told).stdout)


def test_the_bookshops_worker_captures_and_mails(told, call, start, states, orders, sandbox, until):
    """One worker does both: our command from our queue, its own mail from its own."""
    worker = start(*WORKER, environment=told)
    until(lambda: worker.said(" ready."), tell=worker.log)

    done = call(sys.executable, "-c", SHIPS, environment=told)

    assert "pending" == json.loads(done.stdout)["state"], done.stderr
    until(lambda: states() == {"succeeded": 1}, tell=worker.log)
    mailed = until(lambda: orders()[0][1], tell=worker.log)
    assert "bookshop" == mailed
    assert ["k-1"] == [each["order_id"] for each in sandbox.effects()]


def test_a_web_process_killed_between_commit_and_publish_loses_nothing(
    told, call, start, states, orders, sandbox, until
):
    """The order says shipped, so the money must come; dispatch hands over what nobody was told of."""
    done = call(sys.executable, "-c", DIES, environment=told)
    assert -signal.SIGKILL == done.returncode, done.stderr
    assert {"pending": 1} == states()
    assert [[True, None]] == orders()

    worker = start(*WORKER, environment=told)
    until(lambda: states() == {"succeeded": 1}, tell=worker.log)

    assert ["k-1"] == [each["order_id"] for each in sandbox.effects()]
