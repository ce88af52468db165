"""`post-purchase check`: the doctor.

Decides how findings are shown and that one failure is enough for exit 1. Leaves looking to `probes`.
"""

from __future__ import annotations

import typer

from .edge import REFUSED, examples, invocation
from .output import AsJson, Columns, print_json, print_rows

_COLUMNS: Columns = {
    "check": lambda finding: finding["name"],
    "status": lambda finding: finding["status"],
    "found": lambda finding: finding["found"],
    "fix": lambda finding: finding["fix"],
}


def add_to(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command("check", epilog=examples("post-purchase check --json"))(check)


def check(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Look at everything the worker needs.

    Each finding is ok, warn or fail, with the fix for it; any that fails is exit 1. Looked at are the imported package,
    the database, its schema and clock, the oldest due command, open tickets, the broker, the workers and their upkeep.
    Nothing is waited for longer than a few seconds, and nothing is changed.
    """
    from ..logs import configure  # noqa: PLC0415  # --help must be quick
    from .probes import FAIL, examine  # noqa: PLC0415  # the same

    settings = invocation(ctx).settings()
    configure(settings.log.model_copy(update={"level": "critical"}))  # what is amiss becomes a finding
    findings = [finding.as_json() for finding in examine(settings)]
    failed = any(finding["status"] == FAIL for finding in findings)

    if as_json:
        print_json({"ok": not failed, "checks": findings})
    else:
        print_rows(_COLUMNS, findings)
    if failed:
        raise typer.Exit(REFUSED)
