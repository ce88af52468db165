"""Three rules of the house that no linter knows, read from the syntax tree of the package.

Each rule is a function from a module's syntax tree to the lines that break it; each is tried on a piece of code that
breaks it, so that a rule which has gone blind is noticed.
"""

from __future__ import annotations

import ast
import re

import pytest

#: The one module that names what a state may become; the errors, which carry the state they met; and what a task of
#: Celery's is shown as in Flower.
STATE = ("worker/domain/state.py", "worker/domain/errors.py", "worker/cli/flowerconfig.py")

#: Who may read the process's clock: the store asks the database, the test kit and the sandbox bring a clock of their
#: own, and an id, a letter, a signature and a log line carry the moment they were made.
CLOCK = (
    "worker/desks/email.py",
    "worker/domain/key.py",
    "worker/store/",
    "worker/testing/",
    "worker/sandbox/",
    "worker/desks/webhook.py",
    "worker/logs.py",
    "worker/duties.py",  # tells people when it last ticked
    "worker/cli/probes.py",  # measures how far this machine's clock is off
)

#: Who may speak SQL.
SQL = ("worker/store/",)

WALL_CLOCKS = {
    ("datetime", "now"),
    ("datetime", "today"),
    ("datetime", "utcnow"),
    ("date", "today"),
    ("time", "time"),
    ("time", "time_ns"),
}

SQL_TEXT = re.compile(
    r"\bselect\s.+\sfrom\s|\binsert\s+into\s+\w|\bdelete\s+from\s+\w|\bupdate\s+\w+\s+set\s"
    r"|\b(?:create|alter|drop)\s+(?:table|index)\s|^\s*(?:SELECT|PRAGMA|BEGIN IMMEDIATE)\b",
    re.IGNORECASE | re.DOTALL,
)


def states_written(tree):
    """An attribute `state` that is assigned, or replaced in a copy."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets):
                written = [part for target in targets for part in ast.walk(target)]
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                written = [target]
            case ast.Call(func=ast.Name(id="setattr"), args=[_, ast.Constant(value="state"), *_]):
                yield node.lineno
                continue
            case ast.Call(func=ast.Name(id="replace") | ast.Attribute(attr="replace"), keywords=keywords):
                if any(keyword.arg == "state" for keyword in keywords):
                    yield node.lineno
                continue
            case _:
                continue
        if any(isinstance(part, ast.Attribute) and part.attr == "state" for part in written):
            yield node.lineno


def clocks_read(tree):
    """The wall clock, called or passed on to be called."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
                if (owner, name) in WALL_CLOCKS:
                    yield node.lineno
            case ast.ImportFrom(module="time", names=names):
                if any(("time", alias.name) in WALL_CLOCKS for alias in names):
                    yield node.lineno


def sql_spoken(tree):
    """SQL as text: a call of SQLAlchemy's `text`, or a string that reads like a statement and is not a docstring."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    }
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "sqlalchemy":
                if any(alias.name == "text" for alias in names):
                    yield node.lineno
            case ast.Attribute(value=ast.Name(id="sa" | "sqlalchemy"), attr="text"):
                yield node.lineno
            case ast.Constant(value=str(value)) if id(node) not in docstrings and SQL_TEXT.search(value):
                yield node.lineno


def breaches(root, rule, *, exempt):
    return [
        f"{place}:{line}"
        for module in sorted((root / "worker").rglob("*.py"))
        if not (place := module.relative_to(root).as_posix()).startswith(exempt)
        for line in rule(ast.parse(module.read_text(encoding="utf-8")))
    ]


def test_only_the_transitions_write_a_state(root):
    """A state set by hand skips the fence, and a fenced-out worker could overwrite its successor."""
    assert [] == breaches(root, states_written, exempt=STATE)


def test_only_the_clock_modules_read_the_clock(root):
    """What is due is decided in database time; two clocks would disagree about it."""
    assert [] == breaches(root, clocks_read, exempt=CLOCK)


def test_only_the_store_speaks_sql(root):
    """Statements are read and reviewed on one page; one hidden elsewhere escapes the fence and the contract suite."""
    assert [] == breaches(root, sql_spoken, exempt=SQL)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        pytest.param(states_written, "command.state = 'final'", id="a state assigned"),
        pytest.param(states_written, "command.state, left = 'final', 1", id="a state unpacked"),
        pytest.param(states_written, "setattr(command, 'state', 'final')", id="a state set by name"),
        pytest.param(states_written, "replace(command, state='final')", id="a state replaced in a copy"),
        pytest.param(clocks_read, "datetime.now(UTC)", id="now"),
        pytest.param(clocks_read, "field(default_factory=datetime.utcnow)", id="now, passed on"),
        pytest.param(clocks_read, "datetime.datetime.now()", id="now, by module"),
        pytest.param(clocks_read, "time.time()", id="seconds"),
        pytest.param(clocks_read, "from time import time", id="seconds, imported"),
        pytest.param(sql_spoken, "from sqlalchemy import select, text", id="text imported"),
        pytest.param(sql_spoken, "sa.text('1')", id="text by module"),
        pytest.param(sql_spoken, "run('SELECT 1')", id="a query"),
        pytest.param(sql_spoken, "run(f'update {table} set x = 1 where y')\nrun('delete from t')", id="a change"),
    ],
)
def test_each_rule_sees_what_breaks_it(rule, code):
    """A rule that has gone blind passes on everything."""
    assert list(rule(ast.parse(code)))


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        pytest.param(states_written, "state = command.state", id="a state read"),
        pytest.param(clocks_read, "clock.now(); time.monotonic(); self.time()", id="a clock that was passed in"),
        pytest.param(sql_spoken, "def f():\n    '''Select rows from the table.'''", id="a docstring"),
        pytest.param(sql_spoken, "help = 'Update the order and select an account'", id="a sentence"),
    ],
)
def test_no_rule_sees_what_is_allowed(rule, code):
    """A rule that cries for nothing is soon switched off."""
    assert [] == list(rule(ast.parse(code)))
