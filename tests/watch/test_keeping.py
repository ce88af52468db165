"""The watch over a worker that only these tests know: what it sees of it, and what it says."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from celery import signals
from structlog.testing import capture_logs

from worker.publish import EXECUTE_QUEUE
from worker.watch import Watch

SECONDS = 0.06


class Tasks:
    """Celery's consumer of tasks: it is asked at each look, and the last one ends the watch."""

    def __init__(self, stop, *, looks):
        self.stop = stop
        self.left = looks

    def consuming_from(self, queue):
        self.left -= 1
        if not self.left:
            self.stop.set()

        return queue == EXECUTE_QUEUE


class Consumer:
    """Celery's consumer, as far as a watch looks at it."""

    restart_count = 0

    def __init__(self, tasks=None):
        self.task_consumer = tasks


def said(*, each_look=lambda _: None):
    """What a watch of twenty looks says of a worker of a host's that is free, while messages lie there."""
    stop = threading.Event()
    consumer = Consumer(Tasks(stop, looks=20))

    def waiting():
        each_look(consumer)
        return 3

    watch = Watch(SimpleNamespace(consumer=consumer), waiting=waiting, seconds=SECONDS, task_seconds=None)
    with capture_logs() as lines:
        watch.keep(stop)

    return [line["event"] for line in lines]


def receive(consumer):
    signals.task_received.send(sender=consumer, request=None)


def reconnect(consumer):
    consumer.restart_count += 1


def test_a_deaf_worker_of_a_host_is_told_of_again_and_again():
    """One line may be overlooked; ending it is left to the host."""
    assert {"worker.deaf"} == set(said())
    assert 2 <= len(said())


@pytest.mark.parametrize("sign", [receive, reconnect])
def test_a_sign_of_life_is_seen(sign):
    """Else a worker that is quick, and free whenever somebody looks, would be taken for deaf."""
    assert [] == said(each_look=sign)


def test_what_another_worker_of_the_process_receives_says_nothing():
    """A test may start several in one process."""
    assert "worker.deaf" in said(each_look=lambda _: receive(Consumer()))
