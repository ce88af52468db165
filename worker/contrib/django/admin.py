"""The admin: look at commands, tickets and what operators did; act by the operator's verbs; change nothing else.

Decides what is listed and how it is found, so that a million commands cost what a hundred do: no count over the table,
filters and searches only where an index is, one order. A verb needs its own permission, a page to confirm and a reason,
and the admin's user is recorded as who did it. Which verb is safe is the service's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, cast
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import SuspiciousOperation
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from ...domain.errors import CommandPruned, PostPurchaseError
from ...domain.state import FINAL, UNFINISHED, State
from ...domain.ticket import Reason as TicketReason, TicketState
from ...ports import StoredCommand
from ...service import inspect
from ...service.accounts import key_window_left
from ...service.operate import Operator
from . import conf
from .amending import Amendment, Reason, draft
from .dates import Dates, Period, ids_around, period_of
from .models import Action, Command, Ticket
from .verbs import VERBS, permission

#: How many rows a list goes back. Whoever looks for older ones has a filter, a date or a name to look by. Without an
#: end the last pages of a million would read all of it; with one five times as far, a name that one command in 250 has
#: takes 600 ms, because PostgreSQL walks back along the ids until it has so many.
MOST = 200

#: Among how many of the newest a kind is looked for, of what else was chosen. No index has kinds, because one would
#: cost every command some 20 µs of the database's processor; this costs whoever looks 20 ms. With a date one looks
#: further back.
KINDS_WITHIN = 10_000

#: The pages' own style, as a static file: a policy against inline styles does not break it.
STYLE = "post_purchase/admin.css"

_TWO_LINES = '<span class="post-purchase-line">{}</span><span class="post-purchase-line quiet">{}</span>'
_STATE = '<span class="post-purchase-state {}">{}</span>'

#: How many commands of a ticket are linked on its page.
_COMMANDS_OF_TICKET = 100


class _Pages(Paginator):
    """Pages of the newest rows; counts no further than it shows."""

    @cached_property
    def count(self) -> int:
        """How many rows there are, up to `MOST`."""
        return int(self.object_list[:MOST].count())


class _Choice(admin.SimpleListFilter):
    """A filter whose choices are known beforehand: Django's own would read the whole table for them."""

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep what was chosen; a choice that there is not keeps nothing."""
        return queryset if self.value() is None else queryset.filter(**{self.parameter_name: self.value()})


def _filter(name: str, choices: Callable[[], Iterator[str]]) -> type[_Choice]:
    return type(
        f"{name.title()}Filter",
        (_Choice,),
        {
            "title": name,
            "parameter_name": name,
            "lookups": lambda _self, _request, _admin: [(each, each) for each in choices()],
        },
    )


class _DoubtFilter(_Choice):
    title = "in doubt"
    parameter_name = "in_doubt"

    def lookups(self, _request: HttpRequest, _admin: Any) -> list[tuple[str, str]]:
        """The one side that people look for; the other is nearly everything."""
        return [("True", "in doubt")]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep what is in doubt."""
        return queryset if self.value() is None else queryset.filter(in_doubt=True)


class _KindFilter(_Choice):
    """The kinds that occur among the newest; the list keeps one last, when it is known what else was chosen."""

    title = "kind"
    parameter_name = "kind"
    is_cut = False

    def lookups(self, _request: HttpRequest, _admin: Any) -> list[tuple[str, str]]:
        """What a shop uses, which is a few of the forty that there are."""
        kinds = set(Command.objects.values_list("kind", flat=True)[:KINDS_WITHIN])

        return [(each, each) for each in sorted(kinds)]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep everything for now."""
        return queryset

    def keep(self, found: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the chosen kind among the newest of what was found."""
        if self.value() is None:
            return found
        beyond = list(found.values_list("id", flat=True)[KINDS_WITHIN : KINDS_WITHIN + 1])
        self.is_cut = bool(beyond)

        return found.filter(kind=self.value(), **({"id__gt": beyond[0]} if beyond else {}))


class _NewestFirst(ChangeList):
    """A list in one order, whatever the address says: any other would sort the whole table."""

    @property
    def is_cut(self) -> bool:
        """Whether there may be more than is listed."""
        return bool(self.result_count >= MOST)

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str]:  # noqa: ARG002  # Django's
        """Return the order of the model."""
        return list(self.lookup_opts.ordering)


