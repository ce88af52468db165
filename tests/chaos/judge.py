"""Whether the promises were kept in a run: what our tables say, held against what the provider did.

Decides from rows and effects alone, and touches nothing; `rows_of` reads the rows. The truth about money is the list of
effects at the sandbox, which shares no code with the worker.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from tests.domain.test_order_rules import RULES

Effect = Mapping[str, Any]

FINAL = frozenset({"succeeded", "rejected", "cancelled"})

#: The kinds whose effects carry the key of their command even where no key is sent.
_MARKED = frozenset({"capture", "refund", "sale", "authorize"})

#: What the sandbox calls the effects of a kind, where it has another word.
_EFFECT_OF = {"update_shopper": "update_vaulted_shopper"}

#: What only sets a value is done when the value stands, whoever set it.
_SETTERS = frozenset(
    {
        *("auth_reversal", "cancel", "cancel_pending_refund", "release_remaining_authorization"),
        *("update_authorization", "update_customer_details", "update_merchant_references"),
        *("update_plan", "update_shopper", "update_subscription", "update_vendor"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A command as it stands."""

    id: UUID
    account: str
    kind: str
    order_id: str
    idempotency_key: str
    seq: int
    state: str
    claims: int
    attempts: int
    failures: int
    in_doubt: bool
    is_overdue: bool
    is_lease_over: bool
    purpose: str | None
    is_read_back: bool
    sends: int
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An open link from a command to a ticket."""

    command_id: UUID
    ticket_id: UUID
    account: str
    reason: str
    is_incident: bool
    is_told: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What there is to be judged; `confirmed` are the commands whose commit was confirmed to the shop."""

    confirmed: Sequence[UUID]
    rows: Sequence[Row]
    links: Sequence[Link]
    effects: Sequence[Effect]
    #: What the sandbox counted of each second in which it had a quota.
    seconds: Sequence[Mapping[str, Any]] = ()
    #: Commands that were changed after their end: which, from what, into what.
    overwritten: Sequence[tuple[UUID, str, str]] = ()
    #: Workers that live and took no message for long, while there were some.
    silent: Sequence[str] = ()
    quota: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A promise that was not kept, and of what.

    It is `lost`, `doubled`, `untrue`, `untold`, `stuck`, `exceeded`, `overwritten` or `silent`.
    """

    promise: str
    what: str


_ROWS = """
SELECT id, account, kind, order_id, idempotency_key, seq, state, claims, attempts, failures, in_doubt,
       state = 'pending' AND due_at < now() - interval '5 seconds' AS is_overdue,
       state = 'executing' AND lease_until < now() AS is_lease_over,
       read_back ->> 'purpose' AS purpose,
       coalesce((result ->> 'read_back')::boolean, false) AS is_read_back,
       (SELECT count(*) FROM post_purchase_attempt AS a WHERE a.command_id = c.id) AS sends,
       (SELECT count(DISTINCT number) FROM post_purchase_outcome AS o WHERE o.command_id = c.id) AS answers
FROM post_purchase_command AS c
"""

_LINKS = """
SELECT l.command_id, t.id AS ticket_id, t.account, t.reason, t.is_incident, l.announced_at IS NOT NULL AS is_told
FROM post_purchase_ticket_command AS l JOIN post_purchase_ticket AS t ON t.id = l.ticket_id
WHERE l.closed_at IS NULL
"""


def rows_of(connection: psycopg.Connection[Any]) -> tuple[list[Row], list[Link]]:
    """Read what our tables say."""
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        rows = cursor.execute(_ROWS).fetchall()
    with connection.cursor(row_factory=class_row(Link)) as cursor:
        links = cursor.execute(_LINKS).fetchall()

    return rows, links


def overwritten(connection: psycopg.Connection[Any]) -> list[tuple[UUID, str, str]]:
    """Read what the database noted of commands that were changed after their end."""
    return connection.execute("SELECT command_id, was, became FROM chaos_overwritten").fetchall()


def unsafe(rows: Sequence[Row], links: Sequence[Link]) -> list[Row]:
    """Find what is neither final nor with a person who was told, nor waiting for such a person's decision."""
    by_order: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.state not in FINAL:
            by_order[row.account, row.order_id].append(row)
    untold = {link.command_id for link in links if not link.is_told}

    def waits_for_a_person(row: Row) -> bool:
        earlier = [each for each in by_order[row.account, row.order_id] if _holds_back(each, row)]

        return row.state == "pending" and any(each.state == "escalated" or waits_for_a_person(each) for each in earlier)

    return [
        row
        for row in rows
        if row.id in untold or not (row.state in FINAL or row.state == "escalated" or waits_for_a_person(row))
    ]


def _holds_back(earlier: Row, row: Row) -> bool:
    if earlier.seq >= row.seq or earlier.purpose == "settlement":
        return False
    is_read_back = earlier.purpose is not None and earlier.kind == row.kind

    return is_read_back or earlier.kind in RULES.get(row.kind, ())


