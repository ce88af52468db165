"""How a command is named to people in Flower and in logs: kind, account, order and try; never a payload."""

from __future__ import annotations

#: An order id longer than this is shortened; the whole id is in the row.
_ORDER_CHARACTERS = 8


def command_label(*, kind: str, account: str, order_id: str, failures: int, tries: int) -> str:
    """Name one command, such as `capture klarna-eu 4ba29b50… try 2 of 4`."""
    order = order_id if len(order_id) <= _ORDER_CHARACTERS else f"{order_id[:_ORDER_CHARACTERS]}…"

    return f"{kind} {account} {order} try {min(failures + 1, tries)} of {tries}"


def batch_label(labels: list[str]) -> str:
    """Name a message: its command, or how many there are and the first."""
    return labels[0] if len(labels) == 1 else f"{len(labels)} commands: {labels[0]} …"
