"""What the processes do that are killed: the step-by-step life of a command, each part of it told once.

Decides, for each story, what was before, what the process does, which steps it takes, and what a person or the shop
does who never learned what became of it. What must hold after each death is the test's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import django
from django.conf import settings as django_settings
from django.db import connection as in_django, transaction
from sqlalchemy import make_url, text

from worker import Capture, bluesnap
from worker.config import follow, load
from worker.contrib.django import conf, enqueue as enqueue_in_django, finished
from worker.domain.errors import IdempotencyConflict, InvalidPause, VerbRefused
from worker.domain.klarna_commands import Acknowledge
from worker.domain.state import State
from worker.ports import Filter, StoredCommand
from worker.service.operate import Operator
from worker.wiring import Services

KLARNA = "klarna-eu"
BLUESNAP = "bluesnap-us"

#: What ends a transaction, whoever's it is.
COMMIT = "commit"

#: What happens at the provider.
PROVIDER = "provider"

#: The steps in words.
WORDS: Mapping[str, str] = {
    COMMIT: "commit",
    PROVIDER: "the provider carries it out",
    "Store.claim": "lease taken, committed",
    "RateLimiter.reserve": "slots reserved",
    "RateLimiter.observe": "quota headers noted",
    "RateLimiter.throttled": "bucket kept still",
    "RateLimiter.release": "slots given back",
    "Transport.send": "handed to libcurl",
    "Transport.flush": "sent by libcurl",
    "Transport.collect": "answer read",
    "Publisher.execute": "message published",
    "Publisher.escalate": "message of the ticket published",
    "TicketDesk.open": "ticket opened at the desk",
    "TicketDesk.append": "ticket added to at the desk",
    "TicketDesk.close": "ticket closed at the desk",
    "Transaction.insert_commands": "command stored",
    "Transaction.find_by_key": "known command found",
    "Transaction.delete_commands": "what was just stored taken back",
    "Transaction.open_attempts": "intent written",
    "Transaction.apply": "decision written",
    "Transaction.close_attempts": "outcome written",
    "Transaction.note_readings": "reading written",
    "Transaction.link_tickets": "linked to a ticket",
    "Transaction.close_links": "unlinked from tickets",
    "Transaction.take_due": "due rows marked as handed out",
    "Transaction.take_expired": "expired leases locked",
    "Transaction.begin_pause": "pause written",
    "Transaction.end_pauses": "pause ended",
    "Transaction.take_probes": "probe taken",
    "Transaction.take_escalated": "escalated commands locked",
    "Transaction.due_tickets": "untold tickets marked as handed out",
    "Transaction.claim_ticket": "ticket's lease taken",
    "Transaction.land_ticket": "ticket marked as told",
    "Transaction.postpone_ticket": "ticket postponed",
    "Transaction.lock_command": "command locked",
    "Transaction.attempts": "its attempts read",
    "Transaction.tickets": "its ticket read",
    "Transaction.operate": "operator's transition written",
    "Transaction.note_action": "operator's action written",
    "Transaction.take_untold": "final command taken, and the project told",
    "Transaction.tell_later": "telling postponed",
    "Transaction.prunable": "finished commands found",
    "Transaction.keep_keys": "their keys kept",
    "Transaction.open_transactions": "open transactions noted",
    "Transaction.lock_prunable": "finished commands locked",
    "Transaction.archived": "read for the archive",
    "Transaction.prune": "finished commands removed",
}


_HURRIES = (
    "UPDATE post_purchase_command SET due_at = created_at, published_until = NULL WHERE state = 'pending'",
    "UPDATE post_purchase_command SET lease_until = created_at WHERE state = 'executing'",
    "UPDATE post_purchase_ticket SET due_at = opened_at WHERE due_at IS NOT NULL",
    "UPDATE post_purchase_pause SET probe_at = began_at WHERE probe_at IS NOT NULL",
)


@dataclass(slots=True, kw_only=True)
class Cast:
    """Who is in a story: the services of the process, the order it is about, and what counts the steps.

    `aside` are services none of whose steps are counted.
    """

    services: Services
    aside: Services
    order: str
    steps: Any

    def capture(self, **fields: Any) -> Capture:
        return Capture(**{"account": KLARNA, "order_id": self.order, "amount": 1_000, "reference": "parcel", **fields})

    def store(self, *commands: Any) -> None:
        """Have commands stored by a shop that died before it told the broker."""
        with self.aside.store.engine.connect() as connection:
            self.aside.enqueue(connection, commands)
            connection.info.clear()
            connection.commit()

    def commands(self) -> list[StoredCommand]:
        with self.aside.store.begin() as ours:
            return list(ours.listed(Filter(), limit=10))[::-1]

    def execute(self) -> None:
        """Let this process have a message with the oldest command that is not decided."""
        self.services.executor.execute([next(each.id for each in self.commands() if each.finalized_at is None)])

    def hurry(self) -> None:
        """Let the time for which something waits be over."""
        with self.aside.store.engine.begin() as connection:
            for statement in _HURRIES:
                connection.execute(text(statement))

    @property
    def ticket_id(self) -> UUID:
        with self.aside.store.begin() as ours:
            (ticket, *_) = ours.tickets(open_only=True, limit=10)

        return ticket.id

    @property
    def operator(self) -> Operator:
        return self.services.operator(by="operator", why="looked it up")


def _nothing(cast: Cast) -> None:
    """Nothing was before, or nobody does anything afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One part of the life of commands.

    Attributes:
        words: What the process does.
        steps: The steps it takes, in their order; those before the number `first` are killed in another story.
        before: What was before; no step of it is counted.
        act: What the process does that is killed.
        after: What a person or a shop does, once, that never learned what became of it.
        faults: What the sandbox does, in this order, to requests; with what follows the order's number in theirs.
        settings: What the process that is killed is told besides.
        is_ended_outside: It waits for an answer, and is killed while the provider is at work: before it has carried
            the request out, or after.
        on_finished: What a Django project has called, by the name of a function here; empty: it is no Django project.
    """

    words: str
    steps: tuple[str, ...]
    first: int = 0
    act: Callable[[Cast], None]
    before: Callable[[Cast], None] = _nothing
    after: Callable[[Cast], None] = _nothing
    faults: tuple[tuple[str, Mapping[str, Any], str], ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    is_ended_outside: bool = False
    on_finished: str = ""

    def faults_at(self, moment: str) -> tuple[tuple[str, Mapping[str, Any], str], ...]:
        """Say what the sandbox does when the process is to be killed at this moment."""
        return (("hang", {"executed": moment == "after"}, ""),) if self.is_ended_outside else self.faults


# ------------------------------------------------------------------------------------------------------------- hosts


def cast(story: Story, order: str, environment: Mapping[str, str], steps: Any) -> Cast:
    """Make the services of the process that is killed, and those with which it was come to."""
    told = {**environment, **{f"POST_PURCHASE_{name}": value for name, value in story.settings.items()}}
    aside = Services(load(environ=told))
    if story.on_finished:
        _set_up_django(environment, story.on_finished)
        services: Services = conf.services()
    else:
        services = Services(aside.settings)
        vars(services)["store"] = aside.store  # one pool of connections, whose statements are compiled once

    return Cast(services=services, aside=aside, order=order, steps=steps)


def telling(environment: Mapping[str, str]) -> Callable[[], object]:
    """Return what a worker of the Django project does besides."""
    _set_up_django(environment, "settle")

    return finished.tell_finished


def _set_up_django(environment: Mapping[str, str], on_finished: str) -> None:
    parts = make_url(environment["POST_PURCHASE_DATABASE__URL"])
    django_settings.configure(
        INSTALLED_APPS=["worker.contrib.django"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parts.database,
                "USER": parts.username or "",
                "PASSWORD": parts.password or "",
                "HOST": parts.host or parts.query.get("host", ""),
                "PORT": str(parts.port or ""),
            }
        },
        POST_PURCHASE={"on_finished": f"{__name__}.{on_finished}"},
        USE_TZ=True,
    )
    django.setup()
    follow(conf.layer)


def settle(done: finished.Finished) -> None:
    """Do what the shop does when it is told."""
    with in_django.cursor() as cursor:
        cursor.execute("UPDATE parcel SET paid = paid + 1 WHERE order_id = %s", [done.order_id])


def refuse(done: finished.Finished) -> None:
    """Begin what the shop does when it is told, and fail."""
    settle(done)
    raise RuntimeError("the shop is on fire")


_PARCEL = "INSERT INTO parcel (order_id, paid) VALUES ('{order}', 0)"


def ship(cast: Cast) -> None:
    """A shop on SQLAlchemy sends a parcel and has its money captured."""
    with closing(cast.services.store.engine.connect()) as connection:
        connection.execute(text(_PARCEL.format(order=cast.order)))
        cast.services.enqueue(connection, [cast.capture()])
        cast.steps.take(COMMIT, connection.commit)


def ship_in_django(cast: Cast) -> None:
    """A shop on Django does the same."""
    commit = in_django._commit
    vars(in_django._connections[in_django._alias])["_commit"] = lambda: cast.steps.take(COMMIT, commit)
    with transaction.atomic():
        with in_django.cursor() as cursor:
            cursor.execute(_PARCEL.format(order=cast.order))
        enqueue_in_django(cast.capture())


def ship_otherwise(cast: Cast) -> None:
    """A shop asks for another amount under the same reference, is refused, and commits what else it did."""
    with closing(cast.services.store.engine.connect()) as connection:
        connection.execute(text(_PARCEL.format(order=cast.order)))
        with suppress(IdempotencyConflict):
            cast.services.enqueue(connection, [cast.capture(reference="another"), cast.capture(amount=2_000)])
        cast.steps.take(COMMIT, connection.commit)


# ----------------------------------------------------------------------------------------------------- what was before


def stored(cast: Cast) -> None:
    """A capture is stored, and its message was lost."""
    cast.store(cast.capture())
    cast.hurry()


def tried(cast: Cast, is_so: Callable[[StoredCommand], bool]) -> None:
    """Let this process have messages with the newest command until it is so: slow for once, it hands one back."""
    while not is_so(newest := cast.commands()[-1]):
        cast.hurry()
        cast.aside.executor.execute([newest.id])


def is_final(command: StoredCommand) -> bool:
    return command.finalized_at is not None


def is_escalated(command: StoredCommand) -> bool:
    return command.state is State.ESCALATED


def is_tried(command: StoredCommand) -> bool:
    return command.attempts > 0 and command.state is not State.EXECUTING


def refused(cast: Cast) -> None:
    """A capture was refused, and its desk does not know it yet."""
    stored(cast)
    tried(cast, is_final)


def with_a_person(cast: Cast) -> None:
    """An acknowledgement without a key got no answer: nothing shows whether it was carried out."""
    cast.store(Acknowledge(account=KLARNA, order_id=cast.order, keyed=False))
    tried(cast, is_escalated)


def exhausted(cast: Cast) -> None:
    """A capture was never answered well; it is with a person, and known to be absent."""
    stored(cast)
    tried(cast, is_escalated)


def told_of_one(cast: Cast) -> None:
    """Of two commands with one cause, the desk was told of the first."""
    with_a_person(cast)
    cast.aside.escalator.escalate(cast.ticket_id)
    cast.store(Acknowledge(account=KLARNA, order_id=f"{cast.order}1", keyed=False))
    tried(cast, is_escalated)
    cast.hurry()


def closed(cast: Cast) -> None:
    """A ticket was opened at the desk, and an operator then decided about its only command."""
    with_a_person(cast)
    cast.aside.escalator.escalate(cast.ticket_id)
    cast.aside.operator(by="operator", why="looked it up").resolve(cast.commands()[0].id)
    cast.hurry()


def done(cast: Cast) -> None:
    """A capture succeeded."""
    stored(cast)
    tried(cast, is_final)


def left_with_an_intent(cast: Cast, command: Any) -> None:
    """A process died between its intent and its send."""
    cast.store(command)
    held = cast.aside.store.claim(None, limit=1, lease=timedelta(seconds=60))
    with cast.aside.store.begin() as ours:
        ours.open_attempts(held, holder="gone")
    cast.hurry()


def without_a_key(cast: Cast) -> None:
    """A BlueSnap capture, which has no key, is stored."""
    cast.store(bluesnap.Capture(account=BLUESNAP, order_id=cast.order, amount=1_000, currency="USD"))


def left_unread(cast: Cast) -> None:
    """Such a capture got no answer, and is to be read back."""
    without_a_key(cast)
    tried(cast, is_tried)
    cast.hurry()


def paused(cast: Cast) -> None:
    """The account is paused, and a capture waits."""
    stored(cast)
    cast.operator.pause(KLARNA)


def refused_credentials(cast: Cast) -> None:
    """The provider refused our credentials three times; the account is paused."""
    for number in range(3):
        cast.store(cast.capture(order_id=f"{cast.order}{number}"))
        tried(cast, is_escalated)
    cast.hurry()


def unwell(cast: Cast) -> None:
    """The provider did not answer three times; the account is paused."""
    for number in range(3):
        cast.store(cast.capture(order_id=f"{cast.order}{number}"))
        tried(cast, is_tried)
    cast.hurry()


def finished_untold(cast: Cast) -> None:
    """A capture is final, and the shop does not know it."""
    with cast.aside.store.engine.begin() as connection:
        connection.execute(text(_PARCEL.format(order=cast.order)))
    stored(cast)
    tried(cast, is_final)
    with cast.aside.store.engine.begin() as connection:
        connection.execute(text("UPDATE post_purchase_command SET tell_at = finalized_at"))


# ------------------------------------------------------------------------------------------------ what a person does


def repeated(verb: Callable[[Cast], object]) -> Callable[[Cast], None]:
    """A person who saw no answer does it again."""

    def again(cast: Cast) -> None:
        with suppress(VerbRefused, InvalidPause):
            verb(cast)

    return again


def retry(cast: Cast) -> None:
    cast.operator.retry(cast.commands()[0].id)


def recheck(cast: Cast) -> None:
    cast.operator.recheck(cast.commands()[0].id)


def amend(cast: Cast) -> None:
    cast.operator.amend(cast.commands()[0].id, cast.capture(amount=900))


def resolve(cast: Cast) -> None:
    cast.operator.resolve(cast.commands()[0].id)


def cancel(cast: Cast) -> None:
    cast.operator.cancel(cast.commands()[0].id)


def pause(cast: Cast) -> None:
    cast.operator.pause(KLARNA)


def resume(cast: Cast) -> None:
    cast.operator.resume(KLARNA)


def pause_and_resume(cast: Cast) -> None:
    repeated(pause)(cast)
    resume(cast)


# ------------------------------------------------------------------------------------------------------- the stories


def execute(cast: Cast) -> None:
    cast.execute()


def execute_all(cast: Cast) -> None:
    cast.services.executor.execute([each.id for each in cast.commands()])


def dispatch(cast: Cast) -> None:
    cast.services.dispatcher.run_once()


def sweep(cast: Cast) -> None:
    cast.services.sweeper.run_once()


def probe(cast: Cast) -> None:
    cast.services.prober.run_once()


def tell(cast: Cast) -> None:
    finished.tell_finished(limit=1)


def escalate(cast: Cast) -> None:
    cast.services.escalator.escalate(cast.ticket_id)


def tell_of_the_end(cast: Cast) -> None:
    with cast.aside.store.begin() as ours:
        (ticket,) = ours.tickets(limit=10)
    cast.services.escalator.escalate(ticket.id)


def prune(cast: Cast) -> None:
    with TemporaryDirectory() as folder:
        pruner = cast.services.pruner(retention_days=0, archive_folder=Path(folder))
        pruner.run_once()


NOT_DONE = ("reset", {"executed": False}, "")
UNHEARD = ("drop_reply", {}, "")
REFUSED = ("status", {"status": 403, "code": "CAPTURE_NOT_ALLOWED"}, "")
#: As many as a ladder has.
NEVER_WELL = (("status", {"status": 503}, ""),) * 4
NO_CREDENTIALS = tuple(("status", {"status": 401, "body": "html"}, which) for which in "012")

STORIES: Mapping[str, Story] = {
    "enqueue": Story(
        words="A shop on SQLAlchemy enqueues a capture",
        act=ship,
        steps=(
            "Transaction.insert_commands",
            "commit",
            "Publisher.execute",
        ),
    ),
    "enqueue-django": Story(
        words="A shop on Django enqueues a capture",
        act=ship_in_django,
        on_finished="settle",
        steps=(
            "Transaction.insert_commands",
            "commit",
            "Publisher.execute",
        ),
    ),
    "conflict": Story(
        words="A shop asks for another amount under a known reference",
        before=stored,
        act=ship_otherwise,
        steps=(
            "Transaction.insert_commands",
            "Transaction.find_by_key",
            "Transaction.delete_commands",
            "commit",
        ),
    ),
    "execute": Story(
        words="A worker executes a capture",
        before=stored,
        act=execute,
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "Transaction.open_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
        ),
    ),
    "execute-unkeyed": Story(
        words="A worker executes a capture that has no key",
        before=without_a_key,
        act=execute,
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "Transaction.open_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
        ),
    ),
    "provider": Story(
        words="A worker waits for the answer to a capture",
        before=stored,
        act=execute,
        is_ended_outside=True,
        steps=(PROVIDER,),
    ),
    "provider-unkeyed": Story(
        words="A worker waits for the answer to a capture that has no key",
        before=without_a_key,
        act=execute,
        is_ended_outside=True,
        steps=(PROVIDER,),
    ),
    "doubt": Story(
        words="A worker gets no answer, and plans a retry",
        before=stored,
        act=execute,
        faults=(UNHEARD,),
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "Transaction.open_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
            "Publisher.execute",
        ),
        first=6,
    ),
    "refusal": Story(
        words="A worker is refused for good",
        before=stored,
        act=execute,
        faults=(REFUSED,),
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "Transaction.open_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.apply",
            "Transaction.close_attempts",
            "Transaction.link_tickets",
            "commit",
            "Publisher.escalate",
        ),
        first=6,
    ),
    "throttle": Story(
        words="A worker is answered with 429 while another command waits for its slot",
        before=lambda cast: cast.store(cast.capture(), cast.capture(order_id=f"{cast.order}1")),
        act=execute_all,
        faults=tuple(("throttle", {}, which) for which in ("", "1")),
        settings={
            "ACCOUNTS__KLARNA_EU__RATE_TABLE": "klarna-v1",
            "ACCOUNTS__KLARNA_EU__MAX_RATE_PER_SECOND": "2",
            "EXECUTE__PUMP_SECONDS": "0.00001",
            "LEASE__PACING_SECONDS": "1",
            "LEASE__SECONDS": "5",
        },
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "Transaction.open_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "RateLimiter.observe",
            "RateLimiter.throttled",
            "RateLimiter.release",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
            "Publisher.execute",
        ),
        first=6,
    ),
    "together": Story(
        words="A worker records an answer together with the intent of another command, whose slot is near",
        before=lambda cast: cast.store(cast.capture(), cast.capture(order_id=f"{cast.order}1")),
        act=execute_all,
        faults=tuple(("delay", {"seconds": 1.9}, which) for which in ("", "1")),
        settings={
            "ACCOUNTS__KLARNA_EU__RATE_TABLE": "klarna-v1",
            "ACCOUNTS__KLARNA_EU__MAX_RATE_PER_SECOND": "8",
            "EXECUTE__PUMP_SECONDS": "0.00001",
            "LEASE__PACING_SECONDS": "1",
            "LEASE__SECONDS": "5",
        },
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "Transaction.open_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.open_attempts",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
        ),
        first=6,
    ),
    "breaker": Story(
        words="A worker finds the provider ill, and pauses the account",
        before=stored,
        act=execute,
        faults=(NOT_DONE,),
        settings={"BREAKER__FAILURES": "1"},
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "Transaction.open_attempts",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.begin_pause",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
            "Publisher.execute",
        ),
        first=6,
    ),
    "read-done": Story(
        words="A worker reads back what was done unheard",
        before=left_unread,
        act=execute,
        faults=(UNHEARD,),
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.apply",
            "Transaction.note_readings",
            "Transaction.close_links",
            "commit",
        ),
    ),
    "read-absent": Story(
        words="A worker reads back what was not done",
        before=left_unread,
        act=execute,
        faults=(NOT_DONE,),
        steps=(
            "Store.claim",
            "RateLimiter.reserve",
            "commit",
            "Transport.send",
            "Transport.flush",
            "Transport.collect",
            "Transaction.apply",
            "Transaction.note_readings",
            "commit",
            "Publisher.execute",
        ),
        first=5,
    ),
    "dispatch": Story(
        words="Dispatch hands out a capture whose message was lost",
        before=stored,
        act=dispatch,
        steps=(
            "Transaction.take_due",
            "commit",
            "Publisher.execute",
        ),
    ),
    "sweep": Story(
        words="Sweep takes over a capture from a process that is gone",
        before=lambda cast: left_with_an_intent(cast, cast.capture()),
        act=sweep,
        steps=(
            "Transaction.take_expired",
            "Transaction.apply",
            "Transaction.close_attempts",
            "commit",
            "Transaction.due_tickets",
            "commit",
        ),
    ),
    "sweep-ticket": Story(
        words="Sweep takes over what must not be repeated",
        before=lambda cast: left_with_an_intent(cast, Acknowledge(account=KLARNA, order_id=cast.order, keyed=False)),
        act=sweep,
        steps=(
            "Transaction.take_expired",
            "Transaction.apply",
            "Transaction.close_attempts",
            "Transaction.link_tickets",
            "commit",
            "Transaction.due_tickets",
            "commit",
            "Publisher.escalate",
        ),
        first=3,
    ),
    "ticket": Story(
        words="A ticket is opened at the desk",
        before=refused,
        act=escalate,
        faults=(REFUSED,),
        steps=(
            "Transaction.claim_ticket",
            "commit",
            "TicketDesk.open",
            "Transaction.land_ticket",
            "commit",
        ),
    ),
    "ticket-grows": Story(
        words="A further command is added to a ticket",
        before=told_of_one,
        act=escalate,
        faults=(UNHEARD, ("drop_reply", {}, "1")),
        steps=(
            "Transaction.claim_ticket",
            "commit",
            "TicketDesk.append",
            "Transaction.land_ticket",
            "commit",
        ),
        first=2,
    ),
    "ticket-closes": Story(
        words="A desk is told that its ticket has closed",
        before=closed,
        act=tell_of_the_end,
        faults=(UNHEARD,),
        steps=(
            "Transaction.claim_ticket",
            "commit",
            "TicketDesk.close",
            "Transaction.land_ticket",
            "commit",
        ),
        first=2,
    ),
    "prune": Story(
        words="What ended long ago is removed",
        before=done,
        act=prune,
        after=prune,
        steps=(
            "Transaction.prunable",
            "Transaction.keep_keys",
            "commit",
            "Transaction.open_transactions",
            "commit",
            "Transaction.open_transactions",
            "commit",
            "Transaction.lock_prunable",
            "Transaction.archived",
            "Transaction.prune",
            "commit",
        ),
    ),
    "desk-away": Story(
        words="The desk does not take a ticket",
        before=refused,
        act=escalate,
        faults=(REFUSED,),
        settings={"TICKETS__WEBHOOK__URL": "http://127.0.0.1:9/"},
        steps=(
            "Transaction.claim_ticket",
            "commit",
            "Transaction.postpone_ticket",
            "commit",
        ),
        first=2,
    ),
    "retry": Story(
        words="An operator retries",
        before=exhausted,
        act=retry,
        after=repeated(retry),
        faults=NEVER_WELL,
        steps=(
            "Transaction.lock_command",
            "Transaction.operate",
            "commit",
            "Publisher.execute",
        ),
    ),
    "recheck": Story(
        words="An operator has it looked up",
        before=exhausted,
        act=recheck,
        after=repeated(recheck),
        faults=NEVER_WELL,
        steps=(
            "Transaction.lock_command",
            "Transaction.attempts",
            "Transaction.tickets",
            "Transaction.operate",
            "commit",
            "Publisher.execute",
        ),
    ),
    "amend-refused": Story(
        words="An operator amends what was refused",
        before=refused,
        act=amend,
        after=repeated(amend),
        faults=(REFUSED,),
        steps=(
            "Transaction.lock_command",
            "Transaction.insert_commands",
            "Transaction.note_action",
            "Transaction.close_links",
            "commit",
        ),
    ),
    "amend": Story(
        words="An operator amends what is escalated",
        before=exhausted,
        act=amend,
        after=repeated(amend),
        faults=NEVER_WELL,
        steps=(
            "Transaction.lock_command",
            "Transaction.insert_commands",
            "Transaction.operate",
            "Transaction.close_links",
            "commit",
        ),
    ),
    "resolve": Story(
        words="An operator states that it was done",
        before=with_a_person,
        act=resolve,
        after=repeated(resolve),
        faults=(UNHEARD,),
        steps=(
            "Transaction.lock_command",
            "Transaction.operate",
            "Transaction.close_links",
            "commit",
        ),
    ),
    "cancel": Story(
        words="An operator takes it back",
        before=stored,
        act=cancel,
        after=repeated(cancel),
        steps=(
            "Transaction.lock_command",
            "Transaction.operate",
            "Transaction.close_links",
            "commit",
        ),
    ),
    "pause": Story(
        words="An operator pauses an account",
        before=stored,
        act=pause,
        after=pause_and_resume,
        steps=(
            "Transaction.begin_pause",
            "commit",
        ),
    ),
    "resume": Story(
        words="An operator resumes it",
        before=paused,
        act=resume,
        after=repeated(resume),
        steps=(
            "Transaction.end_pauses",
            "commit",
        ),
    ),
    "probe": Story(
        words="A probe finds the provider well",
        before=unwell,
        act=probe,
        faults=tuple(("reset", {"executed": False}, which) for which in "012"),
        settings={"BREAKER__FAILURES": "3"},
        steps=(
            "Transaction.take_probes",
            "commit",
            "Transport.send",
            "Transport.collect",
            "Transaction.end_pauses",
            "commit",
        ),
    ),
    "probe-credentials": Story(
        words="A probe finds our credentials accepted",
        before=refused_credentials,
        act=probe,
        faults=NO_CREDENTIALS,
        steps=(
            "Transaction.take_probes",
            "commit",
            "Transport.send",
            "Transport.collect",
            "Transaction.end_pauses",
            "Transaction.take_escalated",
            "Transaction.operate",
            "Transaction.operate",
            "Transaction.operate",
            "commit",
        ),
        first=4,
    ),
    "tell": Story(
        words="A Django project is told of the end",
        before=finished_untold,
        act=tell,
        on_finished="settle",
        steps=(
            "Transaction.take_untold",
            "commit",
        ),
    ),
    "tell-again": Story(
        words="A Django project fails when it is told",
        before=finished_untold,
        act=tell,
        on_finished="refuse",
        steps=(
            "Transaction.take_untold",
            "Transaction.tell_later",
            "commit",
        ),
        first=1,
    ),
}
