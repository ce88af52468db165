"""The whole life of many commands at once, with everything going wrong that can, on a virtual clock.

Hypothesis makes up the story: what is enqueued, what the provider, the broker, the database and the desk do, where a
worker dies or stands still and what the other one does meanwhile, how much time passes, what operators do. What must
hold is checked after every step against the sandbox's own ledger. `POST_PURCHASE_TEST_EXAMPLES` makes it longer.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

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
from tests.service.stage import (
    ACCOUNT,
    BLUESNAP,
    LEASE,
    NOON,
    POLICY,
    Died,
    FailingStore,
    Interrupted,
    Stage,
    die,
)
from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.errors import CommandClosed, IdempotencyConflict, VerbRefused
from worker.domain.klarna_commands import KLARNA_COMMANDS
from worker.domain.ladder import Safety
from worker.domain.pause import Cause
from worker.domain.read_back import Purpose
from worker.domain.state import State
from worker.ports import Request, StoreUnavailable
from worker.providers.http import basic
from worker.service.breaker import Breaker
from worker.store.engine import build_engine
from worker.store.schema import metadata, ticket, ticket_command

EXAMPLES = int(os.environ.get("POST_PURCHASE_TEST_EXAMPLES", "60"))

MOST_COMMANDS = 10
REPLY = timedelta(seconds=3)

#: What lived in all stories together; printed at the end.
LIVED: Counter[str] = Counter()

AT_KLARNA = {"path": "^/ordermanagement/"}
AT_BLUESNAP = {"path": "^/services/2/"}
TO_READS = {"method": "GET"}

#: What the sandbox may do to a request. Each is something that a provider, or what stands before it, really does; none
#: claims success for what was not done, nor refuses by name what was done.
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
    ("unexpected_shape", {"executed": True, "status": 500}),
    ("fraud_pending", {"seconds": 3_600}),
    ("expire", {}),
    ("duplicate_id", AT_KLARNA),
    ("status", {"status": 409, **AT_BLUESNAP}),
    ("status", {"status": 400, "code": "PROCESSING_TIMEOUT", **AT_BLUESNAP}),
    ("execute_then_status", {"status": 400, "code": "PROCESSING_TIMEOUT", **AT_BLUESNAP}),
    ("status", {"status": 400, "code": "TRANSACTION_ALREADY_CAPTURED", **AT_BLUESNAP}),
    ("status", {"status": 400, "code": "REFUND_ALREADY_DONE", **AT_BLUESNAP}),
    ("status", {"status": 400, "code": "REFUND_GENERAL_FAILURE", **AT_BLUESNAP}),
    ("xml_error", AT_BLUESNAP),
    ("xml_error", {"status": 500, "executed": True, **AT_BLUESNAP}),
    ("bare_xml", {"status": 403, **AT_BLUESNAP}),
    ("bare_xml", {"status": 503, "executed": True, **AT_BLUESNAP}),
]

#: What may befall a read on top of that: here a lie is no harm. A read lags by less than the pause before each.
FAULTS_OF_READS = [
    ("status", {"status": 503, **TO_READS}),
    ("status", {"status": 404, **TO_READS}),
    ("bare_xml", {"status": 403, **TO_READS, **AT_BLUESNAP}),
    ("throttle", TO_READS),
    ("hang", TO_READS),
    ("not_json", TO_READS),
    ("non_object", TO_READS),
    ("truncated", {"executed": True, **TO_READS}),
    ("unexpected_shape", {"shape": "empty", **TO_READS}),
    ("unexpected_shape", {"shape": "list", "executed": True, **TO_READS}),
    ("shown_twice", TO_READS),
    ("stale_read", {"seconds": 45, **TO_READS}),
    ("stranger", {"act": "capture", "amount": 1_000, **TO_READS}),
    ("stranger", {"act": "capture", **TO_READS}),
    ("stranger", {"act": "refund", "amount": 200, **TO_READS}),
]

#: How BlueSnap is, from the beginning of a story to its end.
BLUESNAP_IS = [
    {},
    {"bluesnap_refund_details": True},
    {"bluesnap_refund_status": None},
    {"bluesnap_amounts": "number", "bluesnap_codes": "number", "replay_errors": False},
    {"bluesnap_refund_status": "PENDING", "bluesnap_pending_hours": 2},
    {"bluesnap_refund_status": "PENDING", "bluesnap_pending_hours": 2, "bluesnap_refund_details": True},
    {"bluesnap_refund_status": "PENDING", "bluesnap_pending_hours": 2, "bluesnap_pending_ends": "FAIL"},
    {"bluesnap_keys": False},
    {"bluesnap_keys": False, "bluesnap_refund_details": True},
    {"bluesnap_keys": False, "bluesnap_refund_status": "PENDING", "bluesnap_pending_hours": 2},
]

WAITS = [1, 5, 10, 31, 61, 91, 300, 360, 3_600, 18_000, 22 * 3_600, 30 * 3_600]

#: Where a worker may die or stand still: which part, and before or after which call of it. Blocks count when they end.
STEPS = {
    "claimed": ("store", {"after": "claim"}),
    "about to note the intent": ("store", {"before": "begin", "number": 1}),
    "noted the intent": ("store", {"after": "begin", "number": 1}),
    "about to send": ("transport", {"before": "send"}),
    "sent": ("transport", {"after": "flush"}),
    "sent the second": ("transport", {"after": "flush", "number": 2}),
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

    return (
        kind == "singular_error"
        or (kind == "status" and "_ALREADY_" in options.get("code", ""))
        or options in ({"status": 422}, {"status": 403, "code": "NOT_ALLOWED"})
    )


NUMBERS = st.integers(min_value=0, max_value=99)

#: The kinds whose effects carry the key of their command, be it honoured or not: any number may be of one order.
MARKED = {"capture", "refund", "sale"}

#: What the sandbox calls the effects of a kind, where it has another word.
EFFECT_OF = {
    "sale": "auth_capture",
    "create_shopper": "create_vaulted_shopper",
    "update_shopper": "update_vaulted_shopper",
}

BLUESNAP_KINDS = [
    "auth_reversal",
    "cancel_pending_refund",
    "capture",
    "create_shopper",
    "read_transaction",
    "refund",
    "sale",
    "update_shopper",
]

#: What a shop wants: account, kind, order, whether under a key (four of five), and in how many seconds.
WISHES = st.tuples(
    st.sampled_from([(ACCOUNT, kind) for kind in sorted(KLARNA_COMMANDS)])
    | st.sampled_from([(BLUESNAP, kind) for kind in BLUESNAP_KINDS])
    | st.sampled_from([(account, kind) for account in (ACCOUNT, BLUESNAP) for kind in ("capture", "refund")]),
    st.integers(0, 2),
    st.integers(0, 4),
    st.sampled_from([0, 0, 0, 400]),
)

VERBS = ["retry", "recheck", "amend", "resolve", "cancel"]

#: Faults for the next requests, of one order or of any, so many times.
TROUBLES = st.lists(
    st.tuples(
        st.sampled_from(FAULTS) | st.sampled_from(FAULTS_OF_READS),
        st.sampled_from([None, None, 0, 1, 2, 3, 4]),
        st.integers(1, 4),
    ),
    max_size=3,
) | st.tuples(
    # Done, and nobody was told; then a refusal: the machine must not believe it.
    st.tuples(st.sampled_from([each for each in FAULTS if is_hidden_effect(each)]), st.none(), st.integers(1, 2)),
    st.tuples(st.sampled_from([each for each in FAULTS if is_refusal(each)]), st.none(), st.just(1)),
)


class Checked:
    """A transport that looks, at each send, whether the command may go, and at each turn, what there is."""

    def __init__(self, transport, life):
        self._transport, self._life = transport, life

    def send(self, tag, request):
        self._life.note_what_is_as_asked()
        self._life.demand_turn(tag)
        self._life.demand_that_it_may_be_sent(tag, request)
        self._transport.send(tag, request)

    def flush(self):
        self._transport.flush()

    def collect(self, within):
        collected = self._transport.collect(within)
        self._life.note_what_is_as_asked()

        return collected


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
        self.prober = self.stage.prober(self.new_transport())
        self.resolved, self.decided, self.dealt_with, self.retried = set(), set(), set(), set()
        self.settling, self.setters, self.as_asked = set(), {}, set()
        self.ended = {}
        self.breaches = []
        self.are_late = set()
        self.is_unkeyed_used = set()

    def new_transport(self):
        made = self.stage.another_transport()
        self.transports.append(made)

        return made

    @initialize(
        wishes=st.lists(WISHES, min_size=2, max_size=6),
        switches=st.sampled_from(BLUESNAP_IS),
        most=st.sampled_from([2, 1_000_000]),
    )
    def open_orders(self, wishes, switches, most):
        world = self.stage.world
        self.stage.breaker = Breaker(
            most=dict.fromkeys(Cause, most), probe_in=timedelta(seconds=5), probe_cap=timedelta(minutes=1)
        )
        world.switch(**switches)
        self.are_keys_honoured = switches.get("bluesnap_keys", True)
        whole = world.create_order(amount=10_000)
        part = world.create_order(amount=10_000, status="PART_CAPTURED")
        small = world.create_order(amount=300)
        self.orders = [each["order_id"] for each in (whole, part, small)]
        self.capture_ids = {part["order_id"]: part["captures"][0]["capture_id"]}
        self.transactions = [
            world.create_transaction(amount="10.00", captured=captured)["transactionId"] for captured in (False, True)
        ]
        self.shopper = self.stored_shopper()
        self.effects_before = len(world.effects())
        self.enqueue(wishes)

    def stored_shopper(self):
        """The id of a shopper whom BlueSnap has known for long."""
        transport = self.stage.transport
        request = Request(
            method="POST",
            url="http://127.0.0.1:8090/services/2/vaulted-shoppers",
            headers={"bluesnap-version": "3.0", "Accept": "application/json", "Content-Type": "application/json"},
            body=b'{"firstName": "Ann", "lastName": "Example"}',
            authorization=basic("sandbox", "sandbox"),
            repeatable=False,
        )
        transport.send(uuid4(), request)
        ((_, answer),) = transport.collect(1)

        return str(json.loads(answer.body)["vaultedShopperId"])

    # what the shop does

    @precondition(lambda self: len(self.stage.commands()) < MOST_COMMANDS)
    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3))
    def the_shop_wants_more(self, wishes):
        self.enqueue(wishes)

    def enqueue(self, wishes):
        commands = [self.command(*wish) for wish in wishes]
        for command_id, each in zip(self.stage.enqueue_many(commands), commands, strict=True):
            if (each.account, each.kind) in AS_ASKED:
                self.setters[command_id] = partial(AS_ASKED[each.account, each.kind], self, each.order_id)

    def command(self, wanted, order, keyed, later):
        account, kind = wanted
        due_at = self.stage.clock.now + timedelta(seconds=later) if later else None
        if account == BLUESNAP:
            return self.bluesnap_command(kind, order, due_at=due_at)

        order_id = self.orders[order]
        fields = self.fields(kind, order_id)
        # One change without a key of each kind and order, where effects carry no mark to tell them apart by.
        is_told_apart = kind in MARKED or (kind, order_id) not in self.is_unkeyed_used
        if not kind.startswith("read_") and not keyed and is_told_apart:
            self.is_unkeyed_used.add((kind, order_id))
            fields = {**fields, "keyed": False}

        return KLARNA_COMMANDS[kind](account=ACCOUNT, order_id=order_id, due_at=due_at, **fields)

    def fields(self, kind, order_id):
        capture_id = self.capture_ids.get(order_id, "no-such-capture")
        number = len(self.stage.commands())

        return {
            "capture": {"amount": 1_000},
            "refund": {"amount": 200},
            "update_authorization": {"amount": 9_000},
            "update_customer_details": {"shipping_address": {"city": "Knoxville"}},
            "update_merchant_references": {"merchant_reference1": "10001"},
            "add_order_shipping_info": {"shipping_info": [{"tracking_number": f"T-{number}"}]},
            "add_capture_shipping_info": {"capture_id": capture_id, "shipping_info": [{"shipping_company": "DHL"}]},
            "trigger_send_out": {"capture_id": capture_id},
            "extend_due_date": {"capture_id": capture_id, "number_of_days": 14},
            "read_capture": {"capture_id": capture_id},
            "read_refund": {"refund_id": "no-such-refund"},
            "read_due_date_options": {"capture_id": capture_id},
        }.get(kind, {})

    def bluesnap_command(self, kind, order, *, due_at):
        authorized, captured = self.transactions
        order_id, fields = {
            "auth_reversal": (authorized, {}),
            "cancel_pending_refund": (captured, {}),
            "capture": (authorized, {"amount": 400, "currency": "USD"}),
            "create_shopper": ("new-shopper", {"fields": {"firstName": "Ben", "lastName": "Example"}}),
            "read_transaction": (self.transactions[order % 2], {}),
            "refund": (captured, {"amount": 200, "currency": "USD"}),
            "sale": (f"sale-{order}", {"amount": 500, "currency": "USD", "vaulted_shopper_id": int(self.shopper)}),
            "update_shopper": (self.shopper, {"fields": {"firstName": "Ann", "lastName": "Other"}}),
        }[kind]
        if kind not in MARKED and not kind.startswith("read_"):
            if (BLUESNAP, kind) in self.is_unkeyed_used:
                kind, order_id, fields = "read_transaction", captured, {}
            self.is_unkeyed_used.add((BLUESNAP, kind))

        return BLUESNAP_COMMANDS[kind](account=BLUESNAP, order_id=order_id, due_at=due_at, **fields)

    # what the world does

    @rule(troubles=TROUBLES)
    def trouble_comes(self, troubles):
        self.script(troubles)

    def script(self, troubles):
        for (kind, options), order, times in troubles:
            order_id = None if order is None else [*self.orders, *self.transactions][order]
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

    @rule(duty=st.sampled_from(["dispatch", "sweep", "probe"]))
    def upkeep_ticks(self, duty):
        match duty:
            case "dispatch":
                self.stage.dispatch()
            case "sweep":
                self.stage.sweep()
            case "probe":
                self.prober.run_once()

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
        verb=st.sampled_from([None, None, None, *VERBS]),
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

    @rule(verb=st.sampled_from(VERBS), number=NUMBERS)
    def an_operator_decides(self, verb, number):
        self.decide(verb, number)

    def decide(self, verb, number):
        commands = self.stage.commands()
        in_question = [each for each in commands if each.state in {State.ESCALATED, State.REJECTED}]
        commands = (in_question if number % 4 else []) or commands
        if not commands:
            return
        command = commands[number % len(commands)]
        try:
            self.carry_out(verb, command)
        except (VerbRefused, IdempotencyConflict, CommandClosed):
            return
        self.remember(verb, command)

    def carry_out(self, verb, command):
        operator = self.stage.operator()
        if verb != "amend":
            getattr(operator, verb)(command.id)
            return
        if command.kind not in MARKED or len(self.stage.commands()) > MOST_COMMANDS + 4:
            raise VerbRefused("amend", command.id, "its effects could not be told from its successor's")
        made = {ACCOUNT: KLARNA_COMMANDS, BLUESNAP: BLUESNAP_COMMANDS}[command.account][command.kind]
        fields = {} if command.account == ACCOUNT else {"currency": "USD"}
        if command.kind == "sale":
            fields["vaulted_shopper_id"] = int(self.shopper)
        operator.amend(
            command.id, made(account=command.account, order_id=command.order_id, amount=command.amount - 10, **fields)
        )

    def remember(self, verb, command):
        """Keep what an operator's word was taken for."""
        if verb == "resolve":
            self.resolved.add(command.id)
        elif verb == "retry":
            self.retried.add(command.id)
        elif verb == "cancel" and command.state is State.ESCALATED:
            self.decided.add(command.id)
        if verb in {"resolve", "amend"}:
            self.dealt_with.add(command.id)

    # what must hold after every step

    @invariant()
    def the_law_holds(self):
        if not hasattr(self, "orders"):
            return
        commands, effects, links = self.stage.commands(), self.effects(), self.open_links()
        done = {each.id: effects_of(each, effects) for each in commands}
        numbers = self.attempt_numbers(commands)
        self.settling |= {each.id for each in commands if is_settling(each)}

        assert len(effects) == sum(map(len, done.values())), "an effect is of no command"
        assert [] == self.breaches
        for each in commands:
            self.demand_that_an_end_is_one(each)
            self.demand_at_most_one_effect(each, done[each.id])
            self.demand_that_what_it_says_is_true(each, done[each.id])
            self.demand_its_ticket(each, links.get(each.id, []))
            assert 0 <= each.failures <= 4, each
            assert each.attempts == numbers[each.id] <= each.claims, each
        in_flight = Counter((each.account, each.order_id) for each in commands if each.state is State.EXECUTING)
        assert set(in_flight.values()) <= {1}, "two of an order are in flight"

    def demand_that_an_end_is_one(self, command):
        """What is final stays as it is, whoever wakes up late."""
        if command.finalized_at is not None:
            assert command == self.ended.setdefault(command.id, command)

    def demand_at_most_one_effect(self, command, effects):
        """And what cannot be told apart from its repeat does not wait to be repeated, but to be read.

        Keys that BlueSnap ignores are the one exception, for nobody can know it before; then a person is called.
        """
        alive = [each for each in effects if self.is_alive(each)]
        if len(alive) > 1:
            assert self.safety(command) is Safety.KEYED, command
            assert command.account == BLUESNAP, command
            assert not self.are_keys_honoured, command
            assert self.is_told_of_ignored_keys(command), command
        if command.in_doubt and self.safety(command).is_unkeyed and command.state is State.PENDING:
            assert command.read_back is not None, command

    def is_told_of_ignored_keys(self, command):
        """Who was answered has the ticket that says so; who was not is in doubt yet, or with a person.

        The ticket is open until an operator closes it, or another about the same refund took its place.
        """
        if command.state is State.SUCCEEDED or is_settling(command):
            is_dealt_with = command.id in self.dealt_with or "not_settled" in self.reasons(command.id)
            return is_dealt_with or "keys_not_enabled" in self.reasons(command.id, only_open=True)

        return bool(command.in_doubt or self.reasons(command.id))

    def demand_that_what_it_says_is_true(self, command, effects):
        """Succeeded is done; rejected, or not in doubt, is not done. An operator's word is not the machine's.

        What only sets a value is done when the value stands as it was asked for, whoever set it. What is only pending
        at the provider is done, and may come to nothing afterwards.
        """
        if command.state is State.SUCCEEDED:
            is_true = effects or is_read(command) or command.id in self.resolved
            assert is_true or (command.result["read_back"] and command.id in self.as_asked), command
        elif is_settling(command):
            assert effects, command
        elif command.state is not State.EXECUTING and not command.in_doubt and command.id not in self.decided:
            assert not [each for each in effects if self.is_alive(each)] or command.id in self.settling, command

    def demand_its_ticket(self, command, links):
        """Who is with a person has exactly one open ticket, who has ended none but what a person must still know."""
        match command.state:
            case State.ESCALATED:
                assert len(links) == 1, command
            case State.REJECTED:
                assert len(links) == (command.id not in self.dealt_with), command
            case State.SUCCEEDED:
                assert links in ([], ["keys_not_enabled"]), (command, links)
            case State.CANCELLED:
                assert links == [], command
            case _:
                assert len(links) <= 1, command

    # what must hold at every send

    def demand_turn(self, command_id):
        """It is this command's turn: nothing else of the order is in flight, nothing waited for is left."""
        mine = self.stage.command(command_id)
        others = [each for each in self.unfinished() if is_of_the_same_order(each, mine) and each.id != command_id]
        before = [each for each in others if holds_back(each, mine)]
        in_flight = [each for each in others if each.state is State.EXECUTING]
        if mine.state is not State.EXECUTING or before or in_flight:
            # Kept for the next look: what a transport raises, the worker takes for a failure of its own.
            self.breaches.append((mine, before, in_flight))

    def demand_that_it_may_be_sent(self, command_id, request):
        """Nothing of what is read back is sent, nor what would be a second change, nor under a key that is too old.

        After the key window only an operator's retry goes, within an hour of when it was found absent; a worker may
        have stood still since it looked, for as long as its lease lasts.
        """
        if request.method == "GET":
            return
        mine, now = self.stage.command(command_id), self.stage.clock.now
        window = self.stage.accounts[mine.account].policy.key_window
        is_late = self.safety(mine) is Safety.KEYED and now - mine.first_sent_at >= window + LEASE
        is_absent = mine.absent_at is not None and now - mine.absent_at <= POLICY.absence_lifetime + LEASE
        if is_late:
            self.are_late.add(mine.idempotency_key)
        if (
            mine.read_back is not None
            or (mine.in_doubt and self.safety(mine).is_unkeyed)
            or (is_late and not (is_absent and command_id in self.retried))
        ):
            self.breaches.append((mine, "sent"))

    def note_what_is_as_asked(self):
        """Keep which of those that set a value have seen it set, by themselves or by another."""
        for command_id, is_as_asked in self.setters.items():
            if command_id not in self.as_asked and is_as_asked():
                self.as_asked.add(command_id)

    # how every story ends

    def teardown(self):
        try:
            self.come_to_an_end()
            LIVED["stories"] += 1
            LIVED.update(each.state.value for each in self.stage.commands())
            LIVED["closings"] += sum(each.verb == "close" for each in self.stage.desk.told)
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

        for _ in range(2 * MOST_COMMANDS):
            self.run_until(self.is_settled)
            self.the_law_holds()
            self.demand_that_case_files_name_the_evidence()
            self.demand_that_desks_were_told()
            self.demand_that_closings_were_told()
            if not self.unfinished():
                break
            self.take_back_what_is_with_a_person()
        assert [] == self.unfinished()
        self.demand_one_key_one_body_one_day()

    def take_back_what_is_with_a_person(self):
        """So that what waits for it goes on, and may come to a person in its turn."""
        for each in self.unfinished():
            if each.state is State.ESCALATED:
                self.stage.operator().cancel(each.id)
                self.decided.add(each.id)

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
        LIVED["probes"] += self.prober.run_once()["probed"]
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
        moments += [each.probe_at for each in self.pauses() if each.probe_at]
        later = [each for each in moments if each > now]

        return min([*later, now + timedelta(hours=1)] if self.all_told() else [*later, now + timedelta(seconds=61)])

    def is_settled(self):
        """Final, with a person, or waiting for one who decides about an earlier command."""
        left = self.unfinished()
        waiting = [each for each in left if each.state is not State.ESCALATED]

        return self.all_told() and all(self.waits_for_a_person(each, left) for each in waiting)

    def waits_for_a_person(self, command, left):
        earlier = [each for each in left if is_of_the_same_order(each, command) and holds_back(each, command)]

        return command.state is State.PENDING and any(
            each.state is State.ESCALATED or self.waits_for_a_person(each, left) for each in earlier
        )

    def demand_one_key_one_body_one_day(self):
        """From the sandbox's own log: under one key the same bytes to the same place, within a day.

        What was sent later was looked at when it was sent: it was known to be absent, and an operator wanted it.
        """
        first = {}
        for each in self.stage.world.requests():
            key = each["headers"].get("Klarna-Idempotency-Key") or each["headers"].get("Idempotency-Key")
            if key is None:
                continue
            sent = (each["method"], each["path"], each["body"])
            began, was = first.setdefault(key, (datetime.fromisoformat(each["at"]), sent))
            assert was == sent
            assert key in self.are_late or datetime.fromisoformat(each["at"]) - began < timedelta(hours=24)

    def demand_that_case_files_name_the_evidence(self):
        """Whoever is with a person in doubt has a case file that says what was read, wherever something can be."""
        read = {
            case.command_id
            for each in self.stage.desk.told
            for case in each.case_file.cases
            if case.readings and all(reading.evidence for reading in case.readings)
        }
        in_doubt = {
            each.id
            for each in self.unfinished()
            if each.state is State.ESCALATED
            and (each.in_doubt or self.reasons(each.id, only_open=True) == ["key_window_closed"])
            and self.stage.accounts[each.account].provider.reads_back(each.kind)
            # Where the credentials are refused, nothing can be read either.
            and self.reasons(each.id, only_open=True) != ["credentials_refused"]
        }

        assert set() == in_doubt - read

    def demand_that_desks_were_told(self):
        """Whoever has an open ticket stands in a case file that a desk has taken."""
        told = {case.command_id for each in self.stage.desk.told for case in each.case_file.cases}

        assert set() == set(self.open_links()) - told

    def demand_that_closings_were_told(self):
        """No desk goes on showing a ticket that has closed, and none is told so of one that has not."""
        last = {each.case_file.ticket_id: each.verb for each in self.stage.desk.told}
        with self.stage.store.begin() as transaction:
            closed = {each.id for each in transaction.tickets(limit=1_000) if each.closed_at is not None}

        assert {ticket_id for ticket_id, verb in last.items() if verb == "close"} == closed & set(last)

    # looking

    def unfinished(self):
        return [each for each in self.stage.commands() if each.finalized_at is None]

    def pauses(self):
        with self.stage.store.begin() as transaction:
            return [pause for pause, _ in transaction.pauses()]

    def attempt_numbers(self, commands):
        with self.stage.store.begin() as transaction:
            lines = transaction.attempts([each.id for each in commands])

        return {command_id: len({each.number for each in attempts}) for command_id, attempts in lines.items()}

    def open_links(self):
        """The reasons of the open tickets, by command."""
        links = {}
        with self.engine.connect() as connection:
            for command_id, reason in connection.execute(
                select(ticket_command.c.command_id, ticket.c.reason)
                .join(ticket, ticket.c.id == ticket_command.c.ticket_id)
                .where(ticket_command.c.closed_at.is_(None))
            ):
                links.setdefault(command_id, []).append(reason.value if hasattr(reason, "value") else reason)

        return links

    def reasons(self, command_id, *, only_open=False):
        return self.stage.open_tickets(command_id) if only_open else [why for why, _ in self.stage.tickets(command_id)]

    def effects(self):
        """What our commands did; strangers have their own reasons."""
        return [each for each in self.stage.world.effects()[self.effects_before :] if each["actor"] == "client"]

    def is_alive(self, effect):
        """Whether an effect has not come to nothing since, as a pending refund may."""
        if effect["provider"] != "bluesnap" or effect["kind"] != "refund":
            return True
        refunds = self.stage.world.transaction(effect["order_id"])["refunds"]["refund"]
        (status,) = [each.get("refundStatus") for each in refunds if str(each["refundTransactionId"]) == effect["id"]]

        return status not in {"FAIL", "CANCELLED"}

    def safety(self, command):
        return self.stage.accounts[command.account].provider.safety(command.kind, keyed=command.keyed)

    def all_told(self):
        with self.engine.connect() as connection:
            untold = connection.scalar(
                select(func.count())
                .select_from(ticket_command)
                .where(ticket_command.c.closed_at.is_(None), ticket_command.c.announced_at.is_(None))
            )
            closings = connection.scalar(
                select(func.count())
                .select_from(ticket)
                .where(ticket.c.closed_at.is_not(None), ticket.c.due_at.is_not(None))
            )

        return not untold and not closings


