from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from worker.duties import Duty
from worker.ports import ArchiveUnavailable, StoreUnavailable


@pytest.mark.parametrize(
    ("problem", "event", "level"),
    [
        (StoreUnavailable("connection refused"), "upkeep.database_away", "warning"),
        (ArchiveUnavailable("/archive: No space left on device"), "upkeep.archive_away", "error"),
    ],
    ids=["database", "archive"],
)
def test_what_is_away_is_one_line_and_no_traceback(problem, event, level):
    """It comes with each tick until somebody mends it; the bugs of the day must still be found beside it."""

    def fail():
        raise problem

    duty = Duty("prune", 1.0, fail)

    with capture_logs() as lines:
        duty.tick()

    assert [{"event": event, "log_level": level, "duty": "prune", "problem": str(problem)}] == lines
    assert (0, 1) == (duty.ticks, duty.failures)


def test_a_bug_in_one_tick_is_told_whole_and_ends_nothing():
    """The next tick comes, and whoever reads the log finds the line of code."""
    ticks = iter([ZeroDivisionError("of all things"), {"pruned": 1}])

    def work():
        result = next(ticks)
        if isinstance(result, Exception):
            raise result
        return result

    duty = Duty("prune", 1.0, work)

    with capture_logs() as lines:
        duty.tick()
        duty.tick()

    assert ["upkeep.failed", "upkeep.done"] == [each["event"] for each in lines]
    assert lines[0]["exc_info"] is True
    assert (1, 1, {"pruned": 1}) == (duty.ticks, duty.failures, duty.last_counts)
