"""What the doctor looks at: package, database, broker, workers; each with a patience of its own.

Decides what is well, what is suspicious, what is broken, and the fix that is named for it. Every question that leaves
the process is asked in a thread that is left behind when no answer comes, so that a black hole costs seconds, not the
terminal. What can only be asked of something that is away is not asked.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from celery import Celery

from .. import __version__
from ..config import Settings, redacted_url
from ..domain.errors import SchemaMismatch
from ..domain.pause import Cause
from ..publish import EXECUTE_QUEUE, UPKEEP_QUEUE
from ..resources import migrations_dir
from ..service import inspect
from ..store import migrate
from ..wiring import DATABASE_FIX, Services, build_celery
from .output import duration, moment

OK = "ok"
WARN = "warn"
FAIL = "fail"

#: How long one question may take. The timeouts of the database and of the broker lie below, so that theirs, which
#: says more, comes first.
_PATIENCE_SECONDS = 3.0
_TIMEOUT_SECONDS = 2.0

#: How long answers of workers are collected: all of it, because nobody knows how many there are.
_COLLECT_SECONDS = 1.0

#: Times of attempts, leases and key windows are compared by people across machines; beyond this they mislead.
_SKEW = timedelta(seconds=2)

#: A due command is claimed within a second or two; one that has waited so long waits for somebody.
_WAITED_SECONDS = 60.0

#: An upkeep that has missed so many ticks is stuck. Time is added, because the clocks of two machines differ.
_MISSED_TICKS = 10
_CLOCKS_DIFFER = timedelta(seconds=10)

#: The libraries that decide how processes understand one another.
_LIBRARIES = ("celery", "kombu", "redis", "sqlalchemy")

#: A worker that takes messages from one of these is one of ours.
_QUEUES = frozenset({EXECUTE_QUEUE, UPKEEP_QUEUE})

#: How what is paused comes to be sent again, by why it is not.
_WAYS_OUT: Mapping[Cause, str] = {
    Cause.BREAKER: "see what ails the provider, or the way to it; sending goes on by itself once a probe is answered",
    Cause.CREDENTIALS: "mend the credentials and restart the workers; sending goes on by itself once they are taken",
    Cause.OPERATOR: "post-purchase resume {account}{option} --by NAME --reason TEXT",
}

_START_A_WORKER = "start one: celery --app worker worker"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found at one place, and the fix where one is needed."""

    name: str
    status: str
    found: str
    fix: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, in the order in which one thing needs another."""
    yield _package()
    yield _versions()
    yield from _database(settings)
    yield from _broker(settings)


# --- this process ------------------------------------------------------------------------------------------


def _package() -> Finding:
    here = Path(__file__).resolve().parents[1]
    found = f"worker {__version__} at {here}"
    neighbour = _neighbour(here)
    if neighbour is None:
        return Finding(name="package", status=OK, found=found)

    fix = f"start workers in another folder: here `celery --app worker` would import {neighbour}"

    return Finding(name="package", status=WARN, found=found, fix=fix)


def _neighbour(here: Path) -> Path | None:
    """Another `worker` in the working directory, which Celery puts first on the path."""
    candidates = (Path.cwd() / "worker" / "__init__.py", Path.cwd() / "worker.py")

    return next((each for each in candidates if each.is_file() and here not in each.resolve().parents), None)


def _versions() -> Finding:
    versions = [f"python {platform.python_version()}", *(f"{library} {version(library)}" for library in _LIBRARIES)]

    return Finding(name="versions", status=OK, found=", ".join(versions))


# --- the database ------------------------------------------------------------------------------------------


def _database(settings: Settings) -> Iterator[Finding]:
    needing = ("schema", "clock", "oldest due", "pauses", "tickets")
    services = Services(_impatient(settings))
    try:
        _within(lambda: migrate.current(services.store.engine))
    except Exception as error:  # noqa: BLE001  # a doctor tells whatever went wrong
        url = redacted_url(settings.database.url)
        yield Finding(name="database", status=FAIL, found=f"{url}: {_said(error)}", fix=DATABASE_FIX)
        yield from _unasked(needing, "the database does not answer")
        return
    yield Finding(name="database", status=OK, found=redacted_url(settings.database.url))

    schema = _schema(services)
    yield schema
    if schema.status == OK:
        yield from _rows(services)
    else:
        yield from _unasked(needing[1:], "the schema does not fit")
    services.close()


def _impatient(settings: Settings) -> Settings:
    timeouts = ("connect_timeout_seconds", "statement_timeout_seconds", "busy_timeout_seconds")
    database = settings.database.model_copy(update=dict.fromkeys(timeouts, _TIMEOUT_SECONDS))

    return settings.model_copy(update={"database": database})


def _schema(services: Services) -> Finding:
    try:
        _within(lambda: migrate.require(services.store.engine, migrations_dir()))
    except SchemaMismatch as error:
        fix = "post-purchase db upgrade"
        return Finding(name="schema", status=FAIL, found=str(error), fix=fix)

    return Finding(name="schema", status=OK, found=migrate.newest(migrations_dir()))


def _rows(services: Services) -> Iterator[Finding]:
    skew, stats = _within(lambda: _skew_and_stats(services))

    ahead = "ahead of" if skew > timedelta(0) else "behind"
    off = f"the database is {duration(abs(skew).total_seconds())} {ahead} this machine"
    if abs(skew) <= _SKEW:
        yield Finding(name="clock", status=OK, found=off)
    else:
        yield Finding(name="clock", status=WARN, found=off, fix="have both machines ask the same time server")

    waited = stats["oldest_due_seconds"]
    if waited <= _WAITED_SECONDS:
        yield Finding(name="oldest due", status=OK, found=f"waits for {duration(waited)}")
    else:
        fix = "see that workers run and keep up: post-purchase list --state pending"
        yield Finding(name="oldest due", status=WARN, found=f"waits for {duration(waited)}", fix=fix)

    yield _pauses(stats["pauses"])

    tickets = stats["open_tickets"]
    if not tickets:
        yield Finding(name="tickets", status=OK, found="none is open")
    else:
        yield Finding(name="tickets", status=WARN, found=f"{tickets} open", fix="post-purchase tickets --open")


def _pauses(pauses: Sequence[Mapping[str, Any]]) -> Finding:
    if not pauses:
        return Finding(name="pauses", status=OK, found="nothing is paused")

    found = [
        f"{_paused(each)} since {moment(each['began_at'])}: {each['cause']}, by {each['by']}, {each['why']}"
        for each in pauses
    ]
    fixes = [
        _WAYS_OUT[Cause(each["cause"])].format(
            account=each["account"], option="" if each["kind"] is None else f" --kind {each['kind']}"
        )
        for each in pauses
    ]

    return Finding(name="pauses", status=WARN, found="; ".join(found), fix="; ".join(dict.fromkeys(fixes)))


def _paused(pause: Mapping[str, Any]) -> str:
    return str(pause["account"]) if pause["kind"] is None else f"{pause['kind']} of {pause['account']}"


def _skew_and_stats(services: Services) -> tuple[timedelta, dict[str, Any]]:
    with services.store.read() as transaction:
        before = datetime.now(UTC)
        there = transaction.now
        after = datetime.now(UTC)

        counted = inspect.stats(transaction, accounts=services.accounts, fallback=services.fallback)

        return there - (before + (after - before) / 2), counted


# --- the broker and who listens to it ----------------------------------------------------------------------


def _broker(settings: Settings) -> Iterator[Finding]:
    url = redacted_url(settings.broker.url)
    app = build_celery("post-purchase-check", settings, timeout=_TIMEOUT_SECONDS)
    try:
        _within(lambda: _connect(app))
    except Exception as error:  # noqa: BLE001  # a doctor tells whatever went wrong
        fix = "start the broker, or mend broker.url (POST_PURCHASE_BROKER__URL); commands are stored meanwhile"
        yield Finding(name="broker", status=FAIL, found=f"{url}: {_said(error)}", fix=fix)
        yield from _unasked(("workers", "upkeep"), "the broker does not answer")
        return
    if url.startswith("memory://"):
        fix = "give a broker that other processes can reach"
        yield Finding(name="broker", status=WARN, found=f"{url} reaches this process only", fix=fix)
    else:
        yield Finding(name="broker", status=OK, found=url)

    # A broker may carry the messages of a host as well, whose other workers are none of our business.
    queues = _replies(app, "active_queues")
    workers = [each for each, taken in queues.items() if any(queue["name"] in _QUEUES for queue in taken or ())]
    if workers:
        yield Finding(name="workers", status=OK, found=", ".join(sorted(workers)))
    else:
        yield Finding(name="workers", status=FAIL, found="none answers", fix=_START_A_WORKER)
    yield _upkeep(_replies(app, "post_purchase_upkeep", of=workers) if workers else {}, workers, settings)


def _connect(app: Celery) -> None:
    with app.connection_for_read() as connection:
        connection.connect()


def _replies(app: Celery, question: str, *, of: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Ask these workers, or all there are; worker → what it answered."""
    try:
        replies = _within(lambda: app.control.broadcast(question, reply=True, timeout=_COLLECT_SECONDS, destination=of))
    except Exception:  # noqa: BLE001  # a broker that has gone away since is a broker from which nothing comes
        return {}

    return {worker: answer for reply in replies or () for worker, answer in reply.items()}


