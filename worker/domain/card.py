"""What card data looks like, so that no command carries any.

Decides which names and which digits count as card data, and how a place in a command is named without repeating
what stands there. Leaves the refusal to `commands`. Source: the ruling "Card data" of DESIGN §11.

A number counts when it has 13 to 19 digits, passes the Luhn check, and stands by itself: no letter or digit touches
it. It may be written in groups as on a card. The groups of a UUID are never those of a card, even when all of them
are digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce

from .errors import FieldProblem

#: Names of fields that hold card data, in lower case and without separators. What a browser has encrypted is card data
#: still.
CARD_FIELDS = frozenset(
    {"cardnumber", "securitycode", "cvv", "cvc", "encryptedcardnumber", "encryptedsecuritycode", "encryptedcvv"}
)

#: How many digits a card number has (ISO/IEC 7812).
SHORTEST, LONGEST = 13, 19

#: The groups in which card numbers are printed and typed.
CARD_GROUPS = frozenset(
    {
        (4, 3, 3, 3),
        (4, 4, 4, 1),
        (4, 4, 4, 2),
        (4, 4, 4, 3),
        (4, 4, 4, 4),
        (4, 4, 4, 4, 1),
        (4, 4, 4, 4, 2),
        (4, 4, 4, 4, 3),
        (4, 6, 4),
        (4, 6, 5),
        (6, 13),
    }
)

IS_CARD_FIELD = "is card data, which is never stored: pass the provider's token or vaulted shopper instead"
HOLDS_CARD_NUMBER = "holds what may be a card number (13 to 19 digits that pass the Luhn check), which is never stored"

# Digits of any script, between single spaces or dashes. Only ASCII letters count as touching: in a language that is
# written without spaces a letter right before a number says nothing.
_SEPARATOR = "[ \u00a0\u202f\u2010-\u2015-]"
_GROUP = r"(?<![\dA-Za-z])\d++(?![A-Za-z])"
_GROUPS = re.compile(f"{_GROUP}(?:{_SEPARATOR}{_GROUP})*+")
_ENOUGH_DIGITS = re.compile(rf"\d(?:{_SEPARATOR}?\d){{{SHORTEST - 1}}}")

_NO_SEPARATORS = str.maketrans("", "", "_- .")

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def card_problems(value: object, path: str = "") -> list[FieldProblem]:
    """List every place in a JSON-like value, at any depth, that holds card data; what is not JSON-like is passed over.

    Args:
        value: A mapping, list, text, number or anything else.
        path: The dotted path of the value itself.
    """
    problems = []
    # A list of what is still to be looked at instead of recursion: input may be nested deeper than the stack. Paths
    # are kept in steps, because they are spelled out for problems only, and nearly every command has none.
    waiting: list[tuple[tuple[str | int, ...], object]] = [((), value)]
    while waiting:
        steps, value = waiting.pop()
        match value:
            case None:
                continue
            case str() if _holds_card_number(value):
                problems.append(_problem(path, steps, HOLDS_CARD_NUMBER))
            case int() if abs(value) < 10**LONGEST and _holds_card_number(str(abs(value))):
                problems.append(_problem(path, steps, HOLDS_CARD_NUMBER))
            case float() if value.is_integer() and _holds_card_number(f"{abs(value):.0f}"):
                problems.append(_problem(path, steps, HOLDS_CARD_NUMBER))
            case dict() | Mapping():
                for name, inner in reversed(list(value.items())):
                    place = (*steps, str(name))
                    if _is_card_field(str(name)):
                        problems.append(_problem(path, place, IS_CARD_FIELD))
                    elif _holds_card_number(str(name)):
                        problems.append(_problem(path, place, HOLDS_CARD_NUMBER))
                    else:
                        waiting.append((place, inner))
            case list() | tuple():
                waiting.extend(((*steps, index), inner) for index, inner in reversed(list(enumerate(value))))

    return problems


def _problem(path: str, steps: Iterable[str | int], message: str) -> FieldProblem:
    return FieldProblem(field=reduce(dotted, steps, path), message=message)


def dotted(path: str, step: str | int) -> str:
    """Extend a dotted path by a field's name or an item's index; a name that might be data is not repeated."""
    name = str(step) if isinstance(step, int) or _is_plain(step) else "(unreadable name)"

    return f"{path}.{name}" if path else name


def _is_plain(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is not None and not _holds_card_number(name)


def _is_card_field(name: str) -> bool:
    return name.translate(_NO_SEPARATORS).lower() in CARD_FIELDS


def _holds_card_number(text: str) -> bool:
    # The first two questions are there for speed: they let nearly every text go.
    if len(text) < SHORTEST or _ENOUGH_DIGITS.search(text) is None:
        return False

    return any(_passes_luhn(number) for number in _card_shaped(text))


def _card_shaped(text: str) -> Iterator[str]:
    """Every run of digits in the text that is as long as a card number or grouped like one."""
    for found in _GROUPS.finditer(text):
        groups = re.split(_SEPARATOR, found.group())
        lengths = [len(group) for group in groups]
        for start, length in enumerate(lengths):
            if SHORTEST <= length <= LONGEST:
                yield groups[start]
            for count in range(2, 6):
                if tuple(lengths[start : start + count]) in CARD_GROUPS:
                    yield "".join(groups[start : start + count])


def _passes_luhn(number: str) -> bool:
    total = 0
    for place, character in enumerate(reversed(number)):
        digit = int(character) << place % 2
        total += digit - 9 if digit > 9 else digit  # noqa: PLR2004 - the Luhn rule itself: 9 is the last digit

    return total % 10 == 0
