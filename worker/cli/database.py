"""`post-purchase db`: the schema.

Decides what is printed and when a downgrade asks first. Leaves versions and locks to `store.migrate`. Needs neither
accounts nor a broker.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..domain.errors import PostPurchaseError
from .edge import BadInput, examples, invocation
from .output import AsJson, print_facts, print_json, print_line

app = typer.Typer(help="Look at the schema, bring it up, take it back.")


class SchemaDiffers(PostPurchaseError):
    """The schema has the version of this code, but not its tables."""

    def __init__(self, differences: int) -> None:
        super().__init__(
            f"{differences} differences. Take back what was changed by hand; a migration is the place for it"
        )


@app.command("upgrade", epilog=examples("post-purchase db upgrade"))
def upgrade(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Bring the schema up to this version.

    Safe to repeat, and safe from several machines at once.
    """
    from alembic.util import CommandError  # noqa: PLC0415  # --help must be quick

    from ..resources import migrations_dir  # noqa: PLC0415  # the same
    from ..store import migrate  # noqa: PLC0415  # the same

    with invocation(ctx).services(needs_schema=False) as services:
        engine, migrations = services.store.engine, migrations_dir()
        before, newest = migrate.current(engine), migrate.newest(migrations)
        try:
            migrate.upgrade(engine, migrations)
        except CommandError:
            migrate.require(engine, migrations)  # says it better: the schema was made by a newer code
            raise

    if as_json:
        print_json({"before": before, "current": newest})
    elif before == newest:
        print_line(f"The schema is at {newest}; nothing to do")
    else:
        print_line(f"The schema went from {before or 'none'} to {newest}")


@app.command("current", epilog=examples("post-purchase db current --json"))
def current(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Print the version of the schema, and this code's."""
    from ..resources import migrations_dir  # noqa: PLC0415  # --help must be quick
    from ..store import migrate  # noqa: PLC0415  # the same

    with invocation(ctx).services(needs_schema=False) as services:
        found, newest = migrate.current(services.store.engine), migrate.newest(migrations_dir())

    if as_json:
        print_json({"current": found, "newest": newest})
    else:
        print_facts({"current": found or "none", "newest": newest}, title="schema")


@app.command("check", epilog=examples("post-purchase db check || post-purchase db upgrade"))
def check(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Compare the schema with the tables of this code.

    Each difference is listed; any is exit 1.
    """
    from ..resources import migrations_dir  # noqa: PLC0415  # --help must be quick
    from ..store import migrate  # noqa: PLC0415  # the same

    with invocation(ctx).services(needs_schema=False) as services:
        engine, migrations = services.store.engine, migrations_dir()
        found, newest = migrate.current(engine), migrate.newest(migrations)
        differences = migrate.differences(engine)
        fits = found == newest and not differences

        if as_json:
            print_json({"fits": fits, "current": found, "newest": newest, "differences": differences})
        elif fits:
            print_line(f"The schema is at {newest} and equal to this code")
        else:
            for difference in differences:
                print_line(difference)
        migrate.require(engine, migrations)
        if differences:
            raise SchemaDiffers(len(differences))


@app.command("downgrade", epilog=examples("post-purchase db downgrade --to base"))
def downgrade(
    ctx: typer.Context,
    *,
    to: Annotated[str, typer.Option(metavar="VERSION", help="The version to go back to; base: no tables at all.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take the schema back to an earlier version.

    What newer tables hold is lost. On a terminal it asks first.
    """
    from alembic.util import CommandError  # noqa: PLC0415  # --help must be quick

    from ..resources import migrations_dir  # noqa: PLC0415  # the same
    from ..store import migrate  # noqa: PLC0415  # the same

    with invocation(ctx).services(needs_schema=False) as services:
        engine = services.store.engine
        before = migrate.current(engine)
        if not yes and sys.stdin.isatty():
            question = f"Take the schema from {before or 'none'} to {to}, and lose what newer tables hold?"
            typer.confirm(question, abort=True, err=True)
        try:
            migrate.downgrade(engine, migrations_dir(), to=to)
        except CommandError as error:
            raise BadInput([f"cannot take the schema from {before or 'none'} to {to!r}: {error}"]) from None
        after = migrate.current(engine)

    if as_json:
        print_json({"before": before, "current": after})
    else:
        print_line(f"The schema went from {before or 'none'} to {after or 'none'}")
