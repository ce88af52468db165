"""What a provider's answer, or its absence, means.

Decides the seven meanings an attempt can end with. Leaves to each provider which answer means what (a
literal table beside its requests) and to `ladder` what follows from a meaning. `not_now` and
`unauthorized` are ours: see docs/decisions/0001-seven-outcomes.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an attempt did not succeed, fit for a ticket: redacted, bounded, with the provider's own code.

    `code` is the provider's error code where it gave one, otherwise one of ours in lower case
    (`connect_failed`, `no_answer`, `lease_expired` …). `status` is the HTTP status, None without an answer.
    """

    code: str
    message: str = ""
    status: int | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """Answered 2xx: the provider did it. `result` holds ids the provider gave, and a read's answer.

    `settled` is False where the provider calls it pending: it counts as done, and can still come to nothing.
    """

    name: ClassVar[str] = "succeeded"
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)
    status: int
    correlation_id: str | None = None
    settled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Answered with a definite refusal: nothing was done and the same request will not be accepted later."""

    name: ClassVar[str] = "rejected"
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNow:
    """Answered that nothing was done now; the same request may be accepted later."""

    name: ClassVar[str] = "not_now"
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Unauthorized:
    """Answered 401: nothing was done, and nothing of this account will be until its credentials are mended."""

    name: ClassVar[str] = "unauthorized"
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """The connection never came up (DNS, connect, TLS): no byte of the request reached anybody."""

    name: ClassVar[str] = "not_sent"
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """Answered 429: not executed, costs no rung."""

    name: ClassVar[str] = "throttled"
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """Sent, fate unknown: timeout, reset, 5xx, HTML, truncated body, 409."""

    name: ClassVar[str] = "in_doubt"
    problem: Problem


Outcome = Succeeded | Rejected | NotNow | Unauthorized | NotSent | Throttled | InDoubt

#: The stored names, in the order of docs/lifecycle.md.
OUTCOMES: tuple[str, ...] = tuple(
    kind.name for kind in (Succeeded, Rejected, NotNow, Unauthorized, NotSent, Throttled, InDoubt)
)
