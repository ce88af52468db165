from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://shop:pass@db/shop", "postgresql+psycopg://shop:pass@db/shop"),
        ("postgres://shop@db/shop?sslmode=verify-full", "postgresql+psycopg://shop@db/shop?sslmode=verify-full"),
        ("postgresql+psycopg://shop:p%40ss@db:5433/shop", "postgresql+psycopg://shop:p%40ss@db:5433/shop"),
        ("postgresql://postgres@/postgres?host=/run/db", "postgresql+psycopg://postgres@/postgres?host=/run/db"),
        ("sqlite:///var/shop.db", "sqlite:///var/shop.db"),
        ("sqlite:////srv/shop.db", "sqlite:////srv/shop.db"),
        ("sqlite+pysqlite:///shop.db", "sqlite:///shop.db"),
    ],
)
def test_a_database_url_is_given_the_driver_that_is_installed(load, given, expected):
    """Platforms hand out URLs without a driver, and the default driver of SQLAlchemy is another one."""
    assert expected == load("test", overrides={"database.url": given}).database.url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://shop:s3cret@db/shop", "must be a database URL that starts with postgresql:// or sqlite:///"),
        (
            "postgresql+psycopg2://shop:s3cret@db/shop",
            "must be a database URL that starts with postgresql:// or sqlite:///",
        ),
        ("s3cret", "must be a database URL that starts with postgresql:// or sqlite:///"),
        (
            "postgresql://shop:s3cret@db:port/shop",
            "cannot be read as a URL; special characters in a password are percent-encoded",
        ),
        (5, "must be a database URL"),
    ],
)  # fmt: skip - one case a line
def test_a_database_that_is_not_supported_is_refused(problems, url, reason):
    """Nothing that follows could work, and the URL holds a password that no message may repeat."""
    lines = problems("test", overrides={"database.url": url})

    assert (f"argument database.url {reason}",) == lines
    assert "s3cret" not in "".join(lines)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6390/0",
        "rediss://:pass@redis/0?ssl_cert_reqs=required",
        "redis+socket:///run/redis.sock",
        "sentinel://:pass@a:26379;sentinel://:pass@b:26379",
        "amqp://user:pass@rabbit//",
        "amqps://user:pass@rabbit//",
        "filesystem://",
        "memory://",
    ],
)
def test_the_brokers_that_were_tried_are_taken(load, url):
    """These are the ones the worker is tested with."""
    assert url == load("test", overrides={"broker.url": url}).broker.url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "kafka://:s3cret@broker",
            (
                "must be a broker URL that starts with one of redis://, rediss://, redis+socket://, "
                "sentinel://, amqp://, amqps://, pyamqp://, filesystem://, memory://"
            ),
        ),
        (
            "rediss://:s3cret@redis/0?ssl_cert_reqs=none",
            "must not switch the verification of certificates off (ssl_cert_reqs)",
        ),
        (
            "rediss://:s3cret@redis/0?a=b&ssl_cert_reqs=CERT_NONE",
            "must not switch the verification of certificates off (ssl_cert_reqs)",
        ),
        (
            "rediss://:s3cret@redis/0?ssl_cert_reqs=optional",
            "must not switch the verification of certificates off (ssl_cert_reqs)",
        ),
    ],
)  # fmt: skip - one case a line
def test_a_broker_that_is_unknown_or_unverified_is_refused(problems, url, reason):
    """Verification of certificates cannot be switched off, not even by a parameter that kombu would understand."""
    lines = problems("test", overrides={"broker.url": url})

    assert (f"argument broker.url {reason}",) == lines
    assert "s3cret" not in "".join(lines)


@pytest.mark.parametrize("url", ["https://desk.example.com/hook?queue=payments", "http://127.0.0.1:9000/hook/"])
def test_a_webhook_keeps_its_path_and_query(load, url):
    """Receivers tell their queues apart by them."""
    overrides = {"tickets.desk": "webhook", "tickets.webhook.url": url, "tickets.webhook.secret": "s3cret"}

    assert url == load("test", overrides=overrides).tickets.webhook.url


def test_a_webhook_off_this_machine_needs_https(problems):
    """Tickets name orders and amounts."""
    (line,) = problems("test", overrides={"tickets.webhook.url": "http://desk.example.com/hook"})

    assert line == (
        "argument tickets.webhook.url must start with https://; http:// is for a loopback host "
        "(127.0.0.0/8, ::1, localhost)"
    )


def test_a_certificate_file_that_exists_is_taken(load, tmp_path):
    """A provider's stand-in has a certificate of its own; what is trusted can be changed, that it is checked cannot."""
    file = tmp_path / "ca.pem"
    file.touch()

    assert file == load("test", overrides={"http.ca_file": str(file)}).http.ca_file
