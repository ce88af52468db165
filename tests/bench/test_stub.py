from __future__ import annotations

import asyncio
import base64
import json

import pytest

from bench import stub
from bench.stub import CATEGORIES, ERROR, HANGS, Provider

PATH = b"/ordermanagement/v1/orders/o"


@pytest.fixture
def now(monkeypatch):
    """Seconds that pass when told to."""
    moment = [1_000.0]
    monkeypatch.setattr(stub.time, "time", lambda: moment[0])

    return moment


@pytest.fixture
def provider(now):
    return Provider(latency=0.0, quotas={CATEGORIES[0]: [2, 3]})


@pytest.fixture
def capture(provider):
    """Ask for a capture; the status."""
    numbers = iter(range(1_000))

    def capture(account="shop-1", key=None, order="o"):
        user = base64.b64encode(f"bench+{account}:bench".encode())
        headers = {
            b"authorization": b"Basic " + user,
            b"klarna-idempotency-key": (key or f"key-{next(numbers)}").encode(),
        }

        path = f"/ordermanagement/v1/orders/{order}/captures".encode()

        return provider.answer(b"POST", path, headers, b'{"captured_amount": 100, "reference": "r"}')

    return capture


def status(answer):
    return int(answer.split(b" ")[1])


def test_the_window_of_a_quota_slides(now, capture):
    """A window that begins anew with each second would let twice the quota through around its edge."""
    first = [status(capture()) for _ in range(3)]
    now[0] += 0.9
    second = status(capture())
    now[0] += 0.1
    third = [status(capture()) for _ in range(3)]

    assert [201, 201, 429] == first
    assert 429 == second
    assert [201, 201, 429] == third


def test_what_is_too_many_for_the_acquiring_partner_is_refused_to_each(capture):
    """It is the second level that five partners share."""
    assert [201, 201, 201, 429] == [status(capture(account)) for account in ("a", "a", "b", "b")]


def test_the_headers_say_what_the_provider_s_own_say(capture):
    """The worker learns from them, so their form is part of the measurement."""
    answer = capture().decode()

    assert f'X-Ratelimit-Limit: 2, 2;w=1;name="account_{CATEGORIES[0]}",3;w=1;name="psp_{CATEGORIES[0]}"' in answer
    assert "X-Ratelimit-Remaining: 1\r\nX-Ratelimit-Reset: 1" in answer


def test_a_key_that_is_carried_out_twice_is_counted(provider, capture):
    """That nothing was doubled is only known if somebody would have seen it."""
    capture(key="same")
    capture(key="same")

    assert 1 == provider.repeated


def test_what_hangs_is_never_answered_and_half_of_it_is_carried_out(provider, capture):
    """That a lost answer was carried out or not is the doubt that a key is there for."""
    provider.down = HANGS

    answers = [capture(order=f"o-{number}") for number in range(4)]

    assert [None] * 4 == answers
    assert (4, 2) == (len(provider.ill), len(provider.effects))


def test_503_carries_nothing_out(provider, capture):
    """It is the other half of the doubt."""
    provider.down = ERROR

    assert (503, 0) == (status(capture()), len(provider.effects))


def test_a_key_that_was_carried_out_before_is_no_second_effect(provider, capture):
    """A repeat under its key is what a provider forgives; one order with two effects of two keys is what it is not."""
    capture(key="same")
    capture(key="same")
    before = json.loads(provider.tell(b"/-/log", b"").partition(b"\r\n\r\n")[2])
    capture(account="shop-2", key="another")

    after = json.loads(provider.tell(b"/-/log", b"").partition(b"\r\n\r\n")[2])

    assert (1, 0) == (before["repeated"], before["doubled"])
    assert (1, 1) == (after["repeated"], after["doubled"])


def test_a_read_shows_what_was_carried_out_and_is_counted_while_it_is_down(provider, capture):
    """A probe is a read, and no send; and a read-back must find what is there."""
    capture()
    shown = json.loads(provider.answer(b"GET", PATH, {}).partition(b"\r\n\r\n")[2])
    provider.down = HANGS

    unanswered = provider.answer(b"GET", PATH, {})

    assert (100, ["r"]) == (shown["captured_amount"], [each["reference"] for each in shown["captures"]])
    assert unanswered is None
    assert [True, False] == [was_answered for _, was_answered in provider.reads]
    assert 1 == len(provider.rows)


def test_a_port_that_refuses_is_nobody_elses_and_opens_again():
    """Whoever else got its number meanwhile would be taken for the provider."""

    async def play():
        provider = Provider(latency=0.0)
        site = stub._Site(provider, 0)
        await site.open_or_close()
        first = await is_open(site.port)
        await site.tell(b"/-/set", b'{"down": "refused"}')
        second = await is_open(site.port)
        await site.tell(b"/-/set", b'{"down": ""}')
        third = await is_open(site.port)
        await site.tell(b"/-/set", b'{"down": "refused"}')
        site.close()
        return [first, second, third]

    assert [True, False, True] == asyncio.run(play())


async def is_open(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
