"""Finished rows must cost nothing: the daily work finds its rows by indexes that only unfinished ones are in.

So it is with pauses that have ended: each claim looks for open ones.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import event, text

from worker.domain import state
from worker.domain.ticket import Reason
from worker.ports import Move
from worker.store.engine import SqlStore

FINISHED = 50_000
UNFINISHED = 50
ENDED_PAUSES = 5_000
HORIZON = timedelta(minutes=6)
LEASE = timedelta(seconds=90)

LOAD = """
INSERT INTO post_purchase_command (
    id, account, kind, order_id, keyed, payload, fingerprint, idempotency_key, created_at, state, claims, attempts,
    failures, throttles, in_doubt, due_at, lease_until, finalized_at
)
SELECT
    {id}, 'klarna-eu', 'capture', 'order-' || number, true, {payload}, 'f', 'key-' || number, {moment},
    CASE WHEN number <= :finished THEN 'succeeded' WHEN number % 2 = 0 THEN 'pending' ELSE 'executing' END,
    1, 0, 0, 0, false, {moment}, CASE WHEN number > :finished AND number % 2 = 1 THEN {moment} END,
    CASE WHEN number <= :finished THEN {moment} END
FROM {numbers}
"""

#: Pauses of years, all ended, and an open one of an account that the commands are not of.
LOAD_PAUSES = """
INSERT INTO post_purchase_pause (
    account, kind, cause, by, why, began_at, edge_seconds, probes, ended_at, ended_by, ended_why
)
SELECT
    CASE WHEN number <= :ended THEN 'klarna-eu' ELSE 'klarna-us' END, '', 'breaker', 'breaker', 'ill', {moment},
    86100, 1, CASE WHEN number <= :ended THEN {moment} END, CASE WHEN number <= :ended THEN 'probe' END,
    CASE WHEN number <= :ended THEN 'answered' END
FROM {numbers}
"""

ON_POSTGRESQL = {
    "id": "gen_random_uuid()",
    "payload": "''::bytea",
    "moment": "'2030-01-01T11:00:00Z'::timestamptz",
    "numbers": "generate_series(1, :rows) AS number",
}

ON_SQLITE = {
    "id": "lower(hex(randomblob(16)))",
    "payload": "x''",
    "moment": "'2030-01-01 11:00:00.000000'",
    "numbers": "(WITH RECURSIVE counted(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counted LIMIT :rows) "
    "SELECT number FROM counted)",
}

TABLES = ("post_purchase_command", "post_purchase_pause")
DUE = "ix_post_purchase_command_due"
LEASES = "ix_post_purchase_command_lease"
ORDERS = "ix_post_purchase_command_order"
PAUSES = "uq_post_purchase_pause_open"

#: What is done all day, with some commands that are held → the partial indexes by which it must find its rows.
DAILY_WORK = {
    "claim": (lambda t, _held: t.claim(None, limit=200, lease=LEASE), {DUE, ORDERS}),
    "claim named": (lambda t, held: t.claim([each.id for each in held], limit=200, lease=LEASE), {ORDERS}),
    "dispatch": (
        lambda t, _held: t.take_due(limit=1_000, window=5_000, horizon=HORIZON, published_for=LEASE),
        {DUE, ORDERS},
    ),
    "sweep": (lambda t, _held: t.take_expired(limit=500), {LEASES}),
    "probe": (lambda t, _held: t.take_probes(["klarna-eu", "klarna-us"], every=LEASE, cap=LEASE), {DUE}),
    "start again": (lambda t, _held: t.take_escalated("klarna-eu", Reason.CREDENTIALS_REFUSED, limit=500), set()),
    "tell the age": (lambda t, _held: t.oldest_due_at(), {DUE, ORDERS}),
    "open attempts": (lambda t, held: t.open_attempts(held, holder="host:1"), set()),
    "record": (
        lambda t, held: t.apply([Move(held=each, transition=state.succeed(failures=0, result={})) for each in held]),
        set(),
    ),
    "find by key": (lambda t, _held: t.find_by_key([("klarna-eu", "key-1"), ("klarna-eu", "key-2")]), set()),
}


@pytest.fixture(scope="module")
def loaded(_on_postgresql, _on_sqlite):
    """Both databases with many finished rows and some unfinished ones, all of them due or run out."""
    engines = {"postgresql": _on_postgresql, "sqlite": _on_sqlite}
    for name, engine in engines.items():
        dialect = ON_POSTGRESQL if name == "postgresql" else ON_SQLITE
        with engine.begin() as connection:
            rows = {"rows": FINISHED + UNFINISHED, "finished": FINISHED}
            connection.execute(text(LOAD.format(**dialect)), rows)
            connection.execute(text(LOAD_PAUSES.format(**dialect)), {"rows": ENDED_PAUSES + 1, "ended": ENDED_PAUSES})
            for table in TABLES:
                connection.execute(text(f"ANALYZE {table}"))
    yield engines
    for name, engine in engines.items():
        with engine.begin() as connection:
            empty = "TRUNCATE {} CASCADE" if name == "postgresql" else "DELETE FROM {}"
            for table in TABLES:
                connection.execute(text(empty.format(table)))


def statements_of(connection, transaction, work):
    """The statements on commands that a piece of work sends, with their parameters."""
    seen = []

    def listen(_connection, _cursor, statement, parameters, _context, _many):
        if "post_purchase_command" in statement:
            seen.append((statement, parameters))

    held = transaction.claim(None, limit=3, lease=LEASE)
    event.listen(connection, "before_cursor_execute", listen)
    work(transaction, held)
    event.remove(connection, "before_cursor_execute", listen)

    return seen


def plans_of(engine, clock, work, *, explain):
    with engine.connect() as connection:
        transaction = SqlStore(engine, clock=clock).borrow(connection)
        seen = statements_of(connection, transaction, work)
        plans = ["\n".join(explain(connection, *each)) for each in seen]
        connection.rollback()
    assert plans

    return plans


@pytest.mark.parametrize("work", DAILY_WORK)
def test_postgresql_reads_no_finished_row(loaded, clock, work):
    """One sequential scan, and a claim would take longer with every payment that was ever made."""
    do, indexes = DAILY_WORK[work]

    plans = plans_of(
        loaded["postgresql"],
        clock,
        do,
        explain=lambda connection, statement, parameters: connection.exec_driver_sql(
            f"EXPLAIN {statement}", parameters
        ).scalars(),
    )

    for plan in plans:
        assert "Seq Scan on post_purchase_command" not in plan
        assert "Seq Scan on post_purchase_pause" not in plan
    assert indexes <= {index for index in (DUE, LEASES, ORDERS) if index in "\n".join(plans)}


@pytest.mark.parametrize("work", DAILY_WORK)
def test_sqlite_reads_no_finished_row(loaded, clock, work):
    """SQLite uses a partial index only for the very condition that the index has."""
    do, indexes = DAILY_WORK[work]

    plans = plans_of(
        loaded["sqlite"],
        clock,
        do,
        explain=lambda connection, statement, parameters: [
            step.detail for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ],
    )

    steps = "\n".join(plans).splitlines()
    scans = [step for step in steps if step.startswith(("SCAN post_purchase_command", "SCAN other"))]
    assert [] == [step for step in scans if not step.endswith((DUE, LEASES, ORDERS))]
    assert [] == [step for step in steps if step.startswith("SCAN post_purchase_pause") and PAUSES not in step]
    assert indexes <= {index for index in (DUE, LEASES, ORDERS) if index in "\n".join(plans)}
