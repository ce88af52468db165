"""Who is measured: this worker and its peers, each as its own documentation advises.

Decides how the worker processes of each are started, and how many: one process per core. What a job does is in the
contestant's module; `client` stores jobs through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Rows of one table that a finished job leaves behind: a condition finds them, `own` is what each copy has anew.

    `own` is SQL by column; `n` is the number of the copy. What the database numbers by itself is not listed.
    """

    table: str
    rows: str
    own: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to get a call to a provider made in the background.

    Attributes:
        name: Its name in results and on the command line.
        title: What a reader calls it.
        module: What stores its jobs, and is its worker when told to `work`.
        packages: Whose versions are written down.
        arguments: Of each worker process, after the interpreter.
        processes: How many of them are started.
        stores: Whether the job itself is stored in the database; else in Redis, beside a row.
        backlog: Jobs that it does not finish within a slice.
        remark: What a reader must know to judge its figures.
        history: What it leaves behind of a finished job, table by table in this order.
    """

    name: str
    title: str
    module: str
    packages: Sequence[str]
    arguments: Sequence[str]
    processes: int
    stores: bool
    backlog: int
    remark: str
    history: Sequence[Left] = ()


def _peer(
    name: str,
    *,
    title: str,
    packages: Sequence[str],
    stores: bool,
    backlog: int,
    remark: str,
    history: Sequence[Left],
    processes: int = 2,
) -> Contestant:
    module = f"bench.peers.{name}"

    return Contestant(
        name=name,
        title=title,
        module=module,
        packages=packages,
        arguments=("-m", "bench.client", module, "work"),
        processes=processes,
        stores=stores,
        backlog=backlog,
        remark=remark,
        history=history,
    )


_COMMANDS = Left(table="bench_command", rows="state = 'succeeded' LIMIT 1", own={"key": "gen_random_uuid()"})
_OUTCOMES = Left(table="bench_outcome", rows="true LIMIT 1", own={"key": "gen_random_uuid()"})
_WORKFLOW = (
    "workflow_uuid = (SELECT min(workflow_uuid) FROM dbos.workflow_status"
    " WHERE status = 'SUCCESS' AND workflow_uuid NOT LIKE 'more-%')"
)

_WORKER = ("-m", "celery", "--app", "worker", "worker", "--without-mingle", "--without-gossip")

OURS = Contestant(
    name="ours",
    title="post-purchase-worker",
    module="bench.ours",
    packages=("celery", "kombu", "redis", "sqlalchemy", "psycopg", "pycurl"),
    arguments=(*_WORKER, "--concurrency", "2"),
    processes=1,
    stores=True,
    backlog=50_000,
    remark="one Celery worker with two pool processes; settings as by default, quota on and not binding",
)

#: The same where workers are killed: two that can die apart, one pool process each.
OURS_APART = Contestant(
    **{
        **{name: getattr(OURS, name) for name in Contestant.__dataclass_fields__},
        "arguments": (*_WORKER, "--concurrency", "1"),
        "processes": 2,
    }
)

PEERS: Mapping[str, Contestant] = {
    each.name: each
    for each in (
        _peer(
            "celery_retry",
            title="Celery task, autoretry_for",
            packages=("celery", "kombu", "redis", "psycopg"),
            stores=False,
            backlog=13_000,
            remark="a row in the shop's table, a message for each, 2 × 32 threads, late acknowledgement",
            history=[_COMMANDS],
        ),
        _peer(
            "dramatiq_actor",
            title="Dramatiq",
            packages=("dramatiq", "redis", "psycopg"),
            stores=False,
            backlog=25_000,
            remark="a row in the shop's table, a message for each, 2 × 32 threads",
            history=[_COMMANDS],
        ),
        _peer(
            "procrastinate_jobs",
            title="Procrastinate",
            packages=("procrastinate", "psycopg", "asyncpg", "aiohttp"),
            stores=True,
            backlog=10_000,
            remark="2 × 100 at once, asynchronous; stalled jobs are taken up by a periodic task",
            history=[
                Left(table="procrastinate_jobs", rows="status = 'succeeded' LIMIT 1", own={}),
                Left(
                    table="procrastinate_events",
                    rows="job_id = (SELECT min(job_id) FROM procrastinate_events WHERE type = 'succeeded')",
                    own={"job_id": "(SELECT max(id) FROM procrastinate_jobs) - n + 1"},
                ),
                _OUTCOMES,
            ],
        ),
        _peer(
            "pgqueuer_jobs",
            title="PgQueuer",
            packages=("pgqueuer", "asyncpg", "aiohttp"),
            stores=True,
            backlog=50_000,
            remark="two processes in batches of 100, asynchronous, without a cap as by default",
            history=[
                Left(
                    table="pgqueuer_log",
                    rows="job_id = (SELECT min(job_id) FROM pgqueuer_log WHERE status = 'successful')",
                    own={"job_id": "-n"},
                ),
                _OUTCOMES,
            ],
        ),
        _peer(
            "dbos_workflows",
            title="DBOS",
            packages=("dbos", "sqlalchemy", "psycopg"),
            stores=True,
            backlog=4_500,
            remark="a workflow of one step in a queue, 2 × 100 at once, which is asked every 50 ms",
            history=[
                Left(table=f"dbos.{table}", rows=_WORKFLOW, own={"workflow_uuid": "'more-' || n"})
                for table in ("workflow_status", "workflow_input", "workflow_output", "operation_outputs")
            ],
        ),
    )
}

#: Who is not here, and why.
ABSENT: Mapping[str, str] = {
    "Temporal": "its development server is a download of its own and in no package index, so a clean clone has none",
}
