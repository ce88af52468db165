"""Put the parts together as the settings say: the only module that reads settings and knows every implementation.

Decides which implementation stands behind each port. Everything is made on first use and belongs to one process:
nothing here may be carried across a fork.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from .config import AccountSettings, Settings
from .desks.email import EmailDesk
from .desks.log import LogDesk
from .desks.webhook import WebhookDesk
from .domain.bluesnap_commands import BLUESNAP_COMMANDS
from .domain.commands import Command
from .domain.errors import PostPurchaseError
from .domain.klarna_commands import KLARNA_COMMANDS
from .domain.label import command_label
from .domain.ladder import Policy
from .domain.pause import Cause
from .domain.quota import AccountRates
from .limits.database import DatabasePlace
from .limits.limiter import Limiter, Place, Terms
from .limits.local import LocalPlace
from .limits.redis import RedisPlace
from .ports import Account, Provider, Publisher, StoreUnavailable, TicketDesk
from .providers.bluesnap import BlueSnap
from .providers.klarna import Klarna
from .providers.transport import CurlTransport
from .publish import ESCALATE_TASK, EXECUTE_QUEUE, EXECUTE_TASK, UPKEEP_QUEUE, CeleryPublisher
from .resources import migrations_dir
from .service.breaker import Breaker
from .service.dispatch import Dispatcher
from .service.enqueue import Enqueued, enqueue
from .service.escalate import Escalator
from .service.execute import Executor, Limits
from .service.operate import Operator
from .service.probe import Prober
from .service.prune import Pruner
from .service.sweep import Sweeper
from .store import migrate
from .store.archive import FileArchive
from .store.engine import SqlStore, build_engine
from .store.host import after_commit, connection_of
from .store.rates import RateRows

log = structlog.get_logger(__name__)

#: Provider name → the commands its accounts take, by kind.
COMMANDS: Mapping[str, Mapping[str, type[Command]]] = {"bluesnap": BLUESNAP_COMMANDS, "klarna": KLARNA_COMMANDS}

#: Provider name → what speaks to it.
PROVIDERS: Mapping[str, type[BlueSnap | Klarna]] = {"bluesnap": BlueSnap, "klarna": Klarna}

#: What to do about a database that does not answer.
DATABASE_FIX = "start the database, or mend database.url (POST_PURCHASE_DATABASE__URL)"

#: What to do about a broker that does not answer.
BROKER_FIX = "start the broker, or mend broker.url (POST_PURCHASE_BROKER__URL); commands are stored meanwhile"

#: A broker that is a folder, which the rest of its URL names.
_FOLDER = "filesystem://"

#: Brokers that can keep the quotas too. A sentinel's URL names no server, so there the database does.
_PLAIN_REDIS = ("redis://", "rediss://", "redis+socket://")

#: An enqueue of more commands than these is a backlog: dispatch batches it, and the caller does not wait for messages.
_SINGLY = 10

#: Start of our keys in a Redis whose messages have no prefix, because a host's own app shares it.
_PREFIX = "post-purchase:"

#: Messages one dispatch run hands out at the most.
_MESSAGES_A_RUN = 20


class BrokerUnavailable(PostPurchaseError):
    """The broker could not be reached."""


class Services:
    """The services of one process, made as they are first used."""

    def __init__(self, settings: Settings, *, stopping: Callable[[], bool] = lambda: False) -> None:
        self.settings = settings
        self._stopping = stopping
        self._per_thread = threading.local()

    @cached_property
    def store(self) -> SqlStore:
        """The database."""
        database = self.settings.database

        return SqlStore(
            build_engine(
                database.url,
                pool_size=database.pool_size,
                busy_timeout=timedelta(seconds=database.busy_timeout_seconds),
                connect_timeout=timedelta(seconds=database.connect_timeout_seconds),
                statement_timeout=timedelta(seconds=database.statement_timeout_seconds),
                is_pooled=database.pooler == "transaction",
            ),
            tells_host=self.settings.host.is_told,
        )

    @cached_property
    def publisher(self) -> Publisher:
        """The way to the broker for whoever must not be held up: it gives up early, and then for a while."""
        return self._publisher(pause=self.settings.broker.publish_pause_seconds)

    @cached_property
    def upkeep_publisher(self) -> Publisher:
        """The way to the broker for dispatch and sweep, which others rely on: they try again at their next tick."""
        return self._publisher(pause=self.settings.dispatch.interval_seconds)

    @cached_property
    def accounts(self) -> Mapping[str, Account]:
        """Every configured account with its provider and its waits and windows."""
        return {
            name: Account(
                provider=_provider(name, account),
                policy=self._policy(self._key_window(account)),
                max_in_flight=account.max_in_flight or self.settings.rates_of(name).max_in_flight,
            )
            for name, account in self.settings.accounts.items()
        }

    @cached_property
    def fallback(self) -> Policy:
        """The waits and windows of a command whose account is not configured."""
        return self._policy(None)

    @cached_property
    def desk(self) -> TicketDesk:
        """Where people are told."""
        return _desk(self.settings)

    @cached_property
    def rates(self) -> Mapping[str, AccountRates]:
        """The quotas that every configured account lives under."""
        return {name: self._rates(name, account) for name, account in self.settings.accounts.items()}

    @cached_property
    def limiter(self) -> Limiter:
        """What shares the providers' quotas among all processes."""
        limits = self.settings.limits

        return Limiter(
            place=self._limits_place(),
            accounts=self.rates,
            terms=Terms(
                near=self.settings.lease.pacing_seconds,
                use=limits.use,
                headroom=limits.headroom,
                keep=limits.learned_seconds,
                base=limits.back_off_base_seconds,
                cap=limits.back_off_cap_seconds,
                away=limits.away_seconds,
                alarm=limits.alarm_seconds,
            ),
            monotonic=time.monotonic,
            chance=random.random,
        )

    @cached_property
    def breaker(self) -> Breaker:
        """What counts the ailing outcomes of this process."""
        breaker = self.settings.breaker

        return Breaker(
            most={Cause.BREAKER: breaker.failures, Cause.CREDENTIALS: breaker.refusals},
            probe_in=timedelta(seconds=breaker.probe_seconds),
            probe_cap=timedelta(seconds=breaker.probe_cap_seconds),
        )

    @cached_property
    def prober(self) -> Prober:
        """What tries paused accounts; its transport is its own, for it works in another thread than tasks do."""
        breaker = self.settings.breaker

        return Prober(
            store=self.store,
            transport=cache(self._transport),
            accounts=self.accounts,
            every=timedelta(seconds=breaker.probe_seconds),
            cap=timedelta(seconds=breaker.probe_cap_seconds),
            reply=timedelta(seconds=self.settings.http.total_timeout_seconds),
            limit=self.settings.sweep.batch_size,
        )

    @property
    def executor(self) -> Executor:
        """What carries commands out; one for each thread, because a transport belongs to one."""
        found: Executor | None = getattr(self._per_thread, "executor", None)
        if found is None:
            found = self._per_thread.executor = self._executor()

        return found

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """What hands due commands to the broker."""
        dispatch = self.settings.dispatch

        return Dispatcher(
            store=self.store,
            publisher=self.upkeep_publisher,
            message=dispatch.batch_size,
            limit=dispatch.batch_size * _MESSAGES_A_RUN,
            window=dispatch.window,
            horizon=self._horizon,
            published_for=timedelta(seconds=dispatch.republish_seconds),
            tries=self.fallback.tries,
        )

    @cached_property
    def sweeper(self) -> Sweeper:
        """What takes over from processes that are gone."""
        return Sweeper(
            store=self.store,
            publisher=self.upkeep_publisher,
            accounts=self.accounts,
            fallback=self.fallback,
            desk=self.settings.tickets.desk,
            limit=self.settings.sweep.batch_size,
            published_for=timedelta(seconds=self.settings.dispatch.republish_seconds),
            chance=random.random,
        )

    def pruner(self, *, retention_days: int, archive_folder: Path | None) -> Pruner:
        """What removes commands that ended long ago."""
        return Pruner(
            store=self.store,
            retention=timedelta(days=retention_days),
            limit=self.settings.prune.batch_size,
            archive=None if archive_folder is None else FileArchive(archive_folder),
        )

    @cached_property
    def escalator(self) -> Escalator:
        """What tells the desk."""
        tickets = self.settings.tickets

        return Escalator(
            store=self.store,
            desk=self.desk,
            accounts=self.accounts,
            fallback=self.fallback,
            lease=timedelta(seconds=tickets.lease_seconds),
            retry_base=timedelta(seconds=tickets.retry_base_seconds),
            retry_cap=timedelta(seconds=tickets.retry_cap_seconds),
            append_interval=timedelta(seconds=tickets.append_interval_seconds),
            chance=random.random,
        )

    def operator(self, *, by: str, why: str) -> Operator:
        """Act for a named operator who gives a reason."""
        return Operator(
            store=self.store,
            publisher=self.publisher,
            accounts=self.accounts,
            kinds=self._kinds,
            unkeyed=self._unkeyed,
            by=by,
            why=why,
        )

    def enqueue(
        self,
        connection_or_session: Connection | Session | Any,
        commands: Sequence[Command],
        *,
        after_commit: Callable[[Connection, Callable[[], None]], None] = after_commit,
    ) -> list[Enqueued]:
        """Store commands in the caller's transaction and publish them after its outermost commit.

        `after_commit` is for a host whose commits are not SQLAlchemy's.

        Raises:
            KindNotAllowed: The provider takes none of this kind from this account.
        """
        for command in commands:
            rates = self.rates.get(getattr(command, "account", ""))  # what is no command is refused below
            if rates is not None:
                rates.require_allowed(command.kind)
        connection = connection_of(connection_or_session)
        enqueued = enqueue(
            self.store.borrow(connection),
            commands,
            kinds=self._kinds,
            unkeyed=self._unkeyed,
            published_for=timedelta(seconds=self.settings.dispatch.republish_seconds),
            reserve=self.publisher.reserve if len(commands) <= _SINGLY else lambda: False,
        )
        following = [each for each in enqueued if each.published]
        if following:
            after_commit(connection, lambda: self._publish(following))

        return enqueued

    def await_database(self, *, patience: timedelta) -> None:
        """Wait for the database with a log line a try, then demand that its schema fits.

        Raises:
            StoreUnavailable: It did not answer in time.
            SchemaMismatch: It answered with another schema.
        """
        gives_up = time.monotonic() + patience.total_seconds()
        while True:
            try:
                migrate.require(self.store.engine, migrations_dir())
            except StoreUnavailable as error:
                if time.monotonic() >= gives_up:
                    raise
                log.warning("database.awaited", problem=str(error), fix=DATABASE_FIX)
                time.sleep(1.0)
            else:
                return

    def await_broker(self, *, patience: timedelta) -> None:
        """Wait for the broker with a log line a try.

        Raises:
            BrokerUnavailable: It did not answer in time.
        """
        app = build_celery("post-purchase-start", self.settings, timeout=self.settings.broker.socket_timeout_seconds)
        gives_up = time.monotonic() + patience.total_seconds()
        while True:
            try:
                with app.connection_for_write() as connection:
                    connection.connect()
            except (OperationalError, *app.connection_for_write().connection_errors) as error:
                if time.monotonic() >= gives_up:
                    raise BrokerUnavailable(str(error)) from error
                log.warning("broker.awaited", problem=str(error), fix=BROKER_FIX)
                time.sleep(1.0)
            else:
                return

    def messages_in(self, queue: str) -> int | None:
        """How many messages lie in a queue, asked over a connection of its own; None when the broker does not say."""
        app = build_celery("post-purchase-watch", self.settings, timeout=self.settings.broker.socket_timeout_seconds)
        with app.connection_for_read() as connection:
            try:
                connection.connect()
                # On Redis kombu looks for the queue without the prefix of keys; there, to declare one changes nothing.
                is_passive = connection.transport.driver_type != "redis"
                return int(connection.channel().queue_declare(queue, passive=is_passive).message_count)
            except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
                log.debug("broker.not_asked", queue=queue, problem=str(error))
                return None

    def close(self) -> None:
        """Give back what is open."""
        if "limiter" in self.__dict__:
            self.limiter.close()
        if "store" in self.__dict__:
            self.store.close()

    @property
    def _horizon(self) -> timedelta:
        """How near a moment must be for a countdown. Quorum queues take none: one that is held keeps others waiting."""
        is_quorum = self.settings.broker.queue_type == "quorum"

        return timedelta(0) if is_quorum else timedelta(seconds=self.settings.dispatch.horizon_seconds)

    @cached_property
    def _kinds(self) -> Mapping[str, Collection[type[Command]]]:
        return {name: set(COMMANDS[account.provider].values()) for name, account in self.settings.accounts.items()}

    @cached_property
    def _unkeyed(self) -> Collection[str]:
        return frozenset(name for name, account in self.settings.accounts.items() if not account.keyed)

    def _publish(self, following: Sequence[Enqueued]) -> None:
        for each in following:
            label = command_label(
                kind=each.kind,
                account=each.account,
                order_id=each.order_id,
                failures=0,
                tries=self.fallback.tries,
            )
            self.publisher.execute([each.id], label=label)

    def _key_window(self, account: AccountSettings) -> float | None:
        """How long the account's keys count: as it says itself, else as its provider does, else as all others do."""
        by_provider = {"bluesnap": self.settings.providers.bluesnap.key_window_seconds}

        return account.key_window_seconds or by_provider.get(account.provider)

    def _rates(self, name: str, account: AccountSettings) -> AccountRates:
        published = self.settings.rates_of(name)

        return AccountRates(
            account=name,
            host=urlsplit(account.base_url).netloc,
            table=published.by_environment[self.settings.environment_of(name)],
            acquiring_partner=account.acquiring_partner,
            ceiling=account.max_rate_per_second,
        )

    def _limits_place(self) -> Place:
        """Where quotas are shared: as told, else in Redis if there is one, else in the database."""
        limits, broker = self.settings.limits, self.settings.broker
        url = limits.redis_url or (broker.url if broker.url.startswith(_PLAIN_REDIS) else None)
        match limits.place:
            case "process":
                return LocalPlace(now=lambda: time.monotonic() * 1_000)
            case "redis" | "auto" if url is not None:
                return RedisPlace(_redis_url(url), prefix=broker.key_prefix or _PREFIX, timeout=limits.timeout_seconds)
            case _:
                return DatabasePlace(RateRows(self.store.engine, clock=self.store.clock))

    def _publisher(self, *, pause: float) -> CeleryPublisher:
        broker = self.settings.broker

        return CeleryPublisher(
            build_celery("post-purchase-publisher", self.settings, timeout=broker.publish_timeout_seconds),
            rate=broker.publish_rate_per_second,
            pause=pause,
            held=self.settings.dispatch.held_messages,
            monotonic=time.monotonic,
        )

    def _policy(self, key_window_seconds: float | None) -> Policy:
        retry, read_back = self.settings.retry, self.settings.read_back

        return Policy(
            ladder=tuple(timedelta(seconds=each) for each in retry.ladder_seconds),
            key_window=timedelta(seconds=key_window_seconds or retry.key_window_seconds),
            key_margin=timedelta(seconds=retry.key_margin_seconds),
            throttle_base=timedelta(seconds=retry.throttle_base_seconds),
            throttle_cap=timedelta(seconds=retry.throttle_cap_seconds),
            throttle_patience=timedelta(seconds=retry.throttle_patience_seconds),
            read_pause=timedelta(seconds=read_back.pause_seconds),
            absence_lifetime=timedelta(seconds=read_back.absent_seconds),
            settle_every=timedelta(seconds=read_back.settle_every_seconds),
            settle_within=timedelta(seconds=read_back.settle_within_seconds),
        )

    def _transport(self) -> CurlTransport:
        http = self.settings.http

        return CurlTransport(
            connect_timeout=http.connect_timeout_seconds,
            total_timeout=http.total_timeout_seconds,
            ca_file=None if http.ca_file is None else str(http.ca_file),
            connections=http.max_in_flight,
        )

    def _executor(self) -> Executor:
        settings = self.settings

        return Executor(
            store=self.store,
            transport=self._transport(),
            publisher=self.publisher,
            limiter=self.limiter,
            breaker=self.breaker,
            accounts=self.accounts,
            fallback=self.fallback,
            limits=Limits(
                window=settings.execute.batch_size,
                widest=settings.http.max_in_flight,
                lease=timedelta(seconds=settings.lease.seconds),
                reply=timedelta(seconds=settings.http.total_timeout_seconds),
                pump=timedelta(seconds=settings.execute.pump_seconds),
                record_delay=timedelta(seconds=settings.execute.record_delay_seconds),
                horizon=self._horizon,
                published_for=timedelta(seconds=settings.dispatch.republish_seconds),
                message=settings.dispatch.batch_size,
            ),
            desk=settings.tickets.desk,
            holder=f"{socket.gethostname()}:{os.getpid()}",
            monotonic=time.monotonic,
            wait=time.sleep,
            chance=random.random,
            stopping=self._stopping,
        )


