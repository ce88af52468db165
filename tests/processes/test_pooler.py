import os
import shutil
import subprocess
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, make_url, text

from worker.ports import StoreUnavailable
from worker.resources import migrations_dir
from worker.store import migrate
from worker.store.engine import SqlStore, build_engine

#: Fewer than the connections of any test here, so that they change servers between transactions.
SERVERS = 2

LEASE = timedelta(seconds=90)
PATIENT, SHORT = timedelta(seconds=30), timedelta(seconds=0.5)

CONFIGURATION = """
[databases]
* = {server}

[pgbouncer]
pool_mode = transaction
default_pool_size = {servers}
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
"""


@pytest.fixture
def pooler_url(postgresql_url, until, free_port):
    """The URL of this test's database behind a PgBouncer in transaction mode."""
    program = shutil.which("pgbouncer", path=f"/usr/sbin{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("pgbouncer is not installed")

    url, listen = make_url(postgresql_url), free_port()
    server = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, **url.query}
    folder = Path(tempfile.mkdtemp(prefix="pp-pooler-"))
    folder.chmod(0o755)  # it refuses to run as root, so it may have to be somebody else who reads this
    file, log_file = folder / "pgbouncer.ini", folder / "log"
    file.write_text(
        CONFIGURATION.format(
            server=" ".join(f"{name}={value}" for name, value in server.items() if value),
            servers=SERVERS,
            listen=listen,
        )
    )
    with log_file.open("wb") as log:
        pooler = subprocess.Popen([program, file], stdout=log, stderr=log, user=somebody(server["host"]))
    pooled = url.set(host="127.0.0.1", port=listen, query={})
    try:
        until(lambda: answers(pooled), tell=log_file.read_text)
        yield pooled.render_as_string(hide_password=False)
    finally:
        pooler.kill()
        pooler.wait()
        shutil.rmtree(folder)


def somebody(host):
    """Who runs the pooler, if it must be somebody else: a server on a socket lets its own user in."""
    if os.geteuid() != 0:
        return None
    return Path(host).owner() if host.startswith("/") else "nobody"


def answers(url):
    engine = create_engine(url)
    try:
        with engine.connect():
            return True
    except Exception:  # noqa: BLE001  # whatever it is, it does not answer yet
        return False
    finally:
        engine.dispose()


@pytest.fixture
def built():
    engines = []

    def build(url, *, is_pooled=True, statement_timeout=PATIENT):
        engines.append(
            build_engine(
                url,
                pool_size=5,
                busy_timeout=PATIENT,
                connect_timeout=PATIENT,
                statement_timeout=statement_timeout,
                is_pooled=is_pooled,
            )
        )
        return engines[-1]

    yield build
    for engine in engines:
        engine.dispose()


@pytest.fixture
def shops(pooler_url):
    """An engine of the shop's own, which comes through the same pooler."""
    engine = create_engine(pooler_url)
    yield engine
    engine.dispose()


@pytest.fixture
def environment(pooler_url, broker, sandbox, settings_for):
    return {
        **settings_for(pooler_url, broker.url, sandbox.base_url),
        "POST_PURCHASE_DATABASE__POOLER": "transaction",
    }


def test_the_main_job_is_done_through_a_pooler(new_worker, shop, sandbox, captures, until):
    """Every process has its own connections, and they share two of the server's: nothing may stay with one of them."""
    at_once, retried, refused, *backlog = captures(300)
    sandbox.fault("status", status=503, order_id=retried.order_id)
    sandbox.fault("singular_error", order_id=refused.order_id)
    workers = [new_worker().ready(), new_worker().ready()]

    shop.enqueue(at_once, retried, refused)
    shop.store(*backlog)
    until(lambda: shop.states() == {"succeeded": 299, "rejected": 1}, within=60, tell=workers[0].log)
    until(lambda: shop.open_tickets() == [("refused", "open", 1)], tell=workers[0].log)

    assert 299 == len(sandbox.effects()) == len({each["key"] for each in sandbox.effects()})
    assert not any(worker.said("database_away") or worker.said("Traceback") for worker in workers)


def test_a_pooler_without_the_setting_is_refused_at_once(built, pooler_url):
    """Better a refused start than a worker whose statements fail after the fifth."""
    with (
        pytest.raises(StoreUnavailable, match="unsupported startup parameter"),
        SqlStore(built(pooler_url, is_pooled=False)).begin(),
    ):
        pass


def test_what_we_set_for_a_transaction_stays_in_it(built, pooler_url, shops):
    """The next transaction on that server connection may be the shop's report that takes a minute."""
    ours = SqlStore(built(pooler_url, statement_timeout=SHORT))

    with ours.begin() as transaction:
        within = asked(transaction._connection)
    with pytest.raises(StoreUnavailable, match="statement timeout"), ours.begin() as transaction:
        transaction._connection.execute(text("SELECT pg_sleep(20)"))

    assert ("500ms", "500ms", "off") == within
    with shops.connect() as first, shops.connect() as second:
        assert [("0", "0", "on")] * SERVERS == [asked(first), asked(second)]


def asked(connection):
    return tuple(
        connection.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "lock_timeout", "enable_seqscan")
    )


def test_no_statement_is_left_behind_on_a_server_connection(built, pooler_url, shops):
    """The driver prepares what it has run five times; the name then means nothing, or something else, elsewhere."""
    stores = [SqlStore(built(pooler_url)) for _ in range(4)]

    for _ in range(10):
        for store in stores:
            store.claim(None, limit=1, lease=LEASE)

    with shops.connect() as first, shops.connect() as second:
        for each in (first, second):
            assert 0 == each.scalar(text("SELECT count(*) FROM pg_prepared_statements"))


def test_the_schema_goes_down_and_up_through_a_pooler(built, pooler_url):
    """Who has only the pooler's address must be able to take a new version."""
    engine = built(pooler_url)

    migrate.downgrade(engine, migrations_dir(), to="base")
    without = migrate.current(engine)
    migrate.upgrade(engine, migrations_dir())

    assert without is None
    assert [] == migrate.differences(engine)


def test_a_migration_leaves_no_lock_on_a_server_connection(built, pooler_url, shops):
    """A lock of the session stays with a connection that nobody knows any more, and the next upgrade waits for ever."""
    engine, began = built(pooler_url), []

    def takes_the_server_that_is_free(_connection):
        began.append(None)
        if len(began) == 2:
            shop.begin()
            shop.scalar(text("SELECT 1"))

    with shops.connect() as shop:
        event.listen(engine, "begin", takes_the_server_that_is_free, insert=True)
        migrate.upgrade(engine, migrations_dir())

        assert 0 == shop.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
