from __future__ import annotations

import pytest

from worker.ports import Want


@pytest.fixture
def limiter(local_place, published, new_limiter):
    """A limiter whose back-offs are as long as they may be."""
    return new_limiter(local_place, published["production"], chance=lambda: 1.0)


def test_a_429_to_what_was_sent_before_a_stillness_prolongs_nothing(time, limiter):
    """Dozens are under way when a quota is lowered; each of their answers would double the pause."""
    first = limiter.throttled("shop", "capture", None, sent_ago=0.05)
    time.seconds += 0.15

    second = limiter.throttled("shop", "capture", None, sent_ago=0.2)

    assert first == pytest.approx(0.1)
    assert second == 0


def test_429s_to_what_was_sent_right_after_a_stillness_double_it(time, limiter):
    """A provider that still says no is left alone for longer and longer."""
    waits = []
    for _ in range(4):
        waits.append(limiter.throttled("shop", "capture", None, sent_ago=0.02))
        time.seconds += waits[-1] + 0.05

    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.01)


def test_a_stray_429_begins_anew(time, limiter):
    """At full use one of a hundred is in the nature of clocks; it must not cost a second of the quota."""
    waits = []
    for _ in range(4):
        waits.append(limiter.throttled("shop", "capture", None, sent_ago=0.02))
        time.seconds += waits[-1] + 1.0

    assert waits == pytest.approx([0.1] * 4, abs=0.01)


def test_a_few_of_many_are_no_row_however_soon_they_come(time, limiter):
    """A busy machine sends a few of a thousand late; if each stillness called for a longer one, all would stop."""
    waits = []
    for _ in range(6):
        waits.append(limiter.throttled("shop", "refund", None, sent_ago=0.05))
        time.seconds += waits[-1]
        limiter.reserve([Want(account="shop", kind="refund", count=50)])
        time.seconds += 0.25

    assert waits == pytest.approx([0.1] * 6, abs=0.01)


def test_many_of_those_sent_since_make_a_row_whether_or_not_each_prolongs_it(time, limiter):
    """Of a quota that was halved unseen every second one is refused, most of them under way when the first was."""
    waits = []
    for _ in range(4):
        waits.append(limiter.throttled("shop", "capture", None, sent_ago=0.02))
        for _ in range(5):
            limiter.throttled("shop", "capture", None, sent_ago=0.05)
        time.seconds += waits[-1] + 0.05
        limiter.reserve([Want(account="shop", kind="capture", count=25)])

    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.01)
