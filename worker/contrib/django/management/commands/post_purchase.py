"""`manage.py post_purchase …`: the whole command line, with the settings of the Django project.

Decides nothing: what follows the name goes to `post-purchase` as it is. Django's own `--settings` and `--pythonpath`
have been followed by then and are left out.
"""

from __future__ import annotations

from argparse import REMAINDER
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .....cli import app


class Command(BaseCommand):
    """Django's way in."""

    help = "The command line of the post-purchase worker, with this project's settings."
    requires_system_checks = ()  # the command line says itself what is wrong

    def run_from_argv(self, argv: list[str]) -> None:
        """Pass everything on."""
        djangos = CommandParser(add_help=False, allow_abbrev=False)
        djangos.add_argument("--settings")
        djangos.add_argument("--pythonpath")
        _, words = djangos.parse_known_args(argv[2:])

        app(args=words, prog_name=f"{Path(argv[0]).name} {argv[1]}")

    def add_arguments(self, parser: CommandParser) -> None:
        """Take any words, for `call_command`."""
        parser.add_argument("words", nargs=REMAINDER)

    def handle(self, *_: Any, words: Sequence[str], **__: Any) -> None:
        """Run as `call_command("post_purchase", "list", "--json")` asks.

        Raises:
            CommandError: It ended with another exit code than 0, which rides along.
        """
        try:
            app(args=list(words), prog_name="manage.py post_purchase")
        except SystemExit as ended:
            if ended.code:
                message = f"post_purchase {' '.join(words)} ended with exit code {ended.code}"
                raise CommandError(message, returncode=int(ended.code)) from None
