from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from worker.domain import state
from worker.domain.outcome import Problem
from worker.domain.state import FINAL, State
from worker.domain.ticket import SYSTEMIC, Reason
from worker.store.schema import action, attempt, command, outcome, ticket, ticket_command

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PROBLEM = Problem(code="no_answer")

#: State to begin from, and columns that no transition would write together.
UNLAWFUL_COMMANDS = {
    "a state nobody knows": (State.PENDING, {"state": "paused"}),
    "final without its time": (State.ESCALATED, {"state": "succeeded", "in_doubt": False}),
    "a final time without an end": (State.PENDING, {"finalized_at": NOW}),
    "executing without a lease": (State.PENDING, {"state": "executing"}),
    "a lease on a pending command": (State.PENDING, {"lease_until": NOW}),
    "a lease on a final command": (State.SUCCEEDED, {"lease_until": NOW}),
    "final and in doubt": (State.SUCCEEDED, {"in_doubt": True}),
    "a fifth rung": (State.ESCALATED, {"failures": 5}),
    "a rung below the first": (State.ESCALATED, {"failures": -1}),
    "more sends than claims": (State.SUCCEEDED, {"attempts": 2}),
    "a send without its time": (State.SUCCEEDED, {"first_sent_at": None}),
    "no moment at which it is due": (State.PENDING, {"due_at": None}),
    "no key": (State.PENDING, {"idempotency_key": None}),
    "a read-back of what is final": (State.SUCCEEDED, {"read_back": {"purpose": "ticket"}}),
}

#: Columns of a ticket that no step of its life would write together.
UNLAWFUL_TICKETS = {
    "a state nobody knows": {"state": "waiting"},
    "closed without its time": {"state": "closed"},
    "a closing time on an open one": {"closed_at": NOW},
    "open at a desk without the desk's own name for it": {"state": "open", "external_ref": None},
}


def tick(*, reason="ladder_exhausted", **fields):
    return {
        "id": uuid4(),
        "account": "klarna-eu",
        "reason": reason,
        "is_incident": reason in SYSTEMIC,
        "state": "unsent",
        "desk": "log",
        "opened_at": NOW,
        "tries": 0,
        **fields,
    }


@pytest.mark.parametrize("unlawful", UNLAWFUL_COMMANDS)
def test_the_table_refuses_a_command_that_cannot_be(database, given, unlawful):
    """Whatever writes to the table, a bug or a person at a console, cannot make a state without a meaning."""
    begins, columns = UNLAWFUL_COMMANDS[unlawful]
    command_id = given.now(begins)
    before = given.row(command_id)

    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(update(command).where(command.c.id == command_id).values(**columns))

    assert before == given.row(command_id)


@pytest.mark.parametrize("final", sorted(FINAL))
def test_the_table_takes_every_state_there_is(given, final):
    """A check that has fallen behind the code would refuse a lawful end, in the middle of a payment."""
    assert final is given.row(given.now(final)).state


def test_two_commands_of_one_order_are_never_executing(database, given, clock):
    """This index is the law; the claim only spares itself from running into it."""
    held = given.held(order_id="a")
    other = given.one(order_id="a", kind="add_order_shipping_info")

    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(
            update(command).where(command.c.id == other).values(state="executing", lease_until=NOW, claims=1)
        )

    assert given.moved(held, state.succeed(failures=0, result={}))
    assert other == given.claim(other).id


@pytest.mark.parametrize("column", ["id", "idempotency_key"])
def test_a_command_is_stored_once(database, given, column):
    """Two rows under one key are two payments."""
    one, other = given.pending(2)

    stolen = select(command.c[column]).where(command.c.id == one).scalar_subquery()

    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(update(command).where(command.c.id == other).values({column: stolen}))


@pytest.mark.parametrize("unlawful", UNLAWFUL_TICKETS)
def test_the_table_refuses_a_ticket_that_cannot_be(database, unlawful):
    """A ticket that says it is with a desk and is not would be waited for in vain."""
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(insert(ticket), tick(**UNLAWFUL_TICKETS[unlawful]))


@pytest.mark.parametrize("reason", sorted(Reason))
def test_there_is_one_open_incident_for_an_account_and_a_systemic_reason(database, reason):
    """An outage makes one ticket; a refused command makes its own."""
    with database.begin() as connection:
        connection.execute(insert(ticket), tick(reason=reason, state="closed", closed_at=NOW))
        connection.execute(insert(ticket), tick(reason=reason))
        connection.execute(insert(ticket), tick(reason=reason, account="klarna-na"))

    if reason in SYSTEMIC:
        with pytest.raises(IntegrityError), database.begin() as connection:
            connection.execute(insert(ticket), tick(reason=reason))
    else:
        with database.begin() as connection:
            connection.execute(insert(ticket), tick(reason=reason))


def test_a_command_has_one_open_ticket(database, given):
    """Two people deciding the same payment is how it gets decided twice."""
    command_id = given.one()
    links = [{"ticket_id": uuid4(), "command_id": command_id, "linked_at": NOW} for _ in range(3)]
    with database.begin() as connection:
        connection.execute(insert(ticket), [tick(id=each["ticket_id"], reason="refused") for each in links])
        connection.execute(insert(ticket_command), {**links[0], "closed_at": NOW})
        connection.execute(insert(ticket_command), links[1])

    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(insert(ticket_command), links[2])


@pytest.mark.parametrize(
    ("table", "row"),
    [
        pytest.param(
            attempt, {"command_id": uuid4(), "number": 1, "claim": 1, "holder": "h", "started_at": NOW}, id="attempt"
        ),
        pytest.param(
            outcome,
            {"command_id": uuid4(), "number": 1, "late": False, "outcome": "succeeded", "finished_at": NOW},
            id="outcome",
        ),
        pytest.param(ticket_command, {"ticket_id": uuid4(), "command_id": uuid4(), "linked_at": NOW}, id="link"),
        pytest.param(
            action,
            {
                "command_id": uuid4(),
                "verb": "cancel",
                "by": "operator",
                "why": "not wanted",
                "state_before": "pending",
                "in_doubt_before": False,
                "at": NOW,
            },
            id="action",
        ),
    ],
)
def test_nothing_is_kept_about_a_command_that_is_not_there(database, table, row):
    """On SQLite foreign keys hold only where they were switched on."""
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(insert(table), row)


def test_the_table_refuses_an_outcome_nobody_knows(database, given):
    """What is counted and shown are the seven meanings there are."""
    row = {"command_id": given.sent().id, "number": 1, "late": False, "outcome": "perhaps", "finished_at": NOW}

    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(insert(outcome), row)


def test_a_result_that_is_absent_is_null(database, given):
    """JSON has a null of its own; a column that holds it is not empty for anybody who asks the database."""
    held = given.sent()
    given.moved(held, state.escalate(failures=1, in_doubt=True, problem=None))

    with database.begin() as connection:
        absent = connection.scalar(
            select(func.count()).where(
                command.c.result.is_(None), command.c.problem.is_(None), command.c.trace_context.is_(None)
            )
        )

    assert 1 == absent
