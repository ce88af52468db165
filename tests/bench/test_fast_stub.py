from __future__ import annotations

import json

import pytest

from bench.fast_stub import Counted
from bench.machinery import Stub


@pytest.fixture
def counted():
    return Counted()


def request(key, name="Klarna-Idempotency-Key"):
    return f"POST /ordermanagement/v1/orders/o/captures HTTP/1.1\r\n{name}: {key}\r\nContent-Length: 2\r\n".encode()


def status(answer):
    return int(answer.split(b" ")[1])


def test_a_key_has_one_effect(counted):
    """The provider's own count is the judge of every contestant."""
    answers = [status(counted.answer(request(key))) for key in ("a", "b", "a")]

    assert [201, 201, 201] == answers
    assert (3, 2, 1) == (counted.calls, len(counted.effects), counted.repeated)


@pytest.mark.parametrize("name", ["Klarna-Idempotency-Key", "Idempotency-Key", "idempotency-key"])
def test_a_key_is_found_however_its_header_is_written(counted, name):
    """Contestants use different clients, and a key that is overlooked would look like a lost command."""
    counted.answer(request("a", name))

    assert [b"a"] == list(counted.effects)


def test_a_call_that_fails_has_no_effect(counted):
    """A retry after it is no repeat."""
    counted.control(b"set", json.dumps({"failures": 2}).encode())

    answers = [status(counted.answer(request("a"))) for _ in range(3)]

    assert [503, 503, 201] == answers
    assert (1, 0) == (len(counted.effects), counted.repeated)


def test_a_reset_forgets_what_came_in(counted):
    """The next contestant begins with an empty provider."""
    counted.answer(request("a"))

    counted.control(b"reset", b"")

    assert {"calls": 0, "effects": 0, "repeated": 0} == {
        name: value for name, value in counted.control(b"count", b"").items() if name != "at"
    }


@pytest.mark.slow
def test_the_bench_can_ask_it_for_what_came_in():
    """It is another process: what it counted has to come out of it."""
    stub = Stub(0.0, module="bench.fast_stub")
    stub.start()
    try:
        stub.ask("set", latency=0.01, is_logged=True)

        told = stub.ask("count")
    finally:
        stub.stop()

    assert 0 == told["calls"]
