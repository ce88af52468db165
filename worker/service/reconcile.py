"""Hold a command against the provider's present state: what is asked, what is kept of the answer, what follows.

Decides that a command which cannot be read back is ambiguous, and what of a read goes into the ledger. Leaves the
reading of answers to each provider, consequences to `domain.judge`, the moment to whoever began the read-back, and the
call itself to `execute`: a read goes through the same window, transport and leases as everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ..domain.finding import UNREAD, Absent, Ambiguous, Done, Finding
from ..domain.judge import Subject, judge
from ..domain.ladder import Policy
from ..domain.outcome import Outcome, Succeeded
from ..domain.read_back import ReadBack
from ..ports import Account, Held, Reading, Request
from .accounts import policy, standing
from .record import Decided


def lookup(held: Held, account: Account) -> Request | Ambiguous:
    """Build the read that shows what became of a command."""
    request = account.provider.lookup(held)
    if request is None:
        return Ambiguous(evidence=f"What became of this {held.kind} cannot be read at the provider.")

    return request


def judged(
    held: Held,
    read_back: ReadBack,
    found: Finding | Outcome,
    *,
    read_at: datetime,
    accounts: Mapping[str, Account],
    fallback: Policy,
    chance: float,
) -> Decided:
    """Say what follows from a read, and what is kept of it."""
    subject = Subject(standing=standing(held, accounts), read_back=read_back, problem=held.problem, result=held.result)
    verdict, evidence = _told(found)

    return Decided(
        held=held,
        decision=judge(found, subject, policy(held, accounts, fallback), read_at=read_at, chance=chance),
        outcome=None,
        ended_at=read_at,
        reading=Reading(held=held, purpose=read_back.purpose, verdict=verdict, evidence=evidence, read_at=read_at),
    )


def _told(found: Finding | Outcome) -> tuple[str, str]:
    """Name what a read told, and say it for a person."""
    match found:
        case Done() | Absent() | Ambiguous():
            return found.name, found.evidence
        case Succeeded(status=status):
            return UNREAD, f"The read was answered with {status}, and the answer told nothing."
        case _:
            problem = found.problem
            answered = "" if problem.status is None else f" ({problem.status})"
            return UNREAD, f"The read told nothing: {problem.code}{answered}. {problem.message}".strip()
