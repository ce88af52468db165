"""`post-purchase prune`: remove what ended long ago, now.

Decides what is told meanwhile, and for how long others are waited for. Leaves what may be removed, and in which order,
to `service.prune`; a worker's upkeep does the same by itself where `prune.retention_days` is set.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .edge import REFUSED, BadInput, examples, invocation
from .output import AsJson, Columns, print_facts, print_json, print_rows, tell

if TYPE_CHECKING:
    from ..service.prune import Pruner

#: Seconds between two lines that tell how far it has come.
_TELL_EVERY = 5.0

#: For how many seconds an open transaction is waited for. Those of shops and workers take less; a dump of the database,
#: or a session that somebody forgot, takes hours.
_PATIENCE = 60.0

_COUNTS: Columns = {
    "account": lambda line: line["account"],
    "state": lambda line: line["state"],
    "commands": lambda line: line["commands"],
}


def add_to(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command(
        "prune",
        epilog=examples(
            "post-purchase prune --older-than 90 --dry-run",
            "post-purchase prune --older-than 90 --archive /var/lib/post-purchase/archive --json",
        ),
    )(prune)


def prune(
    ctx: typer.Context,
    *,
    older_than: Annotated[
        int | None,
        typer.Option(
            "--older-than", metavar="DAYS", min=1, help="How long ago they ended. Default: prune.retention_days."
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            file_okay=False,
            help="Where they are written before they go, as gzipped JSON lines. Default: prune.archive_folder.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove commands that ended long ago; their keys are kept for ever.

    Removed are final commands with all that belongs to them: never one with an open ticket, one whose host is still to
    be told, or one that an unfinished command replaces. It may be stopped at any moment, and run beside all else.
    """
    with invocation(ctx).services() as services:
        settings = services.settings.prune
        days = older_than or settings.retention_days
        if not days:
            raise BadInput(["nothing says how long commands are kept: give --older-than, or set prune.retention_days"])
        pruner = services.pruner(retention_days=days, archive_folder=archive or settings.archive_folder)
        if dry_run:
            _print_preview(pruner, as_json=as_json)
            return
        counts = _prune(pruner, pause=settings.pause_seconds)

    done = {"dry_run": False, **{name: counts[name] for name in ("commands", "tickets", "waiting")}}
    if as_json:
        print_json(done)
    else:
        print_facts({name: done[name] for name in ("commands", "tickets")}, title="pruned")
    if counts["waiting"]:
        tell(
            "a transaction on this database has been open for more than a minute and may not know of the keys that "
            f"were kept; {counts['waiting']} commands wait for its end. Look for it in pg_stat_activity, or try again "
            "later"
        )
        raise typer.Exit(REFUSED)


def _prune(pruner: Pruner, *, pause: float) -> Counter[str]:
    """Prune until nothing is left, or until somebody else has kept it waiting for too long."""
    total: Counter[str] = Counter()
    told = moved = time.monotonic()
    while True:
        counts = pruner.run_once()
        now = time.monotonic()
        total.update(commands=counts["commands"], tickets=counts["tickets"])
        if not counts["waiting"]:
            moved = now
        if not (counts["commands"] or counts["waiting"]) or now - moved > _PATIENCE:
            total["waiting"] = counts["waiting"]
            return total
        if now - told > _TELL_EVERY:
            tell(f"pruned {total['commands']} commands so far" + (", waiting" if counts["waiting"] else ""))
            told = now
        time.sleep(pause)


def _print_preview(pruner: Pruner, *, as_json: bool) -> None:
    found: Counter[tuple[str, str]] = Counter()
    told = time.monotonic()
    for batch in pruner.preview():
        found.update((each.account, each.state.value) for each in batch)
        if time.monotonic() - told > _TELL_EVERY:
            tell(f"found {found.total()} commands so far")
            told = time.monotonic()
    lines = [
        {"account": account, "state": state, "commands": commands}
        for (account, state), commands in sorted(found.items())
    ]

    if as_json:
        print_json({"dry_run": True, "commands": found.total(), "counts": lines})
    else:
        print_rows(_COUNTS, lines)
