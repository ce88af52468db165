"""`flask post-purchase`: the whole command line, on the application's settings."""

import json
import subprocess
import sys

import pytest
from typer.main import get_command

from worker import Capture
from worker.cli import app as command_line


def test_flask_shows_it_among_its_commands(run):
    """Whoever types `flask --help` finds it."""
    done = run("--help")

    assert "post-purchase  Look after payment commands." in done.output


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_it_is_the_whole_command_line(run, words):
    """One that lacked a verb would be missed at night."""
    done = run("post-purchase", *words)

    names = {line.split()[0] for line in done.output.splitlines() if line.startswith("  ") and line.split()}
    assert set(get_command(command_line).commands) <= names
    assert "Usage: flask post-purchase" in done.output


def test_it_works_on_the_applications_database(run, bookshop, new_app, sqlite_url):
    """Looking for a command in another database would say that there is none."""
    app = new_app(sqlite_url)
    with app.app_context():
        command = bookshop.post_purchase.enqueue(Capture(account="klarna-eu", order_id="k-1", amount=1000))
        bookshop.db.session.commit()

    done = run("post-purchase", "list", "--json")

    assert [str(command.id)] == [each["id"] for each in json.loads(done.output)]


def test_options_and_exit_codes_pass_through(run, bookshop, new_app, sqlite_url):
    """Scripts are written against them."""
    with new_app(sqlite_url).app_context():
        command = bookshop.post_purchase.enqueue(Capture(account="klarna-eu", order_id="k-1", amount=1000))
        bookshop.db.session.commit()

    cancelled = run("post-purchase", "cancel", str(command.id), "--by", "operator", "--reason", "a test", "--json")
    refused = run("post-purchase", "retry", str(command.id), "--by", "operator", "--reason", "a test")
    mistyped = run("post-purchase", "liist")

    assert (0, True) == (cancelled.exit_code, json.loads(cancelled.output)[0]["was_done"])
    assert [1, 2] == [refused.exit_code, mistyped.exit_code]
    assert "(see flask post-purchase --help)" in mistyped.output


def test_a_setting_given_on_the_line_wins_over_the_applications(run, tmp_path):
    """As it does everywhere."""
    done = run("post-purchase", "--set", f"database.url=sqlite:///{tmp_path}/new.db", "db", "current", "--json")

    assert None is json.loads(done.output)["current"]


def test_a_web_process_does_not_import_the_command_line(project):
    """It has no use for it, and every worker of a web server would pay for it."""
    code = "import sys, worker.contrib.flask; print('worker.cli' in sys.modules, 'worker.celery' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.parents[2], capture_output=True, text=True, check=True
    )

    assert "False False" == done.stdout.strip()
