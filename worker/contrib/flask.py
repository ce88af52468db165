"""At home in Flask: commands join the Flask-SQLAlchemy session, `flask post-purchase` is the whole command line.

    db = SQLAlchemy()
    post_purchase = PostPurchase()

    def create_app():
        app = Flask(__name__)
        app.config.from_object("shop.settings")
        db.init_app(app)
        post_purchase.init_app(app, db)
        return app

    post_purchase.enqueue(Capture(...))  # stored if and only if db.session commits
    db.session.commit()

Decides where an application's settings come from, and that each application in a process has its own. Leaves enqueue,
commit and publish to the same code that any other host uses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import click
from celery import Celery
from flask import Flask, current_app
from flask.cli import with_appcontext

from ..domain.commands import Command
from ..domain.errors import PostPurchaseError
from ..hosting import Host
from .celery import broker_of, join

if TYPE_CHECKING:
    from flask_sqlalchemy import SQLAlchemy
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from ..service.enqueue import Enqueued

#: Where an application keeps what belongs to it.
EXTENSION = "post_purchase"

#: How the names of settings begin, in `app.config` as in the environment.
_PREFIX = "POST_PURCHASE_"


class NotInitialised(PostPurchaseError):
    """The Flask application does not know the post-purchase worker."""


class AlreadyInitialised(PostPurchaseError):
    """The Flask application knows the post-purchase worker already."""


class UnusableConfiguration(PostPurchaseError):
    """The Flask application's configuration cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """What `app.extensions["post_purchase"]` holds: the application's session, and its settings and services."""

    db: SQLAlchemy
    host: Host


class PostPurchase:
    """The extension; one object serves any number of applications, each with its own settings."""

    def __init__(self, app: Flask | None = None, db: SQLAlchemy | None = None, *, celery: Celery | None = None) -> None:
        """Make the extension, and initialise an application if one is given.

        Args:
            app: The application, where there is no factory.
            db: The Flask-SQLAlchemy object whose session commands join; may be given to `init_app` instead.
            celery: As for `init_app`.
        """
        self._db = db
        if app is not None:
            self.init_app(app, celery=celery)

    def init_app(self, app: Flask, db: SQLAlchemy | None = None, *, celery: Celery | None = None) -> None:
        """Make an application known; call it when `app.config` is complete and `db.init_app(app)` is done.

        Settings are read and checked here, so that an application which could not enqueue does not start. Nothing is
        connected to. A setting comes from `app.config`, else from the environment, else, for the database's address,
        from `db`, and for the broker's from `celery`.

        Args:
            app: The application.
            db: The Flask-SQLAlchemy object whose session commands join.
            celery: The application's own Celery app, if its workers are to execute commands.

        Raises:
            ConfigurationError: The settings cannot be used; every problem is named.
        """
        if EXTENSION in app.extensions:
            raise AlreadyInitialised(f"call init_app once for {app.name!r}")
        db = db or self._db
        if db is None:
            raise NotInitialised(f"give init_app the Flask-SQLAlchemy object of {app.name!r}")

        host = Host(_environ(app, db, celery))
        host.require_settings()
        if celery is not None:
            join(celery, host=host)
        app.extensions[EXTENSION] = Hosted(db=db, host=host)
        app.cli.add_command(_command_line)

    def enqueue(self, command: Command, *, session: Session | Connection | None = None) -> Enqueued:
        """Store one command in the transaction of `db.session`; it is published after the outermost commit.

        Raises as `worker.enqueue` does; the session can go on.

        Args:
            command: What the provider shall be asked to do.
            session: Another session or connection of the application's on the database that holds the worker's tables.
        """
        return self.enqueue_many([command], session=session)[0]

    def enqueue_many(
        self, commands: Sequence[Command], *, session: Session | Connection | None = None
    ) -> list[Enqueued]:
        """Store several commands in the transaction of `db.session`, in this order; all of them or none."""
        hosted = _hosted()

        return hosted.host.services().enqueue(hosted.db.session if session is None else session, commands)


@click.command(
    "post-purchase",
    short_help="Look after payment commands.",
    add_help_option=False,  # the command line has its own
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@with_appcontext
def _command_line(arguments: tuple[str, ...]) -> None:
    from .. import cli  # noqa: PLC0415  # a web process has no use for it

    cli.main(arguments, prog_name="flask post-purchase", environ=_hosted().host.environ)


def _hosted() -> Hosted:
    found: Hosted | None = current_app.extensions.get(EXTENSION)
    if found is None:
        raise NotInitialised(f"call post_purchase.init_app(app, db) where {current_app.name!r} is made")

    return found


def _environ(app: Flask, db: SQLAlchemy, celery: Celery | None) -> Mapping[str, str]:
    """Lay what the application says over the environment, and that over what can be seen from its parts."""
    with app.app_context():
        engine = db.engines.get(None)
    if engine is None:
        raise UnusableConfiguration("SQLALCHEMY_DATABASE_URI is missing: it names the database that holds commands")
    url = engine.url
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql")  # which driver the host has is its own affair

    return {
        "POST_PURCHASE_DATABASE__URL": url.render_as_string(hide_password=False),
        **({} if celery is None else broker_of(celery)),
        **{name: text for name, text in os.environ.items() if name.startswith(_PREFIX)},
        **{name: _text(name, value) for name, value in app.config.items() if name.startswith(_PREFIX)},
    }


def _text(name: str, value: object) -> str:
    """Write a value as the environment does; what no setting can be is refused by its type, for it may be a secret."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str() | int() | float() | PathLike():
            return str(value)
        case list() | tuple():
            return ",".join(_text(name, each) for each in value)
        case _:
            raise UnusableConfiguration(
                f"{name} is a {type(value).__name__}; give text, a number, true or false, or a list of them, "
                "one key for each setting"
            )
