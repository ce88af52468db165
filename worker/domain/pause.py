"""A pause: nothing of an account, or of one kind of its commands, is sent for a while.

Decides what can bring a pause about and what an outcome says about the provider's health. Leaves counting and timing to
`service.breaker`, probing to `service.probe`, and to the store that no claim takes what is paused.

While an account is paused its commands keep attempt and rung. One whose key is about to count no more leaves the pause
all the same: it is read back, or goes to a person (DESIGN §11, key window).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from .finding import Finding
from .outcome import InDoubt, NotSent, Outcome, Unauthorized


class Cause(StrEnum):
    """Why an account is paused. The strings are stored and never change."""

    BREAKER = "breaker"  # the provider could not be reached, or did not say what it did, several times in a row
    CREDENTIALS = "credentials"  # the provider refuses the account's credentials
    OPERATOR = "operator"  # a person said so


#: Causes that the machine ends by itself, once a probe has been answered well.
PROBED: frozenset[Cause] = frozenset({Cause.BREAKER, Cause.CREDENTIALS})

#: A pause of all kinds.
ALL_KINDS = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A pause as it is stored. `edge` is how old a first send may be before its command leaves the pause."""

    account: str
    kind: str
    cause: Cause
    by: str
    why: str
    edge: timedelta
    probe_at: datetime | None


def ailment(outcome: Outcome | Finding) -> Cause | None:
    """Say what an outcome is a sign of: that the provider is ill, that it refuses the account, or neither."""
    match outcome:
        case NotSent() | InDoubt():
            return Cause.BREAKER
        case Unauthorized():
            return Cause.CREDENTIALS
        case _:
            return None
