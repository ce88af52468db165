"""What a command's account means for it: how far it may be repeated, and by which waits.

Decides that a command whose account is not configured here waits by the fallback, so that whoever holds it can still
decide. The rules themselves are the provider's and `domain.ladder`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from ..domain.ladder import Policy, Standing, key_deadline, safety_without_provider
from ..ports import Account, Held, StoredCommand


def standing(command: Held | StoredCommand, accounts: Mapping[str, Account]) -> Standing:
    """Say how a command stands, as far as a decision needs it."""
    account = accounts.get(command.account)
    if account is None:
        safety, readable = safety_without_provider(keyed=command.keyed), False
    else:
        safety = account.provider.safety(command.kind, keyed=command.keyed)
        readable = account.provider.reads_back(command.kind)

    return Standing(
        safety=safety,
        readable=readable,
        failures=command.failures,
        throttles=command.throttles,
        throttled_at=command.throttled_at,
        in_doubt=command.in_doubt,
        first_sent_at=command.first_sent_at,
        absent_at=command.absent_at,
    )


def policy(command: Held | StoredCommand, accounts: Mapping[str, Account], fallback: Policy) -> Policy:
    """Return the waits and windows of a command's account."""
    account = accounts.get(command.account)

    return fallback if account is None else account.policy


def key_window_left(
    command: StoredCommand, accounts: Mapping[str, Account], fallback: Policy, *, now: datetime
) -> timedelta | None:
    """Say how long the command may be sent under its key; negative once that is over, None where no key counts."""
    deadline = key_deadline(standing(command, accounts), policy(command, accounts, fallback))

    return None if deadline is None else deadline - now
