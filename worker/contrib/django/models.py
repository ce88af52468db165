"""The worker's tables as Django sees them: to read, never to write.

Decides which columns people may see; payloads are left out, they may hold addresses. Alembic owns the tables
(`managed = False`), and every change of state is the services': saving and deleting are refused.
"""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models

from ...domain.errors import PostPurchaseError
from .verbs import VERBS, permission


class ReadOnly(PostPurchaseError):
    """Rows of the post-purchase worker are not written through Django's models: enqueue, or act as an operator."""


class _Rows(models.QuerySet):
    """Rows that are looked at."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ReadOnly

    create = bulk_create = update = bulk_update = delete = get_or_create = update_or_create = _refuse


class _ReadOnlyModel(models.Model):
    objects = _Rows.as_manager()

    class Meta:
        abstract = True

    def save(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        raise ReadOnly

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        raise ReadOnly


class Command(_ReadOnlyModel):
    """A command: what was asked of a provider, and where it stands."""

    id = models.UUIDField(primary_key=True)
    seq = models.BigIntegerField()
    account = models.CharField(max_length=64)
    kind = models.CharField(max_length=64)
    order_id = models.CharField("order", max_length=255)
    reference = models.CharField(max_length=255, null=True)  # noqa: DJ001  # the table's NULL means "none given"
    target = models.CharField(max_length=255, null=True)  # noqa: DJ001  # the same
    amount = models.BigIntegerField("amount in minor units", null=True)
    keyed = models.BooleanField()
    idempotency_key = models.CharField(max_length=64)
    replaces = models.UUIDField(null=True)
    turn = models.BigIntegerField(null=True)
    created_at = models.DateTimeField()
    state = models.CharField(max_length=16)
    claims = models.IntegerField()
    attempts = models.IntegerField("sends")
    failures = models.IntegerField()
    throttles = models.IntegerField()
    throttled_at = models.DateTimeField(null=True)
    in_doubt = models.BooleanField()
    due_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True)
    first_sent_at = models.DateTimeField(null=True)
    read_back = models.JSONField(null=True)
    absent_at = models.DateTimeField("known to be absent since", null=True)
    finalized_at = models.DateTimeField("final at", null=True)
    tell_at = models.DateTimeField(null=True)
    told_at = models.DateTimeField(null=True)

    class Meta:
        """Ids are of version 7, so their order is that of time, and one index serves both."""

        managed = False
        db_table = "post_purchase_command"
        ordering = ("-id",)
        default_permissions = ("view",)
        permissions = tuple((permission(verb), f"Can {verb} a post-purchase command") for verb in VERBS)

    def __str__(self) -> str:
        return f"{self.kind} {self.order_id}"


class Ticket(_ReadOnlyModel):
    """An escalation at a desk."""

    id = models.UUIDField(primary_key=True)
    account = models.CharField(max_length=64)
    reason = models.CharField(max_length=32)
    state = models.CharField(max_length=16)
    desk = models.CharField(max_length=64)
    external_ref = models.CharField("the desk's reference", max_length=255, null=True)  # noqa: DJ001  # not there yet
    opened_at = models.DateTimeField()
    due_at = models.DateTimeField("desk is told at", null=True)
    tries = models.IntegerField("failed tellings")
    problem = models.TextField(null=True)  # noqa: DJ001  # the table's NULL means "none"
    closed_at = models.DateTimeField(null=True)
    commands = models.ManyToManyField(Command, through="TicketCommand", related_name="tickets")

    class Meta:
        """Ids are of version 7 here too."""

        managed = False
        db_table = "post_purchase_ticket"
        ordering = ("-id",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.reason} {self.account}"


class TicketCommand(_ReadOnlyModel):
    """That a command belongs to a ticket; its key has two columns."""

    pk = models.CompositePrimaryKey("ticket_id", "command_id")
    ticket = models.ForeignKey(Ticket, on_delete=models.DO_NOTHING)
    command = models.ForeignKey(Command, on_delete=models.DO_NOTHING)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        """Nobody looks at it alone."""

        managed = False
        db_table = "post_purchase_ticket_command"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.ticket_id} {self.command_id}"


class Action(_ReadOnlyModel):
    """What an operator did to a command, and why."""

    seq = models.BigAutoField(primary_key=True)
    command = models.ForeignKey(Command, on_delete=models.DO_NOTHING)
    verb = models.CharField(max_length=32)
    by = models.CharField("who", max_length=255)
    why = models.TextField()
    state_before = models.CharField(max_length=16)
    in_doubt_before = models.BooleanField()
    at = models.DateTimeField()

    class Meta:
        """The newest first."""

        managed = False
        db_table = "post_purchase_action"
        ordering = ("-seq",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.verb} by {self.by}"