class _Commands(_NewestFirst):
    """The list of commands, with dates that cost nothing: an id begins with the moment at which it was made."""

    def get_queryset(self, request: HttpRequest, **options: Any) -> QuerySet[Any]:
        """Keep the commands of the chosen year, month or day; found by their ids, decided by their moments."""
        found = super().get_queryset(request, **options)
        chosen = self._period()
        if chosen is not None:
            earliest, latest = ids_around(chosen)
            found = found.filter(id__gte=earliest, id__lt=latest)
        for each in self._kinds():
            found = each.keep(found)

        return found

    @property
    def kinds_within(self) -> int | None:
        """Among how many a kind was looked for; None where all were looked at."""
        return KINDS_WITHIN if any(each.is_cut for each in self._kinds()) else None

    def _kinds(self) -> list[_KindFilter]:
        return [each for each in self.filter_specs if isinstance(each, _KindFilter)]

    def _period(self) -> Period | None:
        return period_of(self.params, self.date_hierarchy)

    @cached_property
    def dates(self) -> Dates:
        """What the date hierarchy offers next."""
        moments = Command.objects.values_list("created_at", flat=True)
        first, last = moments.order_by("id").first(), moments.order_by("-id").first()
        link = partial(self.get_query_string, remove=[f"{self.date_hierarchy}__"])

        return Dates.of(self._period(), first, last, field=self.date_hierarchy, link=link)


class _LookOnly(admin.ModelAdmin):
    """Rows that nobody adds, changes or deletes here."""

    list_per_page = 50  # most of what a list costs is to draw it
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # counts
    paginator = _Pages
    sortable_by = ()
    view_on_site = False

    def get_changelist(self, _request: HttpRequest, **_: Any) -> type[ChangeList]:
        """One order for all."""
        return _NewestFirst

    def has_add_permission(self, _request: HttpRequest, *_: Any) -> bool:
        """Nobody may."""
        return False

    def has_change_permission(self, _request: HttpRequest, *_: Any) -> bool:
        """Nobody may."""
        return False

    def has_delete_permission(self, _request: HttpRequest, *_: Any) -> bool:
        """Nobody may."""
        return False


def _act(verb: str, model_admin: CommandAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
    """Ask for a reason; with one, act on each command by itself: one that is refused does not hold back the others."""
    form = Reason(request.POST if "confirmed" in request.POST else None)
    commands = list(queryset[: model_admin.list_per_page])
    if not form.is_valid():
        return _page(verb, model_admin, request, commands, form)

    operator = _operator(request, form)
    done = 0
    for command in commands:
        try:
            VERBS[verb].run(operator, command.id)
        except PostPurchaseError as refused:
            messages.error(request, str(refused))
        else:
            done += 1
    if done:
        messages.success(request, f"{verb.title()}: {done} command{'s' if done > 1 else ''}")

    return None


def _replace(
    verb: str, model_admin: CommandAdmin, request: HttpRequest, queryset: QuerySet[Any]
) -> HttpResponse | None:
    """Ask for the command that takes the place of one, and for a reason; what is refused is asked for again."""
    commands = list(queryset[:2])
    if len(commands) != 1:
        messages.error(request, f"{verb.title()} takes one command at a time: tick a single one")
        return None
    (command,) = commands
    form = Amendment(
        request.POST if "confirmed" in request.POST else None,
        initial={"amended": draft(command)},
        use_required_attribute=False,
    )
    if not form.is_valid():
        return _page(verb, model_admin, request, commands, form)
    try:
        enqueued = VERBS[verb].run(_operator(request, form), command.id, form.cleaned_data["amended"])
    except PostPurchaseError as refused:
        form.add_error(None, str(refused))
        return _page(verb, model_admin, request, commands, form)
    place = reverse("admin:post_purchase_command_change", args=[enqueued.id])
    messages.success(request, format_html('{}: <a href="{}">{}</a> takes its place', verb.title(), place, enqueued.id))

    return None


def _operator(request: HttpRequest, form: Reason) -> Operator:
    return conf.services().operator(by=request.user.get_username(), why=form.cleaned_data["why"])


def _page(
    verb: str, model_admin: CommandAdmin, request: HttpRequest, commands: Sequence[Command], form: Reason
) -> HttpResponse:
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"{verb.title()} {len(commands)} command{'s' if len(commands) != 1 else ''}",
        "opts": model_admin.opts,
        "form": form,
        "verb": verb,
        "means": VERBS[verb].means,
        "commands": commands,
        "checkbox_name": ACTION_CHECKBOX_NAME,
        "style": STYLE,
    }

    return TemplateResponse(request, "admin/post_purchase/command/act.html", context)


