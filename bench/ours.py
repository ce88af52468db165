"""This worker as a contestant: its profile for a bench, and how commands are stored in it.

Decides the settings: the defaults, with an account whose quota is on but not binding and whose provider takes many
calls at once. What is measured is decided by the scenarios.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from worker import Capture
from worker.config import load
from worker.resources import migrations_dir
from worker.store import migrate
from worker.wiring import Services

ACCOUNT = "bench"

#: Far above what the machine can do, so that the limiter counts every send and holds none back.
QUOTA_PER_SECOND = 50_000

#: What the provider takes at once from one process, by the contract that the bench pretends to have.
MAX_IN_FLIGHT = 1_000

#: Commands of one transaction, where there are many.
_BATCH = 1_000

_RATES = f"""\
[own]
first = ["capture"]
max_in_flight = {MAX_IN_FLIGHT}

[own.categories]
"*" = "api"

[own.production]
api = {QUOTA_PER_SECOND}

[own.playground]
api = {QUOTA_PER_SECOND}
"""


def rates() -> str:
    """The file that `limits.rates_file` names."""
    return _RATES


def profile(*, database_url: str, redis_url: str, provider_url: str, rates_file: str) -> str:
    """The profile of a bench; everything else is as by default."""
    return f"""\
[database]
url = "{database_url}"

[broker]
url = "{redis_url}"

[log]
level = "warning"

[limits]
rates_file = "{rates_file}"

[http]
max_in_flight = {MAX_IN_FLIGHT}

[accounts.{ACCOUNT}]
provider = "klarna"
base_url = "{provider_url}"
username = "bench"
password = "bench"
environment = "production"
rate_table = "own"
max_in_flight = {MAX_IN_FLIGHT}
"""


class Contestant:
    """What `client` calls."""

    def __init__(self) -> None:
        self.services = Services(load(environ=os.environ))

    def prepare(self) -> None:
        """Make the tables."""
        migrate.upgrade(self.services.store.engine, migrations_dir())

    def store(self, keys: Sequence[str]) -> None:
        """Store many, as a host does that has many: some in each transaction."""
        for start in range(0, len(keys), _BATCH):
            with self.services.store.engine.begin() as connection:
                self.services.enqueue(connection, [capture(key) for key in keys[start : start + _BATCH]])

    def store_one(self, key: str) -> str:
        """Store one in a transaction of its own; return the key that the provider will see."""
        with self.services.store.engine.begin() as connection:
            [enqueued] = self.services.enqueue(connection, [capture(key)])

        return enqueued.idempotency_key


def capture(key: str) -> Capture:
    """A command about an order of its own."""
    return Capture(account=ACCOUNT, order_id=f"order-{key}", amount=1000, reference=f"parcel-{key}")
