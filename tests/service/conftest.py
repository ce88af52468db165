"""A stage for each test: on both databases, or in memory where the database makes no difference."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
import structlog

from tests.service.stage import Stage
from worker.store.engine import build_engine
from worker.store.schema import metadata


@pytest.fixture(autouse=True)
def _quiet():
    """Thousands of lives would print a hundred thousand lines."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture
def stage():
    engine = build_engine(
        "sqlite://",
        pool_size=5,
        busy_timeout=timedelta(seconds=10),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=timedelta(seconds=30),
    )
    metadata.create_all(engine)
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
