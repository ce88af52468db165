"""A process is killed right before and right after each of its steps, and what is left is judged at the sandbox.

`docs/kill-table.md` shows the outcome, and is compared with it but for what differs from machine to machine.
`POST_PURCHASE_TEST_WRITES=1` writes it anew.
"""

from __future__ import annotations

import ast
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import Queue

import pytest

import worker
from tests.steps.doomed import CALLS
from tests.steps.stories import PROVIDER, STORIES, WORDS

PACKAGE = Path(worker.__file__).parent
PAGE = PACKAGE.parent / "docs" / "kill-table.md"
WRITES = os.environ.get("POST_PURCHASE_TEST_WRITES")

MOMENTS = ("before", "after")
DEATHS = [
    (name, position, moment)
    for name, story in STORIES.items()
    for position in range(story.first, len(story.steps))
    for moment in MOMENTS
]
NAMES = [f"{name}-{position}-{STORIES[name].steps[position]}-{moment}" for name, position, moment in DEATHS]

#: Stories in which a shop ships a parcel: there is a command exactly if there is the parcel.
SHIPPING = {"enqueue", "enqueue-django"}
#: Stories whose shop is told of the end.
TOLD = {"enqueue-django", "tell", "tell-again"}

#: All deaths are died together, before the first is judged: most of each is waiting for a lease to run out.
pytestmark = [pytest.mark.steps, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def ends(request, slots):
    """What came of each death that is asked for."""
    asked_for = [each for each in request.session.items if each.path == request.path and "ends" in each.fixturenames]
    parametrized = [each.callspec.params["death"] for each in asked_for if hasattr(each, "callspec")]
    # The page shows them all.
    wanted = parametrized if len(parametrized) == len(asked_for) else [*dict.fromkeys([*parametrized, *DEATHS])]
    free: Queue = Queue()
    for slot in slots:
        free.put(slot)

    def lived(death):
        slot = free.get()
        try:
            return slot.live(*death)
        except AssertionError as error:
            return error
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        return dict(zip(wanted, pool.map(lived, wanted), strict=True))


def end_of(ends, death):
    came = ends[death]
    if isinstance(came, AssertionError):
        raise came

    return came


# ---------------------------------------------------------------------------------------------------------- the laws


@pytest.mark.parametrize("death", [(name, None, "") for name in STORIES if not STORIES[name].is_ended_outside], ids=str)
def test_a_story_takes_the_steps_that_are_listed(ends, death):
    """A step that is not listed is one at which nobody was killed."""
    taken, end = end_of(ends, death)

    assert list(STORIES[death[0]].steps) == taken
    demand_safety(death[0], end)


@pytest.mark.parametrize("death", DEATHS, ids=NAMES)
def test_a_process_may_die_at_any_step(ends, death):
    """Whatever dies, each command has one effect or none, and whoever must know of it does."""
    _, end = end_of(ends, death)

    demand_safety(death[0], end)


def demand_safety(story, end):
    for command in end.commands:
        demand_one_effect(command)
        demand_one_ticket(command)
        assert command.sends <= command.attempts, command
        assert len(set(command.actions)) == len(command.actions), command
    assert end.open_tickets <= end.told, end
    if story in SHIPPING:
        assert len(end.commands) == len(end.parcels), end
    if story in TOLD:
        assert set(end.parcels) <= {1}, end


def demand_one_effect(command):
    match command.state:
        case "succeeded":
            assert command.effects == 1, command
        case "escalated":
            assert command.effects <= (1 if command.in_doubt else 0), command
        case "rejected" | "cancelled":
            assert command.effects == 0, command
        case _:
            pytest.fail(f"it is neither final nor with a person: {command}")


def demand_one_ticket(command):
    is_with_a_person = command.state == "escalated" or (command.state == "rejected" and not command.actions)

    assert len(command.tickets) == (1 if is_with_a_person else 0), command


# ---------------------------------------------------------------------------------------------- nothing is left out


def test_every_call_of_a_port_is_a_step_of_some_story():
    """A call that a service makes, and that no story has, is a step at which nobody was killed."""
    called = set(chain.from_iterable(map(calls_in, (PACKAGE / "service").glob("*.py"))))
    called |= set(calls_in(PACKAGE / "contrib" / "django" / "finished.py"))
    steps = {f"{port}.{name}" for port, names in CALLS.items() for name in names if name in called}
    # They only show; nothing comes of them.
    shown = {f"Transaction.{name}" for name in calls_in(PACKAGE / "service" / "inspect.py")}
    listed = {step for story in STORIES.values() for step in story.steps}

    assert set() == steps - listed - (shown - listed)
    assert set() == listed - steps - {"commit", PROVIDER}


def calls_in(path):
    """The names of all methods that a module calls."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr


def test_every_step_is_killed_before_and_after():
    """A step that is another story's there must be that story's here."""
    listed = {step for story in STORIES.values() for step in story.steps}

    assert listed == {STORIES[name].steps[position] for name, position, _ in DEATHS}
    assert listed == set(WORDS)


# ---------------------------------------------------------------------------------------------------------- the page


def shown(end):
    """What became of it, but for what differs from machine to machine."""
    commands = [
        f"`{each.state}`{''.join(f', ticket `{reason}`' for reason in each.tickets)}"
        f"{', in doubt' if each.in_doubt else ''}, {each.effects} {'effect' if each.effects == 1 else 'effects'}"
        for each in end.commands
    ]

    return "; ".join(commands) or "nothing was stored"


def rows(ends, name):
    story = STORIES[name]
    for position in range(story.first, len(story.steps)):
        before, after = (end_of(ends, (name, position, moment))[1] for moment in MOMENTS)
        measured = " | ".join(f"{before_it} / {after_it}" for before_it, after_it in _measured(before, after))
        yield f"| {WORDS[story.steps[position]]} | {shown(before)} | {shown(after)} |", measured


def _measured(*ends):
    yield tuple(sum(each.sends for each in end.commands) for end in ends)
    yield tuple(f"{end.seconds:.1f}" for end in ends)


def test_the_page_shows_what_happened(ends):
    """Whoever must decide whether to trust the worker reads it there."""
    tables = {name: list(rows(ends, name)) for name in STORIES}
    head = (
        "| step | killed right before it | killed right after it | sends | seconds |\n| --- | --- | --- | --- | --- |"
    )
    page = PAGE.read_text("utf-8")
    if WRITES:
        written = [
            f"## {STORIES[name].words}\n\n{head}\n" + "\n".join(f"{row} {measured} |" for row, measured in table)
            for name, table in tables.items()
        ]
        PAGE.write_text(page.partition("## ")[0] + "\n\n".join(written) + "\n", "utf-8")
        return

    expected = [
        line for name, table in tables.items() for line in (f"## {STORIES[name].words}", *(row for row, _ in table))
    ]
    assert expected == list(compared(page))


def compared(page):
    """The lines of the page that say what happened, without what was measured."""
    for line in page[page.index("## ") :].splitlines():
        if line.startswith("## "):
            yield line
        elif line.startswith("| ") and not line.startswith(("| step", "| --- ")):
            yield f"{line.rsplit('|', 3)[0]}|"
