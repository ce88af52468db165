from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: What a start of pytest must not pay for; each takes tens of milliseconds.
HEAVY = ("alembic", "asyncio", "celery", "h11", "kombu", "pycurl", "pydantic", "sqlalchemy", "structlog")

NEWLY_IMPORTED = """
import json, sys
import pytest
before = set(sys.modules)
import worker.testing.plugin
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""

ONE_CAPTURE = """
from worker import Capture

def test_it(post_purchase):
    order = post_purchase.sandbox.create_order(amount=1000)
    command = post_purchase.enqueue(Capture(account="klarna", order_id=order["order_id"], amount=1000))
    post_purchase.run()
    assert post_purchase.state(command) == "succeeded"
    assert len(post_purchase.sandbox.effects()) == 1
    assert len(post_purchase.commands()) == 1
"""


@pytest.mark.slow
def test_the_page_for_shops_runs_as_it_stands(shop, pages):
    """Who copies an example from the documentation has no patience with one that does not run."""
    first = pages.pop("test_lost_reply.py")
    for name, text in pages.items():
        shop.path.joinpath(name).write_text(text)

    with_own_code = shop.runpytest_subprocess("test_shop.py")
    shop.path.joinpath("conftest.py").unlink()
    shop.path.joinpath("test_lost_reply.py").write_text(first)
    with_nothing = shop.runpytest_subprocess("test_lost_reply.py")

    with_own_code.assert_outcomes(passed=1)
    with_nothing.assert_outcomes(passed=1)


@pytest.mark.slow
def test_each_test_begins_with_an_empty_world(shop):
    """A test that passes only after another one is worth nothing."""
    shop.makepyfile(ONE_CAPTURE + ONE_CAPTURE.replace("test_it", "test_it_again"))

    shop.runpytest_subprocess("-W", "error").assert_outcomes(passed=2)


@pytest.mark.slow
def test_two_runs_at_once_do_not_meet(shop, python):
    """Tests are spread over processes that share a machine, and each has a sandbox and a database of its own."""
    shop.makepyfile(ONE_CAPTURE)
    runs = [
        subprocess.Popen(
            [python, "-m", "pytest", "-q", f"--basetemp=run-{number}", "-p", "no:cacheprovider"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]

    said = [each.communicate()[0] for each in runs]

    assert [0, 0] == [each.returncode for each in runs], said


@pytest.mark.slow
def test_it_can_be_left_out(shop):
    """A shop that has fixtures of these names decides for itself."""
    shop.makepyfile(ONE_CAPTURE)

    left_out = shop.runpytest_subprocess("-p", "no:post_purchase")

    left_out.assert_outcomes(errors=1)
    left_out.stdout.fnmatch_lines("*fixture 'post_purchase' not found*")


@pytest.mark.slow
def test_its_fixtures_are_listed_with_what_they_are(shop):
    """`pytest --fixtures` is where one looks for what there is."""
    listed = shop.runpytest_subprocess("--fixtures").stdout.str()

    names = ("accounts", "clock", "engine", "sandbox", "settings")
    assert "no docstring" not in listed
    assert [] == [name for name in names if f"post_purchase_{name}" not in listed]


def test_a_start_of_pytest_pays_next_to_nothing(root):
    """The plugin is imported in every run of everybody who has the package, also where nobody uses it."""
    done = subprocess.run([sys.executable, "-c", NEWLY_IMPORTED], cwd=root, capture_output=True, text=True, check=True)

    assert [] == [name for name in json.loads(done.stdout) if name in HEAVY]
