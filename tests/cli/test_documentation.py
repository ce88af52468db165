from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from worker.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")

#: A command's part of the page: from its heading to the next.
PART = re.compile(r"^### `post-purchase (?P<words>[^`]+)`\n(?P<text>.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^\| (?P<names>`--[^|]+) \|", re.MULTILINE)
NAME = re.compile(r"--[a-z-]+")


def commands(group, words=()):
    """Every command with its words, groups taken apart."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def options(command):
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    } - {"--help"}


def arguments(command):
    return [parameter.metavar for parameter in command.params if parameter.param_type_name == "argument"]


COMMANDS = dict(commands(get_command(app)))
PARTS = {found["words"]: found["text"] for found in PART.finditer(PAGE)}


def test_every_command_is_documented_and_nothing_else_is():
    """A command that is not on the page is found by nobody, and one that is gone is believed in for years."""
    expected = {" ".join((words, *arguments(command))) for words, command in COMMANDS.items()}

    assert expected == set(PARTS)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_is_documented_and_nothing_else_is(words):
    """The page is where people look before they dare."""
    command = COMMANDS[words]
    text = PARTS[" ".join((words, *arguments(command)))]
    documented = {name for row in OPTION.findall(text) for name in NAME.findall(row)}

    assert options(command) == documented


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_documented_with_an_example(words):
    """People copy an example sooner than they read a grammar."""
    text = PARTS[" ".join((words, *arguments(COMMANDS[words])))]

    assert "```console\n$ " in text
    assert f" {words}" in text.split("```console\n")[1]


def test_the_options_of_the_program_are_documented():
    """They stand before the command, where nobody expects them."""
    head = PAGE.split("## Storing")[0]

    assert options(get_command(app)) | {"--help"} == {
        name for row in OPTION.findall(head) for name in NAME.findall(row)
    }


def test_every_line_of_help_ends_as_a_sentence():
    """Help is read as prose; a missing end looks like missing text."""
    helps = [
        parameter.help
        for command in COMMANDS.values()
        for parameter in command.params
        if parameter.param_type_name == "option"
    ]

    assert [] == [text for text in helps if not (text or "").endswith(".")]
