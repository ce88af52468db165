"""States of a command and the only transitions between them.

Decides which change of state exists and exactly which columns belong to it: every transition is a named
constructor, and nothing else in the program fills a `Transition`. Leaves to the store the guarded write
(`WHERE state = … AND claims = …`, row count checked) that carries it out, and to `ladder` the choice.

    pending ──claim──▶ executing ──▶ succeeded | rejected | pending | escalated
    escalated ──▶ pending | succeeded | cancelled        by a named operator
    pending ──▶ cancelled                                by a named operator

After a crash a row is found as its last commit left it: `pending` rows are handed out again by dispatch,
`executing` rows by sweep once their lease has run out, and the others need nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from .outcome import Problem
from .read_back import ReadBack


class State(StrEnum):
    """Where a command stands. The strings are stored and never change."""

    PENDING = "pending"  # waits until due_at; dispatch hands it to the broker
    EXECUTING = "executing"  # one worker holds the lease; sweep takes over when it runs out
    SUCCEEDED = "succeeded"  # final: the provider did it
    REJECTED = "rejected"  # final: the provider refused it for good; a ticket says so
    ESCALATED = "escalated"  # the machine must not go on; a ticket is open until an operator decides
    CANCELLED = "cancelled"  # final: an operator took it back


FINAL = frozenset({State.SUCCEEDED, State.REJECTED, State.CANCELLED})
UNFINISHED = frozenset(State) - FINAL

#: From each state to those that may follow it. docs/lifecycle.md and the table's CHECKs are tested against it.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.EXECUTING, State.CANCELLED}),
    State.EXECUTING: frozenset({State.SUCCEEDED, State.REJECTED, State.PENDING, State.ESCALATED}),
    State.ESCALATED: frozenset({State.PENDING, State.SUCCEEDED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.REJECTED: frozenset(),
    State.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state with every column that belongs to it. Built by the functions below only.

    `due_at` is None except on the way to `pending`. `failures` and `throttles` are the values to store. With
    `read_back` the next claim reads at the provider and sends nothing. `absent_at` is when the provider was last known
    to show no effect of the command, with no attempt since.
    """

    to: State
    failures: int
    throttles: int = 0
    throttled_at: datetime | None = None
    in_doubt: bool = False
    due_at: datetime | None = None
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    problem: Problem | None = None
    read_back: ReadBack | None = None
    absent_at: datetime | None = None
    finalized: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "finalized", self.to in FINAL)


def succeed(*, failures: int, result: Mapping[str, Any]) -> Transition:
    """The provider did it: nothing is in doubt any more."""
    return Transition(to=State.SUCCEEDED, failures=failures, result=result)


def reject(*, failures: int, problem: Problem) -> Transition:
    """The provider refused for good, and no earlier attempt is in doubt."""
    return Transition(to=State.REJECTED, failures=failures, problem=problem)


def retry_at(
    due_at: datetime, *, failures: int, in_doubt: bool, problem: Problem | None, absent_at: datetime | None = None
) -> Transition:
    """A failed attempt: wait for the next rung."""
    return Transition(
        to=State.PENDING, failures=failures, in_doubt=in_doubt, due_at=due_at, problem=problem, absent_at=absent_at
    )


def read_back_at(
    due_at: datetime,
    *,
    failures: int,
    in_doubt: bool,
    problem: Problem | None,
    read_back: ReadBack,
    result: Mapping[str, Any] | None = None,
) -> Transition:
    """Nothing more is sent before the provider's present state has been read; with `result` if it is done already."""
    return Transition(
        to=State.PENDING,
        failures=failures,
        in_doubt=in_doubt,
        due_at=due_at,
        result=result,
        problem=problem,
        read_back=read_back,
    )


def defer_until(
    due_at: datetime,
    *,
    failures: int,
    throttles: int,
    throttled_at: datetime | None = None,
    in_doubt: bool,
    problem: Problem | None,
    result: Mapping[str, Any] | None = None,
    read_back: ReadBack | None = None,
    absent_at: datetime | None = None,
) -> Transition:
    """The provider's quota is used up: wait without climbing a rung."""
    return Transition(
        to=State.PENDING,
        failures=failures,
        throttles=throttles,
        throttled_at=throttled_at,
        in_doubt=in_doubt,
        due_at=due_at,
        result=result,
        problem=problem,
        read_back=read_back,
        absent_at=absent_at,
    )


def hand_back(
    due_at: datetime,
    *,
    failures: int,
    throttles: int,
    throttled_at: datetime | None = None,
    in_doubt: bool,
    problem: Problem | None,
    result: Mapping[str, Any] | None = None,
    read_back: ReadBack | None = None,
    absent_at: datetime | None = None,
) -> Transition:
    """Claimed but never sent: as if it had not been claimed, whoever comes next may have it."""
    return Transition(
        to=State.PENDING,
        failures=failures,
        throttles=throttles,
        throttled_at=throttled_at,
        in_doubt=in_doubt,
        due_at=due_at,
        result=result,
        problem=problem,
        read_back=read_back,
        absent_at=absent_at,
    )


def escalate(
    *,
    failures: int,
    in_doubt: bool,
    problem: Problem | None,
    result: Mapping[str, Any] | None = None,
    absent_at: datetime | None = None,
) -> Transition:
    """The machine must not go on: a person decides; with `result` if there was an effect that can be named."""
    return Transition(
        to=State.ESCALATED,
        failures=failures,
        in_doubt=in_doubt,
        result=result,
        problem=problem,
        absent_at=absent_at,
    )


def start_over(
    due_at: datetime, *, in_doubt: bool, problem: Problem | None, absent_at: datetime | None = None
) -> Transition:
    """An operator sends an escalated command up the ladder again, from its first rung."""
    return Transition(
        to=State.PENDING, failures=0, in_doubt=in_doubt, due_at=due_at, problem=problem, absent_at=absent_at
    )


def resolve(*, failures: int, result: Mapping[str, Any], problem: Problem | None) -> Transition:
    """An operator has made sure that the effect exists at the provider."""
    return Transition(to=State.SUCCEEDED, failures=failures, result=result, problem=problem)


def cancel(*, failures: int, problem: Problem | None) -> Transition:
    """An operator has made sure that there is no effect, and none is wanted."""
    return Transition(to=State.CANCELLED, failures=failures, problem=problem)
