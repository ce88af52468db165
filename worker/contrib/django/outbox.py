"""`enqueue` for Django: in the running `transaction.atomic()`, published after its outermost commit.

Decides which of Django's transactions a command belongs to. Leaves everything else to the service.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...domain.commands import Command
from ...service.enqueue import Enqueued
from . import conf
from .lending import in_transaction, lent, on_commit


def enqueue(command: Command, *, using: str | None = None) -> Enqueued:
    """Store one command in Django's running transaction; it is published after the outermost commit.

    The same key with the same payload returns the command that is stored already. Outside of any `atomic()` it is a
    transaction of its own. In an async view, call it through `sync_to_async`, together with the `atomic()` around it.

    Args:
        command: What the provider shall be asked to do.
        using: The alias of the database in whose transaction; by default that of `POST_PURCHASE`.

    Raises:
        IdempotencyConflict: The key is stored with another payload; the transaction can go on.
        CommandClosed: The key's command was rejected or cancelled; the transaction can go on.
        UnknownAccount: The command names an account that is not configured.
        ConfigurationError: `POST_PURCHASE` cannot be used; `manage.py check` says the same.
    """
    return enqueue_many([command], using=using)[0]


def enqueue_many(commands: Sequence[Command], *, using: str | None = None) -> list[Enqueued]:
    """Store several commands in Django's running transaction, in this order; all of them or none.

    Raises as `enqueue` does; on any error of ours nothing of the call is left in the transaction.
    """
    services = conf.services()
    alias = using or services.using
    with in_transaction(alias), lent(alias) as connection:
        return services.enqueue(
            connection, commands, after_commit=lambda _connection, call: on_commit(call, alias=alias)
        )
