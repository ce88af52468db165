"""The command line `post-purchase`: parse, call one service, print.

Decides which commands there are and in which order `--help` lists them. Leaves to `edge` how a process is set up and
how an error becomes a line and an exit code, to `output` how results look, and to one module per group what a command
does. Nothing heavy is imported before a command runs: `--help` must be quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from . import check, database, enqueue, flower, limits, look, operate, pause, prune, sandbox, upkeep
from .edge import CommandLine, Environ, Invocation, assignment
from .output import print_line

app = typer.Typer(
    name="post-purchase",
    cls=CommandLine,
    add_completion=False,
    # Pretty tracebacks print the values of local variables, credentials included.
    pretty_exceptions_enable=False,
    # Boxes and colours are for a terminal; elsewhere plain text is read more easily, and is there sooner.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    epilog="Exit codes: 0 done. 1 refused, or a check failed. 2 bad input, usage or configuration. 3 the database or "
    "the broker is away.",
)


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001  # typer's signature
    if is_wanted:
        print_line(f"post-purchase {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _set_up(
    ctx: typer.Context,
    *,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Profile of the settings, or path of a .toml file. Default: POST_PURCHASE_PROFILE, else development.",
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, written as in the environment: --set retry.ladder_seconds=1,2,3. May be repeated.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001  # its callback does it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Payment commands after the purchase: once in effect, or a person knows."""
    ctx.obj = Invocation(profile=profile, given=tuple(assignment(each) for each in given or ()), environ=ctx.obj)
    if ctx.invoked_subcommand is None:
        print_line(ctx.get_help())
        raise typer.Exit(2)


app.add_typer(database.app, name="db")
enqueue.add_to(app)
look.add_to(app)
operate.add_to(app)
pause.add_to(app)
upkeep.add_to(app)
prune.add_to(app)
limits.add_to(app)
sandbox.add_to(app)
flower.add_to(app)
check.add_to(app)


def main(arguments: Sequence[str] | None = None, *, prog_name: str = "post-purchase", environ: Environ = None) -> None:
    """Run the command line of this process and exit; a host passes what it was told instead of the process."""
    app(arguments, prog_name=prog_name, obj=environ)