def _action(verb: str) -> Callable[..., Any]:
    def act(model_admin: CommandAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        answer = _replace if VERBS[verb].takes_command else _act

        return answer(verb, model_admin, request, queryset)

    act.__name__ = verb

    which = "the selected command" if VERBS[verb].takes_command else "selected commands"

    return admin.action(permissions=[verb], description=f"{verb.title()} {which}")(act)


def _may(verb: str) -> Callable[[Any, HttpRequest], bool]:
    return lambda _self, request: request.user.has_perm(f"post_purchase.{permission(verb)}")


class _WithVerbs(_LookOnly):
    """A list that offers the verbs, each to whoever has its permission."""

    actions = tuple(_action(verb) for verb in VERBS)


for _verb in VERBS:
    # As Django asks for it: the permission of an action is a method of this name.
    setattr(_WithVerbs, f"has_{_verb}_permission", _may(_verb))


@admin.register(Command)
class CommandAdmin(_WithVerbs):
    """Commands: what was asked of the provider, and where it stands."""

    list_display = ("asked_at", "what", "about", "minor_units", "where")
    list_display_links = ("asked_at", "about")
    list_filter = (
        _filter("state", lambda: iter([each.value for each in State])),
        _DoubtFilter,
        _filter("account", lambda: iter(sorted(conf.services().accounts))),
        _KindFilter,
    )
    date_hierarchy = "created_at"
    search_fields = ("order_id", "reference", "idempotency_key")
    search_help_text = (
        "The beginning of an order or a reference; or a whole idempotency key of a configured account; or the id of a "
        "command."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *(("kind", "account"), ("order_id", "reference"), ("amount", "target")),
                    *(("id", "created_at"), "instead_of"),
                )
            },
        ),
        (
            "Where it stands",
            {
                "fields": (
                    *(("stands", "failures"), ("due_at", "lease_until")),
                    *(("being_read", "absent_at"), ("finalized_at", "host_told")),
                )
            },
        ),
        ("Its key", {"fields": (("idempotency_key", "keyed"), ("first_sent_at", "window_left"))}),
    )

    class Media:
        """What Django's own style has no word for."""

        css = MappingProxyType({"all": (STYLE,)})

    def get_changelist(self, _request: HttpRequest, **_: Any) -> type[ChangeList]:
        """Dates by id."""
        return _Commands

    @admin.display(description="created at, age")
    def asked_at(self, command: Command) -> str:
        """When it was enqueued, and how long it took, or has been taking."""
        age = _duration((command.finalized_at or timezone.now()) - command.created_at)

        return format_html(_TWO_LINES, f"{timezone.localtime(command.created_at):%Y-%m-%d %H:%M}", age)

    @admin.display(description="kind, account")
    def what(self, command: Command) -> str:
        """What it is, and of whom."""
        return format_html(_TWO_LINES, command.kind, command.account)

    @admin.display(description="order, reference")
    def about(self, command: Command) -> str:
        """What people know it by."""
        return format_html(_TWO_LINES, command.order_id, command.reference or "–")

    @admin.display(description="minor units")
    def minor_units(self, command: Command) -> str:
        """The money it moves or sets."""
        return "–" if command.amount is None else str(command.amount)

    @admin.display(description="state")
    def stands(self, command: Command) -> str:
        """The state, marked where a person is needed; and whether it is known what became of it."""
        doubt = format_html(_STATE, "doubt", "in doubt") if command.in_doubt else ""

        return format_html("{} {}", format_html(_STATE, command.state, command.state), doubt)

    @admin.display(description="state, key window left")
    def where(self, command: Command) -> str:
        """Both in one column, so that the list fits on a screen."""
        return format_html(_TWO_LINES, self.stands(command), self.window_left(command))

    @admin.display(description="being read back for")
    def being_read(self, command: Command) -> str:
        """What the read-back is for that the workers are at, or are about to begin."""
        return "–" if command.read_back is None else command.read_back["purpose"]

    @admin.display(description="host told")
    def host_told(self, command: Command) -> str:
        """When `on_finished` was told of its end; a dash where nobody asked."""
        if command.told_at is not None:
            return f"{timezone.localtime(command.told_at):%Y-%m-%d %H:%M:%S}"

        return "–" if command.tell_at is None else "not yet"

    @admin.display(description="replaces")
    def instead_of(self, command: Command) -> str:
        """The command whose place it takes."""
        if command.replaces is None:
            return "–"
        place = reverse("admin:post_purchase_command_change", args=[command.replaces])

        return format_html('<a href="{}">{}</a>', place, command.replaces)

    @admin.display(description="key window left")
    def window_left(self, command: Command) -> str:
        """How long it may still be sent under its key."""
        if command.state in FINAL:
            return "–"
        services = conf.services()
        # A row of Django's has the fields that a stored command has.
        stored = cast("StoredCommand", command)
        left = key_window_left(stored, services.accounts, services.fallback, now=timezone.now())
        if left is None:
            return "–"

        return _duration(left) if left > timedelta(0) else "closed"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by what an index begins with; a search within names would read the whole table."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            whole = UUID(term)
        except ValueError:
            return queryset.filter(_named(Q(order_id__startswith=term), Q(reference__startswith=term))), False
        _tell_if_pruned(request, whole)
        keys = Q(account__in=sorted(conf.services().accounts), idempotency_key=str(whole))

        # Ids of orders look like that as well.
        return queryset.filter(Q(id=whole) | keys | _named(Q(order_id=term), Q(reference=term))), False

    # --- verbs

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any], **where: Any) -> HttpResponse | None:
        """Run a verb on the commands that were ticked; never on "all that match"."""
        try:
            ids = [UUID(each) for each in request.POST.getlist(ACTION_CHECKBOX_NAME)]
        except ValueError:
            raise SuspiciousOperation("a selected id is no id of a command") from None

        answer: HttpResponse | None = super().response_action(request, queryset.filter(pk__in=ids), **where)

        return answer

    def change_view(self, request: HttpRequest, object_id: str, *_: Any, **__: Any) -> HttpResponse:
        """Show one command with its attempts, its tickets and what operators did."""
        shown: Mapping[str, Any] = {}
        if self.has_view_permission(request):
            shown = _shown(object_id)
        context = {"shown": shown, "verbs": [(verb, VERBS[verb].means) for verb in self.get_actions(request)]}
        answer: HttpResponse = super().change_view(request, object_id, extra_context=context)

        return answer


