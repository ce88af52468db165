"""Decides where a sandbox runs: on a thread beside a test, or as a process until it is told to stop."""

import asyncio
import contextlib
import signal
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from .control import Control, order_fields, record_fields, transaction_fields
from .errors import SandboxError
from .loop import LeapingLoop
from .server import IDLE_SECONDS, Port
from .site import Site
from .wire import read_json
from .world import World

Json = dict[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How a sandbox is to be run."""

    host: str
    port: int
    control_port: int
    username: str
    password: str = field(repr=False)
    create_orders: int | None
    replay_errors: bool
    idle_seconds: float
    tls: ssl.SSLContext | None = None
    accounts: Collection[tuple[str, str, str]] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A sandbox whose ports are open, and the loop that it runs on."""

    site: Site
    control_url: str
    loop: LeapingLoop
    stop: asyncio.Event


class Sandbox:
    """A stand-in provider on a daemon thread of this process, for tests: `with Sandbox() as sandbox: …`.

    Args:
        host: Address of both ports.
        port: The provider's port; 0 takes any free one.
        control_port: The port for drivers in other processes; 0 takes any free one.
        username: Name that requests must give.
        password: Password that requests must give.
        create_orders: Make an unknown order or transaction on its first use, with this amount in minor units; None:
            refuse it.
        replay_errors: Whether a key gets a stored refusal again as it gets a stored success.
        idle_seconds: A connection on which nothing happens for so long is closed.
        tls: The certificate of the provider's port; None: it speaks plain http. The control port always does.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int = 0,
        username: str = "sandbox",
        password: str = "sandbox",  # noqa: S107  # the stand-in's own, no secret
        create_orders: int | None = None,
        replay_errors: bool = True,
        idle_seconds: float = IDLE_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._plan = _Plan(
            host=host,
            port=port,
            control_port=control_port,
            username=username,
            password=password,
            create_orders=create_orders,
            replay_errors=replay_errors,
            idle_seconds=idle_seconds,
            tls=tls,
        )
        self._thread: threading.Thread | None = None
        self._started: _Running | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Open both ports; returns when they accept connections."""
        if self._started is not None:
            msg = "this sandbox runs already; stop it before starting it again"
            raise SandboxError(msg)
        started: Future[_Running] = Future()
        self._thread = threading.Thread(target=_run_on_thread, args=(self._plan, started), daemon=True, name="sandbox")
        self._thread.start()
        self._started = started.result()

        return self

    def stop(self) -> None:
        """Close both ports and end every exchange; returns when that is done."""
        running, self._started = self._started, None
        if running is not None and self._thread is not None:
            running.loop.call_soon_threadsafe(running.stop.set)
            self._thread.join()

    @property
    def base_url(self) -> str:
        """Say where the provider's port is reached."""
        return self._running.site.port.url

    @property
    def control_url(self) -> str:
        """Say where the control port is reached."""
        return self._running.control_url

    def create_order(
        self,
        order_id: str | None = None,
        *,
        amount: int = 10_000,
        currency: str = "EUR",
        status: str = "AUTHORIZED",
        expires_at: datetime | None = None,
    ) -> Json:
        """Put an order into the merchant's world, with the life behind it that its status needs; no effect is noted."""
        return self._call(
            lambda site: site.world.create_order(
                order_id, amount=amount, currency=currency, status=status, expires_at=expires_at
            )
        )

    def order(self, order_id: str) -> Json:
        """Show an order as it stands now."""
        return self._call(lambda site: site.world.order(order_id))

    def create_transaction(
        self,
        transaction_id: str | None = None,
        *,
        amount: str = "10.00",
        currency: str = "USD",
        captured: bool = False,
        merchant_transaction_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> Json:
        """Put a card transaction into the merchant's world, authorized or captured too; no effect is noted."""
        return self._call(
            lambda site: site.world.create_transaction(
                transaction_id,
                amount=amount,
                currency=currency,
                captured=captured,
                merchant_transaction_id=merchant_transaction_id,
                expires_at=expires_at,
            )
        )

    def transaction(self, transaction_id: str) -> Json:
        """Show a card transaction as it stands now, with all that is known of its refunds."""
        return self._call(lambda site: site.world.transaction(transaction_id))

    def create_record(self, collection: str, record_id: str, *, fields: Json) -> Json:
        """Put a shopper, plan, vendor, subscription or the like into the merchant's world; no effect is noted."""
        return self._call(lambda site: site.world.create_record(collection, record_id, fields=fields))

    def switch(self, **values: object) -> None:
        """Set how the providers behave where the real ones are undocumented or depend on the account: `switches.py`."""
        self._call(lambda site: site.world.switch(**values))

    def switches(self) -> Json:
        """Show how the switches stand."""
        return self._call(lambda site: site.world.switches())

    def quota(
        self,
        category: str,
        *,
        partner: int,
        acquiring_partner: int | None = None,
        kinds: Sequence[str] | None = None,
        provider: str = "klarna",
    ) -> None:
        """Set how many requests a second a category takes.

        Args:
            category: Its name in the quota headers.
            partner: The quota of each account: of what follows a plus sign in the user name.
            acquiring_partner: The quota of all accounts together; None: there is no such level.
            kinds: The kinds of operation that count in it; None: all that no other category names.
            provider: klarna or bluesnap, which tells no quota in headers.
        """
        levels = {"partner": partner, "acquiring_partner": acquiring_partner}
        self._call(lambda site: site.world.quota(category, **levels, kinds=kinds, provider=provider))

    def quotas(self) -> Json:
        """Show the quotas that are set, and for each second how many requests were let through and how many not."""
        return self._call(lambda site: site.world.quotas())

    def clear_quotas(self) -> None:
        """Set no quota any more, and forget what came of those that were."""
        self._call(lambda site: site.world.clear_quotas())

    def fault(
        self,
        kind: str,
        *,
        order_id: str | None = None,
        path: str | None = None,
        method: str | None = None,
        times: int | None = 1,
        skip: int = 0,
        **options: object,
    ) -> None:
        """Script a fault for the next requests that fit.

        Args:
            kind: One of the kinds in `faults.py`.
            order_id: Only requests about this order or transaction.
            path: Only requests whose path this regular expression is found in.
            method: Only requests with this method.
            times: How many requests it befalls; None: every one.
            skip: How many fitting requests are left alone before.
            options: Those of the kind.
        """
        rules = {"order_id": order_id, "path": path, "method": method, "times": times, "skip": skip}
        self._call(lambda site: site.world.fault(kind, **rules, **options))

    def clear_faults(self) -> None:
        """Strike out all faults to come."""
        self._call(lambda site: site.world.clear_faults())

    def effects(self) -> list[Json]:
        """Show every effect, oldest first."""
        return self._call(lambda site: site.world.effects())

    def requests(self) -> list[Json]:
        """Show every request, oldest first."""
        return self._call(lambda site: site.world.requests())

    def refuse_connections(self, seconds: float | None = None) -> None:
        """Refuse connections for so many real seconds, or until told to accept them."""
        self._call(lambda site: site.refuse_connections(seconds))

    def accept_connections(self) -> None:
        """Accept connections again."""
        self._call(lambda site: site.accept_connections())

    def advance(self, seconds: float) -> None:
        """Let time pass here: keys are forgotten, authorizations expire."""
        self._call(lambda site: site.world.advance(seconds))

    def leap(self, seconds: float) -> None:
        """Let time pass on the wire too: what was delayed or held goes on, idle connections and outages end."""
        self.advance(seconds)
        loop = self._running.loop
        asyncio.run_coroutine_threadsafe(loop.leap(seconds), loop).result()

    def reset(self) -> None:
        """Begin again with an empty world and an open port."""
        self._await(Site.reset)

    def health(self) -> Json:
        """Tell what is here and whether it can be reached."""
        return self._call(Site.health)

    @property
    def _running(self) -> _Running:
        if self._started is None:
            msg = "this sandbox does not run; use it as `with Sandbox() as sandbox:`, or call start() first"
            raise SandboxError(msg)

        return self._started

    def _call(self, verb: Callable[[Site], _T]) -> _T:
        async def call(site: Site) -> _T:
            return verb(site)

        return self._await(call)

    def _await(self, verb: Callable[[Site], Coroutine[Any, Any, _T]]) -> _T:
        running = self._running

        return asyncio.run_coroutine_threadsafe(verb(running.site), running.loop).result()


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    control_port: int = 8091,
    username: str = "sandbox",
    password: str = "sandbox",  # noqa: S107  # the stand-in's own, no secret
    accounts: Collection[tuple[str, str, str]] = (),
    orders_file: Path | str | None = None,
    create_orders: int | None = None,
    replay_errors: bool = True,
    idle_seconds: float = IDLE_SECONDS,
    tls: ssl.SSLContext | None = None,
    ready: Callable[[str, str], object] | None = None,
) -> None:
    """Run a sandbox in this process until SIGINT or SIGTERM.

    Args:
        host: Address of both ports.
        port: The provider's port; 0 takes any free one.
        control_port: The port for drivers in other processes; 0 takes any free one.
        username: Name that requests must give.
        password: Password that requests must give.
        accounts: Provider, name and password of each account. Where a provider has any, only theirs are taken there.
        orders_file: Orders to begin with, one JSON object a line with the fields of `create_order`; a line that has
            `transaction_id` is a card transaction, with the fields of `create_transaction`, and one that has
            `record_id` a record, with those of `create_record`.
        create_orders: Make an unknown order or transaction on its first use, with this amount in minor units; None:
            refuse it.
        replay_errors: Whether a key gets a stored refusal again as it gets a stored success.
        idle_seconds: A connection on which nothing happens for so long is closed.
        tls: The certificate of the provider's port; None: it speaks plain http. The control port always does.
        ready: Called with the provider's URL and the control URL once both ports accept connections.
    """
    plan = _Plan(
        host=host,
        port=port,
        control_port=control_port,
        username=username,
        password=password,
        create_orders=create_orders,
        replay_errors=replay_errors,
        idle_seconds=idle_seconds,
        tls=tls,
        accounts=accounts,
    )
    orders = [] if orders_file is None else _read_orders(Path(orders_file))
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(_serve(plan, orders=orders, ready=ready))


async def _serve(plan: _Plan, *, orders: Sequence[Json], ready: Callable[[str, str], object] | None) -> None:
    async with _opened(plan, orders=orders) as running:
        for number in (signal.SIGINT, signal.SIGTERM):
            running.loop.add_signal_handler(number, running.stop.set)
        if ready is not None:
            ready(running.site.port.url, running.control_url)
        await running.stop.wait()


def _run_on_thread(plan: _Plan, started: Future[_Running]) -> None:
    async def run() -> None:
        async with _opened(plan) as running:
            started.set_result(running)
            await running.stop.wait()

    try:
        with asyncio.Runner(loop_factory=LeapingLoop) as runner:
            runner.run(run())
    except SandboxError as error:
        started.set_exception(error)


@contextlib.asynccontextmanager
async def _opened(plan: _Plan, *, orders: Sequence[Json] = ()) -> AsyncIterator[_Running]:
    """Open both ports for as long as the context lasts; the orders are there before the first request can be."""
    world = World(
        username=plan.username,
        password=plan.password,
        create_orders=plan.create_orders,
        replay_errors=plan.replay_errors,
        accounts=plan.accounts,
    )
    for order in orders:
        _form_of(order)[1](world, **order)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)  # noqa: S101  # both ways to run a sandbox are here, and both say so
    port = Port(world.respond, host=plan.host, port=plan.port, idle_seconds=plan.idle_seconds, tls=plan.tls)
    site = Site(world, port)
    try:
        control = Port(Control(site).respond, host=plan.host, port=plan.control_port)
        try:
            site.accept_connections()
            control.listen()
            yield _Running(site=site, control_url=control.url, loop=loop, stop=asyncio.Event())
        finally:
            await control.close()
    finally:
        await site.close()


def _form_of(line: object) -> tuple[Callable[[object], Json], Callable[..., Json]]:
    """Tell by its names what a line of the orders file makes: how its fields are read, and which verb takes them."""
    names = line if isinstance(line, dict) else {}
    if "transaction_id" in names:
        return transaction_fields, World.create_transaction
    if "record_id" in names:
        return record_fields, World.create_record
    return order_fields, World.create_order


def _read_orders(path: Path) -> list[Json]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        msg = f"cannot read the orders file {path} ({error.strerror})"
        raise SandboxError(msg) from error
    orders = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = read_json(line)
            orders.append(_form_of(content)[0](content))
        except ValueError as error:
            msg = f"{path} line {number}: {error}"
            raise SandboxError(msg) from error

    return orders
