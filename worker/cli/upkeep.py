"""`post-purchase dispatch`, `sweep`, `upkeep`: what every worker does by itself, by hand or alone.

Decides what is printed and when the loop ends. Leaves what one run does to the services, and when it is due to
`worker.duties`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer

from .edge import BrokerAway, examples, invocation
from .output import AsJson, print_facts, print_json

#: How long the loop waits for its database at the start, before it says how to mend it and ends.
_PATIENCE = timedelta(seconds=60)


def add_to(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    app.command("dispatch", epilog=examples("post-purchase dispatch --json"))(dispatch)
    app.command("sweep", epilog=examples("post-purchase sweep"))(sweep)
    app.command("upkeep", epilog=examples("post-purchase upkeep", "post-purchase upkeep --once --json"))(upkeep)


def dispatch(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Hand due commands to the broker, once."""
    from ..config import redacted_url  # noqa: PLC0415  # --help must be quick

    with invocation(ctx).services() as services:
        counts = services.dispatcher.run_once()
        url = redacted_url(services.settings.broker.url)

    _print_counts({"dispatch": counts}, as_json=as_json)
    if counts["commands"] and not counts["messages"]:
        raise BrokerAway(url=url)


def sweep(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Take over what nobody looks after, once.

    That is leases that ran out, and tickets whose desk has not been told.
    """
    with invocation(ctx).services() as services:
        counts = services.sweeper.run_once()

    _print_counts({"sweep": counts}, as_json=as_json)


def upkeep(
    ctx: typer.Context,
    *,
    once: Annotated[bool, typer.Option("--once", help="Do each duty once, print counts, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Dispatch and sweep until told to stop.

    Every worker does so too; any number may run at once.
    """
    from ..duties import duties, keep_up  # noqa: PLC0415  # --help must be quick

    with invocation(ctx).services(patience=timedelta(0) if once else _PATIENCE, stays=not once) as services:
        work = duties(services)
        if once:
            _print_counts({duty.name: duty.run_once() for duty in work}, as_json=as_json)
            return
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        keep_up(work, stop)


def _print_counts(counts: Mapping[str, Mapping[str, int]], *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        flat = {f"{duty} {name}": count for duty, each in counts.items() for name, count in each.items()}
        print_facts({name.replace("_", " "): count for name, count in flat.items()}, title="counts")
