"""Quotas in a real server: what a flush, a stop and many processes at once do to them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time as real_time
from pathlib import Path

import pytest
import redis

import worker
from worker.domain.quota import Observation, QuotaPolicy
from worker.limits.local import LocalPlace
from worker.limits.redis import RedisPlace
from worker.ports import LimiterUnavailable, Want

pytestmark = pytest.mark.slow

CHECKOUT = Path(worker.__file__).parent.parent

#: A process that asks for as much as it can get, and prints the moment of each slot on the server's clock.
GREEDY = """
import json, random, sys, time
from worker.domain.quota import AccountRates, Quota, RateTable
from worker.limits.limiter import Limiter, Terms
from worker.limits.redis import RedisPlace
from worker.ports import Want
url, seconds = sys.argv[1], float(sys.argv[2])
table = RateTable(name="t", category_by_kind={"*": "c"}, has_levels=True,
                  quota_by_category={"c": Quota(partner=50, acquiring_partner=200)})
accounts = {name: AccountRates(account=name, host="h", table=table, acquiring_partner="a")
            for name in ("shop-1", "shop-2", "shop-3", "shop-4", "shop-5")}
terms = Terms(near=1.0, use=0.97, headroom=0.2, keep=600, base=0.1, cap=60, away=0.2, alarm=30)
limiter = Limiter(place=RedisPlace(url, prefix="many:", timeout=2.0), accounts=accounts, terms=terms,
                  monotonic=time.monotonic, chance=random.random)
ends = time.monotonic() + seconds
sent = []
print("ready", flush=True)
sys.stdin.readline()
while time.monotonic() < ends:
    for grant in limiter.reserve([Want(account=name, kind="capture", count=20) for name in accounts]):
        sent += [(cell, grant.want.account) for cell in grant.cells]
    time.sleep(random.uniform(0.02, 0.08))
print(json.dumps(sent))
"""


@pytest.fixture
def place(server):
    made = RedisPlace(server.url, prefix="pp:", timeout=2.0)
    yield made
    made.close()


@pytest.fixture
def limiter(new_limiter, place, published):
    return new_limiter(place, published["production"], partner=None, monotonic=real_time.monotonic)


@pytest.fixture
def look(server):
    client = redis.Redis.from_url(server.url)
    yield client
    client.close()


def ask(limiter, count=100):
    (grant,) = limiter.reserve([Want(account="shop", kind="capture", count=count)])

    return grant


def test_keys_carry_the_prefix_and_go_by_themselves(limiter, look):
    """A Redis is shared with others, and an account that is gone must not stay in it for ever."""
    ask(limiter)

    keys = look.keys("*")

    assert [b"pp:rate:api.example/partner/shop/capture"] == keys
    assert 60 <= look.ttl(keys[0]) <= 70


def test_what_was_learned_stays_longer(limiter, look):
    """It must outlive the night between two days of business hours' worth of restarts."""
    policies = (QuotaPolicy(quota=10, window_seconds=1, name="account_capture"),)
    limiter.observe("shop", "capture", Observation(policies=policies))

    assert look.ttl("pp:rate:api.example/partner/shop/capture") > 1_200


def test_a_script_that_was_flushed_is_loaded_again(limiter, look):
    """A fail-over to a replica loses the scripts, and nobody may notice."""
    ask(limiter, count=1)
    look.script_flush()

    assert 1 == len(ask(limiter, count=1).slots)


def test_a_flush_costs_no_more_than_a_seconds_worth(limiter, look):
    """What was handed out for the coming second is forgotten, and that is all."""
    before = ask(limiter)
    look.flushall()
    after = [ask(limiter) for _ in range(3)]

    assert 44 <= len(before.slots) <= 46
    assert sum(len(grant.slots) for grant in after) <= 51


def test_a_server_that_stops_defers_all_and_one_that_returns_goes_on(new_limiter, place, published, server):
    """The written choice: nothing is sent at a guess, and nobody has to restart a worker."""
    clock = [0.0]
    limiter = new_limiter(place, published["production"], monotonic=lambda: clock[0])
    ask(limiter, count=1)

    server.stop()
    during = ask(limiter)
    server.start()
    clock[0] += 1.0
    after = ask(limiter, count=1)

    assert ((), 100) == (during.slots, len(during.later))
    assert 1 == len(after.slots)


