"""What a process of a worker makes for itself, once."""

from __future__ import annotations

import gc

import pytest

from worker.process import WorkerProcess


@pytest.fixture
def _thawed():
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_thawed")
def test_the_collector_leaves_alone_what_stays_as_long_as_the_process():
    """To go through all modules again takes a tenth of a second, and every send that is due meanwhile comes late."""
    gc.unfreeze()

    WorkerProcess(lambda _: object()).services()

    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 0.1 * gc.get_freeze_count()


def test_services_are_made_once_a_process():
    """Connections, pools and limits are counted by the process."""
    process = WorkerProcess(lambda _: object())

    assert process.services() is process.services()
