"""What a named operator may do to a command, with a reason: retry, recheck, amend, resolve, cancel.

Decides which verb is safe in which state and refuses the rest with the reason and the way out. Every verb leaves an
action behind, in the same transaction as its effect. Leaves asking for `by` and `why` to the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from ..domain import state
from ..domain.commands import Command
from ..domain.errors import InvalidPause, UnknownAccount, VerbRefused
from ..domain.label import command_label
from ..domain.ladder import Policy, is_absent, key_age, refuse_send
from ..domain.pause import ALL_KINDS, Cause, Pause
from ..domain.read_back import Purpose, ReadBack
from ..domain.state import State, Transition
from ..domain.ticket import Reason
from ..ports import Account, Action, Publisher, Store, StoredCommand, Transaction
from .accounts import standing
from .enqueue import Enqueued, enqueue
from .inspect import not_found

_WHY_NOT: Mapping[Reason, str] = {
    Reason.KEY_WINDOW_CLOSED: (
        "the provider no longer honours its idempotency key, so sending again could move money twice"
    ),
    Reason.NOT_SAFE_TO_RETRY: "it was sent without a key and its fate is unknown",
}

#: The way out where what became of a command can be read, and where it cannot.
_READABLE = (
    "`post-purchase recheck` reads what is there: found done, it ends as succeeded; found absent twice, it may be sent"
)
_UNREADABLE = (
    "What became of it cannot be read, so look the order up at the provider; then resolve it, or cancel it and enqueue "
    "the command under a new reference"
)


#: Commands that a resumed account sends again at once; more wait for an operator's retry.
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Carries out the verbs of one operator.

    Attributes:
        kinds: Account name → the classes of command that its provider takes.
        unkeyed: Accounts whose provider honours no key.
        by: Who does it; kept with the action.
        why: The reason; kept with the action.
    """

    store: Store
    publisher: Publisher
    accounts: Mapping[str, Account]
    kinds: Mapping[str, Collection[type[Command]]]
    unkeyed: Collection[str]
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
            account = self._escalated(command, "retry")
            stands = standing(command, self.accounts)
            reason = refuse_send(stands, account.policy, now=transaction.now)
            if reason is not None:
                way_out = _READABLE if stands.readable else _UNREADABLE
                raise VerbRefused("retry", command_id, f"{_WHY_NOT[reason]}. {way_out}")
            transition = state.start_over(
                transaction.now, in_doubt=command.in_doubt, problem=command.problem, absent_at=command.absent_at
            )
            self._write(transaction, command, transition, "retry")

        self._publish(command, account.policy)

        return command

    def recheck(self, command_id: UUID) -> StoredCommand:
        """Read at the provider what became of an escalated command; it succeeds if it is there, else stays escalated.

        Raises:
            CommandNotFound: No such command.
            VerbRefused: It is not escalated, its account is not configured, or its effect cannot be read.
        """
        with self.store.begin() as transaction:
            command = _locked(transaction, command_id)
            account = self._escalated(command, "recheck")
            if not account.provider.reads_back(command.kind):
                raise VerbRefused("recheck", command_id, _UNREADABLE)
            transition = state.read_back_at(
                self._readable_from(command, transaction, account.policy),
                failures=command.failures,
                in_doubt=command.in_doubt,
                problem=command.problem,
                read_back=ReadBack(purpose=Purpose.RECHECK, reason=_reason(command, transaction)),
                result=command.result,
            )
            self._write(transaction, command, transition, "recheck")

        self._publish(command, account.policy)

        return command

    def amend(self, command_id: UUID, amended: Command) -> Enqueued:
        """Store a command under a new key that replaces a rejected or escalated one.

        A rejected command stays rejected, an escalated one is cancelled. The same amendment twice is stored once.

        Raises:
            CommandNotFound: No such command.
            VerbRefused: It is in another state, it is not known to be absent at the provider, or the amended command
                is another kind, of another account or about another order.
            InvalidCommand: The amended command cannot be stored.
            IdempotencyConflict: It was amended before, and otherwise.
        """
        with self.store.begin() as transaction:
            command = _locked(transaction, command_id)
            self._demand_amendable(command, amended, transaction)
            (enqueued,) = enqueue(
                transaction,
                [amended],
                kinds=self.kinds,
                unkeyed=self.unkeyed,
                published_for=timedelta(0),
                reserve=lambda: False,
                replaces=command,
            )
            if command.state is State.ESCALATED:
                transition = state.cancel(failures=command.failures, problem=command.problem)
                self._write(transaction, command, transition, "amend")
            elif enqueued.was_stored:
                transaction.note_action(self._action(command, "amend"))
            transaction.close_links([command_id])

        return enqueued

    def resolve(self, command_id: UUID) -> StoredCommand:
        """State that the effect exists at the provider; for a final command, that its ticket is dealt with.

        Raises:
            CommandNotFound: No such command.
            VerbRefused: It is neither escalated nor final with an open ticket.
        """
        with self.store.begin() as transaction:
            command = _locked(transaction, command_id)
            match command.state:
                case State.ESCALATED:
                    transition = state.resolve(
                        failures=command.failures,
                        result={**(command.result or {}), "resolved_by": self.by},
                        problem=command.problem,
                    )
                    self._write(transaction, command, transition, "resolve")
                case State.REJECTED:
                    transaction.note_action(self._action(command, "resolve"))
                case State.SUCCEEDED if transaction.tickets(command_id=command_id, open_only=True, limit=1):
                    transaction.note_action(self._action(command, "resolve"))
                case _:
                    why = f"it is {command.state}; only an escalated command or a final one's ticket can be resolved"
                    raise VerbRefused("resolve", command_id, why)
            transaction.close_links([command_id])

        return command

    def cancel(self, command_id: UUID) -> StoredCommand:
        """Take a command back: it will not be sent, or not again.

        Raises:
            CommandNotFound: No such command.
            VerbRefused: It is executing, final, or it is not known what became of an attempt of it.
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
            if command.read_back is not None:
                why = "it is being read at the provider what became of it; wait for the result"
                raise VerbRefused("cancel", command_id, why)
            transition = state.cancel(failures=command.failures, problem=command.problem)
            self._write(transaction, command, transition, "cancel")
            transaction.close_links([command_id])

        return command

    def pause(self, account: str, kind: str = ALL_KINDS) -> None:
        """Send nothing of an account, or of one kind of its commands, until it is resumed.

        What is under way goes on. A command whose key is about to count no more leaves the pause.

        Raises:
            UnknownAccount: No such account is configured.
            InvalidPause: There is no such kind, or it is paused by an operator already.
        """
        policy = self._known(account, kind).policy
        with self.store.begin() as transaction:
            is_new = transaction.begin_pause(
                Pause(
                    account=account,
                    kind=kind,
                    cause=Cause.OPERATOR,
                    by=self.by,
                    why=self.why,
                    edge=key_age(policy),
                    probe_at=None,
                )
            )
        if not is_new:
            raise InvalidPause(account, kind, "is paused by an operator already")

    def resume(self, account: str, kind: str = ALL_KINDS) -> Sequence[Cause]:
        """Send again what was paused, by whatever cause; return the causes.

        Commands that wait for a person because credentials were refused are sent up the ladder again.

        Raises:
            UnknownAccount: No such account is configured.
            InvalidPause: There is no such kind, or it is not paused.
        """
        self._known(account, kind)
        with self.store.begin() as transaction:
            ended = transaction.end_pauses(account, kind=kind, causes=list(Cause), by=self.by, why=self.why)
            if Cause.CREDENTIALS in ended:
                start_again(transaction, account, Reason.CREDENTIALS_REFUSED, by=self.by, limit=_AT_ONCE)
        if not ended:
            raise InvalidPause(account, kind, "is not paused")

        return ended

    def _known(self, account: str, kind: str) -> Account:
        """Demand that there is such an account, and such a kind of its commands."""
        found = self.accounts.get(account)
        if found is None:
            raise UnknownAccount(account, sorted(self.accounts))
        kinds = sorted(each.kind for each in self.kinds[account])
        if kind != ALL_KINDS and kind not in kinds:
            raise InvalidPause(account, kind, f"is no kind of its commands; there are {', '.join(kinds)}")

        return found

    def _escalated(self, command: StoredCommand, verb: str) -> Account:
        """Demand that a command is escalated and of a configured account; return the account."""
        if command.state is not State.ESCALATED:
            raise VerbRefused(verb, command.id, f"it is {command.state}; only an escalated command can take this verb")
        account = self.accounts.get(command.account)
        if account is None:
            raise VerbRefused(verb, command.id, f"account {command.account!r} is not configured")

        return account

    def _demand_amendable(self, command: StoredCommand, amended: Command, transaction: Transaction) -> None:
        same = {"kind": command.kind, "account": command.account, "order_id": command.order_id}
        for name, value in same.items():
            if getattr(amended, name) != value:
                why = f"its {name} is {value!r}, and an amended command keeps it"
                raise VerbRefused("amend", command.id, why)
        match command.state:
            case State.REJECTED:
                return
            case State.ESCALATED:
                account = self._escalated(command, "amend")
            case _:
                why = f"it is {command.state}; only a rejected or escalated command can be amended"
                raise VerbRefused("amend", command.id, why)
        stands = standing(command, self.accounts)
        if command.attempts and not is_absent(stands, account.policy, transaction.now):
            way_out = _READABLE if stands.readable else _UNREADABLE
            raise VerbRefused("amend", command.id, f"it is not known to be absent at the provider. {way_out}")

    def _readable_from(self, command: StoredCommand, transaction: Transaction, policy: Policy) -> datetime:
        """When a read may find the command absent: its last attempt must be over for longer than a request takes."""
        lines = transaction.attempts([command.id])[command.id]
        ended = max((line.finished_at or line.started_at for line in lines), default=None)

        return transaction.now if ended is None else max(transaction.now, ended + policy.read_pause)

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


def start_again(transaction: Transaction, account: str, reason: Reason, *, by: str, limit: int) -> int:
    """Send the escalated commands of one cause up the ladder again, now that the cause is gone; return how many."""
    commands = transaction.take_escalated(account, reason, limit=limit)
    for command in commands:
        transition = state.start_over(
            transaction.now, in_doubt=command.in_doubt, problem=command.problem, absent_at=command.absent_at
        )
        done = Action(
            command_id=command.id,
            verb="retry",
            by=by,
            why=f"{account} is resumed",
            state_before=command.state,
            in_doubt_before=command.in_doubt,
        )
        transaction.operate(command, transition, done)

    return len(commands)


def _reason(command: StoredCommand, transaction: Transaction) -> Reason:
    """Why the command is with a person: as its open ticket says."""
    (ticket, *_) = transaction.tickets(command_id=command.id, open_only=True, limit=1)

    return ticket.reason


def _locked(transaction: Transaction, command_id: UUID) -> StoredCommand:
    command = transaction.lock_command(command_id)
    if command is None:
        raise not_found(transaction, command_id)

    return command