def is_read(command):
    return command.kind.startswith("read_")


def is_settling(command):
    return command.read_back is not None and command.read_back.purpose is Purpose.SETTLEMENT


def is_of_the_same_order(one, other):
    return (one.account, one.order_id) == (other.account, other.order_id)


def holds_back(earlier, command):
    """Whether one command of an order waits for another, by the rules and while that is read back."""
    if is_settling(earlier) or turn_of(earlier) >= turn_of(command):
        return False
    is_read_back = earlier.read_back is not None and earlier.kind == command.kind

    return is_read_back or earlier.kind in RULES.get(command.kind, ())


def turn_of(command):
    return command.seq if command.turn is None else command.turn


def effects_of(command, effects):
    """Which effects are this command's: by its mark, or where none was sent by what it did to which order."""
    if is_read(command):
        return []
    key, kind = command.idempotency_key, EFFECT_OF.get(command.kind, command.kind)

    return [
        each
        for each in effects
        if (
            key in {each["key"], each["reference"]}
            or (
                each["key"] is None
                and command.kind not in MARKED
                and each["kind"] == kind
                and (each["order_id"] == command.order_id or kind.startswith("create_"))
                and not (command.account == ACCOUNT and command.keyed)
            )
        )
    ]


def _order_is(field, value, life, order_id):
    shown = life.stage.world.order(order_id)

    return (shown.get(field) or {}) == value if isinstance(value, dict) else shown.get(field) == value