def test_a_server_that_hangs_is_left_alone_after_its_time(new_limiter, published):
    """A black hole costs the time-out, once a moment, and not the lease."""
    place = RedisPlace("redis://127.0.0.1:1/0", prefix="pp:", timeout=0.2)
    began = real_time.monotonic()

    with pytest.raises(LimiterUnavailable):
        place.carry_out(["a"], {"do": "look", "buckets": [{"quota": 1, "ceiling": -1}], "keep": 1_000})

    assert real_time.monotonic() - began < 1.5


@pytest.mark.parametrize("seed", range(4))
def test_the_script_and_the_arithmetic_are_equal(new_limiter, published, server, time, seed):
    """It stands in two languages, and whoever mends one must mend the other."""
    chance = random.Random(seed)
    drawn = [0.0]
    names = ("shop-1", "shop-2", "shop-3")
    table = published["production" if seed % 2 else "playground"]
    places = (
        LocalPlace(now=time.milliseconds),
        RedisPlace(server.url, prefix=f"equal-{seed}:", timeout=2.0, now=time.milliseconds),
    )
    both = [new_limiter(place, table, names=names, chance=lambda: drawn[0]) for place in places]
    held, given_back = [], []

    for _ in range(300):
        time.seconds += chance.choice([0, 0.005, 0.017, 0.04, 0.1, 0.4, 0.4, 9.0])
        drawn[0] = chance.random()
        account, kind = chance.choice(names), chance.choice(["capture", "refund"])
        match chance.choice(["ask", "ask", "ask", "ask", "learn", "throttle", "release"]):
            case "ask":
                wants = [
                    Want(account=each, kind=kind, count=chance.randint(1, 60))
                    for each in chance.sample(names, chance.randint(1, 3))
                ]
                here, there = ([_told(each) for each in limiter.reserve(wants)] for limiter in both)
                assert here == there
            case "learn":
                own, shared = (
                    QuotaPolicy(quota=chance.choice([0, 5, 70, 300]), window_seconds=1, name=f"{prefix}_{category}")
                    for prefix, category in (("account", "capture"), ("psp", "management"))
                )
                for limiter in both:
                    limiter.observe(account, kind, Observation(policies=(own, shared)))
            case "throttle":
                here, there = (limiter.throttled(account, kind, None) for limiter in both)
                assert here == pytest.approx(there)
            case "release":
                held.append([limiter.reserve([Want(account=account, kind=kind, count=9)])[0] for limiter in both])
                if len(held) > 2:  # by then others have taken later slots
                    given_back.append(held.pop(chance.randrange(3)))
                    for limiter, grant in zip(both, given_back[-1], strict=True):
                        limiter.release(grant, count=3)

    assert given_back
    here, there = ([_seen(line) for line in limiter.snapshot()] for limiter in both)
    assert here == there


def _told(grant):
    return tuple(round(each, 5) for each in (*grant.slots, -1, *grant.later, -1, grant.queue_seconds))


def _seen(line):
    numbers = (
        line.learned,
        line.in_force,
        line.used,
        line.ahead,
        line.throttled,
        line.still_seconds,
        line.queue_seconds,
    )

    return line.bucket.key, *(None if each is None else round(each, 5) for each in numbers)


def test_many_processes_never_exceed_a_quota_in_any_second(server):
    """On the server's clock, with real processes between whose turns anything may happen."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", GREEDY, server.url, "3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert "ready\n" == process.stdout.readline()
    sent = []
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        sent += json.loads(process.communicate(timeout=60)[0])

    def most(cells):
        """The most in any 50 cells of 20 ms, and one more for a window that begins within a cell."""
        counts = {cell: cells.count(cell) for cell in set(cells)}
        return max(sum(counts.get(cell + step, 0) for step in range(51)) for cell in counts)

    cells = [cell for cell, _ in sent]
    assert most(cells) <= 200
    for name in {name for _, name in sent}:
        assert most([cell for cell, who in sent if who == name]) <= 50
    whole = [cell for cell in cells if min(cells) + 50 <= cell < min(cells) + 150]
    assert len(whole) >= 0.95 * 2 * 200
