"""What is taken for deafness of a worker, and what is not."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest

from worker.watch import Look, Silence, follow

#: Free, with messages there, and none received.
DEAF = Look(at=0.0, consumes=True, is_idle=True, is_stuck=False, received=7, reconnected=1, waiting=3)

#: Ten seconds apart, over a minute.
TIMES = [10.0 * number for number in range(7)]


def looks(**seen):
    """One look after the other, all the same but for what is given for each."""
    rows = [dict(zip(seen, values, strict=True)) for values in zip(*seen.values(), strict=True)] or [{}] * len(TIMES)

    return [replace(DEAF, at=at, **row) for at, row in zip(TIMES, rows, strict=True)]


def outcome(of) -> Silence | None:
    return reduce(follow, of, None)


def is_deaf(of) -> bool:
    silence = outcome(of)

    return silence is not None and silence.is_deafness(60)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param({}, id="free, and it takes nothing"),
        pytest.param({"waiting": [1, 900, 2, 3, 1, 5, 4]}, id="others take some and shops add more"),
        pytest.param({"is_idle": [False] * 7, "is_stuck": [True] * 7}, id="its main thread hangs, with tasks counted"),
    ],
)
def test_a_worker_that_could_take_and_takes_nothing_is_deaf(seen):
    """For a minute nothing but the worker itself was in the way."""
    assert is_deaf(looks(**seen))


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param({"waiting": [0] * 7}, id="an empty queue"),
        pytest.param({"waiting": [3, 3, 0, 3, 3, 3, 3]}, id="a queue that was empty once"),
        pytest.param({"waiting": [None] * 7}, id="a broker that is away"),
        pytest.param({"waiting": [3, 3, 3, None, 3, 3, 3]}, id="a broker that was away for a while"),
        pytest.param({"received": range(7)}, id="a worker that receives"),
        pytest.param({"received": [7, 7, 7, 8, 8, 8, 8]}, id="a worker that has received one"),
        pytest.param({"reconnected": range(7)}, id="a broker that lets it connect and then refuses"),
        pytest.param({"is_idle": [False] * 7}, id="a long task in the pool"),
        pytest.param({"is_idle": [True, True, True, False, True, True, True]}, id="a task in between"),
        pytest.param(
            {"is_idle": [False] * 7, "is_stuck": [True, True, True, False, True, True, True]},
            id="a long task and a main loop that was slow",
        ),
        pytest.param({"consumes": [False] * 7}, id="other queues, a queue given up, a worker told to stop"),
        pytest.param({"consumes": [True] * 6 + [False]}, id="a worker that is told to stop at the last moment"),
    ],
)
def test_a_worker_with_a_reason_to_take_nothing_is_not_deaf(seen):
    """A false alarm ends a worker that works."""
    assert not is_deaf(looks(**seen))


def test_silence_seen_at_its_ends_alone_is_not_deafness():
    """A process that was stopped for an hour finds messages there when it goes on, before it could take one."""
    assert not is_deaf([DEAF, replace(DEAF, at=3600.0)])


def test_a_silence_that_is_too_short_is_not_deafness_yet():
    """Many looks in a moment are no proof either."""
    assert not is_deaf([replace(DEAF, at=number / 10) for number in range(50)])
