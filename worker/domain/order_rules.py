"""Which commands of one order wait for which others.

Decides, per kind, what it waits for; the rest of the order's commands are independent. What sets a value also waits
for what set it before, or a retried old one would overwrite a newer
(docs/decisions/0008-what-sets-waits-for-what-set-before.md). Leaves to the store's claim statement to apply it,
together with the law that one command per (account, order) is in flight at a time. What waits is let go when what it
waits for is final, whatever the outcome; an escalated command is not final, so it goes on holding back. Source: DESIGN
§3 and the rulings of §11.
"""

from __future__ import annotations

from collections.abc import Mapping

CAPTURES = frozenset({"capture"})
REFUNDS = frozenset({"refund"})
AUTHORIZATION_CHANGES = frozenset(
    {"cancel", "release_remaining_authorization", "update_authorization", "extend_authorization_time"}
)

#: Each sets fields of the order to what the command says; the last one shall win.
SETTERS = frozenset({"update_customer_details", "update_merchant_references"})

#: kind → the kinds whose earlier, unfinished commands of the same order it waits for.
WAITS_FOR: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(CAPTURES, AUTHORIZATION_CHANGES),
    **dict.fromkeys(REFUNDS, CAPTURES),
    **dict.fromkeys(AUTHORIZATION_CHANGES, CAPTURES | REFUNDS | AUTHORIZATION_CHANGES),
    **{kind: frozenset({kind}) for kind in SETTERS},
}