def _tell_if_pruned(request: HttpRequest, named: UUID) -> None:
    """Say of a pruned command how it ended: nothing will be listed."""
    services = conf.services()
    with services.store.read() as transaction:
        answer = inspect.not_found(transaction, named, services.accounts)
    if isinstance(answer, CommandPruned):
        messages.info(request, str(answer))


def _named(order: Q, reference: Q) -> Q:
    """Either name, in the shape of the indexes: one each for what is final, and one for all that is not."""
    is_final = Q(finalized_at__isnull=False)

    return (is_final & order) | (is_final & reference) | (Q(state__in=sorted(UNFINISHED)) & (order | reference))


def _shown(object_id: str) -> Mapping[str, Any]:
    services = conf.services()
    try:
        with services.store.read() as transaction:
            shown = inspect.show(transaction, UUID(object_id), accounts=services.accounts, fallback=services.fallback)
    except (PostPurchaseError, ValueError):
        return {}  # Django says that there is no such command

    return {
        name: [_timed(each) for each in value] if isinstance(value, list) else value for name, value in shown.items()
    }


def _timed(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have a line's moments be moments again, for Django to show in the time zone of whoever looks."""
    return {
        name: datetime.fromisoformat(value) if value is not None and (name == "at" or name.endswith("_at")) else value
        for name, value in line.items()
    }


@admin.register(Ticket)
class TicketAdmin(_LookOnly):
    """Tickets: what waits for a person, or did."""

    list_display = ("opened_at", "reason", "account", "state", "desk", "external_ref", "closed_at")
    list_filter = (
        _filter("state", lambda: iter([each.value for each in TicketState])),
        _filter("reason", lambda: iter([each.value for each in TicketReason])),
        _filter("account", lambda: iter(sorted(conf.services().accounts))),
    )
    fields = (
        *("id", "reason", "account", "state", "desk", "external_ref", "opened_at", "closed_at", "due_at", "tries"),
        *("problem", "about"),
    )

    @admin.display(description="commands")
    def about(self, ticket: Ticket) -> str:
        """The commands it is about."""
        commands = ticket.commands.all()[:_COMMANDS_OF_TICKET]
        rows = ((reverse("admin:post_purchase_command_change", args=[each.pk]), each, each.state) for each in commands)

        return format_html_join("", '<a href="{}">{}</a> {}<br>', rows)


@admin.register(Action)
class ActionAdmin(_LookOnly):
    """What operators did, who and why."""

    list_display = ("at", "verb", "by", "why", "about", "state_before", "in_doubt_before")
    list_filter = (_filter("verb", lambda: iter(VERBS)),)
    list_select_related = ("command",)
    fields = ("at", "verb", "by", "why", "about", "state_before", "in_doubt_before")

    @admin.display(description="command")
    def about(self, action: Action) -> str:
        """The command it was done to."""
        place = reverse("admin:post_purchase_command_change", args=[action.command_id])

        return format_html('<a href="{}">{}</a>', place, action.command)


def _duration(length: timedelta) -> str:
    """A length of time in its two largest units."""
    seconds = max(0, int(length.total_seconds()))
    for unit, name, smaller, smaller_name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // smaller} {smaller_name}"

    return f"{seconds} s"
