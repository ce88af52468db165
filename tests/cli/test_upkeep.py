from __future__ import annotations

import signal
import socket
from contextlib import closing

import pytest


@pytest.fixture
def waiting(stored):
    """Commands that nobody was told of."""
    for number in range(3):
        stored(order_id=f"order-{number}", reference=f"r-{number}", due_at="2020-01-01T00:00:00Z")


def test_dispatch_hands_out_what_is_due_once(run_json, waiting):
    """A second run right after it would only double the messages."""
    assert {"dispatch": {"commands": 3, "messages": 1}} == run_json("dispatch", DISPATCH__REPUBLISH_SECONDS="60")
    assert {"dispatch": {"commands": 0, "messages": 0}} == run_json("dispatch", DISPATCH__REPUBLISH_SECONDS="60")


def test_dispatch_says_so_when_the_broker_takes_nothing(run, waiting):
    """The counts alone would look like success to whoever runs it from a timer."""
    done = run("dispatch", BROKER__URL="redis://:hunter2@127.0.0.1:1/0")

    assert (3, "dispatch commands: 3\ndispatch messages: 0\n") == (done.code, done.out)
    assert "post-purchase: The broker took no message" in done.err
    assert "redis://:***@127.0.0.1:1/0" in done.err
    assert "hunter2" not in done.err


def test_sweep_counts_what_it_took_over(run_json, escalated):
    """A ticket that was never told to its desk is found by it."""
    escalated(reference="r-1")

    assert {"sweep": {"in_doubt": 0, "handed_back": 0, "tickets": 1}} == run_json("sweep")


def test_sweep_is_shown_to_people(run):
    """Zeros are good news, and are said."""
    assert (0, "sweep in doubt: 0\nsweep handed back: 0\nsweep tickets: 0\n", "") == run("sweep")


def test_upkeep_once_does_all_of_it(run_process, waiting):
    """A timer of the system may take the place of the loop."""
    done = run_process("upkeep", "--once", "--json")

    assert 0 == done.code
    assert (
        '{"dispatch": {"commands": 3, "messages": 1}, "sweep": {"in_doubt": 0, "handed_back": 0, "tickets": 0}, '
        '"probe": {"probed": 0, "resumed": 0}}\n' == done.out
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_upkeep_ticks_until_it_is_told_to_stop(start, until, waiting, number):
    """A supervisor stops it with one signal and a person with the other; both want it to end well."""
    process = start("upkeep")
    until(lambda: "upkeep.done" in process.stderr.readline())

    process.send_signal(number)

    out, err = process.communicate(timeout=30)
    assert (0, "") == (process.returncode, out)
    assert "Traceback" not in err


def test_upkeep_goes_by_the_settings_it_is_given(run_process, sqlite_url):
    """The Celery app that comes along reads the environment, which here names a profile that cannot be used."""
    done = run_process(
        *("--profile", "test", "--set", f"database.url={sqlite_url}", "upkeep", "--once"), PROFILE="production"
    )

    assert 0 == done.code
    assert "dispatch commands: 0" in done.out


def test_upkeep_once_does_not_wait_for_a_database(run_process):
    """The timer comes again; a process that waits would pile up."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://shop:hunter2@127.0.0.1:{taken.getsockname()[1]}/shop"

        done = run_process("upkeep", "--once", DATABASE__URL=url)

    assert 3 == done.code
    assert "hunter2" not in done.err
