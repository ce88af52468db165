"""How results look: JSON for scripts, tables and colours on a terminal, tab-separated lines anywhere else.

Decides the shape of a table and a panel, how a moment and an absent value are shown, and that nothing a provider said
can steer a terminal. Results go to stdout; problems go to stderr, one line each. A reader that has seen enough and
closes the pipe harms nobody.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: The option that every command with a result has.
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

#: Heading of a column → what stands in it for a row.
Columns: TypeAlias = Mapping[str, Callable[[Any], object]]

#: Words that mean something wherever they stand in a cell, and their colour on a terminal.
_COLOURS: Mapping[str, str] = {
    **dict.fromkeys(("succeeded", "closed", "ok"), "green"),
    **dict.fromkeys(("in_doubt", "not_now", "not_sent", "throttled", "open", "unsent", "warn"), "yellow"),
    **dict.fromkeys(("rejected", "escalated", "unauthorized", "fail"), "bold red"),
    "executing": "cyan",
    "cancelled": "dim",
}

#: More rows than anybody reads on a terminal; elsewhere all are printed.
_MOST_ROWS = 200

#: A word of so many characters stays in one piece, however narrow the terminal: states, dates, names of accounts.
_UNFOLDED = 10


def print_json(value: object) -> None:
    """Print a result for scripts, on one line."""
    print_line(json.dumps(value))


def print_line(text: str) -> None:
    """Print one line of a result."""
    with _reader():
        print(text)  # noqa: T201  # the answer of a command


def tell(text: str) -> None:
    """Say something beside the result: one line on stderr."""
    print(f"post-purchase: {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201  # the answer of a command


def print_rows(columns: Columns, rows: Sequence[Any], *, title: str = "") -> None:
    """Print rows: a table on a terminal, a heading and tab-separated lines elsewhere."""
    if sys.stdout.isatty():
        _print_table(columns, rows, title)
        return
    with _reader():
        if title:
            print(f"\n{title}")  # noqa: T201  # the answer of a command
        print("\t".join(columns))  # noqa: T201  # the same
        for row in rows:
            print("\t".join(_cell(content(row)) for content in columns.values()))  # noqa: T201  # the same


def print_facts(facts: Mapping[str, object], *, title: str) -> None:
    """Print what is known of one thing: a panel on a terminal, `name: value` lines elsewhere."""
    if sys.stdout.isatty():
        _print_panel(facts, title)
        return
    with _reader():
        for name, value in facts.items():
            print(f"{name}: {_cell(value)}")  # noqa: T201  # the answer of a command


def moment(text: str | None) -> str | None:
    """Show a moment, given in ISO 8601, in UTC to the second."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration(seconds: float) -> str:
    """Show a duration to the second."""
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{rest} s" if rest else ""]

    return ("-" if seconds < 0 else "") + (" ".join(part for part in parts if part) or "0 s")


def printable(text: str) -> str:
    """Take out of a text what would steer a terminal or break a line."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case _:
            return printable(str(value))


def _print_table(columns: Columns, rows: Sequence[Any], title: str) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # --help and pipes do without
    from rich.table import Table  # noqa: PLC0415  # the same
    from rich.text import Text  # noqa: PLC0415  # the same

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    contents = [[content(row) for content in columns.values()] for row in rows[:_MOST_ROWS]]
    for heading, column in zip(columns, zip(*contents, strict=True) if contents else [()] * len(columns), strict=True):
        longest = max((len(word) for value in column for word in _cell(value).split()), default=0)
        table.add_column(
            heading,
            justify="right" if any(type(value) is int for value in column) else "left",
            no_wrap=heading == "id",
            min_width=min(longest, _UNFOLDED),
            overflow="fold",
        )
    for row in contents:
        table.add_row(*(Text(_cell(value), style=_COLOURS.get(_cell(value), "")) for value in row))
    _console().print(table)
    if len(rows) > _MOST_ROWS:
        print_line(f"… and {len(rows) - _MOST_ROWS} more; --json prints all of them")


def _print_panel(facts: Mapping[str, object], title: str) -> None:
    from rich.panel import Panel  # noqa: PLC0415  # --help and pipes do without
    from rich.table import Table  # noqa: PLC0415  # the same
    from rich.text import Text  # noqa: PLC0415  # the same

    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        cell = _cell(value)
        grid.add_row(Text(name, style="bold"), Text(cell, style=_COLOURS.get(cell, "")))
    panel: RenderableType = Panel(grid, title=Text(printable(title)), title_align="left", expand=False)
    _console().print(panel)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415  # --help and pipes do without

    return Console(file=sys.stdout, highlight=False)


@contextmanager
def _reader() -> Iterator[None]:
    """Write to a reader who may go away; what is left unsaid is then nobody's loss."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
