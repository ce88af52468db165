"""The case file in words: plain text and HTML for people, a dictionary for machines.

Decides what a person sees of a ticket and in which order, and that nothing in it can pass for more than text:
line breaks and control characters are shown as escapes, markup as characters, and of what is read again and again
only the last. Leaves to `domain/ticket` what a
case file holds, and to the desks how it travels.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any

from ..domain.outcome import Problem
from ..domain.ticket import HEADLINE, AttemptLine, Case, CaseFile, Closing, Ended, ReadingLine

#: Stands where there is nothing to show.
NOTHING = "-"

CLOSED_TITLE = "What is left to do"
NEXT_STEPS_TITLE = "What you can safely do now, in this order (ID is the command's id)"

ATTEMPT_COLUMNS = ("no", "started (UTC)", "finished (UTC)", "outcome", "status", "code", "correlation id")
ENDING_COLUMNS = ("command id", "kind", "order", "reference", "minor units", "ended", "by")
READING_COLUMNS = ("read (UTC)", "for", "found", "evidence")

#: What is only pending is read every hour for two weeks; a person needs how it ended.
_MOST_READINGS = 10
_LONGEST_EVIDENCE = 500

#: Mail programs drop style sheets and honour attributes.
_TABLE = '<table cellpadding="3" cellspacing="0">'


def announcement(case_file: CaseFile) -> str:
    """Name what is being told: the same for every repeat, another as soon as there is something new to tell.

    Besides the commands' ids it takes in the number of their last attempt and of their readings, so that a command that
    comes back to its ticket after an operator's retry or recheck is news. A ticket closes once.
    """
    if case_file.closing is not None:
        return f"{case_file.ticket_id}-closed"
    told = sorted(
        f"{case.command_id}:{max((line.number for line in case.attempts), default=0)}:{len(case.readings)}"
        for case in case_file.cases
    )
    digest = hashlib.sha256(" ".join(told).encode()).hexdigest()

    return f"{case_file.ticket_id}-{digest[:32]}"


def one_line(text: str) -> str:
    """Show a text on one line: whatever would break, hide or reorder what stands around it appears as an escape."""
    return "".join(_shown(character) for character in text)


def as_text(case_file: CaseFile) -> str:
    """Write the case file as plain text."""
    title = f"post-purchase ticket {case_file.ticket_id}"
    lines = [title, "=" * len(title), "", *_aligned(_ticket_facts(case_file)), "", f"{_steps_title(case_file)}:"]
    lines += [f"  {number}. {step}" for number, step in enumerate(case_file.next_steps, start=1)]
    for number, case in enumerate(case_file.cases, start=1):
        heading = _case_heading(case, number=number, count=len(case_file.cases))
        lines += ["", heading, "-" * len(heading), *_aligned(_case_facts(case)), "Attempts"]
        lines += [f"  {row}" for row in _columns(ATTEMPT_COLUMNS, _attempt_rows(case))]
        lines += [_readings_title(case), *(f"  {row}" for row in _columns(READING_COLUMNS, _reading_rows(case)))]

    if case_file.closing is not None:
        lines += ["", _endings_title(case_file.closing)]
        lines += [f"  {row}" for row in _columns(ENDING_COLUMNS, _ending_rows(case_file.closing))]

    return "\n".join(lines) + "\n"


def as_html(case_file: CaseFile) -> str:
    """Write the case file as an HTML page that loads nothing from anywhere."""
    title = escape(f"post-purchase ticket {case_file.ticket_id}")
    steps = "".join(f"<li>{escape(step)}</li>" for step in case_file.next_steps)
    cases = "".join(
        f'<h2 style="font-size:16px">{escape(_case_heading(case, number=number, count=len(case_file.cases)))}</h2>'
        f"{_html_facts(_case_facts(case))}"
        f"{_html_table('Attempts', ATTEMPT_COLUMNS, _attempt_rows(case))}"
        f"{_html_table(_readings_title(case), READING_COLUMNS, _reading_rows(case))}"
        for number, case in enumerate(case_file.cases, start=1)
    )
    if case_file.closing is not None:
        cases = _html_table(_endings_title(case_file.closing), ENDING_COLUMNS, _ending_rows(case_file.closing))

    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        '<body style="font-family:sans-serif;font-size:14px">'
        f'<h1 style="font-size:18px">{title}</h1>{_html_facts(_ticket_facts(case_file))}'
        f"<p>{escape(_steps_title(case_file))}:</p><ol>{steps}</ol>{cases}</body></html>\n"
    )


def as_json(case_file: CaseFile) -> dict[str, Any]:
    """Put the case file into what JSON can say; ids and references stand as they are, times are UTC."""
    return {
        "ticket_id": str(case_file.ticket_id),
        "announcement": announcement(case_file),
        "account": case_file.account,
        "reason": str(case_file.reason),
        "headline": HEADLINE[case_file.reason],
        "opened_at": _stamp(case_file.opened_at),
        "total": case_file.total,
        "next_steps": list(case_file.next_steps),
        "cases": [_json_case(case) for case in case_file.cases],
        **({} if case_file.closing is None else {"closing": _json_closing(case_file.closing)}),
    }


# --- the facts, once for text and HTML ---------------------------------------------------------------------


def _ticket_facts(case_file: CaseFile) -> tuple[tuple[str, str], ...]:
    return (
        ("Reason", f"{HEADLINE[case_file.reason]} ({case_file.reason})"),
        ("Account", one_line(case_file.account)),
        ("Ticket", str(case_file.ticket_id)),
        ("Opened at", f"{_moment(case_file.opened_at)} UTC"),
        *(_message_facts(case_file) if case_file.closing is None else _closing_facts(case_file.closing)),
    )


def _message_facts(case_file: CaseFile) -> tuple[tuple[str, str], ...]:
    return (("Commands", f"{case_file.total} in this ticket, {len(case_file.cases)} of them in this message"),)


def _closing_facts(closing: Closing) -> tuple[tuple[str, str], ...]:
    ended = ", ".join(f"{count} {one_line(how)}" for how, count in sorted(closing.counts.items())) or NOTHING

    return (
        ("Closed at", f"{_moment(closing.closed_at)} UTC"),
        ("Closed", "by an operator" if closing.by_operator else "by itself"),
        ("Commands", f"{ended}; {closing.decided_by_operator} of them decided by an operator"),
    )


def _steps_title(case_file: CaseFile) -> str:
    return NEXT_STEPS_TITLE if case_file.closing is None else CLOSED_TITLE


def _endings_title(closing: Closing) -> str:
    left_out = sum(closing.counts.values()) - len(closing.first)
    more = f" (the first {len(closing.first)}; {left_out} after them are left out)" if left_out else ""

    return f"How they ended{more}"


def _ending_rows(closing: Closing) -> tuple[tuple[str, ...], ...]:
    return tuple(_ending_row(each) for each in closing.first)


def _ending_row(ended: Ended) -> tuple[str, ...]:
    return (
        str(ended.command_id),
        one_line(ended.kind),
        one_line(ended.order_id),
        _optional(ended.reference),
        NOTHING if ended.amount is None else str(ended.amount),
        one_line(ended.how),
        _decider(ended),
    )


def _decider(ended: Ended) -> str:
    return "operator" if ended.by_operator else "itself"


def _case_heading(case: Case, *, number: int, count: int) -> str:
    return one_line(f"Command {number} of {count}: {case.kind} of order {case.order_id}")


def _case_facts(case: Case) -> tuple[tuple[str, str], ...]:
    return (
        ("Command id", str(case.command_id)),
        ("Kind", one_line(case.kind)),
        ("Account", one_line(case.account)),
        ("Order", one_line(case.order_id)),
        ("Reference", _optional(case.reference)),
        ("Amount", NOTHING if case.amount is None else f"{case.amount} (minor units)"),
        ("Idempotency key", one_line(case.idempotency_key)),
        ("State", one_line(case.state)),
        ("In doubt", "yes: an attempt may have been carried out" if case.in_doubt else "no"),
        ("Key window", _key_window(case.key_window_left)),
        ("Problem", _problem(case.problem)),
    )


def _attempt_rows(case: Case) -> tuple[tuple[str, ...], ...]:
    return tuple(_attempt_row(line) for line in case.attempts)


def _attempt_row(line: AttemptLine) -> tuple[str, ...]:
    return (
        str(line.number),
        _moment(line.started_at),
        NOTHING if line.finished_at is None else _moment(line.finished_at),
        line.outcome or "unknown",
        NOTHING if line.status is None else str(line.status),
        _optional(line.code),
        _optional(line.correlation_id),
    )


def _readings_title(case: Case) -> str:
    left_out = len(case.readings) - len(_last_readings(case))
    more = f" (the last {_MOST_READINGS}; {left_out} before them are left out)" if left_out else ""

    return f"Readings at the provider{more}"


def _reading_rows(case: Case) -> tuple[tuple[str, ...], ...]:
    return tuple(_reading_row(line) for line in _last_readings(case))


def _reading_row(line: ReadingLine) -> tuple[str, ...]:
    return (_moment(line.read_at), one_line(line.purpose), one_line(line.verdict), one_line(_evidence(line)))


def _last_readings(case: Case) -> tuple[ReadingLine, ...]:
    return case.readings[-_MOST_READINGS:]


def _evidence(line: ReadingLine) -> str:
    if len(line.evidence) <= _LONGEST_EVIDENCE:
        return line.evidence
    return f"{line.evidence[:_LONGEST_EVIDENCE]}…"


def _key_window(left: timedelta | None) -> str:
    if left is None:
        return "does not apply: nothing was sent, or no key bounds it"
    if left > timedelta(0):
        return f"{_span(left)} left when this was written"
    return f"closed {_span(-left)} before this was written: sending it again could move money twice"


def _problem(problem: Problem | None) -> str:
    if problem is None:
        return NOTHING
    details = [f"status {problem.status}"] if problem.status is not None else []
    details += [f"correlation id {problem.correlation_id}"] if problem.correlation_id else []
    message = f": {problem.message}" if problem.message else ""

    return one_line(f"{problem.code}{message}" + (f" ({', '.join(details)})" if details else ""))


def _optional(text: str | None) -> str:
    return one_line(text) if text else NOTHING


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _span(span: timedelta) -> str:
    """Write a duration with its two largest units."""
    seconds = int(span.total_seconds())
    days, hours, minutes = seconds // 86_400, seconds // 3_600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {seconds % 60} s"
    return f"{seconds} s"


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")


# --- layout ------------------------------------------------------------------------------------------------


def _aligned(facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in facts)

    return (f"{name:<{width}}  {value}" for name, value in facts)


def _columns(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        return iter(("none",))
    table = (names, *rows)
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]

    return ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def _html_facts(facts: Sequence[tuple[str, str]]) -> str:
    return _TABLE + "".join(_html_row(f"<b>{escape(name)}</b>", escape(value)) for name, value in facts) + "</table>"


def _html_table(title: str, names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return f"<p>{escape(title)}: none</p>"
    head = _html_row(*(f"<b>{escape(name)}</b>" for name in names))
    body = "".join(_html_row(*(escape(cell) for cell in row)) for row in rows)

    return f"<p>{escape(title)}:</p>{_TABLE}{head}{body}</table>"


def _html_row(*cells: str) -> str:
    return '<tr valign="top">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


# --- for machines ------------------------------------------------------------------------------------------


def _json_case(case: Case) -> dict[str, Any]:
    left = case.key_window_left

    return {
        "command_id": str(case.command_id),
        "account": case.account,
        "kind": case.kind,
        "order_id": case.order_id,
        "reference": case.reference,
        "amount": case.amount,
        "idempotency_key": case.idempotency_key,
        "state": case.state,
        "in_doubt": case.in_doubt,
        "key_window_left_seconds": None if left is None else int(left.total_seconds()),
        "problem": None if case.problem is None else _json_problem(case.problem),
        "attempts": [_json_attempt(line) for line in case.attempts],
        "readings": [_json_reading(line) for line in _last_readings(case)],
        "readings_total": len(case.readings),
    }


def _json_closing(closing: Closing) -> dict[str, Any]:
    return {
        "closed_at": _stamp(closing.closed_at),
        "closed_by": "operator" if closing.by_operator else "itself",
        "counts": dict(closing.counts),
        "decided_by_operator": closing.decided_by_operator,
        "first": [_json_ended(ended) for ended in closing.first],
    }


def _json_ended(ended: Ended) -> dict[str, Any]:
    return {
        "command_id": str(ended.command_id),
        "kind": ended.kind,
        "order_id": ended.order_id,
        "reference": ended.reference,
        "amount": ended.amount,
        "ended": ended.how,
        "by": _decider(ended),
    }


def _json_problem(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "message": problem.message,
        "status": problem.status,
        "correlation_id": problem.correlation_id,
    }


def _json_attempt(line: AttemptLine) -> dict[str, Any]:
    return {
        "number": line.number,
        "started_at": _stamp(line.started_at),
        "finished_at": None if line.finished_at is None else _stamp(line.finished_at),
        "outcome": line.outcome,
        "status": line.status,
        "code": line.code,
        "correlation_id": line.correlation_id,
    }


def _json_reading(line: ReadingLine) -> dict[str, Any]:
    return {
        "read_at": _stamp(line.read_at),
        "purpose": line.purpose,
        "verdict": line.verdict,
        "evidence": _evidence(line),
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
