from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.store.conftest import NO_ANSWER, START, Given
from worker.domain import state
from worker.domain.pause import ALL_KINDS, Cause, Pause
from worker.domain.state import State
from worker.domain.ticket import Reason
from worker.ports import Probe
from worker.store.engine import SqlStore

LEASE = timedelta(seconds=90)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
EDGE = timedelta(hours=23)
HORIZON = timedelta(minutes=6)
EVERY = timedelta(seconds=5)
CAP = timedelta(seconds=60)


@pytest.fixture
def pause_of(clock):
    """A pause of all kinds of an account by the breaker, to be probed at once."""

    def build(**fields):
        unnamed = Pause(
            account="klarna-eu",
            kind=ALL_KINDS,
            cause=Cause.BREAKER,
            by="breaker",
            why="5 sends in a row were not answered",
            edge=EDGE,
            probe_at=clock.now,
        )
        return replace(unnamed, **fields)

    return build


@pytest.fixture
def begin(store, pause_of):
    """Begin a pause; whether it is new."""

    def write(**fields):
        with store.begin() as transaction:
            return transaction.begin_pause(pause_of(**fields))

    return write


@pytest.fixture
def end(store):
    """End pauses; the causes of those that were ended."""

    def write(*causes, account="klarna-eu", kind=ALL_KINDS):
        with store.begin() as transaction:
            ended = transaction.end_pauses(account, kind=kind, causes=causes or list(Cause), by="operator", why="over")
            return sorted(ended)

    return write


@pytest.fixture
def paused(store):
    """What is paused: account, kind and cause."""

    def read():
        with store.begin() as transaction:
            return [(each.account, each.kind, each.cause) for each, _ in transaction.pauses()]

    return read


@pytest.fixture
def probes(store):
    """Take the probes that are due."""

    def take(accounts=("klarna-eu", "bluesnap-us")):
        with store.begin() as transaction:
            return transaction.take_probes(accounts, every=EVERY, cap=CAP)

    return take


@pytest.fixture
def given_on_postgresql(on_postgresql, clock):
    """Where rows are locked one by one, and two transactions may write at once."""
    return Given(SqlStore(on_postgresql, clock=clock))


def claimed(store):
    return {each.id for each in store.claim(None, limit=100, lease=LEASE)}


# --- how it begins and ends --------------------------------------------------------------------------------


def test_a_pause_is_read_as_it_was_written(store, begin, pause_of, clock):
    """People are shown who did it and why, and workers keep to its edge."""
    begin(kind="refund", cause=Cause.OPERATOR, by="on call", why="month's end", probe_at=None)

    with store.begin() as transaction:
        ((pause, began_at),) = transaction.pauses()

    assert clock.now == began_at
    assert pause_of(kind="refund", cause=Cause.OPERATOR, by="on call", why="month's end", probe_at=None) == pause


def test_a_pause_begins_once_for_each_account_kind_and_cause(begin, paused):
    """Every worker that finds the provider ill says so; the first has said it for all."""
    first, again = begin(), begin(why="another process found out too")

    assert (True, False) == (first, again)
    assert [True] * 3 == [begin(cause=Cause.OPERATOR), begin(kind="refund"), begin(account="bluesnap-us")]
    assert 4 == len(paused())


def test_many_that_pause_at_once_make_one_pause(store, pause_of, paused, at_once):
    """An outage is found out by all workers within the same second."""

    def trip(number):
        with store.begin() as transaction:
            return transaction.begin_pause(pause_of(why=f"process {number}"))

    answers = at_once(4, trip)

    assert [False, False, False, True] == sorted(answers)
    assert 1 == len(paused())


def test_only_the_causes_that_are_named_are_ended(begin, end, paused):
    """A probe that is answered says nothing about what a person wanted."""
    for each in Cause:
        begin(cause=each)

    ended = end(Cause.BREAKER)

    assert [Cause.BREAKER] == ended
    assert {Cause.CREDENTIALS, Cause.OPERATOR} == {cause for _, _, cause in paused()}


def test_only_the_account_and_kind_that_are_named_are_ended(begin, end, paused):
    """Refunds that accounting holds back do not leave because the account is resumed."""
    begin()
    begin(kind="refund")
    begin(account="bluesnap-us")

    end()

    assert [("klarna-eu", "refund", Cause.BREAKER), ("bluesnap-us", "", Cause.BREAKER)] == paused()