def judge(facts: Facts) -> list[Breach]:
    """Find every promise that was not kept; to be asked when everything has come to rest."""
    mine = _attributed(facts)
    links = defaultdict(list)
    for link in facts.links:
        links[link.command_id].append(link)
    there = {row.id for row in facts.rows}
    breaches = [
        Breach(promise="lost", what=f"{each} was confirmed and is not stored") for each in set(facts.confirmed) - there
    ]
    breaches += [_breach("stuck", row) for row in unsafe(facts.rows, facts.links)]
    for row in facts.rows:
        breaches += _of_one(row, mine.get(row.id, []), links[row.id])
    owned = {effect["number"] for effects in mine.values() for effect in effects}
    breaches += [
        Breach(promise="doubled", what=f"an effect is of no command: {effect}")
        for effect in facts.effects
        if effect["actor"] == "client" and effect["number"] not in owned
    ]

    breaches += [
        Breach(promise="overwritten", what=f"{command_id} had ended as {was} and became {became}")
        for command_id, was, became in facts.overwritten
    ]

    breaches += [Breach(promise="silent", what=f"{name} lives and takes no messages") for name in facts.silent]

    return [*breaches, *_of_tickets(facts.links), *_of_seconds(facts)]


def _of_one(row: Row, effects: Sequence[Effect], links: Sequence[Link]) -> Iterable[Breach]:
    is_read = row.kind.startswith("read_")
    if len(effects) > 1:
        yield _breach("doubled", row, f"{len(effects)} effects")
    if row.state == "succeeded" and not effects and not is_read and not (row.is_read_back and row.kind in _SETTERS):
        yield _breach("lost", row, "succeeded, and the provider shows no effect")
    if row.state == "rejected" and effects:
        yield _breach("untrue", row, "rejected, and the provider shows its effect")
    if row.state in {"pending", "escalated"} and not row.in_doubt and effects and row.purpose != "settlement":
        yield _breach("untrue", row, "not in doubt, and the provider shows its effect")
    if row.state == "escalated" and len(links) != 1:
        yield _breach("untold", row, f"with a person, and {len(links)} open tickets")
    if row.state == "rejected" and len(links) != 1:
        yield _breach("untold", row, f"rejected, and {len(links)} open tickets")
    if row.state == "succeeded" and [link for link in links if link.reason != "keys_not_enabled"]:
        yield _breach("untold", row, "succeeded, and with an open ticket")
    if row.is_lease_over:
        yield _breach("stuck", row, "a lease that is over")
    if row.sends != row.attempts or row.attempts > row.claims:
        yield _breach("untrue", row, f"{row.sends} sends in the ledger")
    if row.answers != row.sends and row.state != "executing":
        yield _breach("untrue", row, f"{row.sends} sends and {row.answers} outcomes in the ledger")


def _of_tickets(links: Sequence[Link]) -> Iterable[Breach]:
    """One open ticket for each cause."""
    tickets = Counter(
        (cause.account, cause.reason)
        for cause in {
            _Cause(account=link.account, reason=link.reason, ticket_id=link.ticket_id)
            for link in links
            if link.is_incident
        }
    )
    for (account, reason), count in tickets.items():
        if count > 1:
            yield Breach(promise="untold", what=f"{count} open tickets about {reason} of {account}")


def _of_seconds(facts: Facts) -> Iterable[Breach]:
    """No more in a second than its quota and once as much: what a line held back may arrive together."""
    for each in facts.seconds:
        arrived = each["admitted"] + each["throttled"]
        if facts.quota is not None and arrived > 2 * facts.quota:
            what = f"{arrived} requests of {each['account'] or each['category']} in one second, with {facts.quota}"
            yield Breach(promise="exceeded", what=what)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    account: str
    reason: str
    ticket_id: UUID


def _attributed(facts: Facts) -> dict[UUID, list[Effect]]:
    """Say whose each effect is: by its key, or where none was sent by what it did to what."""
    by_key = {row.idempotency_key: row for row in facts.rows}
    by_deed = {(_EFFECT_OF.get(row.kind, row.kind), row.order_id): row for row in facts.rows if row.kind not in _MARKED}
    mine: dict[UUID, list[Effect]] = defaultdict(list)
    for effect in facts.effects:
        if effect["actor"] != "client":
            continue
        owner = by_key.get(effect["key"]) or by_key.get(effect["reference"])
        if owner is None and effect["key"] is None:
            owner = by_deed.get((effect["kind"], effect["order_id"]))
        if owner is not None:
            mine[owner.id].append(effect)

    return mine


def _breach(promise: str, row: Row, why: str = "") -> Breach:
    told = f"{row.account} {row.kind} of {row.order_id} ({row.id}) is {row.state}"

    return Breach(promise=promise, what=f"{told}{': ' if why else ''}{why}")


def counted(values: Iterable[Any], name: Callable[[Any], str]) -> dict[str, int]:
    """Count by name, the most frequent first."""
    return dict(Counter(map(name, values)).most_common())
