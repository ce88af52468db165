"""Everything a command meets in its life, in one process and on one clock: real services, real Klarna, real database.

Only the network, the broker and the desk are the shipped stand-ins. A stage has workers, each with an executor and a
transport of its own; they share the database, the sandbox and the clock.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from worker.domain.bluesnap_commands import BLUESNAP_COMMANDS
from worker.domain.klarna_commands import KLARNA_COMMANDS, Acknowledge, Capture
from worker.domain.ladder import Policy
from worker.domain.pause import Cause
from worker.domain.state import State
from worker.limits.limiter import Limiter, Terms
from worker.limits.local import LocalPlace
from worker.ports import Account, Filter, StoreUnavailable
from worker.providers.bluesnap import BlueSnap
from worker.providers.klarna import Klarna
from worker.service import inspect
from worker.service.breaker import Breaker
from worker.service.dispatch import Dispatcher
from worker.service.enqueue import enqueue
from worker.service.escalate import Escalator
from worker.service.execute import Executor, Limits
from worker.service.operate import Operator
from worker.service.probe import Prober
from worker.service.sweep import Sweeper
from worker.store.engine import SqlStore
from worker.testing import ManualClock, RecordingDesk, RecordingPublisher, SandboxTransport

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ACCOUNT = "klarna-eu"
BLUESNAP = "bluesnap-us"
KINDS = {ACCOUNT: set(KLARNA_COMMANDS.values()), BLUESNAP: set(BLUESNAP_COMMANDS.values())}
KEY = "Klarna-Idempotency-Key"

#: As in settings/default.toml.
POLICY = Policy(
    ladder=(timedelta(seconds=5), timedelta(minutes=5), timedelta(hours=5)),
    key_window=timedelta(hours=24),
    key_margin=timedelta(minutes=5),
    throttle_base=timedelta(seconds=1),
    throttle_cap=timedelta(seconds=60),
    throttle_patience=timedelta(hours=1),
    read_pause=timedelta(minutes=1),
    absence_lifetime=timedelta(hours=1),
    settle_every=timedelta(hours=1),
    settle_within=timedelta(days=14),
)
TERMS = Terms(near=1.0, use=0.97, headroom=0.1, keep=300.0, base=0.1, cap=60.0, away=1.0, alarm=60.0)
HORIZON = timedelta(minutes=6)
PUBLISHED_FOR = timedelta(seconds=10)
LEASE = timedelta(seconds=90)


class Died(BaseException):
    """The worker was killed at this step: nothing after it happened."""


class Stage:
    """One database, one sandbox, one clock, and as many workers as a test wants."""

    def __init__(self, engine, *, window=50, reply=timedelta(seconds=30)):
        self.reply = reply
        self.clock = ManualClock(NOON)
        self.store = SqlStore(engine, clock=self.clock)
        self.transport = SandboxTransport(clock=self.clock, total_timeout=reply.total_seconds())
        self.world = self.transport.world
        self.publisher = RecordingPublisher(clock=self.clock)
        self.desk = RecordingDesk()
        klarna = Klarna(account=ACCOUNT, base_url="http://127.0.0.1:8090", username="sandbox", password="sandbox")
        bluesnap = BlueSnap(account=BLUESNAP, base_url="http://127.0.0.1:8090", username="sandbox", password="sandbox")
        self.accounts = {
            ACCOUNT: Account(provider=klarna, policy=POLICY, max_in_flight=200),
            BLUESNAP: Account(
                provider=bluesnap, policy=replace(POLICY, key_window=timedelta(hours=12)), max_in_flight=20
            ),
        }
        self.rates = {}
        self.limiter = Limiter(
            place=LocalPlace(now=lambda: self.monotonic() * 1_000),
            accounts=self.rates,
            terms=TERMS,
            monotonic=self.monotonic,
            chance=lambda: 0.5,
        )
        # Patient: most stories are about what becomes of one command while its provider is ill.
        self.breaker = Breaker(
            most=dict.fromkeys(Cause, 1_000_000), probe_in=timedelta(seconds=5), probe_cap=timedelta(minutes=1)
        )
        self.window = window
        self.pump = timedelta(seconds=30)
        self.is_stopping = False
        self.dead = []

    # asking for something

    def order(self, *, amount=10_000, status="AUTHORIZED"):
        """A new order at the sandbox; its id."""
        return self.world.create_order(amount=amount, status=status)["order_id"]

    def capture(self, order_id=None, *, amount=1000, **fields):
        """Enqueue a capture of an order, a new one if none is named; the command's id."""
        return self.enqueue(Capture(account=ACCOUNT, order_id=order_id or self.order(), amount=amount, **fields))

    def unreadable(self, **fields):
        """Enqueue a change of which the provider shows nothing afterwards; the command's id."""
        return self.enqueue(Acknowledge(account=ACCOUNT, order_id=self.order(), **fields))

    def enqueue(self, command, *, published=False):
        """Store one command; its id."""
        return self.enqueue_many([command], published=published)[0]

    def enqueue_many(self, commands, *, published=False):
        with self.store.begin() as transaction:
            stored = enqueue(
                transaction,
                commands,
                kinds=KINDS,
                unkeyed=(),
                published_for=PUBLISHED_FOR,
                reserve=lambda: published,
            )

        return [each.id for each in stored]

    # the processes

    def restart(self):
        """The worker died and a new one has taken its place; what it had asked for goes on at the sandbox."""
        self.dead.append(self.transport)
        self.transport = self.another_transport()

    def executor(self, *, store=None, transport=None, publisher=None, accounts=None, holder="worker-1"):
        return Executor(
            store=store or self.store,
            transport=transport or self.transport,
            publisher=publisher or self.publisher,
            limiter=self.limiter,
            breaker=self.breaker,
            accounts=self.accounts if accounts is None else accounts,
            fallback=POLICY,
            limits=Limits(
                window=self.window,
                widest=4 * self.window,
                lease=LEASE,
                reply=self.reply,
                pump=self.pump,
                record_delay=timedelta(seconds=0.1),
                horizon=HORIZON,
                published_for=PUBLISHED_FOR,
                message=50,
            ),
            desk=self.desk.name,
            holder=holder,
            monotonic=self.monotonic,
            wait=self.advance,
            chance=lambda: 0.5,
            stopping=lambda: self.is_stopping,
        )

    def another_transport(self):
        """A second worker's way to the same sandbox."""
        return SandboxTransport(self.world, clock=self.clock, total_timeout=self.reply.total_seconds())

    def execute(self, *ids, **parts):
        return self.executor(**parts).execute(list(ids))

    def dispatcher(self, *, store=None, limit=1_000, window=5_000, message=50):
        return Dispatcher(
            store=store or self.store,
            publisher=self.publisher,
            message=message,
            limit=limit,
            window=window,
            horizon=HORIZON,
            published_for=PUBLISHED_FOR,
            tries=POLICY.tries,
        )

    def dispatch(self):
        return self.dispatcher().run_once()

    def sweeper(self, *, store=None, accounts=None, limit=500):
        return Sweeper(
            store=store or self.store,
            publisher=self.publisher,
            accounts=self.accounts if accounts is None else accounts,
            fallback=POLICY,
            desk=self.desk.name,
            limit=limit,
            published_for=PUBLISHED_FOR,
            chance=lambda: 0.5,
        )

    def sweep(self):
        return self.sweeper().run_once()

    def prober(self, transport):
        """What tries paused accounts; its transport is its own."""
        return Prober(
            store=self.store,
            transport=lambda: transport,
            accounts=self.accounts,
            every=timedelta(seconds=5),
            cap=timedelta(minutes=1),
            reply=self.reply,
            limit=100,
        )

    def escalator(self, *, store=None, accounts=None):
        return Escalator(
            store=store or self.store,
            desk=self.desk,
            accounts=self.accounts if accounts is None else accounts,
            fallback=POLICY,
            lease=timedelta(seconds=60),
            retry_base=timedelta(seconds=5),
            retry_cap=timedelta(seconds=300),
            append_interval=timedelta(seconds=60),
            chance=lambda: 0.5,
        )

    def operator(self, *, by="operator", why="looked it up"):
        return Operator(
            store=self.store,
            publisher=self.publisher,
            accounts=self.accounts,
            kinds=KINDS,
            unkeyed=(),
            by=by,
            why=why,
        )

    def deliver(self):
        """Let a worker have every message that is due; return how many there were."""
        messages = self.publisher.deliver()
        for each in messages:
            if each.task == "execute":
                self.execute(*each.ids)
            else:
                self.escalator().escalate(*each.ids)

        return len(messages)

    def work(self, until=timedelta(0), *, tick=timedelta(minutes=1)):
        """Let the worker and its upkeep run for so long; messages are delivered at their very moment."""
        end = self.clock.now + until
        next_tick = self.clock.now
        while True:
            if self.clock.now >= next_tick:
                self.dispatch()
                self.sweep()
                next_tick = self.clock.now + tick
            while self.deliver():
                pass
            if self.clock.now >= end:
                return
            moments = [each.due_at for each in self.publisher.waiting]
            self.clock.advance(min([end, next_tick, *moments]) - self.clock.now)

    # time

    def monotonic(self):
        return (self.clock.now - NOON).total_seconds()

    def advance(self, seconds):
        """Let time pass, and the sandbox go on with what it has at work."""
        self.clock.advance(timedelta(seconds=seconds))
        for each in (self.transport, *self.dead):
            each.settle()

    # looking

    def command(self, command_id):
        with self.store.begin() as transaction:
            return transaction.find(command_id)

    def commands(self):
        with self.store.begin() as transaction:
            return transaction.listed(Filter(), limit=10_000)[::-1]

    def states(self):
        return [each.state.value for each in self.commands()]

    def show(self, command_id):
        with self.store.begin() as transaction:
            return inspect.show(transaction, command_id, accounts=self.accounts, fallback=POLICY)

    def attempts(self, command_id):
        with self.store.begin() as transaction:
            return transaction.attempts([command_id])[command_id]

    def outcomes(self, command_id):
        return [each.outcome for each in self.attempts(command_id)]

    def tickets(self, command_id=None):
        """Reason and state of the tickets, oldest first."""
        with self.store.begin() as transaction:
            lines = transaction.tickets(command_id=command_id, limit=1_000)

        return [(each.reason.value, each.state.value) for each in reversed(lines)]

    def open_tickets(self, command_id):
        return [reason for reason, ticket_state in self.tickets(command_id) if ticket_state != "closed"]

    def effects(self):
        return [(each["kind"], each["amount"]) for each in self.world.effects()]

    def countdowns(self):
        """What was asked of the broker for commands, message by message."""
        return [each.countdown for each in self.publisher.sent if each.task == "execute"]

    def close(self):
        for each in (self.transport, *self.dead):
            each.close()