def test_what_was_ended_can_begin_anew_and_cannot_be_ended_twice(begin, end):
    """Providers fall ill more than once; the second person to resume learns that it is done."""
    begin()

    assert [Cause.BREAKER] == end()
    assert [] == end()
    assert begin()


# --- what it holds up --------------------------------------------------------------------------------------


def test_nothing_of_a_paused_account_is_claimed_or_handed_out(store, given, begin, end):
    """The one statement that gives work away looks at the pause; nobody has to remember it."""
    waiting, other = given.one(), given.one(account="bluesnap-us")
    begin()

    with store.begin() as transaction:
        due = transaction.take_due(limit=100, window=5_000, horizon=HORIZON, published_for=SECOND)
        oldest = transaction.oldest_due_at()
    named = store.claim([waiting], limit=1, lease=LEASE)
    during = claimed(store)
    end()

    assert [other] == [each.id for each in due]
    assert oldest is not None
    assert ([], {other}, {waiting}) == (named, during, claimed(store))


def test_what_is_paused_is_not_overdue(store, given, begin):
    """It waits because somebody wants it to, and no alarm is to go off for it."""
    given.one()
    begin()

    with store.begin() as transaction:
        assert transaction.oldest_due_at() is None


def test_a_pause_of_one_kind_holds_up_that_kind_alone(store, given, begin):
    """Refunds wait for accounting; captures do not."""
    given.one(kind="refund")
    capture = given.one()

    begin(kind="refund")

    assert {capture} == claimed(store)


def sent_and_waiting(given, **fields):
    """A command that was sent once and waits for its next attempt."""
    held = given.sent(**fields)
    given.moved(
        held,
        state.retry_at(given.row(held.id).created_at, failures=1, in_doubt=True, problem=NO_ANSWER),
    )

    return held.id


def test_a_command_leaves_the_pause_when_its_key_is_about_to_end(store, given, begin, clock):
    """Later nobody could find out any more what became of it by sending it again, nor would anybody be told in time."""
    command_id, unsent = sent_and_waiting(given), given.one()
    begin()
    clock.advance(EDGE - SECOND)
    before = claimed(store)

    clock.advance(SECOND)

    assert (set(), {command_id}) == (before, claimed(store))
    assert State.PENDING is given.row(unsent).state


def test_a_command_without_a_key_has_no_edge(store, given, begin, clock):
    """No key of it ends, so nothing is lost by waiting."""
    sent_and_waiting(given, keyed=False)
    begin()

    clock.advance(EDGE * 10)

    assert set() == claimed(store)


# --- probes ------------------------------------------------------------------------------------------------


def test_a_probe_reads_an_order_of_which_something_waits(given, begin, probes):
    """It is a read that the shop will need in any case, of an order that exists."""
    given.one(order_id="later", due_at=START + MINUTE)
    given.one(order_id="sooner")
    begin()

    taken = probes()

    assert [Probe(account="klarna-eu", kind=ALL_KINDS, cause=Cause.BREAKER, order_id="sooner")] == taken


def test_a_probe_is_due_again_after_waits_that_double_up_to_the_cap(given, begin, probes, clock):
    """Whoever is ill for hours is not helped by being asked each second."""
    given.one()
    begin()

    moments = []
    for second in range(200):
        moments += [second] * len(probes())
        clock.advance(SECOND)

    assert [0, 5, 15, 35, 75, 135, 195] == moments


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"probe_at": None, "cause": Cause.OPERATOR}, id="by a person"),
        pytest.param({"probe_at": START + SECOND}, id="not due yet"),
        pytest.param({"account": "of-another-worker"}, id="an account that this worker does not know"),
        pytest.param({"account": "bluesnap-us"}, id="nothing waits"),
    ],
)
def test_what_is_not_to_be_probed_is_not_taken(given, begin, probes, fields):
    """A person had a reason; an idle shop asks nothing; without credentials nothing can be asked."""
    given.one()
    given.one(account="of-another-worker")
    begin(**fields)

    assert [] == probes()


