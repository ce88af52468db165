from __future__ import annotations

import pytest

import worker
from worker.domain.quota import KindNotAllowed
from worker.limits.database import DatabasePlace
from worker.limits.local import LocalPlace
from worker.limits.redis import RedisPlace
from worker.wiring import _redis_url

REDIS = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("told", "place"),
    [
        pytest.param({"broker.url": REDIS}, RedisPlace, id="the broker's Redis"),
        pytest.param({"broker.url": "amqp://127.0.0.1:1"}, DatabasePlace, id="RabbitMQ"),
        pytest.param({"broker.url": "sentinel://127.0.0.1:1"}, DatabasePlace, id="sentinel"),
        pytest.param({"broker.url": "amqp://127.0.0.1:1", "limits.redis_url": REDIS}, RedisPlace, id="own Redis"),
        pytest.param({"broker.url": REDIS, "limits.place": "database"}, DatabasePlace, id="told: the database"),
        pytest.param({"broker.url": REDIS, "limits.place": "process"}, LocalPlace, id="told: one process"),
    ],
)
def test_quotas_are_shared_where_all_processes_meet(services, told, place):
    """In a process's own memory each would have the whole quota; only who is told so has it there."""
    assert isinstance(services(**told).limiter.place, place)


def test_quotas_count_at_the_data_centre_and_for_the_account(services):
    """The same account at another host is another bucket, and a path in its address makes none."""
    made = services(**{"accounts.klarna-eu.base_url": "https://api-na.klarna.com/x"})

    (bucket,) = made.rates["klarna-eu"].buckets("capture")

    assert ("api-na.klarna.com", "klarna-eu", 200) == (bucket.host, bucket.name, bucket.quota)


def test_a_kind_with_a_quota_of_0_is_refused_when_it_is_enqueued(services, tmp_path):
    """Zero means that the provider takes none: a stored command would wait for ever."""
    path = tmp_path / "rates.toml"
    tables = '[none.categories]\n"*" = "closed"\n[none.production]\nclosed = 0\n[none.playground]\n'
    path.write_text(f"[none]\nmax_in_flight = 1\n{tables}")
    made = services(**{"limits.rates_file": str(path), "accounts.klarna-eu.rate_table": "none"})
    command = worker.Capture(account="klarna-eu", order_id="4ba29b50", reference="parcel-1", amount=100)

    with made.store.engine.connect() as connection, pytest.raises(KindNotAllowed, match="quota of 0"):
        made.enqueue(connection, [command])


def test_an_own_ceiling_reaches_the_bucket(services):
    """It was promised to somebody."""
    made = services(**{"accounts.klarna-eu.max_rate_per_second": 30})

    assert 30 == made.rates["klarna-eu"].buckets("capture")[0].ceiling


@pytest.mark.parametrize(
    ("broker", "client"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("rediss://h:1/0?ssl_cert_reqs=CERT_REQUIRED", "rediss://h:1/0"),
        ("rediss://h:1/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem", "rediss://h:1/0?ssl_ca_certs=/ca.pem"),
        ("redis+socket:///run/r.sock?virtual_host=3", "unix:///run/r.sock?db=3"),
    ],
)
def test_a_brokers_url_is_spelled_as_the_redis_client_wants_it(broker, client):
    """The two libraries name the same things differently, and neither way may certificates go unverified."""
    assert client == _redis_url(broker)
