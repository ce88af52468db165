"""What the shipped stand-ins add to their ports: one clock for all, and no waiting."""

from __future__ import annotations

import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from worker.ports import Request
from worker.testing import ManualClock, RecordingPublisher, SandboxTransport

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock():
    return ManualClock(NOON)


@pytest.fixture
def transport(clock):
    made = SandboxTransport(clock=clock)
    yield made
    made.close()


@pytest.fixture
def order_id(transport):
    return transport.world.create_order()["order_id"]


@pytest.fixture
def start(order_id):
    def send(transport, *, key="the-key"):
        tag = uuid4()
        request = Request(
            method="POST",
            url=f"http://127.0.0.1/ordermanagement/v1/orders/{order_id}/captures",
            headers={"Klarna-Idempotency-Key": key},
            body=b'{"captured_amount":100}',
            authorization="Basic " + b64encode(b"sandbox:sandbox").decode(),
            repeatable=True,
        )
        transport.send(tag, request)
        transport.flush()

        return tag

    return send


def test_a_wait_moves_the_clock_and_takes_no_time(transport, clock, start):
    """A ladder of five hours is climbed in milliseconds."""
    transport.world.fault("hang")
    start(transport)
    began = time.monotonic()

    nothing = transport.collect(29.0)
    ((_, ended),) = transport.collect(29.0)

    assert ([], "no_answer") == (list(nothing), ended.code)
    assert NOON + timedelta(seconds=30) == clock.now
    assert time.monotonic() - began < 5


def test_a_wait_ends_with_the_first_answer(transport, clock, start):
    """Nobody waits longer than for what comes."""
    transport.world.fault("delay", seconds=2.5)
    start(transport)

    ((_, answer),) = transport.collect(29.0)

    assert 201 == answer.status
    assert timedelta(seconds=2.5) <= clock.now - NOON < timedelta(seconds=2.501)


def test_what_is_there_is_collected_without_a_wait(transport, clock, start):
    """The sandbox is as quick as the test wants it to be."""
    start(transport)

    assert 1 == len(transport.collect(0.0))
    assert NOON == clock.now


def test_an_answer_that_came_too_late_is_none_though_nobody_looked(transport, clock, start):
    """The time limit is the request's, not the looker's."""
    transport.world.fault("delay", seconds=40.0)
    start(transport)
    clock.advance(timedelta(minutes=1))

    ((_, ended),) = transport.collect(0.0)

    assert (True, "no_answer") == (ended.sent, ended.code)
    assert 1 == len(transport.world.effects())


def test_the_sandbox_goes_by_the_clock(transport, clock, start):
    """A key is honoured for a day, and a day is a step of the clock."""
    start(transport)
    clock.advance(timedelta(hours=23, minutes=59))
    start(transport)
    within = len(transport.world.effects())
    clock.advance(timedelta(hours=1))
    start(transport)

    assert (1, 2) == (within, len(transport.world.effects()))


def test_an_outage_may_end_by_itself(transport, clock, start):
    """On the clock, like everything."""
    transport.refuse_connections(20.0)
    start(transport)
    clock.advance(timedelta(seconds=20))
    start(transport)

    ended = [answer for _, answer in transport.collect(0.0)]

    assert ["connect_failed", 201] == [getattr(each, "code", None) or each.status for each in ended]


def test_a_connection_that_was_idle_for_long_is_not_used_again(transport, clock, start):
    """The provider closes it about then."""
    for key in ("first", "second"):
        start(transport, key=key)
        transport.collect(0.0)
    clock.advance(timedelta(seconds=46))
    start(transport, key="third")

    assert [1, 1, 2] == [each["connection"] for each in transport.world.requests()]


def test_two_workers_share_a_sandbox(transport, clock, start):
    """The second finds what the first has done."""
    other = SandboxTransport(transport.world, clock=clock)
    start(transport)
    start(other)

    ((_, first),), ((_, second),) = transport.collect(0.0), other.collect(0.0)
    other.close()

    assert first.headers["capture-id"] == second.headers["capture-id"]
    assert 1 == len(transport.world.effects())


def test_a_message_is_delivered_when_its_countdown_is_over(clock):
    """Not earlier, unless the test takes it out by hand."""
    publisher = RecordingPublisher(clock=clock)
    publisher.execute([uuid4()], label="later", countdown=5.0)
    publisher.execute([uuid4()], label="now")
    first = [each.label for each in publisher.deliver()]
    clock.advance(timedelta(seconds=5))

    assert (["now"], ["later"], []) == (first, [each.label for each in publisher.deliver()], publisher.deliver())
    assert ["later", "now"] == [each.label for each in publisher.sent]
