"""The Celery app: `celery -A worker worker` and `celery -A worker flower` find it here.

Decides when settings are read, and that a worker of this app logs as they say. Leaves what a worker process does to
`process`, tasks to `tasks`, the ticking of dispatch and sweep to `upkeep`; an app of the host's own is joined by
`contrib.celery` and never imports this module.
"""

from __future__ import annotations

from typing import Any

from celery import signals

from .config import ConfigurationError, Settings, load
from .logs import configure
from .process import WorkerProcess
from .upkeep import upkeep_step
from .wiring import Services, build_celery


def _load() -> Settings:
    """Read the settings; what is wrong with them is all that a person gets to read, not a traceback of the import."""
    try:
        return load(require_credentials=False)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None


_settings = _load()
app = build_celery("post-purchase", _settings)
app.conf.include = ["worker.tasks"]

#: This worker, whose pool processes each read the credentials for themselves.
process = WorkerProcess(lambda stopping: Services(load(), stopping=stopping))

app.steps["worker"].add(upkeep_step(process.services, may_end=True))


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure(_settings.log)


@signals.worker_init.connect
def _start(**_: Any) -> None:
    configure(_settings.log)  # Celery asks for it only after this
    process.start()


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    process.stop()