def build_celery(name: str, settings: Settings, *, timeout: float | None = None) -> Celery:
    """Make a Celery app on the settings' broker; with `timeout` seconds for each broker call, and one try, if given.

    It does not become the process's current app: a host may have its own.
    """
    app = Celery(name, set_as_current=False)
    app.conf.update(_celery_settings(settings, timeout))

    return app


def task_seconds(settings: Settings) -> int:
    """How long a task may take before its process is taken for one that hangs."""
    return int(settings.execute.pump_seconds + 2 * settings.http.total_timeout_seconds + settings.lease.seconds)


def _celery_settings(settings: Settings, timeout: float | None) -> dict[str, Any]:
    """Why each of these is what it is: docs/decisions/0003-celery-settings.md."""
    broker = settings.broker
    on_redis = broker.url.startswith(("redis", "rediss", "sentinel", "unix", "socket"))

    return {
        "broker_url": f"{_FOLDER}localhost" if broker.url.startswith(_FOLDER) else broker.url,
        "broker_connection_timeout": timeout or broker.socket_timeout_seconds,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": on_redis,
        "broker_transport_options": {
            **(_transport_options(settings, timeout) if on_redis else _other_options(broker.url)),
            # By default kombu sleeps two seconds before it gives up.
            **({} if timeout is None else {"max_retries": 0}),
        },
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": EXECUTE_QUEUE,
        # A list, because Flower reads no other form.
        "task_queues": [
            Queue(  # type: ignore[no-untyped-call]  # kombu's types are incomplete
                name,
                routing_key=name,
                queue_arguments={"x-queue-type": "quorum"} if broker.queue_type == "quorum" else None,
            )
            for name in (EXECUTE_QUEUE, UPKEEP_QUEUE)
        ],
        "task_routes": {EXECUTE_TASK: {"queue": EXECUTE_QUEUE}, ESCALATE_TASK: {"queue": UPKEEP_QUEUE}},
        "task_time_limit": task_seconds(settings),
        "task_send_sent_event": False,
        "worker_consumer": "worker.consumer:Consumer",
        "worker_concurrency": settings.execute.concurrency,
        "worker_disable_prefetch": on_redis,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def _transport_options(settings: Settings, timeout: float | None) -> dict[str, Any]:
    broker = settings.broker

    return {
        "global_keyprefix": broker.key_prefix or "",
        "visibility_timeout": broker.visibility_timeout_seconds,
        "socket_timeout": timeout or broker.socket_timeout_seconds,
        "socket_connect_timeout": timeout or broker.socket_timeout_seconds,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }


def _other_options(url: str) -> dict[str, Any]:
    if url.startswith(_FOLDER):
        folder = Path(url.removeprefix(_FOLDER) or "var/broker")
        folder.mkdir(parents=True, exist_ok=True)  # Celery makes none
        return {
            "data_folder_in": str(folder),
            "data_folder_out": str(folder),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.1,
        }

    return {"confirm_publish": True}


def _redis_url(url: str) -> str:
    """Return a broker's URL as the Redis client spells it, which verifies certificates where nothing else is said."""
    address, _, query = url.partition("?")
    options = dict(each.split("=", 1) for each in query.split("&") if "=" in each)
    options.pop("ssl_cert_reqs", None)  # the settings let only "required" through, and it is written in two ways
    database = options.pop("virtual_host", None)
    if database is not None:
        options["db"] = database.removeprefix("/")
    written = "&".join(f"{name}={value}" for name, value in options.items())

    return address.replace("redis+socket://", "unix://", 1) + (f"?{written}" if written else "")


def _provider(name: str, account: AccountSettings) -> Provider:
    own: Mapping[str, Any] = {"merchant_id": account.merchant_id} if account.provider == "bluesnap" else {}

    return PROVIDERS[account.provider](
        account=name,
        base_url=account.base_url,
        username=_reveal(account.username),
        password=_reveal(account.password),
        keyed=account.keyed,
        **own,
    )


def _desk(settings: Settings) -> TicketDesk:
    email, webhook = settings.tickets.email, settings.tickets.webhook
    match settings.tickets.desk:
        case "log":
            return LogDesk()
        case "email":
            return EmailDesk(
                host=email.host or "",
                port=email.port,
                security=email.security,
                username=_reveal(email.username),
                password=_reveal(email.password),
                sender=email.sender or "",
                recipients=email.recipients,
                timeout=email.timeout_seconds,
            )
        case "webhook":
            return WebhookDesk(url=webhook.url or "", secret=_reveal(webhook.secret), timeout=webhook.timeout_seconds)


def _reveal(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
