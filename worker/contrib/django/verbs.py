"""What an operator may do in the admin: one line per verb, from which follow its action, its page and its permission.

Decides the words. Which verb is safe in which state is the service's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from ...ports import StoredCommand
from ...service.operate import Operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """Something an operator may do to a command.

    Attributes:
        run: What the service does.
        means: What it means, in the words of its page.
    """

    run: Callable[[Operator, UUID], StoredCommand]
    means: str


VERBS: Mapping[str, Verb] = {
    "retry": Verb(run=Operator.retry, means="Send it up the ladder again, under its own key, where that is safe."),
    "recheck": Verb(run=Operator.recheck, means="The workers read at the provider what became of it; look again soon."),
    "resolve": Verb(run=Operator.resolve, means="You have seen the effect at the provider, or dealt with the ticket."),
    "cancel": Verb(run=Operator.cancel, means="It will not be sent, or not again."),
}


def permission(verb: str) -> str:
    """Return the code name of the permission that a verb needs."""
    return f"{verb}_command"
