"""What `manage.py check` says of us; each finding names the command that mends it, or that shows more.

Decides when it is asked: the setting always; the database under `--database`, and so by `manage.py migrate`, whose
findings are warnings because `migrate` is what mends them; the broker under `--deploy`, a warning because commands are
stored without it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any

from django.core import checks
from django.db import DatabaseError

from ...config import ConfigurationError, load, redacted_url
from ...domain.errors import SchemaMismatch
from ...domain.state import UNFINISHED
from ...ports import StoreUnavailable
from ...resources import migrations_dir
from ...store import migrate
from ...wiring import BROKER_FIX, BrokerUnavailable, Services
from . import conf

#: A host that was not told for so long waits for somebody: a tick is a second, and an error is repeated after minutes.
_UNTOLD = timedelta(minutes=15)


def register() -> None:
    """Register the checks."""
    checks.register(check_settings)
    checks.register(check_database, checks.Tags.database)
    checks.register(check_broker, deploy=True)


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Whether `POST_PURCHASE` can be used, and has an account to use."""
    try:
        settings = load(require_credentials=False)
        conf.on_finished()
    except ConfigurationError as error:
        hint = "Mend POST_PURCHASE or the environment, then run `manage.py check`; docs/django.md lists the keys."
        return [checks.Error(problem, hint=hint, id="post_purchase.E001") for problem in error.problems]
    if not settings.accounts:
        hint = "Give POST_PURCHASE['accounts'] one, then run `manage.py check`."
        return [
            checks.Warning("No account is configured: every enqueue is refused.", hint=hint, id="post_purchase.W001")
        ]

    return []


def check_database(databases: Collection[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Whether the schema fits, every account in use is configured, and the host is being told."""
    try:
        services, using = conf.services(), conf.using()
    except ConfigurationError:
        return []  # said by `check_settings`
    if using not in (databases or ()):
        return []
    try:
        migrate.require(services.store.engine, migrations_dir())
        return [*_unknown_accounts(services), *_untold(services)]
    except SchemaMismatch as error:
        hint = f"Run `manage.py migrate --database {using}`, or `manage.py post_purchase db upgrade`."
        return [checks.Warning(str(error), hint=hint, id="post_purchase.W002")]
    except (StoreUnavailable, DatabaseError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        hint = f"Start the database {using!r} of DATABASES, then run `manage.py check --database {using}`."
        return [checks.Error(first, hint=hint, id="post_purchase.E002")]


def _unknown_accounts(services: Services) -> Iterator[checks.CheckMessage]:
    from .models import Command  # noqa: PLC0415  # checks are registered before the models are there

    waiting = Command.objects.filter(state__in=sorted(UNFINISHED)).order_by().values_list("account", flat=True)
    for account in sorted(set(waiting.distinct()) - set(services.accounts)):
        message = f"Commands of the account {account!r} are not final, and it is not configured here."
        hint = (
            f"Configure it in POST_PURCHASE['accounts']; `manage.py post_purchase list --account {account}` shows them."
        )
        yield checks.Warning(message, hint=hint, id="post_purchase.W003")


def _untold(services: Services) -> Iterator[checks.CheckMessage]:
    with services.store.read() as transaction:
        untold = transaction.oldest_untold()
        waited = timedelta(0) if untold is None else transaction.now - untold
    if waited > _UNTOLD:
        message = f"A command was final {waited.total_seconds() / 60:.0f} minutes ago, and `on_finished` was not told."
        hint = (
            "Look for `host.not_told` in the worker's log; if there is none, start a worker that tells: "
            "`celery -A worker.contrib.django worker`."
        )
        yield checks.Warning(message, hint=hint, id="post_purchase.W004")


def check_broker(**_: Any) -> list[checks.CheckMessage]:
    """Whether the broker answers."""
    try:
        services = conf.services()
    except ConfigurationError:
        return []  # said by `check_settings`
    try:
        services.await_broker(patience=timedelta(0))
    except BrokerUnavailable as error:
        url = redacted_url(services.settings.broker.url)
        hint = f"{BROKER_FIX}. `manage.py post_purchase check` looks closer. The broker is {url}."
        return [checks.Warning(str(error), hint=hint, id="post_purchase.W005")]

    return []
