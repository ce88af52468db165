from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from worker.cli.output import duration, printable

ESCAPE = "\x1b"


@pytest.fixture
def on_terminal(process_environment):
    """Runs a command at a terminal of its own, and gives what it shows."""

    def call(*arguments, **changes):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *(str(each) for each in arguments)],
            env={**process_environment, "TERM": "xterm-256color", "COLUMNS": "200", **changes},
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:  # so a terminal ends when the last process has left it
            pass
        os.close(ours)
        process.communicate(timeout=60)
        return shown.decode()

    return call


def test_a_terminal_gets_a_table_with_colours(on_terminal, escalated):
    """What needs a person must catch the eye."""
    escalated(reference="r-1")

    shown = on_terminal("list")

    assert f"{ESCAPE}[1;31mescalated" in shown
    assert "───" in shown


def test_a_terminal_that_wants_no_colours_gets_none(on_terminal, escalated):
    """The wish is an agreed name, and some people see no colours."""
    escalated(reference="r-1")

    shown = on_terminal("list", NO_COLOR="1")

    assert "escalated" in shown
    assert f"{ESCAPE}[1;31m" not in shown


def test_a_terminal_gets_a_panel_and_tables(on_terminal, escalated):
    """One command, read from top to bottom."""
    shown = on_terminal("show", escalated(reference="r-1"))

    assert "╭─ capture order-1" in shown
    assert "attempts" in shown
    assert "ladder_exhausted" in shown


def test_json_on_a_terminal_is_json(on_terminal, escalated):
    """It is copied from there."""
    escalated(reference="r-1")

    shown = on_terminal("list", "--json")

    assert shown.startswith('[{"id": ')
    assert ESCAPE not in shown


def test_a_terminal_gets_so_many_rows_and_is_told_of_the_rest(on_terminal, run, file, capture):
    """A hundred thousand rows would scroll away what matters."""
    run("enqueue", file(*(capture(reference=f"r-{number}") for number in range(250))))

    shown = on_terminal("list", "--limit", "250")

    assert "… and 50 more; --json prints all of them" in shown


def test_help_on_a_terminal_has_frames(on_terminal):
    """It is read by people, from top to bottom."""
    assert set("╭│╯") <= set(on_terminal("--help"))


def test_anything_else_gets_neither_colours_nor_frames(run, escalated):
    """A file or a mail is no terminal."""
    shown = run("list").out + run("show", escalated(reference="r-1")).out + run("stats").out + run("--help").out

    assert ESCAPE not in shown
    assert not set("╭│─━") & set(shown)


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x07", "\r", "\n", "\x9b31m", "\u202e"])
def test_what_a_provider_said_cannot_steer_a_terminal(evil):
    """The other side writes the messages; a terminal that obeys them can be made to lie."""
    assert "before\ufffdafter" == printable(f"before{evil[0]}after")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (86_399, "23 h 59 min 59 s"),
        (-90, "-1 min 30 s"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, expected):
    """Nobody divides by 3,600 at night."""
    assert expected == duration(seconds)
