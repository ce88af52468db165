"""What the lookups of every provider have in common: holding what was sent against what is shown, and saying so.

Decides when a record shows what was sent to it, and how evidence is written: short, for a person, one line, without
control characters and without personal data. Leaves to each provider's lookups which fields count and what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..domain.redact import printable, readable
from ..ports import Held

Json = Mapping[str, object]

LONGEST_EVIDENCE = 500
_LONGEST_QUOTED = 64
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command, what it sent, what its own success gave, and the thing it is about as the provider shows it."""

    held: Held
    sent: Json = field(repr=False)
    shown: Json = field(repr=False)
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)


def evidence(*sentences: str) -> str:
    """Write evidence of sentences; an empty one is left out."""
    return readable(" ".join(sentence for sentence in sentences if sentence), LONGEST_EVIDENCE)


def quoted(value: object) -> str:
    """Write a short value of a stranger's: an id, an amount, a status."""
    match value:
        case bool() | None:
            return "none"
        case str() | int() | float():
            return printable(str(value)[:_LONGEST_QUOTED]).strip() or "none"
        case _:
            return "something else"


def named(names: list[str]) -> str:
    """Write the first few of many names."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""

    return ", ".join(quoted(name) for name in names[:_MOST_NAMED]) + more


def differing(sent: Json, shown: Json, *, same: Callable[[object, object], bool]) -> list[str]:
    """Name the fields that are not shown as they were sent; what is shown besides counts for nothing."""
    return [name for name, value in sent.items() if not agrees(value, shown.get(name), same=same)]


def agrees(sent: object, shown: object, *, same: Callable[[object, object], bool]) -> bool:
    """Whether a value is shown as it was sent, field by field and item by item. No deeper than what was sent."""
    match sent:
        case dict():
            return isinstance(shown, dict) and not differing(sent, shown, same=same)
        case list():
            return (
                isinstance(shown, list)
                and len(shown) == len(sent)
                and all(agrees(one, other, same=same) for one, other in zip(sent, shown, strict=True))
            )
        case _:
            return same(sent, shown)


def exactly(sent: object, shown: object) -> bool:
    """Whether two values are the same; a number is not its text, nor a boolean a number."""
    return type(sent) is type(shown) and sent == shown


def alike(sent: object, shown: object) -> bool:
    """Whether two values are the same but for the case of letters and the spaces of a text."""
    if isinstance(sent, str) and isinstance(shown, str):
        return " ".join(sent.casefold().split()) == " ".join(shown.casefold().split())

    return exactly(sent, shown)
