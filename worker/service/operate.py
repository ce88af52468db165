"""What a named operator may do to a command, with a reason: retry, resolve, cancel.

Decides which verb is safe in which state and refuses the rest with the reason and the way out. Every verb leaves an
action behind, in the same transaction as its effect. Leaves asking for `by` and `why` to the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from ..domain import state
from ..domain.errors import CommandNotFound, VerbRefused
from ..domain.label import command_label
from ..domain.ladder import Policy, refuse_send
from ..domain.state import State, Transition
from ..domain.ticket import Reason
from ..ports import Account, Action, Publisher, Store, StoredCommand, Transaction
from .accounts import standing

_WHY_NOT: Mapping[Reason, str] = {
    Reason.KEY_WINDOW_CLOSED: (
        "the provider no longer honours its idempotency key, so sending again could move money twice. Look the order "
        "up at the provider; then resolve it, or cancel it and enqueue the command under a new reference"
    ),
    Reason.NOT_SAFE_TO_RETRY: (
        "it was sent without a key and its fate is unknown. Look the order up at the provider; then resolve it, or "
        "cancel it and enqueue the command under a new reference"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Carries out the verbs of one operator.

    Attributes:
        by: Who does it; kept with the action.
        why: The reason; kept with the action.
    """

    store: Store
    publisher: Publisher
    accounts: Mapping[str, Account]
    by: str
    why: str

    def retry(self, command_id: UUID) -> StoredCommand:
        """Send an escalated command up the ladder again, under its own key; at once.

        Raises:
            CommandNotFound: No such command.
            VerbRefused: It is not escalated, its account is not configured, or sending again would not be safe.
        """
        with self.store.begin() as transaction:
            command = _locked(transaction, command_id)
            if command.state is not State.ESCALATED:
                raise VerbRefused(
                    "retry", command_id, f"it is {command.state}; only an escalated command can be retried"
                )
            account = self.accounts.get(command.account)
            if account is None:
                raise VerbRefused("retry", command_id, f"account {command.account!r} is not configured")
            reason = refuse_send(standing(command, self.accounts), account.policy, now=transaction.now)
            if reason is not None:
                raise VerbRefused("retry", command_id, _WHY_NOT[reason])
            transition = state.start_over(transaction.now, in_doubt=command.in_doubt, problem=command.problem)
            self._write(transaction, command, transition, "retry")

        self._publish(command, account.policy)

        return command

    def resolve(self, command_id: UUID) -> StoredCommand:
        """State that the effect exists at the provider; for a rejected command, that its ticket is dealt with.

        Raises:
            CommandNotFound: No such command.
            VerbRefused: It is neither escalated nor rejected.
        """
        with self.store.begin() as transaction:
            command = _locked(transaction, command_id)
            match command.state:
                case State.ESCALATED:
                    transition = state.resolve(
                        failures=command.failures, result={"resolved_by": self.by}, problem=command.problem
                    )
                    self._write(transaction, command, transition, "resolve")
                case State.REJECTED:
                    transaction.note_action(self._action(command, "resolve"))
                case _:
                    why = f"it is {command.state}; only an escalated command or a rejected one's ticket can be resolved"
                    raise VerbRefused("resolve", command_id, why)
            transaction.close_links([command_id])

        return command

    def cancel(self, command_id: UUID) -> StoredCommand:
        """Take a command back: it will not be sent, or not again.

        Raises:
            CommandNotFound: No such command.
            VerbRefused: It is executing, final, or waits for a retry of an attempt whose fate is unknown.
        """
        with self.store.begin() as transaction:
            command = _locked(transaction, command_id)
            if command.state not in {State.PENDING, State.ESCALATED}:
                raise VerbRefused(
                    "cancel", command_id, f"it is {command.state}; only a pending or escalated one can be"
                )
            if command.state is State.PENDING and command.in_doubt:
                why = "an attempt of it is in doubt and may have been carried out; wait for its retry or its ticket"
                raise VerbRefused("cancel", command_id, why)
            transition = state.cancel(failures=command.failures, problem=command.problem)
            self._write(transaction, command, transition, "cancel")
            transaction.close_links([command_id])

        return command

    def _write(self, transaction: Transaction, command: StoredCommand, transition: Transition, verb: str) -> None:
        if not transaction.operate(command, transition, self._action(command, verb)):
            raise VerbRefused(verb, command.id, "it changed in the meantime; look at it again")

    def _action(self, command: StoredCommand, verb: str) -> Action:
        return Action(
            command_id=command.id,
            verb=verb,
            by=self.by,
            why=self.why,
            state_before=command.state,
            in_doubt_before=command.in_doubt,
        )

    def _publish(self, command: StoredCommand, policy: Policy) -> None:
        label = command_label(
            kind=command.kind, account=command.account, order_id=command.order_id, failures=0, tries=policy.tries
        )
        self.publisher.execute([command.id], label=label)


def _locked(transaction: Transaction, command_id: UUID) -> StoredCommand:
    command = transaction.lock_command(command_id)
    if command is None:
        raise CommandNotFound(str(command_id))

    return command
