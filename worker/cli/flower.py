"""`post-purchase flower`: the view of tasks and workers as a process that nobody enters without a password.

Decides who may look, and where Flower listens and keeps things. Leaves to `flowerconfig` what it shows, and the rest to
Flower, whose process this one becomes. What its screens mean: docs/flower.md.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .edge import BadInput, examples, invocation
from .output import print_line

#: Where Flower looks for its users, as `user:password`, several with commas between them. An environment is shown to
#: this user's processes only, a command line to everybody.
BASIC_AUTH = "FLOWER_BASIC_AUTH"

#: Flower compares as bytes what is ASCII, and fails on anything else; a comma would begin another user.
_USERS = re.compile(r"[!-+\--9;-~]+:[!-+\--~]+(?:,[!-+\--9;-~]+:[!-+\--~]+)*")

#: The user whose password is made at the first start.
_USER = "operator"

#: So many random bytes cannot be guessed, and their letters can still be typed.
_PASSWORD_BYTES = 15

#: Bits of a file's mode that let others in.
_OTHERS = 0o077

_HIGHEST_PORT = 65_535

#: Given by its path, so that no file of that name in the working directory is run instead.
_CONFIG = Path(__file__).with_name("flowerconfig.py")


def add_to(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command("flower", epilog=examples("post-purchase flower", "post-purchase flower --port 5556"))(flower)


def flower(
    ctx: typer.Context,
    *,
    address: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; keep it on loopback or behind TLS of your own.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=_HIGHEST_PORT, help="Port to listen on.")] = 5555,
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the password and what Flower has seen are kept.")
    ] = Path("var/flower"),
) -> None:
    """Show tasks and workers in a browser, for those who know the password.

    User and password are those of FLOWER_BASIC_AUTH=user:password. Without it a password is made at the first start,
    shown on the terminal that once, and kept in a file that only its owner can read.
    """
    from ..config import PROFILE_NAME, environment_name  # noqa: PLC0415  # --help must be quick

    if find_spec("flower") is None:
        raise BadInput(["Flower is not installed: pip install 'post-purchase-worker[flower]'"])
    told = invocation(ctx)
    broker = told.settings().broker  # what is wrong with them is better said here than in Celery's words
    if told.profile is not None:
        os.environ[PROFILE_NAME] = told.profile
    os.environ |= {environment_name(tuple(name.split("."))): text for name, text in told.given}
    # What a host's own settings say is known to this process, not to the one that it becomes.
    os.environ[environment_name(("broker", "url"))] = broker.url
    if broker.key_prefix is not None:
        os.environ[environment_name(("broker", "key_prefix"))] = broker.key_prefix
    os.environ[BASIC_AUTH] = basic_auth(folder)
    options = (f"--conf={_CONFIG}", f"--address={address}", f"--port={port}", f"--db={folder / 'flower.db'}")
    os.execv(  # noqa: S606  # our own interpreter, and no shell
        sys.executable, [sys.executable, "-m", "celery", "--app", "worker", "flower", *options]
    )


def basic_auth(folder: Path) -> str:
    """Return who may look: what the environment says, else the operator whose password the folder keeps.

    The folder is made in either case: Flower starts without one too, and then keeps nothing of what it has seen.

    Raises:
        BadInput: The environment's value cannot be used, others can read the file, or the folder cannot be made.
    """
    _make_folder(folder)
    given = os.environ.get(BASIC_AUTH)
    if given is None:
        return f"{_USER}:{_password(folder)}"
    if not _USERS.fullmatch(given):
        form = "user:password of printable ASCII, several with commas between"
        raise BadInput([f"{BASIC_AUTH} is not {form}; unset it to have a password made"])

    return given


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput([f"--folder {folder} cannot be made: {error.strerror}; name one that can"]) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput([f"--folder {folder} cannot be written to by this user; name one that can"])


def _password(folder: Path) -> str:
    file = folder / "password"
    if not file.exists():
        _make_password(file)
    if file.stat().st_mode & _OTHERS:
        raise BadInput([f"others can read {file}: delete it to have a new one made, or chmod 600 {file}"])
    password = file.read_text(encoding="ascii", errors="replace").strip()
    if not _USERS.fullmatch(f"{_USER}:{password}") or "," in password:
        raise BadInput([f"{file} holds no password of printable ASCII: delete it to have a new one made"])

    return password


def _make_password(file: Path) -> None:
    """Write a password that appears whole and only once, and show it if there is a person to see it."""
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    handle, draft = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as output:
            output.write(f"{password}\n")
        os.link(draft, file)
    except FileExistsError:
        return  # another process was first
    finally:
        Path(draft).unlink()
    # Elsewhere stdout is a log, and logs are kept and copied.
    shown = f"password {password}, shown this once and kept in" if sys.stdout.isatty() else "password in"
    print_line(f"Flower: user {_USER}, {shown} {file}")
