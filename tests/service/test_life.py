"""The whole life of many commands at once, with everything going wrong that can, on a virtual clock.

Hypothesis makes up the story: what is enqueued, what the provider, the broker, the database and the desk do, where a
worker dies or stands still and what the other one does meanwhile, how much time passes, what operators do. What must
hold is checked after every step against the sandbox's own ledger. `POST_PURCHASE_TEST_EXAMPLES` makes it longer.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from tests.domain.test_order_rules import RULES
from tests.service.stage import ACCOUNT, KEY, NOON, Died, FailingStore, Interrupted, Stage, die
from worker.domain.errors import VerbRefused
from worker.domain.klarna_commands import KLARNA_COMMANDS
from worker.domain.state import State
from worker.ports import StoreUnavailable
from worker.store.engine import build_engine
from worker.store.schema import metadata, ticket_command

EXAMPLES = int(os.environ.get("POST_PURCHASE_TEST_EXAMPLES", "60"))

MOST_COMMANDS = 10
REPLY = timedelta(seconds=3)

#: What the sandbox may do to a request. Each is something that Klarna, or what stands before it, really does; none
#: claims success for what was not done.
FAULTS = [
    ("status", {"status": 500}),
    ("status", {"status": 503, "body": "html"}),
    ("status", {"status": 409}),
    ("status", {"status": 404, "body": "empty"}),
    ("status", {"status": 401, "body": "html"}),
    ("status", {"status": 403, "code": "NOT_ALLOWED"}),
    ("status", {"status": 422}),
    ("singular_error", {}),
    ("payment_method_failed", {}),
    ("throttle", {}),
    ("execute_then_status", {"status": 500}),
    ("execute_then_status", {"status": 504, "body": "html"}),
    ("drop_reply", {}),
    ("reset", {"executed": True}),
    ("reset", {"executed": False}),
    ("hang", {"executed": True}),
    ("hang", {"executed": False}),
    ("html", {"executed": True}),
    ("html", {"executed": False, "status": 403}),
    ("truncated", {"executed": False, "status": 502}),
    ("truncated", {"executed": True}),
    ("not_json", {"executed": True, "status": 500}),
    ("delay", {"seconds": 2.0}),
    ("delay", {"seconds": 40.0}),
    ("slow_body", {"seconds": 1.0}),
    ("slow_body", {"seconds": 30.0}),
    ("no_id_header", {"location": False}),
    ("close_idle", {"executed": True}),
    ("close_idle", {"executed": False}),
]

WAITS = [1, 5, 10, 31, 61, 91, 300, 360, 3_600, 18_000, 22 * 3_600, 30 * 3_600]

#: Where a worker may die or stand still: which part, and before or after which call of it. Blocks count when they end.
STEPS = {
    "claimed": ("store", {"after": "claim"}),
    "about to note the intent": ("store", {"before": "begin", "number": 1}),
    "noted the intent": ("store", {"after": "begin", "number": 1}),
    "about to send": ("transport", {"before": "send"}),
    "sent": ("transport", {"after": "send"}),
    "sent the second": ("transport", {"after": "send", "number": 2}),
    "has the answer": ("transport", {"after": "collect"}),
    "about to record": ("store", {"before": "begin", "number": 2}),
    "recorded": ("store", {"after": "begin", "number": 2}),
    "about to publish": ("publisher", {"before": "execute"}),
}


def is_hidden_effect(fault):
    kind, options = fault

    return kind in {"drop_reply", "execute_then_status"} or (options.get("executed", False) and kind != "truncated")


def is_refusal(fault):
    kind, options = fault

    return kind == "singular_error" or options in ({"status": 422}, {"status": 403, "code": "NOT_ALLOWED"})


NUMBERS = st.integers(min_value=0, max_value=99)

#: What a shop wants: kind, order, whether under a key (four of five), and in how many seconds.
WISHES = st.tuples(
    st.sampled_from(sorted(KLARNA_COMMANDS)) | st.sampled_from(["capture", "refund"]),
    st.integers(0, 2),
    st.integers(0, 4),
    st.sampled_from([0, 0, 0, 400]),
)

#: Faults for the next requests, of one order or of any, so many times.
TROUBLES = st.lists(
    st.tuples(st.sampled_from(FAULTS), st.sampled_from([None, None, 0, 1, 2]), st.integers(1, 4)), max_size=3
) | st.tuples(
    # Done, and nobody was told; then a refusal: the machine must not believe it.
    st.tuples(st.sampled_from([each for each in FAULTS if is_hidden_effect(each)]), st.none(), st.integers(1, 2)),
    st.tuples(st.sampled_from([each for each in FAULTS if is_refusal(each)]), st.none(), st.just(1)),
)


class Checked:
    """A transport that looks, at each send, whether the order rules let the command go."""

    def __init__(self, transport, life):
        self._transport, self._life = transport, life

    def send(self, tag, request):
        self._life.demand_turn(tag)
        self._transport.send(tag, request)

    def collect(self, within):
        return self._transport.collect(within)


class Life(RuleBasedStateMachine):
    """Commands of a few orders, two workers, upkeep, operators, and a world that fails."""

    def __init__(self):
        super().__init__()
        self.engine = build_engine(
            "sqlite://",
            pool_size=1,
            busy_timeout=timedelta(seconds=1),
            connect_timeout=timedelta(seconds=1),
            statement_timeout=timedelta(seconds=1),
        )
        metadata.create_all(self.engine)
        self.stage = Stage(self.engine, window=4, reply=REPLY)
        self.transports = [self.stage.transport]
        self.workers = [self.new_transport(), self.new_transport()]
        self.resolved, self.decided = set(), set()
        self.ended = {}
        self.breaches = []
        self.is_unkeyed_used = set()

    def new_transport(self):
        made = self.stage.another_transport()
        self.transports.append(made)

        return made

    @initialize(wishes=st.lists(WISHES, min_size=2, max_size=6))
    def open_orders(self, wishes):
        whole = self.stage.world.create_order(amount=10_000)
        part = self.stage.world.create_order(amount=10_000, status="PART_CAPTURED")
        small = self.stage.world.create_order(amount=300)
        self.orders = [(each["order_id"], (each["captures"] or [None])[0]) for each in (whole, part, small)]
        self.enqueue(wishes)

    # what the shop does

    @precondition(lambda self: len(self.stage.commands()) < MOST_COMMANDS)
    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3))
    def the_shop_wants_more(self, wishes):
        self.enqueue(wishes)

    def enqueue(self, wishes):
        self.stage.enqueue_many([self.command(*wish) for wish in wishes])

    def command(self, kind, order, keyed, later):
        order_id, capture = self.orders[order]
        capture_id = capture["capture_id"] if capture else "no-such-capture"
        fields = {
            "capture": {"amount": 1_000},
            "refund": {"amount": 200},
            "update_authorization": {"amount": 9_000},
            "update_customer_details": {"shipping_address": {"city": "Knoxville"}},
            "update_merchant_references": {"merchant_reference1": "10001"},
            "add_order_shipping_info": {"shipping_info": [{"shipping_company": "DHL"}]},
            "add_capture_shipping_info": {"capture_id": capture_id, "shipping_info": [{"shipping_company": "DHL"}]},
            "trigger_send_out": {"capture_id": capture_id},
            "extend_due_date": {"capture_id": capture_id, "number_of_days": 14},
            "read_capture": {"capture_id": capture_id},
            "read_refund": {"refund_id": "no-such-refund"},
            "read_due_date_options": {"capture_id": capture_id},
        }.get(kind, {})
        # One change without a key of each kind and order: its effects carry no key to tell them apart by.
        if not kind.startswith("read_") and not keyed and (kind, order_id) not in self.is_unkeyed_used:
            self.is_unkeyed_used.add((kind, order_id))
            fields = {**fields, "keyed": False}
        due_at = self.stage.clock.now + timedelta(seconds=later) if later else None

        return KLARNA_COMMANDS[kind](account=ACCOUNT, order_id=order_id, due_at=due_at, **fields)

    # what the world does

    @rule(troubles=TROUBLES)
    def trouble_comes(self, troubles):
        self.script(troubles)

    def script(self, troubles):
        for (kind, options), order, times in troubles:
            order_id = None if order is None else self.orders[order][0]
            self.stage.world.fault(kind, order_id=order_id, times=times, **options)

    @rule(
        change=st.sampled_from(
            ["faults end", "broker away", "broker back", "desk away", "desk back", "refused 1 s", "refused 20 s"]
        )
    )
    def the_world_changes(self, change):
        match change.split():
            case ["faults", "end"]:
                self.stage.world.clear_faults()
            case ["broker", where]:
                self.stage.publisher.is_away = where == "away"
            case ["desk", where]:
                self.stage.desk.is_unavailable = where == "away"
            case ["refused", seconds, "s"]:
                for each in self.transports:
                    each.refuse_connections(float(seconds))

    @rule(seconds=st.sampled_from(WAITS))
    def time_passes(self, seconds):
        self.stage.clock.advance(timedelta(seconds=seconds))
        for each in self.transports:
            each.settle()

    # what becomes of messages

    @precondition(lambda self: self.stage.publisher.waiting)
    @rule(number=NUMBERS, fate=st.sampled_from(["lost", "doubled", "arrives", "arrives"]), worker=st.integers(0, 1))
    def a_message_meets_its_fate(self, number, fate, worker):
        """Any of them, due or not: early, late, out of order."""
        waiting = self.stage.publisher.waiting
        message = waiting[number % len(waiting)]
        if fate == "doubled":
            waiting.append(message)
            return
        waiting.remove(message)
        if fate == "arrives":
            self.receive(message, worker=worker)

    def receive(self, message, *, worker):
        if message.task == "escalate":
            self.stage.escalator().escalate(*message.ids)
        else:
            self.work(worker, message.ids)

    # what the workers do

    @rule(dispatch=st.booleans())
    def upkeep_ticks(self, dispatch):
        if dispatch:
            self.stage.dispatch()
        else:
            self.stage.sweep()

    @rule(worker=st.integers(0, 1), troubles=TROUBLES)
    def a_worker_takes_what_is_due(self, worker, troubles):
        self.script(troubles)
        self.work(worker, self.due())

    @rule(turns=st.integers(1, 8), troubles=TROUBLES)
    def everything_runs_for_a_while(self, turns, troubles):
        self.script(troubles)
        for _ in range(turns):
            self.turn()

    @rule(worker=st.integers(0, 1), step=st.sampled_from(sorted(STEPS)), troubles=TROUBLES)
    def a_worker_dies(self, worker, step, troubles):
        self.script(troubles)
        try:
            self.work(worker, self.due(), step=step, then=die)
        except Died:
            self.workers[worker] = self.new_transport()

    @rule(
        # Who stands still after the last look at its lease cannot know that it has lost it, and sends: so not there.
        step=st.sampled_from(sorted(set(STEPS) - {"about to send"})),
        seconds=st.sampled_from([0, 10, 50, 86, 88, 91, 120, 18_000, 25 * 3_600]),
        swept=st.booleans(),
        taken_over=st.booleans(),
        verb=st.sampled_from([None, None, "retry", "resolve", "cancel"]),
        number=NUMBERS,
    )
    def a_worker_stands_still(self, *, step, seconds, swept, taken_over, verb, number):
        """Meanwhile time passes, its leases may be swept, the other worker goes on, an operator decides."""

        def meanwhile():
            self.time_passes(seconds)
            if swept:
                self.stage.sweep()
                self.stage.clock.advance(timedelta(seconds=6))
            if taken_over:
                self.work(1, self.due())
            if verb:
                self.decide(verb, number)

        self.work(0, self.due(), step=step, then=meanwhile)

    @rule(
        claims=st.sets(st.integers(1, 4), max_size=2),
        begins=st.sets(st.integers(1, 5), max_size=3),
        commits=st.sets(st.integers(1, 5), max_size=2),
        away=st.integers(0, 300),
    )
    def the_database_goes_away_under_a_worker(self, claims, begins, commits, away):
        begins |= set(range(3, 3 + away)) if away > 200 else set()
        failing = FailingStore(self.stage.store, claims=claims, begins=begins, commits=commits)
        with suppress(StoreUnavailable):
            self.work(0, self.due(), store=failing)

    @rule(commits=st.booleans())
    def the_database_goes_away_under_upkeep(self, commits):
        failing = FailingStore(self.stage.store, **({"commits": [1]} if commits else {"begins": [1]}))
        for upkeep in (self.stage.dispatcher(store=failing), self.stage.sweeper(store=failing)):
            with suppress(StoreUnavailable):
                upkeep.run_once()

    def due(self):
        """All that is not finished, after a wait for the first of it if nothing is due."""
        pending = [each.due_at for each in self.unfinished() if each.state is State.PENDING]
        self.stage.clock.advance(max(min(pending, default=NOON) - self.stage.clock.now, timedelta(0)))

        return [each.id for each in self.unfinished()]

    def work(self, worker, ids, *, store=None, step=None, then=None):
        parts = {
            "store": store or self.stage.store,
            "transport": Checked(self.workers[worker], self),
            "publisher": self.stage.publisher,
        }
        if step:
            part, hook = STEPS[step]
            parts[part] = Interrupted(parts[part], **hook, then=then)
        self.stage.execute(*ids, **parts, holder=f"worker-{worker}")

    # what operators do

    @rule(verb=st.sampled_from(["retry", "resolve", "cancel"]), number=NUMBERS)
    def an_operator_decides(self, verb, number):
        self.decide(verb, number)

    def decide(self, verb, number):
        commands = (self.unfinished() if number % 4 else []) or self.stage.commands()
        if not commands:
            return
        command = commands[number % len(commands)]
        try:
            getattr(self.stage.operator(), verb)(command.id)
        except VerbRefused:
            return
        if verb == "resolve":
            self.resolved.add(command.id)
        elif verb == "cancel" and command.state is State.ESCALATED:
            self.decided.add(command.id)

    # what must hold after every step

    @invariant()
    def the_law_holds(self):
        commands, effects, open_links = self.stage.commands(), self.stage.world.effects(), self.open_links()
        done = {each.id: effects_of(each, effects) for each in commands}
        numbers = self.attempt_numbers(commands)

        assert len(effects) == sum(done.values()), "an effect is of no command"
        assert [] == self.breaches
        for each in commands:
            self.demand_that_an_end_is_one(each)
            self.demand_at_most_one_effect(each, done[each.id])
            self.demand_that_what_it_says_is_true(each, done[each.id])
            self.demand_its_ticket(each, open_links[each.id])
            assert 0 <= each.failures <= 4, each
            assert each.attempts == numbers[each.id] <= each.claims, each
        in_flight = Counter(each.order_id for each in commands if each.state is State.EXECUTING)
        assert set(in_flight.values()) <= {1}, "two of an order are in flight"

    def demand_that_an_end_is_one(self, command):
        """What is final stays as it is, whoever wakes up late."""
        if command.finalized_at is not None:
            assert command == self.ended.setdefault(command.id, command)

    def demand_at_most_one_effect(self, command, effects):
        """And what cannot be told apart from its repeat does not wait to be repeated."""
        assert effects <= 1, command
        is_unsafe = command.in_doubt and not command.keyed and not is_read(command)
        assert not (is_unsafe and command.state is State.PENDING), command

    def demand_that_what_it_says_is_true(self, command, effects):
        """Succeeded is done; rejected, or not in doubt, is not done. An operator's word is not the machine's."""
        if command.state is State.SUCCEEDED:
            assert effects == 1 or is_read(command) or command.id in self.resolved, command
        elif command.state is not State.EXECUTING and not command.in_doubt and command.id not in self.decided:
            assert effects == 0, command

    def demand_its_ticket(self, command, links):
        """Who is with a person has exactly one open ticket, who has ended none but a refusal not dealt with."""
        match command.state:
            case State.ESCALATED:
                assert links == 1, command
            case State.REJECTED:
                assert links == (command.id not in self.resolved), command
            case State.SUCCEEDED | State.CANCELLED:
                assert links == 0, command
            case _:
                assert links <= 1, command

    def demand_turn(self, command_id):
        """At each send it is this worker's turn: nothing else of the order is in flight, nothing waited for is left."""
        with self.stage.store.begin() as transaction:
            mine = transaction.find(command_id)
        others = [each for each in self.unfinished() if each.order_id == mine.order_id and each.id != command_id]
        before = [each for each in others if each.seq < mine.seq and each.kind in RULES.get(mine.kind, ())]
        in_flight = [each for each in others if each.state is State.EXECUTING]
        if mine.state is not State.EXECUTING or before or in_flight:
            # Kept for the next look: what a transport raises, the worker takes for a failure of its own.
            self.breaches.append((mine, before, in_flight))

    # how every story ends

    def teardown(self):
        try:
            self.come_to_an_end()
        finally:
            for each in self.transports:
                each.close()
            self.engine.dispose()

    def come_to_an_end(self):
        """Everything works again; whatever is left must end by itself, or stand with a person who was told."""
        if not hasattr(self, "orders"):
            return
        self.stage.world.clear_faults()
        for each in self.transports:
            each.accept_connections()
        self.stage.publisher.is_away = self.stage.desk.is_unavailable = False

        self.run_until(self.is_settled)
        self.the_law_holds()
        for each in self.stage.commands():
            if each.state is State.ESCALATED:
                self.stage.operator().cancel(each.id)
                self.decided.add(each.id)
        self.run_until(lambda: not [each for each in self.unfinished() if each.state is not State.ESCALATED])
        self.the_law_holds()
        self.demand_one_key_one_body_one_day()
        self.demand_that_desks_were_told()

    def run_until(self, is_over):
        for _ in range(150):
            self.turn()
            if is_over():
                return
        raise AssertionError([(each.kind, each.state, each.due_at - NOON) for each in self.unfinished()])

    def turn(self):
        """Time goes on to where something is due, and whatever is due is done."""
        self.stage.clock.advance(self.next_moment() - self.stage.clock.now)
        for each in self.transports:
            each.settle()
        self.stage.dispatch()
        self.stage.sweep()
        for _ in range(20):
            messages = self.stage.publisher.deliver()
            for each in messages:
                self.receive(each, worker=0)
            if not messages:
                return

    def next_moment(self):
        """When something is due next, and in no case later than the desk may be told again."""
        now = self.stage.clock.now
        moments = [each.due_at for each in self.unfinished() if each.state is State.PENDING]
        moments += [each.lease_until + timedelta(seconds=1) for each in self.unfinished() if each.lease_until]
        moments += [each.due_at for each in self.stage.publisher.waiting]
        later = [each for each in moments if each > now]

        return min([*later, now + timedelta(hours=1)] if self.all_told() else [*later, now + timedelta(seconds=61)])

    def is_settled(self):
        """Final, with a person, or waiting for one who decides about an earlier command."""
        left = self.unfinished()
        waiting = [each for each in left if each.state is not State.ESCALATED]

        return self.all_told() and all(self.waits_for_a_person(each, left) for each in waiting)

    def waits_for_a_person(self, command, left, seen=frozenset()):
        earlier = [
            each
            for each in left
            if each.order_id == command.order_id and each.seq < command.seq and each.kind in RULES.get(command.kind, ())
        ]

        return command.state is State.PENDING and any(
            each.state is State.ESCALATED or self.waits_for_a_person(each, left) for each in earlier
        )

    def demand_one_key_one_body_one_day(self):
        """From the sandbox's own log: under one key the same bytes to the same place, within a day."""
        first = {}
        for each in self.stage.world.requests():
            key = each["headers"].get(KEY)
            if key is None:
                continue
            sent = (each["method"], each["path"], each["body"])
            began, was = first.setdefault(key, (datetime.fromisoformat(each["at"]), sent))
            assert was == sent
            assert datetime.fromisoformat(each["at"]) - began < timedelta(hours=24)

    def demand_that_desks_were_told(self):
        """Whoever has an open ticket stands in a case file that a desk has taken."""
        told = {case.command_id for each in self.stage.desk.told for case in each.case_file.cases}

        assert set() == {each for each, count in self.open_links().items() if count} - told

    # looking

    def unfinished(self):
        return [each for each in self.stage.commands() if each.finalized_at is None]

    def attempt_numbers(self, commands):
        with self.stage.store.begin() as transaction:
            lines = transaction.attempts([each.id for each in commands])

        return {command_id: len({each.number for each in attempts}) for command_id, attempts in lines.items()}

    def open_links(self):
        with self.engine.connect() as connection:
            rows = connection.execute(
                select(ticket_command.c.command_id, func.count())
                .where(ticket_command.c.closed_at.is_(None))
                .group_by(ticket_command.c.command_id)
            ).all()

        return Counter(dict(tuple(row) for row in rows))

    def all_told(self):
        with self.engine.connect() as connection:
            return not connection.scalar(
                select(func.count())
                .select_from(ticket_command)
                .where(ticket_command.c.closed_at.is_(None), ticket_command.c.announced_at.is_(None))
            )


def is_read(command):
    return command.kind.startswith("read_")


def effects_of(command, effects):
    """Count the effects that are this command's: by its key, or where none was sent by what it did to which order."""
    if command.keyed:
        return sum(each["key"] == command.idempotency_key for each in effects)
    if is_read(command):
        return 0

    return sum(
        each["key"] is None and (each["kind"], each["order_id"]) == (command.kind, command.order_id) for each in effects
    )


@pytest.mark.timeout(900)  # telling what is wrong takes longer than finding it
def test_every_life_has_one_effect_at_most_and_ends_or_is_with_a_person():
    """This is what the whole project is for."""
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
