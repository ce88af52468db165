"""Calls that have ended are recorded in the transaction that writes the next intents, and neither harms the other."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta

import pytest

from tests.service.stage import ACCOUNT, FailingStore
from worker.domain.quota import AccountRates, Quota, RateTable


class Noting:
    """A store that notes, for each transaction, how many intents and how many decisions it wrote.

    Decisions about a command in `unwritable` cannot be written.
    """

    def __init__(self, store, *, unwritable=()):
        self._store, self._unwritable = store, set(unwritable)
        self.written = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    @contextmanager
    def begin(self):
        with self._store.begin() as transaction:
            noted = _Noted(transaction, self._unwritable)
            yield noted
        self.written.append((noted.intents, noted.decisions))


class _Noted:
    def __init__(self, transaction, unwritable):
        self._transaction, self._unwritable = transaction, unwritable
        self.intents = self.decisions = 0

    def __getattr__(self, name):
        return getattr(self._transaction, name)

    def open_attempts(self, held, *, holder):
        self.intents += len(held)

        return self._transaction.open_attempts(held, holder=holder)

    def apply(self, moves):
        self.decisions += len(moves)
        if self._unwritable.intersection(each.held.id for each in moves):
            raise RuntimeError("a bug")

        return self._transaction.apply(moves)


@pytest.fixture
def paced(each_stage):
    """A stage with twelve slots a second, so that answers come while others wait, and one answer that takes long."""
    table = RateTable(
        name="own", category_by_kind={"*": "all"}, quota_by_category={"all": Quota(partner=12.0)}, first=frozenset()
    )
    each_stage.rates[ACCOUNT] = AccountRates(account=ACCOUNT, host="127.0.0.1", table=table)
    each_stage.world.fault("delay", seconds=3)

    return each_stage


def test_answers_are_recorded_with_the_next_intents(paced):
    """A commit costs the same whatever it holds, and every process of a fleet waits for the same disk."""
    ids = [paced.capture() for _ in range(5)]
    store = Noting(paced.store)

    paced.execute(*ids, store=store)

    assert ["succeeded"] * 5 == paced.states()
    assert any(intents and decisions for intents, decisions in store.written)
    assert len(store.written) < 2 * sum(intents > 0 for intents, _ in store.written)


def test_an_answer_that_cannot_be_written_keeps_no_other_from_being_sent(paced):
    """It alone waits for the end of its lease, and its key brings the same answer once more."""
    ids = [paced.capture() for _ in range(5)]

    paced.execute(*ids, store=Noting(paced.store, unwritable=[ids[1]]))
    states = [paced.command(each).state.value for each in ids]
    sent = len(paced.world.requests())
    paced.work(timedelta(minutes=5))

    assert ["succeeded", "executing", "succeeded", "succeeded", "succeeded"] == states
    assert 5 == sent
    assert ["succeeded"] * 5 == paced.states()
    assert 5 == len(paced.effects())


@pytest.mark.parametrize("moment", ["begins", "commits"])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_database_that_is_away_for_both_forgets_no_answer_and_sends_nothing_unwritten(paced, moment, number):
    """What had ended is written once it is back; what was to begin waits for the end of its lease."""
    ids = [paced.capture() for _ in range(5)]

    paced.execute(*ids, store=FailingStore(paced.store, **{moment: [number]}))
    paced.work(timedelta(minutes=5))

    assert ["succeeded"] * 5 == paced.states()
    assert 5 == len(paced.effects())
    assert 5 == len(paced.world.requests())
