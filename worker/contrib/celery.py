"""Our tasks in a host's own Celery app, so that the host's workers execute commands beside their own tasks.

    app = Celery("shop", broker="redis://redis.internal:6379/0")
    join(app)

    celery --app shop worker --queues celery,post-purchase.execute,post-purchase.upkeep

Decides what is added to that app: two tasks with options of their own, and a bootstep. Its default queue, its settings,
its logging and the process's current app stay as they are. A worker of it that takes messages from none of our queues
does nothing for us; one that does refuses to start where it could not work, and carries upkeep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from celery import Celery, Task, signals

from ..domain.errors import PostPurchaseError
from ..hosting import Host
from ..logs import join as join_logging
from ..process import WorkerProcess
from ..publish import ESCALATE_TASK, EXECUTE_TASK
from ..upkeep import upkeep_step
from ..wiring import Services, build_celery, task_seconds

#: What our tasks rely on, whatever the app's settings say for others.
_OPTIONS = {
    "base": Task,
    "bind": True,
    "shared": False,  # else every other app of the process would have them too
    "max_retries": None,
    "acks_late": False,
    "ignore_result": True,
    "reject_on_worker_lost": False,
    "serializer": "json",
}

#: Asking the app itself for its tasks would finish it before the host has.
_joined: WeakSet[Celery] = WeakSet()


class OtherBroker(PostPurchaseError):
    """The host's Celery app and the settings name different brokers: messages would go where no worker looks."""


class AlreadyJoined(PostPurchaseError):
    """The Celery app holds our tasks already: join it once, where it is made."""


def join(app: Celery, *, host: Host | None = None) -> None:
    """Let workers of a host's Celery app execute commands.

    Reads no settings and connects to nothing: a worker does so when it starts.

    Args:
        app: The host's own.
        host: Whose settings count; those of the environment of the process if not given.

    Raises:
        AlreadyJoined: It was joined before.
    """
    if app in _joined:
        raise AlreadyJoined(repr(app.main))
    _joined.add(app)
    process = WorkerProcess((host or Host()).worker_services)

    @app.task(name=EXECUTE_TASK, **_OPTIONS)
    def execute(self: Task, ids: list[str]) -> dict[str, int]:
        return process.execute(ids, task_id=self.request.id)

    @app.task(name=ESCALATE_TASK, **_OPTIONS)
    def escalate(self: Task, ticket_id: str) -> dict[str, str]:
        return process.escalate(ticket_id, task_id=self.request.id)

    app.steps["worker"].add(upkeep_step(process.services, begin=_beginning(app, process)))


def broker_of(app: Celery) -> dict[str, str]:
    """Return, by their names in the environment, the settings that name this app's broker; none where it names none."""
    url = app.conf.broker_write_url or app.conf.broker_url
    if not url:
        return {}

    return {
        "POST_PURCHASE_BROKER__URL": url if isinstance(url, str) else ";".join(url),
        "POST_PURCHASE_BROKER__KEY_PREFIX": _prefix(app),
    }


def _beginning(app: Celery, process: WorkerProcess) -> Callable[[Any], None]:
    def stop(**_: Any) -> None:
        process.stop()

    def begin(_worker: Any) -> None:
        join_logging()
        process.start(demand=_demands(app))
        for task in (app.tasks[EXECUTE_TASK], app.tasks[ESCALATE_TASK]):
            # Both, because the app's own limits hold for a task that names none; the soft one would cut off calls.
            task.time_limit = task.soft_time_limit = task_seconds(process.services().settings)
        signals.worker_shutting_down.connect(stop, weak=False)

    return begin


def _demands(app: Celery) -> Callable[[Services], None]:
    def demand(services: Services) -> None:
        theirs, ours = _place(app), _place(build_celery("post-purchase-start", services.settings))
        if theirs != ours:
            raise OtherBroker(
                f"the app's is {theirs}, the settings' is {ours}. Mend broker.url (POST_PURCHASE_BROKER__URL) and "
                "broker.key_prefix (POST_PURCHASE_BROKER__KEY_PREFIX)"
            )

    return demand


def _place(app: Celery) -> str:
    """Where an app's messages go; without the credentials, which may differ."""
    info = app.connection_for_write().info()
    path = str(info["virtual_host"]).strip("/") or ("0" if "redis" in info["transport"] else "")

    return f"{info['transport']}://{info['hostname']}:{info['port']}/{path} with the prefix {_prefix(app)!r}"


def _prefix(app: Celery) -> str:
    return str((app.conf.broker_transport_options or {}).get("global_keyprefix") or "")
