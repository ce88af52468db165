"""The desk that is always there: the log.

Decides the three events that stand for a ticket. Leaves to `logs` the form of a line, and to whoever watches the
log that a person sees it.
"""

from __future__ import annotations

from typing import Any

import structlog

from ..domain.ticket import CaseFile
from . import TICKET_APPENDED, TICKET_CLOSED, TICKET_OPENED
from .case_text import as_json, one_line

_log = structlog.get_logger(__name__)


class LogDesk:
    """Writes each telling as one warning; its reference is `log:` and the ticket's id.

    A closing too: who watches for warnings must see that it is over.
    """

    def __init__(self, name: str = "log") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    def open(self, case_file: CaseFile) -> str:
        """Write the ticket to the log."""
        external_ref = f"log:{case_file.ticket_id}"
        _log.warning(TICKET_OPENED, external_ref=external_ref, **_fields(case_file))

        return external_ref

    def append(self, external_ref: str, case_file: CaseFile) -> None:
        """Write the further commands to the log."""
        _log.warning(TICKET_APPENDED, external_ref=one_line(external_ref), **_fields(case_file))

    def close(self, external_ref: str, case_file: CaseFile) -> None:
        """Write to the log that every command of the ticket has been decided."""
        _log.warning(TICKET_CLOSED, external_ref=one_line(external_ref), **_fields(case_file))


def _fields(case_file: CaseFile) -> dict[str, Any]:
    # A console prints strings without spaces as they are: an escape in an account's name would steer the terminal.
    return {name: one_line(value) if isinstance(value, str) else value for name, value in as_json(case_file).items()}
