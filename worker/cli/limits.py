"""`post-purchase limits`: the providers' quotas as they are published, as they were learned, and as they are used.

Decides the columns that people see. Leaves what there is to see to the limiter's snapshot. No credentials are needed.
"""

from __future__ import annotations

from typing import Any

import typer

from ..ports import BucketLine, LimiterUnavailable
from .edge import examples, invocation
from .output import AsJson, Columns, duration, print_json, print_rows

_BUCKETS: Columns = {
    "level": lambda line: line["level"].replace("_", " "),
    "name": lambda line: line["name"],
    "category": lambda line: line["category"],
    "host": lambda line: line["host"],
    "configured": lambda line: _rate(line["configured"]),
    "learned": lambda line: _rate(line["learned"]),
    "learned ago": lambda line: _ago(line["learned_seconds"]),
    "in force": lambda line: _rate(line["in_force"]),
    "used": lambda line: line["used"],
    "429s": lambda line: line["throttled"],
    "keeps still": lambda line: _ago(line["still_seconds"] or None),
    "queue": lambda line: _ago(line["queue_seconds"] or None),
}


def add_to(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command("limits", epilog=examples("post-purchase limits", "post-purchase limits --json"))(limits)


def limits(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Show the providers' quotas, in commands a second.

    Configured is what the provider publishes, learned what its last answers said, and used what the last second took.
    """
    from ..config import redacted_url  # noqa: PLC0415  # --help must be quick

    with invocation(ctx).services() as services:
        settings = services.settings
        try:
            lines = [_shown(line) for line in services.limiter.snapshot()]
        except LimiterUnavailable as error:
            url = redacted_url(settings.limits.redis_url or settings.broker.url)
            raise LimiterUnavailable(f"{error}. It is {url}; start it, or name another with limits.place") from error

    if as_json:
        print_json(lines)
    else:
        print_rows(_BUCKETS, lines)


def _shown(line: BucketLine) -> dict[str, Any]:
    return {
        "level": line.bucket.level.value,
        "name": line.bucket.name,
        "category": line.bucket.category,
        "host": line.bucket.host,
        "configured": line.bucket.quota,
        "ceiling": line.bucket.ceiling,
        "learned": line.learned,
        "learned_seconds": line.learned_seconds,
        "in_force": line.in_force,
        "used": line.used,
        "ahead": line.ahead,
        "throttled": line.throttled,
        "still_seconds": line.still_seconds,
        "queue_seconds": line.queue_seconds,
    }


def _rate(quota: float | None) -> str | None:
    return None if quota is None else f"{quota:g}"


def _ago(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)
