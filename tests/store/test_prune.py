"""What may be pruned, what goes with it, and what is kept for ever; on both databases."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update

from worker.domain.outcome import Succeeded
from worker.domain.read_back import Purpose
from worker.domain.state import FINAL, State
from worker.domain.ticket import Reason
from worker.ports import PrunedCommand, Reading
from worker.store.schema import (
    action,
    attempt,
    command,
    kept_key,
    metadata,
    outcome,
    reading,
    ticket,
    ticket_command,
)

PUBLISHED_FOR = timedelta(seconds=10)

#: Ids carry the real clock, and a test's clock must be ahead of it in any year in which the test is run.
LONG_AFTER = timedelta(days=36_500)


@pytest.fixture
def prune(store, clock):
    """Prune what ended before now; what was pruned."""

    def run(*ids):
        with store.begin() as transaction:
            transaction.keep_keys(ids)
        with store.begin() as transaction:
            locked = transaction.lock_prunable(ids, before=clock.now)
            transaction.prune(locked)

        return set(locked)

    return run


@pytest.fixture
def prunable(store, clock):
    def find(*, after=None, limit=100):
        with store.begin() as transaction:
            return [each.id for each in transaction.prunable(before=clock.now, after=after, limit=limit)]

    return find


def count(database, table):
    with database.connect() as connection:
        return connection.scalar(select(func.count()).select_from(table))


@pytest.mark.parametrize("state", State)
def test_only_what_is_final_may_be_pruned(given, clock, prunable, prune, state):
    """Anything else is still to be sent, or waits for a person."""
    command_id = given.now(state)
    clock.advance(LONG_AFTER)

    found = prunable()

    expected = {command_id} if state in FINAL else set()
    assert expected == set(found)
    assert expected == prune(command_id)


def test_what_ended_within_the_retention_stays(given, clock, prunable, prune):
    """The retention counts from the end: a command may have waited for months."""
    clock.advance(LONG_AFTER)

    command_id = given.now(State.SUCCEEDED)

    assert [] == prunable()
    assert set() == prune(command_id)


def test_what_stands_in_an_open_ticket_stays(store, given, clock, prunable, prune):
    """Somebody is about to look at it."""
    command_id = given.now(State.REJECTED)
    given.linked(command_id, Reason.REFUSED)
    clock.advance(LONG_AFTER)
    before = prunable(), prune(command_id)

    with store.begin() as transaction:
        transaction.close_links([command_id])

    assert ([], set()) == before
    assert [command_id] == prunable()


def test_what_stands_in_a_ticket_whose_desk_does_not_know_that_it_closed_stays(store, given, clock, prunable, prune):
    """The desk is told how each of them ended."""
    command_id = given.now(State.REJECTED)
    ticket_id = given.linked(command_id, Reason.REFUSED)
    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=timedelta(seconds=60), cases=50)
        transaction.land_ticket(work, desk="log", external_ref="T-1", next_in=timedelta(seconds=60))
    with store.begin() as transaction:
        transaction.close_links([command_id])
    clock.advance(LONG_AFTER)

    before = prunable(), prune(command_id)
    with store.begin() as transaction:
        work = transaction.claim_ticket(ticket_id, lease=timedelta(seconds=60), cases=50)
        transaction.land_ticket(work, desk="log", external_ref="T-1", next_in=timedelta(seconds=60))

    assert ([], set()) == before
    assert [command_id] == prunable()


def test_what_the_host_is_still_to_be_told_of_stays(database, given, clock, prunable, prune):
    """The shop would never learn that it was paid."""
    command_id = given.now(State.SUCCEEDED)
    with database.begin() as connection:
        connection.execute(update(command).values(tell_at=clock.now))

    clock.advance(LONG_AFTER)

    assert [] == prunable()
    assert set() == prune(command_id)


def test_what_an_unfinished_command_replaces_stays(given, clock, prunable, prune):
    """Whoever decides about the new one asks what became of the old one."""
    old = given.now(State.REJECTED, order_id="o-1")
    new = given.one(order_id="o-1", replaces=old)
    other = given.now(State.REJECTED, order_id="o-2")

    clock.advance(LONG_AFTER)

    assert [other] == prunable()
    assert {other} == prune(old, new, other)


def test_what_is_found_is_found_in_the_order_of_ids_a_batch_at_a_time(given, clock, prunable):
    """A run goes on where the batch before it ended, past what has to stay."""
    ids = sorted(given.now(State.SUCCEEDED) for _ in range(5))
    clock.advance(LONG_AFTER)

    first = prunable(limit=2)
    rest = prunable(after=first[-1])

    assert (ids[:2], ids[2:]) == (first, rest)


def test_a_command_goes_with_all_that_belongs_to_it(store, database, given, clock, prune):
    """A row that nothing refers to any more would stay for ever."""
    kept = given.now(State.SUCCEEDED)
    held = given.sent()
    given.ended(held, Succeeded(result={}, status=201, correlation_id="c"))
    with store.begin() as transaction:
        found = Reading(
            held=held, purpose=Purpose.REPEAT, verdict="absent", evidence="nothing is there", read_at=transaction.now
        )
        transaction.note_readings([found])
    with database.begin() as connection:
        connection.execute(
            update(command)
            .where(command.c.id == held.id)
            .values(state="rejected", finalized_at=clock.now, lease_until=None)
        )
    given.linked(held.id, Reason.REFUSED)
    with store.begin() as transaction:
        transaction.note_action(given.action(transaction.find(held.id), verb="resolve"))
        transaction.close_links([held.id])
    clock.advance(LONG_AFTER)

    pruned = prune(held.id)

    assert {held.id} == pruned
    assert 1 == count(database, command) == count(database, attempt)
    assert [0] * 5 == [count(database, each) for each in (outcome, reading, action, ticket, ticket_command)]
    assert kept == given.row(kept).id


def test_a_ticket_stays_for_as_long_as_one_of_its_commands(store, database, given, clock, prune):
    """The other one's page shows it."""
    first, second = given.now(State.REJECTED), given.now(State.REJECTED)
    shared = given.linked(first, Reason.LADDER_EXHAUSTED)
    assert shared == given.linked(second, Reason.LADDER_EXHAUSTED)
    with store.begin() as transaction:
        transaction.close_links([first, second])
    clock.advance(LONG_AFTER)

    prune(first)
    after_one = count(database, ticket), count(database, ticket_command)
    prune(second)

    assert (1, 1) == after_one
    assert (0, 0) == (count(database, ticket), count(database, ticket_command))


