"""Tickets: why a person must know, how escalations are grouped, and what the case file says.

Decides which reasons share one open incident per account and which get a ticket of their own, and the
content of the case file: facts for a person, never a payload, a secret or personal data. Leaves the
sending to the desks and the tries to `service/escalate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from .outcome import Problem


class Reason(StrEnum):
    """Why a command was passed to people. The strings are stored and never change."""

    REFUSED = "refused"  # the provider refused it for good
    REFUSED_AFTER_DOUBT = "refused_after_doubt"  # refused, but an earlier attempt may have done it
    LADDER_EXHAUSTED = "ladder_exhausted"  # the third retry failed too
    KEY_WINDOW_CLOSED = "key_window_closed"  # the provider no longer honours the key
    NOT_SAFE_TO_RETRY = "not_safe_to_retry"  # sent without a key, fate unknown or not sent
    CREDENTIALS_REFUSED = "credentials_refused"  # 401 for the whole account
    THROTTLED = "throttled"  # nothing but 429 for a long time
    KEYS_NOT_ENABLED = "keys_not_enabled"  # a repeat's answer does not name its key
    NOT_SETTLED = "not_settled"  # done, but it came to nothing afterwards, or nobody can tell


#: Reasons whose cause lies outside one command: one open incident per account and reason.
SYSTEMIC = frozenset(
    {
        Reason.LADDER_EXHAUSTED,
        Reason.KEY_WINDOW_CLOSED,
        Reason.NOT_SAFE_TO_RETRY,
        Reason.CREDENTIALS_REFUSED,
        Reason.THROTTLED,
        Reason.KEYS_NOT_ENABLED,
    }
)

#: What each reason means, for the first line of a ticket.
HEADLINE: Mapping[Reason, str] = {
    Reason.REFUSED: "The provider refused the command for good",
    Reason.REFUSED_AFTER_DOUBT: "The provider refused the command after an attempt whose fate is unknown",
    Reason.LADDER_EXHAUSTED: "The third retry failed",
    Reason.KEY_WINDOW_CLOSED: "The provider no longer honours the idempotency key",
    Reason.NOT_SAFE_TO_RETRY: "A command without a key failed and must not be repeated blindly",
    Reason.CREDENTIALS_REFUSED: "The provider refuses the account's credentials",
    Reason.THROTTLED: "The provider has answered nothing but 429 for a long time",
    Reason.KEYS_NOT_ENABLED: "Keys are not enabled for this account",
    Reason.NOT_SETTLED: "A pending refund has come to nothing, or was never settled",
}

#: What a person can safely do, in the order in which to do it.
NEXT_STEPS: Mapping[Reason, tuple[str, ...]] = {
    Reason.REFUSED: (
        "Read the provider's code and message below and mend the cause in the shop.",
        "If the payment is still wanted, enqueue a new command under a new reference.",
        "Close this ticket with: post-purchase resolve ID --by NAME --reason TEXT",
    ),
    Reason.REFUSED_AFTER_DOUBT: (
        "Look the order up at the provider: an earlier attempt may have been carried out, and no reading could tell.",
        "Done there: post-purchase resolve ID --by NAME --reason TEXT",
        "To read again: post-purchase recheck ID --by NAME --reason TEXT",
        "Not done there and not wanted: post-purchase cancel ID --by NAME --reason TEXT",
    ),
    Reason.LADDER_EXHAUSTED: (
        "Look the order up at the provider; where an attempt is in doubt it may have been carried out.",
        "To have the worker look: post-purchase recheck ID --by NAME --reason TEXT",
        "Done there: post-purchase resolve ID --by NAME --reason TEXT",
        "Provider works again and the key window is open: post-purchase retry ID --by NAME --reason TEXT",
        "Not wanted any more: post-purchase cancel ID --by NAME --reason TEXT",
    ),
    Reason.KEY_WINDOW_CLOSED: (
        "Have the worker read what is there: post-purchase recheck ID --by NAME --reason TEXT",
        "Where it cannot be read, look the order up at the provider.",
        "The worker refuses to send again until two readings found it absent: money could move twice.",
        "Done there: post-purchase resolve ID --by NAME --reason TEXT",
        "Found absent: post-purchase retry ID --by NAME --reason TEXT within the hour, or amend it",
        "Not done there: post-purchase cancel ID --by NAME --reason TEXT, then enqueue it under a new reference",
    ),
    Reason.NOT_SAFE_TO_RETRY: (
        "Have the worker read what is there: post-purchase recheck ID --by NAME --reason TEXT",
        "Where it cannot be read, look the order up at the provider.",
        "It was sent without a key, so the worker refuses to send it again until two readings found it absent.",
        "Done there: post-purchase resolve ID --by NAME --reason TEXT",
        "Found absent: post-purchase retry ID --by NAME --reason TEXT, or within the hour amend it",
        "Not done there: post-purchase cancel ID --by NAME --reason TEXT, then enqueue it under a new reference",
    ),
    Reason.CREDENTIALS_REFUSED: (
        "Check the account's user name, password, region and environment, and restart the workers with new ones.",
        "Then: post-purchase retry ID --by NAME --reason TEXT",
    ),
    Reason.THROTTLED: (
        "Nothing is lost: the commands go on waiting, keep their rung and leave as soon as the provider lets them.",
        "Compare the provider's quota with what is configured and learned: post-purchase limits",
        "Ask the provider whether the quota was lowered, and who else sends under the account.",
        "A command that is not wanted any more: post-purchase cancel ID --by NAME --reason TEXT",
    ),
    Reason.KEYS_NOT_ENABLED: (
        "Each command below was repeated under its key, and the answer did not name the key.",
        "Look each one up: either the first sending never arrived, or the keys are ignored and it was done twice.",
        "Have the provider enable keys for the account; until then set keyed = false for it and restart the workers.",
        "Close each one with: post-purchase resolve ID --by NAME --reason TEXT",
    ),
    Reason.NOT_SETTLED: (
        "Look the refund up at the provider: it was accepted as pending, and is not shown as paid.",
        "Paid there: post-purchase resolve ID --by NAME --reason TEXT",
        "To read again: post-purchase recheck ID --by NAME --reason TEXT",
        "Gone there: post-purchase cancel ID --by NAME --reason TEXT, then enqueue it under a new reference",
    ),
}


#: What is left to do when a ticket has closed, and where some of its commands may be found now.
_CLOSED = "Nothing: no command of this ticket waits for a decision any more. If it is still open here, close it."
_ELSEWHERE = "What moved, or was rejected and not decided by an operator, has a ticket of its own."

#: How a command left its ticket when it was not decided there: the reason changed, and the ticket with it.
MOVED = "moved"

#: Endings with which a command may stand in another ticket.
_GOES_ON = frozenset({MOVED, "rejected"})


class TicketState(StrEnum):
    """Where a ticket stands. The strings are stored and never change."""

    UNSENT = "unsent"  # stored; the desk has not taken it yet
    OPEN = "open"  # the desk has it
    CLOSED = "closed"  # every command in it has been decided


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLine:
    """One attempt as the case file shows it. `outcome` is None while nothing is known of it.

    `late` marks an answer that arrived after the lease was lost; it changed nothing, but a person may need it.
    """

    number: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    status: int | None
    code: str | None
    correlation_id: str | None
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLine:
    """One read of a read-back, as it is shown. `verdict` is a finding's name, or `unread`: it told nothing."""

    purpose: str
    verdict: str
    evidence: str
    read_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One command of a ticket: what was asked, what was tried and how it stands.

    `amount` is in minor units of `currency` where one is known. `key_window_left` is None when nothing
    was sent or no key applies, and negative once the window has closed.
    """

    command_id: UUID
    account: str
    kind: str
    order_id: str
    reference: str | None
    amount: int | None
    idempotency_key: str
    state: str
    in_doubt: bool
    key_window_left: timedelta | None
    problem: Problem | None
    attempts: tuple[AttemptLine, ...]
    readings: tuple[ReadingLine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command as the closing of its ticket lists it. `how` is its final state, or `moved`."""

    command_id: UUID
    kind: str
    order_id: str
    reference: str | None
    amount: int | None
    how: str
    by_operator: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """That every command of a ticket has been decided, and how.

    Attributes:
        closed_at: When the last one was.
        by_operator: Whether an operator decided the last one; otherwise the ticket closed by itself.
        counts: How many ended in which way.
        decided_by_operator: How many of all were decided by an operator.
        first: The first of them in the order in which they were asked for, bounded.
    """

    closed_at: datetime
    by_operator: bool
    counts: Mapping[str, int]
    decided_by_operator: int
    first: tuple[Ended, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFile:
    """What a desk is given. `cases` holds the commands not yet announced, oldest first, bounded; `total` all.

    With a `closing` there are no cases any more.
    """

    ticket_id: UUID
    account: str
    reason: Reason
    opened_at: datetime
    cases: tuple[Case, ...]
    total: int
    closing: Closing | None = None

    @property
    def subject(self) -> str:
        """One line that names account, reason and the first order, or that it is over."""
        named = self.cases if self.closing is None else self.closing.first
        what = f"{named[0].kind} of order {named[0].order_id}" if named else f"{self.total} commands"
        more = f" and {self.total - 1} more" if named and self.total > 1 else ""
        over = "" if self.closing is None else "closed: "

        return f"[post-purchase] {self.account}: {over}{HEADLINE[self.reason]} ({what}{more})"

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What a person can safely do now; ID stands for the command's id."""
        if self.closing is None:
            return NEXT_STEPS[self.reason]

        return (_CLOSED, _ELSEWHERE) if _GOES_ON & self.closing.counts.keys() else (_CLOSED,)