class FailingStore:
    """A store that is away at chosen moments: before the chosen step takes place, or right after its commit."""

    def __init__(self, store, *, claims=(), begins=(), commits=()):
        self._store = store
        self._claims, self._begins, self._commits = set(claims), set(begins), set(commits)
        self.claimed = self.begun = 0

    def claim(self, ids, *, limit, lease, without=()):
        self.claimed += 1
        if self.claimed in self._claims:
            raise StoreUnavailable("told to be away")

        return self._store.claim(ids, limit=limit, lease=lease, without=without)

    @contextmanager
    def begin(self):
        self.begun += 1
        number = self.begun
        if number in self._begins:
            raise StoreUnavailable("told to be away")
        with self._store.begin() as transaction:
            yield transaction
        if number in self._commits:
            raise StoreUnavailable("told to lose the connection with the commit")


class Interrupted:
    """A part of a worker in which something happens, once: before the n-th call of a method, or after it.

    After a call that gives a `with` block means after the block: for a transaction, after its commit.
    """

    def __init__(self, part, *, before=None, after=None, number=1, then):
        self._part, self._before, self._after, self._number, self._then = part, before, after, number, then
        self._calls = 0

    def __getattr__(self, name):
        found = getattr(self._part, name)
        if name not in (self._before, self._after):
            return found

        def call(*args, **kwargs):
            self._calls += 1
            now = self._calls == self._number
            if now and name == self._before:
                self._then()
            result = found(*args, **kwargs)
            if not now or name != self._after:
                return result
            if hasattr(result, "__exit__"):
                return self._followed(result)
            self._then()

            return result

        return call

    @contextmanager
    def _followed(self, block):
        with block as value:
            yield value
        self._then()


class Watched:
    """A transport whose calls in flight are counted at each collecting."""

    def __init__(self, transport):
        self._transport = transport
        self.seen = []

    def send(self, tag, request):
        self._transport.send(tag, request)

    def flush(self):
        self._transport.flush()

    def collect(self, within):
        self.seen.append(self._transport.in_flight)

        return self._transport.collect(within)


def die():
    raise Died


def is_final(command):
    return command.state in {State.SUCCEEDED, State.REJECTED, State.CANCELLED}