def test_nothing_goes_whose_key_is_not_kept(store, given, clock):
    """The row is all that tells a late duplicate from a new command."""
    command_id = given.now(State.SUCCEEDED)
    clock.advance(LONG_AFTER)

    with store.begin() as transaction:
        locked = transaction.lock_prunable([command_id], before=clock.now)

    assert [] == locked


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_key_is_known_for_ever(store, given, clock, prune, state):
    """A message of a shop's own queue may turn up after years."""
    command_id = given.now(state, idempotency_key="key", fingerprint="a" * 64)
    ended_at = clock.now
    clock.advance(LONG_AFTER)
    prune(command_id)

    with store.begin() as transaction:
        found = transaction.find_by_key([("klarna-eu", "key"), ("klarna-na", "key")])
        by_id = transaction.find_pruned(command_id)

    kept = PrunedCommand(
        id=command_id,
        account="klarna-eu",
        idempotency_key="key",
        fingerprint="a" * 64,
        state=state,
        finalized_at=ended_at,
    )
    assert {("klarna-eu", "key"): kept} == found
    assert kept == by_id


@pytest.mark.parametrize("size", [1, 3, 2_300])
def test_a_pruned_key_is_not_stored_again(store, given, clock, prune, size):
    """The second row would be paid a second time; the others of its batch are new."""
    command_id = given.now(State.SUCCEEDED, idempotency_key="key")
    clock.advance(LONG_AFTER)
    prune(command_id)
    asked = [given.new(idempotency_key="key"), *(given.new() for _ in range(size - 1))]

    with store.begin() as transaction:
        stored = transaction.insert_commands(asked, published_for=PUBLISHED_FOR)

    assert {each.id for each in asked[1:]} == stored
    with store.begin() as transaction:
        assert transaction.find(asked[0].id) is None


def test_another_account_may_use_the_key_of_a_pruned_command(given, clock, prune):
    """A key is a promise between one merchant account and the provider."""
    command_id = given.now(State.SUCCEEDED, idempotency_key="key")
    clock.advance(LONG_AFTER)
    prune(command_id)

    again = given.one(account="klarna-na", idempotency_key="key")

    assert "klarna-na" == given.row(again).account


def test_a_command_whose_key_is_kept_is_the_command_until_it_is_gone(store, given):
    """Between the two steps both are there, and the row knows more."""
    command_id = given.now(State.SUCCEEDED, idempotency_key="key")
    with store.begin() as transaction:
        transaction.keep_keys([command_id])

    with store.begin() as transaction:
        found = transaction.find_by_key([("klarna-eu", "key")])
        pruned = transaction.find_pruned(command_id)

    assert given.row(command_id) == found[("klarna-eu", "key")]
    assert pruned is None


def test_keys_are_kept_of_final_commands_only_and_once(store, database, given):
    """A run that died in between is repeated; a command that is not final has no end to keep."""
    done, waiting = given.now(State.SUCCEEDED), given.one()

    for _ in range(2):
        with store.begin() as transaction:
            transaction.keep_keys([done, waiting, uuid4()])

    with database.connect() as connection:
        assert [done] == list(connection.scalars(select(kept_key.c.id)))


def test_the_archive_holds_all_that_is_stored(store, database, given, clock):
    """What is removed can be asked for by an accountant in seven years."""
    held = given.sent(
        reference="parcel-1", payload='{"amount":1000,"note":"ümlaut"}'.encode(), trace_context={"traceparent": "00"}
    )
    given.ended(held, Succeeded(result={}, status=201, correlation_id="corr-1"))
    given.linked(held.id, Reason.REFUSED)
    raw = given.one(payload=b"\xff\x00")

    with store.begin() as transaction:
        line, other = transaction.archived([held.id, raw])

    stored = {each.name for each in command.c}
    assert stored | {"attempts", "outcomes", "readings", "actions", "tickets"} == set(line)
    assert (str(held.id), '{"amount":1000,"note":"ümlaut"}', {"traceparent": "00"}) == (
        *(line["id"], line["payload"], line["trace_context"]),
    )
    assert [("2030-01-01T12:00:00+00:00", 1)] == [(each["started_at"], each["number"]) for each in line["attempts"]]
    assert ["corr-1"] == [each["correlation_id"] for each in line["outcomes"]]
    assert ["refused"] == [each["reason"] for each in line["tickets"]]
    assert ("/wA=", []) == (other["payload_base64"], other["attempts"])


def test_every_table_that_refers_to_a_command_is_pruned():
    """A table that is added later would keep a command from going, or stay behind."""
    referring = {
        table.name for table in metadata.sorted_tables for key in table.foreign_keys if key.column.table is command
    }

    assert {each.name for each in (attempt, reading, action, ticket_command)} == referring
