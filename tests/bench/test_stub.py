from __future__ import annotations

import base64

import pytest

from bench import stub
from bench.stub import CATEGORIES, Provider


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