@pytest.mark.parametrize(("cause", "orders"), [(Cause.CREDENTIALS, ["o-1"]), (Cause.BREAKER, [])])
def test_for_credentials_a_probe_reads_for_those_who_are_with_a_person_too(given, begin, probes, cause, orders):
    """They are sent again when the pause ends, and it must not wait for the shop's next order to do so."""
    given.linked(given.now(State.ESCALATED, order_id="o-1"), Reason.CREDENTIALS_REFUSED)
    begin(cause=cause)

    assert orders == [each.order_id for each in probes()]


def test_a_pause_that_was_ended_is_not_probed(given, begin, end, probes):
    """Its reason is gone."""
    given.one()
    begin()
    end()

    assert [] == probes()


def test_of_many_probers_at_once_one_gets_the_probe(given, begin, probes, at_once):
    """A provider that is just getting up is asked once, not by every worker."""
    given.one()
    begin()

    answers = at_once(4, lambda _turn: probes())

    assert [0, 0, 0, 1] == sorted(map(len, answers))


def test_a_prober_does_not_wait_for_another(given_on_postgresql, clock, pause_of):
    """Its upkeep has other accounts to look after."""
    store = given_on_postgresql.store
    given_on_postgresql.one()
    given_on_postgresql.one(account="bluesnap-us")
    with store.begin() as transaction:
        transaction.begin_pause(pause_of())
        transaction.begin_pause(pause_of(account="bluesnap-us", probe_at=clock.now + SECOND))
    taken = []

    with store.begin() as first:
        taken += first.take_probes(["klarna-eu", "bluesnap-us"], every=EVERY, cap=CAP)
        clock.advance(SECOND)
        with store.begin() as second:
            taken += second.take_probes(["klarna-eu", "bluesnap-us"], every=EVERY, cap=CAP)

    assert ["klarna-eu", "bluesnap-us"] == [each.account for each in taken]


# --- who is started again ----------------------------------------------------------------------------------


def test_the_escalated_of_one_cause_are_taken_in_their_order_and_no_more_than_asked(store, given):
    """A thousand of them must not make one transaction."""
    ids = [given.now(State.ESCALATED) for _ in range(3)]
    for each in ids:
        given.linked(each, Reason.CREDENTIALS_REFUSED)

    with store.begin() as transaction:
        taken = transaction.take_escalated("klarna-eu", Reason.CREDENTIALS_REFUSED, limit=2)

    assert ids[:2] == [each.id for each in taken]


def test_only_the_escalated_of_that_account_and_cause_are_taken(store, given):
    """Whose ladder ran out is with a person for a reason that new credentials do not mend."""
    wanted = given.now(State.ESCALATED)
    given.linked(wanted, Reason.CREDENTIALS_REFUSED)
    given.linked(given.now(State.ESCALATED), Reason.LADDER_EXHAUSTED)
    given.linked(given.now(State.ESCALATED, account="klarna-us"), Reason.CREDENTIALS_REFUSED, account="klarna-us")
    given.linked(given.now(State.CANCELLED), Reason.CREDENTIALS_REFUSED)
    dealt_with = given.now(State.ESCALATED)
    given.linked(dealt_with, Reason.CREDENTIALS_REFUSED)
    with store.begin() as transaction:
        transaction.close_links([dealt_with])

    with store.begin() as transaction:
        taken = transaction.take_escalated("klarna-eu", Reason.CREDENTIALS_REFUSED, limit=100)

    assert [wanted] == [each.id for each in taken]


def test_of_two_that_start_again_at_once_each_command_goes_to_one(given_on_postgresql):
    """A probe that is answered and an operator's resume may meet."""
    store = given_on_postgresql.store
    ids = [given_on_postgresql.now(State.ESCALATED) for _ in range(2)]
    for each in ids:
        given_on_postgresql.linked(each, Reason.CREDENTIALS_REFUSED)

    with store.begin() as first, store.begin() as second:
        mine = first.take_escalated("klarna-eu", Reason.CREDENTIALS_REFUSED, limit=1)
        theirs = second.take_escalated("klarna-eu", Reason.CREDENTIALS_REFUSED, limit=10)

    assert [[ids[0]], [ids[1]]] == [[each.id for each in taken] for taken in (mine, theirs)]
