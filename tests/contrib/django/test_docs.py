"""The page about Django says what the shop of the tests does, and its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worker.contrib.django import checks as our_checks, verbs

ROOT = Path(__file__).resolve().parents[3]
HOST = ROOT / "tests" / "hosts" / "django_shop"
PAGE = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")

#: Blocks that name the file they are from.
EXCERPTS = re.findall(r"```python\n# (?P<file>\S+\.py)\n(?P<code>.*?)```", PAGE, flags=re.DOTALL)

#: What stays in the foreground, or needs what does.
STAYS = ("sandbox", "runserver")


@pytest.mark.parametrize(
    ("file", "code"), EXCERPTS, ids=[f"{file} {number}" for number, (file, _) in enumerate(EXCERPTS)]
)
def test_the_code_of_the_page_is_the_code_that_the_tests_run(file, code):
    """Code in a page that nothing runs is wrong after the second release."""
    assert code in (HOST / file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path):
    """Whoever follows the tutorial must get to its end."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("python manage.py ")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SHOP_DATABASE_FILE": str(tmp_path / "shop.db")}

    ran = {
        command: subprocess.run(
            [sys.executable, "-W", "ignore", *command.split()[1:]],
            cwd=HOST,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        ).returncode
        for command in commands
        if not any(word in command for word in STAYS)
    }

    assert len(ran) >= 3
    assert set(ran.values()) == {0}, ran


def test_the_page_lists_every_check_and_every_verb():
    """A check that nobody can look up is only noise."""
    source = Path(our_checks.__file__).read_text(encoding="utf-8")

    assert set(re.findall(r"post_purchase\.([EW]\d{3})", source)) == set(
        re.findall(r"^\| `([EW]\d{3})`", PAGE, re.MULTILINE)
    )
    for verb in verbs.VERBS:
        assert verbs.permission(verb) in PAGE