#: How an order stands once a command that only sets a value was carried out, by whomever.
AS_ASKED = {
    (ACCOUNT, "cancel"): partial(_order_is, "status", "CANCELLED"),
    (ACCOUNT, "release_remaining_authorization"): partial(_order_is, "remaining_authorized_amount", 0),
    (ACCOUNT, "update_authorization"): partial(_order_is, "order_amount", 9_000),
    (ACCOUNT, "update_customer_details"): partial(_order_is, "shipping_address", {"city": "Knoxville"}),
    (ACCOUNT, "update_merchant_references"): partial(_order_is, "merchant_reference1", "10001"),
    (BLUESNAP, "auth_reversal"): lambda life, order_id: (
        life.stage.world.transaction(order_id)["cardTransactionType"] == "AUTH_REVERSAL"
    ),
    (BLUESNAP, "cancel_pending_refund"): lambda life, order_id: (
        "CANCELLED"
        in {
            each.get("refundStatus")
            for each in life.stage.world.transaction(order_id).get("refunds", {}).get("refund", [])
        }
    ),
    (BLUESNAP, "update_shopper"): lambda life, order_id: any(
        (each["kind"], each["order_id"]) == ("update_vaulted_shopper", order_id) for each in life.effects()
    ),
}


@pytest.mark.timeout(900 + EXAMPLES)  # telling what is wrong takes longer than finding it
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
    commands = sum(number for name, number in LIVED.items() if name not in {"stories", "probes", "closings"})
    print(f"{commands} commands lived in {LIVED['stories']} stories: {dict(LIVED)}")  # noqa: T201  # for long runs
