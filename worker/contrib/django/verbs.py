"""What an operator may do in the admin: one line per verb, from which follow its action, its page and its permission.

Decides the words. Which verb is safe in which state is the service's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...service.operate import Operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """Something an operator may do to a command.

    Attributes:
        run: What the service does; where the verb takes another command, with that as the third argument.
        means: What it means, in the words of its page.
        takes_command: It puts another command in the place of one: of a single one, and its page asks for the other.
    """

    run: Callable[..., Any]
    means: str
    takes_command: bool = False


VERBS: Mapping[str, Verb] = {
    "retry": Verb(run=Operator.retry, means="Send it up the ladder again, under its own key, where that is safe."),
    "recheck": Verb(run=Operator.recheck, means="The workers read at the provider what became of it; look again soon."),
    "amend": Verb(
        run=Operator.amend,
        means="Another command takes its place, of the same kind, account and order, under a new key. It must have "
        "been rejected, or be known to be absent at the provider.",
        takes_command=True,
    ),
    "resolve": Verb(run=Operator.resolve, means="You have seen the effect at the provider, or dealt with the ticket."),
    "cancel": Verb(run=Operator.cancel, means="It will not be sent, or not again."),
}


def permission(verb: str) -> str:
    """Return the code name of the permission that a verb needs."""
    return f"{verb}_command"
