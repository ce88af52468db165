"""What a read-back found: the provider's present state, held against one command.

Decides the three things a read can say of a command. Leaves to each provider what counts as its effect, to `ladder`
what follows, and to the service when a read is due. A read that brought no answer, or one that cannot be understood,
is no finding: it is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The effect is there. `result` holds what an answer would have given: ids, a status.

    `settled` is False while the provider shows it as pending: it counts as done, and can still come to nothing.
    """

    name: ClassVar[str] = "done"
    evidence: str
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)
    settled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The effect is not there. Once is no proof: a request may still be under way, and a read may lag behind."""

    name: ClassVar[str] = "absent"
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguous:
    """What is there can be this command's effect or somebody else's: a person decides."""

    name: ClassVar[str] = "ambiguous"
    evidence: str


#: `evidence` is one or two sentences for a person: what was looked for, what is there, where; no personal data.
Finding = Done | Absent | Ambiguous

#: The name of what a read told that told nothing.
UNREAD = "unread"

#: The stored names.
VERDICTS: tuple[str, ...] = (*(kind.name for kind in (Done, Absent, Ambiguous)), UNREAD)
