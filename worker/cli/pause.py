"""`post-purchase pause` and `resume`: the door that the breaker closes and opens, by hand.

Decides nothing; what is paused for which cause, and what leaves a pause, is the service's to say.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..domain.errors import InvalidPause, UnknownAccount
from ..domain.pause import ALL_KINDS
from .edge import REFUSED, BadInput, examples, invocation
from .operate import By, Reason
from .output import AsJson, print_facts, print_json, tell

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's name.")]
Kind = Annotated[
    str, typer.Option("--kind", metavar="KIND", help="Only commands of this kind, such as capture.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    app.command(
        "pause", epilog=examples('post-purchase pause klarna-eu --by "on call" --reason "Klarna announced maintenance"')
    )(pause)
    app.command(
        "resume", epilog=examples('post-purchase resume klarna-eu --by "on call" --reason "maintenance is over"')
    )(resume)


def pause(
    ctx: typer.Context, account: Account, *, kind: Kind = ALL_KINDS, by: By, reason: Reason, as_json: AsJson = False
) -> None:
    """Send nothing of an account until it is resumed.

    Commands keep attempt and rung; what is under way goes on. A command whose key is about to count no more is read
    back, or goes to a person. What cannot be paused is named (exit 1).
    """
    with invocation(ctx).services() as services:
        try:
            services.operator(by=by, why=reason).pause(account, kind)
        except UnknownAccount as error:
            raise BadInput([str(error)]) from None
        except InvalidPause as error:
            tell(str(error))
            raise typer.Exit(REFUSED) from None

    _answer({"account": account, "kind": kind or None, "is_paused": True}, as_json=as_json)


def resume(
    ctx: typer.Context, account: Account, *, kind: Kind = ALL_KINDS, by: By, reason: Reason, as_json: AsJson = False
) -> None:
    """Send again what was paused, by hand or by the breaker.

    After new credentials, commands that were escalated for the old ones are sent again too. What is not paused is named
    (exit 1).
    """
    with invocation(ctx).services() as services:
        try:
            causes = services.operator(by=by, why=reason).resume(account, kind)
        except UnknownAccount as error:
            raise BadInput([str(error)]) from None
        except InvalidPause as error:
            tell(str(error))
            raise typer.Exit(REFUSED) from None

    ended = sorted(cause.value for cause in causes)
    _answer({"account": account, "kind": kind or None, "is_paused": False, "causes": ended}, as_json=as_json)


def _answer(done: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        print_facts(
            {name.replace("is_", ""): value for name, value in done.items() if value is not None}, title="pause"
        )
