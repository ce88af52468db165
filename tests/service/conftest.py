"""A stage for each test: on both databases, or on the one that is quick to make."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.service.stage import Stage
from worker.store.engine import build_engine


@pytest.fixture
def stage(sqlite_url):
    engine = build_engine(
        sqlite_url,
        pool_size=5,
        busy_timeout=timedelta(seconds=10),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=timedelta(seconds=30),
    )
    made = Stage(engine)
    yield made
    made.close()
    engine.dispose()


@pytest.fixture
def each_stage(engine):
    """The same, once on SQLite and once on PostgreSQL."""
    made = Stage(engine)
    yield made
    made.close()