def _upkeep(replies: Mapping[str, Any], workers: Collection[str], settings: Settings) -> Finding:
    patience = {
        "dispatch": _MISSED_TICKS * settings.dispatch.interval_seconds,
        "sweep": _MISSED_TICKS * settings.sweep.interval_seconds,
        # One lasts as long as a provider that hangs is given to answer.
        "probe": _MISSED_TICKS * settings.breaker.interval_seconds + settings.http.total_timeout_seconds,
    }
    if not replies:
        fix = f"{_START_A_WORKER}, or: post-purchase upkeep"
        return Finding(name="upkeep", status=FAIL, found="no worker tells of any", fix=fix)

    now = datetime.now(UTC)
    stuck = [
        f"{duty} of {worker} {'last ticked ' + last if last else 'has not ticked yet'}"
        for worker, duties in sorted(replies.items())
        for duty, seconds in patience.items()
        if not _ticks(last := duties.get(duty, {}).get("last_at"), seconds, now)
    ]
    stuck += [f"{worker} does not tell of any" for worker in sorted(set(workers) - set(replies))]
    if stuck:
        fix = "read that worker's log, and start it again"
        return Finding(name="upkeep", status=FAIL, found="; ".join(stuck), fix=fix)

    return Finding(
        name="upkeep", status=OK, found=f"dispatch, sweep and probe tick in {len(replies)} of {len(workers)} workers"
    )


def _ticks(last_at: str | None, within_seconds: float, now: datetime) -> bool:
    if last_at is None:
        return False

    return now - datetime.fromisoformat(last_at) <= timedelta(seconds=within_seconds) + _CLOCKS_DIFFER


# --- asking ------------------------------------------------------------------------------------------------


def _within(call: Callable[[], _T]) -> _T:
    """Call in a thread of its own, and wait only so long."""
    answer: Future[_T] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever asked
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()

    return answer.result(_PATIENCE_SECONDS)


def _unasked(names: Sequence[str], why: str) -> Iterator[Finding]:
    for name in names:
        yield Finding(name=name, status=FAIL, found=f"not asked: {why}")


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {duration(_PATIENCE_SECONDS)}"
    lines = str(error).strip().splitlines()

    return lines[0] if lines else type(error).__name__
