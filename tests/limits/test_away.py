"""What becomes of commands while the place where quotas are shared cannot be reached."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from worker.domain.quota import Observation, QuotaPolicy
from worker.ports import LimiterUnavailable, Want


class Away:
    """A place that cannot be reached until it is back."""

    def __init__(self, place):
        self.place, self.is_away, self.asked = place, True, 0

    def carry_out(self, keys, order):
        self.asked += 1
        if self.is_away:
            raise LimiterUnavailable("connection refused")
        return self.place.carry_out(keys, order)

    def close(self):
        pass


@pytest.fixture
def place(local_place):
    return Away(local_place)


@pytest.fixture
def limiter(new_limiter, place, published):
    return new_limiter(place, published["production"])


def ask(limiter, count=3):
    (grant,) = limiter.reserve([Want(account="shop", kind="capture", count=count)])

    return grant


def test_nothing_is_sent_and_everything_comes_back_in_a_moment(limiter):
    """Nobody knows what the other processes send, so nobody sends: a guess would flood the provider."""
    grant = ask(limiter, count=100)

    assert () == grant.slots
    assert 100 == len(set(grant.later))
    assert 1.0 <= min(grant.later) <= max(grant.later) < 2.0


def test_the_place_is_not_asked_with_every_breath(limiter, place, time):
    """Each try costs a time-out, and a batch must not stand still for two hundred of them."""
    for _ in range(100):
        ask(limiter)
    at_once = place.asked
    time.seconds += 0.6
    ask(limiter)

    assert (1, 2) == (at_once, place.asked)


def test_it_is_said_once_and_after_a_while_loudly(limiter, time):
    """A blip of a second wakes nobody; half a minute without payments does."""
    with capture_logs() as lines:
        for _ in range(60):
            ask(limiter)
            time.seconds += 1.0

    assert [("limiter.away", "warning"), ("limiter.still_away", "error")] == [
        (line["event"], line["log_level"]) for line in lines
    ]
    assert "limits.place" in lines[1]["fix"]


def test_when_it_is_back_all_goes_on(limiter, place, time):
    """And it is said, so that whoever was woken may sleep."""
    ask(limiter)
    place.is_away = False
    time.seconds += 1.0

    with capture_logs() as lines:
        grant = ask(limiter)

    assert 3 == len(grant.slots)
    assert ["limiter.back"] == [line["event"] for line in lines]


def test_answers_are_not_held_up_by_it(limiter):
    """An answer that came must be recorded, whatever becomes of what it says of the quota."""
    policies = (QuotaPolicy(quota=10, window_seconds=1, name="account_capture"),)

    limiter.observe("shop", "capture", Observation(policies=policies))
    limiter.release(ask(limiter), count=1)
    wait = limiter.throttled("shop", "capture", None)

    assert 1.0 <= wait < 2.0


def test_a_look_says_that_it_is_away(limiter):
    """Whoever looks wants to know, and not to read made-up numbers."""
    with pytest.raises(LimiterUnavailable, match="connection refused"):
        limiter.snapshot()


def test_rubbish_in_the_headers_is_told_once(limiter):
    """One line says that the provider speaks a new language; one for each answer would drown it."""
    with capture_logs() as lines:
        for _ in range(50):
            limiter.observe("shop", "capture", Observation(unread=("forty",)))

    assert [("quota.unread", ["forty"])] == [(line["event"], line["pieces"]) for line in lines]


def test_what_is_known_is_not_told_again(limiter, place, time):
    """Every answer of a provider repeats its quotas, and a question a second must not become two hundred."""
    place.is_away = False
    same = Observation(policies=(QuotaPolicy(quota=50, window_seconds=1, name="account_capture"),))
    lower = Observation(policies=(QuotaPolicy(quota=20, window_seconds=1, name="account_capture"),))
    counts = []
    for observation in (same, lower):
        before = place.asked
        for _ in range(200):
            limiter.observe("shop", "capture", observation)
        counts.append(place.asked - before)
    time.seconds += 200
    limiter.observe("shop", "capture", lower)

    assert [0, 1] == counts
    assert 2 == place.asked
