from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from base64 import b64decode

import pytest
import redis
from sqlalchemy import create_engine

from worker import Capture
from worker.ports import Filter

#: What a caller may be made to wait for a broker that does not answer.
SLOW_SECONDS = 1.0
QUEUE = "post-purchase.execute"


def capture(number=1):
    return Capture(account="klarna-eu", order_id=f"order-{number}", amount=1000, reference="parcel")


@pytest.fixture
def engine_of_host(sqlite_url):
    engine = create_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def timed(engine_of_host):
    """Enqueue in a transaction of the host; return what came of it and how long the whole took."""

    def run(services, *commands):
        began = time.monotonic()
        with engine_of_host.begin() as connection:
            enqueued = services.enqueue(connection, commands)
        return enqueued, time.monotonic() - began

    return run


@pytest.fixture
def silent():
    """A port where somebody picks up and never says a word."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        kept = []

        def pick_up():
            while not ended.is_set():
                try:
                    kept.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=pick_up)
        thread.start()
        yield server.getsockname()[1]
        ended.set()
        thread.join()
        for each in kept:
            each.close()


@pytest.fixture
def absent():
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture(
    params=[
        pytest.param(("redis", "absent"), id="redis absent"),
        pytest.param(("redis", "silent"), id="redis silent"),
        pytest.param(("amqp", "absent"), id="rabbitmq absent"),
        pytest.param(("amqp", "silent"), id="rabbitmq silent"),
    ]
)
def no_broker(request):
    """The URL of a broker that does not answer."""
    scheme, port = request.param

    return f"{scheme}://127.0.0.1:{request.getfixturevalue(port)}//"


def stored(services):
    with services.store.read() as transaction:
        return list(transaction.listed(Filter(), limit=1_000))[::-1]


def test_a_message_with_nothing_but_the_id_lies_in_the_queue_after_the_commit(
    services_on, sqlite_url, broker_server, timed
):
    """Brokers are read by many; what a payment is about stays in the database."""
    prefix = f"{uuid.uuid4().hex}:"
    services = services_on(sqlite_url, **{"broker.url": broker_server, "broker.key_prefix": prefix})

    (enqueued,), _seconds = timed(services, capture())

    broker = redis.Redis.from_url(broker_server)
    assert 1 == broker.llen(prefix + QUEUE)
    message = json.loads(broker.lindex(prefix + QUEUE, 0))
    broker.close()
    assert [[[str(enqueued.id)]], {}] == json.loads(b64decode(message["body"]))[:2]
    assert message["headers"]["argsrepr"].startswith("capture klarna-eu order-1")
    assert b"captured_amount" not in b64decode(message["body"])


def test_nothing_lies_in_the_queue_after_a_rollback(services_on, sqlite_url, broker_server, engine_of_host):
    """The worker would look for a command that does not exist."""
    prefix = f"{uuid.uuid4().hex}:"
    services = services_on(sqlite_url, **{"broker.url": broker_server, "broker.key_prefix": prefix})

    with engine_of_host.connect() as connection:
        services.enqueue(connection, [capture()])
        connection.rollback()

    with redis.Redis.from_url(broker_server) as broker:
        assert [] == broker.keys(prefix + "*")


def test_a_broker_that_does_not_answer_neither_fails_nor_slows_the_caller(services_on, sqlite_url, timed, no_broker):
    """The shop's checkout hangs on this call; the command is safe in the database, and dispatch finds it."""
    services = services_on(sqlite_url, **{"broker.url": no_broker, "broker.publish_pause_seconds": 30})

    many, seconds = timed(services, *map(capture, range(10)))
    (further,), seconds_more = timed(services, capture(99))

    assert [each.id for each in [*many, further]] == [row.id for row in stored(services)]
    assert seconds < SLOW_SECONDS
    assert seconds_more < SLOW_SECONDS / 2
    # While publishing rests, dispatch must not be told that a message is on its way.
    assert (True, False) == (many[0].published, further.published)
    assert stored(services)[-1].published_until is None


def test_beyond_the_rate_of_single_messages_dispatch_is_left_to_it(services_on, sqlite_url, broker_server, timed):
    """A busy hour would stand at the broker's door for as long as it takes to write one message each."""
    prefix = f"{uuid.uuid4().hex}:"
    settings = {"broker.url": broker_server, "broker.key_prefix": prefix, "broker.publish_rate_per_second": 5}
    services = services_on(sqlite_url, **settings)

    enqueued = [timed(services, capture(number))[0][0] for number in range(60)]

    published = [each.id for each in enqueued if each.published]
    with redis.Redis.from_url(broker_server) as broker:
        assert len(published) == broker.llen(prefix + QUEUE)
    assert 5 <= len(published) < 50
    assert {each.id for each in enqueued} - set(published) == {
        row.id for row in stored(services) if row.published_until is None
    }


def test_many_at_once_are_left_to_dispatch(services_on, sqlite_url, broker_server, timed):
    """A night's import would pay for messages that wake nobody who is not awake already."""
    prefix = f"{uuid.uuid4().hex}:"
    services = services_on(sqlite_url, **{"broker.url": broker_server, "broker.key_prefix": prefix})

    enqueued, _seconds = timed(services, *map(capture, range(11)))

    assert {False} == {each.published for each in enqueued}
    with redis.Redis.from_url(broker_server) as broker:
        assert [] == broker.keys(prefix + "*")
