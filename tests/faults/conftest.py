"""A stage for each known bug, on SQLite and on PostgreSQL."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import structlog

from tests.service.stage import Stage


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and ("[postgresql" in item.nodeid or "postgresql_url" in item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _quiet():
    """What goes wrong here is meant to."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture
def stage(engine):
    made = Stage(engine)
    yield made
    made.close()
