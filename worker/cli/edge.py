"""The edge of a command-line process: what it is told becomes settings and services, what goes wrong becomes a line.

Decides the exit codes, that an error of ours is one line on stderr without a traceback while a bug keeps its own, and
that a command meets a database whose schema fits. Leaves what a command does to its module.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import typer
from typer.core import TyperGroup

from ..domain.errors import PostPurchaseError
from ..ports import LimiterUnavailable, StoreUnavailable
from ..resources import ResourcesMissing
from .output import tell

if TYPE_CHECKING:
    from ..config import Settings
    from ..wiring import Services

#: A host's stand-in for the environment of the process.
Environ: TypeAlias = Mapping[str, str] | None

DONE = 0
REFUSED = 1
BAD_INPUT = 2
AWAY = 3


class BadInput(PostPurchaseError):
    """What was given cannot be used."""

    def __init__(self, problems: Sequence[str]) -> None:
        Exception.__init__(self, "\n".join(problems))
        self.problems = tuple(problems)


class DatabaseAway(StoreUnavailable):
    """The database could not be reached, with the place to mend it."""

    def __init__(self, problem: StoreUnavailable, *, url: str, fix: str) -> None:
        Exception.__init__(self, f"{problem}. The database is {url}; {fix}")


class BrokerAway(PostPurchaseError):
    """The broker took no message."""

    def __init__(self, *, url: str) -> None:
        super().__init__(
            f"what was handed out stays due and is handed out again. The broker is {url}; start it, or mend broker.url "
            "(POST_PURCHASE_BROKER__URL)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What stands before the command: the profile, and the settings given one by one; and what a host told."""

    profile: str | None
    given: tuple[tuple[str, str], ...]
    environ: Environ

    def settings(self, *, require_credentials: bool = False) -> Settings:
        """Load the settings.

        Args:
            require_credentials: Only a process that sends, or that stands in for the provider, needs them.

        Raises:
            BadInput: With every problem, one line each.
        """
        from ..config import ConfigurationError, load  # noqa: PLC0415  # --help must be quick

        overrides = {name: _typed(name, text) for name, text in self.given}
        try:
            return load(
                self.profile, environ=self.environ, overrides=overrides, require_credentials=require_credentials
            )
        except ConfigurationError as error:
            raise BadInput(error.problems) from None

    @contextmanager
    def services(
        self, *, patience: timedelta = timedelta(0), needs_schema: bool = True, stays: bool = False
    ) -> Iterator[Services]:
        """Open the services of this process for one command.

        Args:
            patience: How long the database is waited for.
            needs_schema: False for what works on the schema itself.
            stays: True for a process that goes on; it logs as the settings say, others only what is amiss.

        Raises:
            BadInput: The settings cannot be used.
            SchemaMismatch: The schema is not the one of this code.
            DatabaseAway: The database did not answer, now or later.
        """
        from ..config import redacted_url  # noqa: PLC0415  # --help must be quick
        from ..logs import configure  # noqa: PLC0415  # the same
        from ..wiring import DATABASE_FIX, Services  # noqa: PLC0415  # the same

        settings = self.settings()
        configure(settings.log if stays else settings.log.model_copy(update={"level": "warning"}))
        services = Services(settings)
        try:
            if needs_schema:
                services.await_database(patience=patience)
            yield services
        except StoreUnavailable as error:
            raise DatabaseAway(error, url=redacted_url(settings.database.url), fix=DATABASE_FIX) from error
        finally:
            services.close()


def invocation(ctx: typer.Context) -> Invocation:
    """Return what stands before the command."""
    return cast("Invocation", ctx.obj)


def examples(*lines: str) -> str:
    """Put examples at the end of a command's help, one a line."""
    return "\n\n".join(("Examples:", *lines))


def assignment(text: str) -> tuple[str, str]:
    """Take a `KEY=VALUE` apart."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise typer.BadParameter(
            f"{text!r} is not KEY=VALUE, such as database.url=sqlite:///here.db", param_hint="--set"
        )

    return name, value


def _typed(name: str, text: str) -> object:
    """Read a value as the environment's is read; one that cannot be read is refused with the others, by its key."""
    from ..config import ANY_ACCOUNT, SETTINGS  # noqa: PLC0415  # --help must be quick

    key = tuple(name.split("."))
    setting = SETTINGS.get((key[0], ANY_ACCOUNT, *key[2:]) if key[0] == "accounts" else key)
    if setting is None:
        return text
    try:
        return setting.form.parse(text)
    except (ValueError, KeyError):
        return text


class CommandLine(TyperGroup):
    """The whole command line; every way out of it ends here."""

    def main(  # noqa: D102  # typer's own says it
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002, FBT001, FBT002  # typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002  # the same
        **extra: Any,
    ) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                # A terminal that cannot show a character must not cost the answer.
                stream.reconfigure(errors="backslashreplace")
        words = sys.argv[1:] if args is None else list(args)
        try:
            _refuse_unreadable(words)
            # Outside of its standalone mode typer returns the code of an Exit, and lets what else is raised pass.
            code = super().main(
                args=words,
                prog_name=prog_name,
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except typer.Abort:
            code = REFUSED
        except typer.TyperException as error:
            code = _explain_usage(error)
        except PostPurchaseError as error:
            code = _explain(error)

        sys.exit(code or DONE)


def _refuse_unreadable(words: Sequence[str]) -> None:
    for number, word in enumerate(words, start=1):
        try:
            os.fsencode(word).decode()
        except UnicodeError:
            raise BadInput([f"argument {number} is not UTF-8 text"]) from None


def _explain_usage(error: typer.TyperException) -> int:
    ctx: typer.Context | None = getattr(error, "ctx", None)
    where = "post-purchase" if ctx is None else ctx.command_path
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    tell(f"{message} (see {where} --help)")

    return BAD_INPUT


def _explain(error: PostPurchaseError) -> int:
    for line in str(error).splitlines():
        tell(line)
    match error:
        case BadInput() | ResourcesMissing():
            return BAD_INPUT
        case StoreUnavailable() | BrokerAway() | LimiterUnavailable():
            return AWAY
        case _:
            return REFUSED
