"""Texts of others, made fit for tables, logs and tickets.

Decides what of a stranger's text is kept: one line of bounded length, without control characters, without what may be
a card number or a mail address, and without what was sent about a person. Leaves to each provider which texts it reads
and how long they may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Thirteen digits and more, in groups or not. A UUID may look like that and is what a person needs to find a thing.
_UUID_OR_CARD = re.compile(
    r"(?P<uuid>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})|\d(?:[ \u2010-\u2015-]?\d){12,}"
)
_MAIL = re.compile(r"[^\s@<>\"'(),;:]+@[^\s@<>\"'(),;:]+")

#: Shorter texts than this are in every sentence.
_SHORTEST_PERSONAL = 3


def readable(text: str, longest: int) -> str:
    """Bound a text: one line, without what may be a card number or a mail address."""
    line = " ".join(printable(text).split())
    masked = _MAIL.sub("[mail address]", _UUID_OR_CARD.sub(lambda found: found["uuid"] or "[digits]", line))

    return masked[:longest]


def printable(text: str) -> str:
    """Put a space in place of each control character."""
    if text.isprintable():
        return text

    return "".join(letter if letter.isprintable() else " " for letter in text)


def without(message: str, sent: object) -> str:
    """Take every text of what was sent, a JSON value, out of a message that may quote it."""
    texts = {text.strip() for text in _texts(sent)}
    longest_first = sorted((text for text in texts if len(text) >= _SHORTEST_PERSONAL), key=len, reverse=True)
    if not longest_first:
        return message

    return re.sub("|".join(map(re.escape, longest_first)), "[as sent]", message, flags=re.IGNORECASE)


def _texts(content: object) -> Iterator[str]:
    match content:
        case str():
            yield content
        case list():
            for item in content:
                yield from _texts(item)
        case dict():
            for item in content.values():
                yield from _texts(item)
