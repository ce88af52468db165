"""Every error a caller of this package can meet, under one root.

Decides what each refusal is called and which data it carries. Leaves to the command line and the host
frameworks how it is shown. The first sentence of a class's docstring is the message; what belongs to
one case rides as attributes and is appended to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


class PostPurchaseError(Exception):
    """The post-purchase worker refused or could not do what was asked."""

    def __init__(self, detail: str = "") -> None:
        first = (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(f"{first.rstrip('.')}: {detail}" if detail else first)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One thing wrong with one field. `field` is a dotted path; empty when the whole command is meant."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class InvalidCommand(PostPurchaseError):
    """The command is not one that may be stored."""

    def __init__(self, kind: str | None, problems: Sequence[FieldProblem]) -> None:
        Exception.__init__(self, f"{kind or 'command'}: " + "; ".join(str(problem) for problem in problems))
        self.kind = kind
        self.problems = tuple(problems)


class UnknownKind(InvalidCommand):
    """No command of this kind is known."""

    def __init__(self, kind: str, known: Sequence[str], nearest: str | None) -> None:
        hint = f"did you mean {nearest!r}?" if nearest else f"known are {', '.join(sorted(known))}"
        super().__init__(None, [FieldProblem(field="kind", message=f"{kind!r} is not a kind of command; {hint}")])
        self.unknown = kind
        self.nearest = nearest


class UnknownCurrency(PostPurchaseError):
    """The currency is not one of ISO 4217 with minor units: give its three capital letters, such as EUR."""


class InvalidAmount(PostPurchaseError):
    """The amount is not an exact number of its currency's minor units."""


class UnknownAccount(PostPurchaseError):
    """No such account is configured."""

    def __init__(self, account: str, known: Sequence[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"{account!r}; configured are: {names}. Accounts are given in the profile, under [accounts]")
        self.account = account


class IdempotencyConflict(PostPurchaseError):
    """A command with this idempotency key is stored already, with another payload."""

    def __init__(
        self, *, command_id: UUID, idempotency_key: str, fields: Sequence[str], pruned_state: str | None = None
    ) -> None:
        """Name the fields that differ; of a pruned command nobody knows them, only how it ended."""
        what = (
            f"command {command_id} differs in {', '.join(fields)}"
            if pruned_state is None
            else f"command {command_id} is {pruned_state} and was pruned, so that only its fingerprint can be compared"
        )
        super().__init__(f"{what}. Use another reference for another intention, or enqueue the stored values again")
        self.command_id = command_id
        self.idempotency_key = idempotency_key
        self.fields = tuple(fields)


class CommandClosed(PostPurchaseError):
    """The command with this idempotency key has ended without effect and will not be sent again."""

    def __init__(self, *, command_id: UUID, state: str, idempotency_key: str) -> None:
        super().__init__(f"command {command_id} is {state}. Enqueue what should happen now under a new reference")
        self.command_id = command_id
        self.state = state
        self.idempotency_key = idempotency_key


class CommandNotFound(PostPurchaseError):
    """No such command is stored."""

    def __init__(self, command_id: str) -> None:
        super().__init__(f"{command_id}. `post-purchase list` shows what there is")
        self.command_id = command_id


class CommandPruned(CommandNotFound):
    """The command has ended long ago and was pruned; only its key is kept."""

    def __init__(
        self, *, command_id: UUID, account: str, state: str, finalized_at: datetime, idempotency_key: str
    ) -> None:
        PostPurchaseError.__init__(
            self,
            f"{command_id} of {account} is {state} since {finalized_at:%Y-%m-%d %H:%M:%SZ}, under the key "
            f"{idempotency_key}, which is recognised for ever. The rest is in the archive, if one was written",
        )
        self.command_id = str(command_id)
        self.account = account
        self.state = state
        self.finalized_at = finalized_at
        self.idempotency_key = idempotency_key


class VerbRefused(PostPurchaseError):
    """This would be unsafe or has no meaning in the command's present state."""

    def __init__(self, verb: str, command_id: UUID, why: str) -> None:
        super().__init__(f"{verb} {command_id}: {why}")
        self.verb = verb
        self.command_id = command_id
        self.why = why


class InvalidPause(PostPurchaseError):
    """An account cannot be paused or resumed like this."""

    def __init__(self, account: str, kind: str, why: str) -> None:
        what = f"{account}, {kind}" if kind else account
        super().__init__(f"{what} {why}. `post-purchase stats` shows what is paused")
        self.account = account
        self.kind = kind


class SchemaMismatch(PostPurchaseError):
    """The database schema is not the one this version works with."""

    def __init__(self, *, found: str | None, expected: str, fix: str) -> None:
        super().__init__(f"found {found or 'none'}, expected {expected}. {fix}")
        self.found = found
        self.expected = expected


class DeskUnavailable(PostPurchaseError):
    """The desk did not take the ticket."""
