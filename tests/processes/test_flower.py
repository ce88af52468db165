import json
import os
import subprocess
import sys
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import worker
from worker import Capture

ORDER = "4ba29b50-be7b-44f5-a492-113e6a865e22"


def test_people_see_which_command_which_order_and_which_try(shop, new_worker, sandbox, events, until):
    """Somebody looks at Flower at night and must know from one line what this is about."""
    sandbox.fault("status", status=503)
    worker = new_worker().ready()

    shop.enqueue(Capture(account="klarna-eu", order_id=ORDER, amount=1000, reference="parcel-1"))
    until(lambda: shop.states() == {"succeeded": 1}, tell=worker.log)
    labels = until(lambda: labelled(events, "post-purchase.execute", 2))

    assert {"capture klarna-eu 4ba29b50… try 1 of 4", "capture klarna-eu 4ba29b50… try 2 of 4"} <= set(labels)
    assert {"{}"} == {each["kwargs"] for each in events if each["type"] == "task-received"}


def test_a_backlog_is_shown_as_a_count(shop, new_worker, captures, events, until):
    """Two hundred ids in a line tell a person nothing."""
    shop.store(*captures(30))
    worker = new_worker()

    until(lambda: shop.states() == {"succeeded": 30}, tell=worker.log)
    labels = until(lambda: labelled(events, "post-purchase.execute", 1))

    assert "30 commands: capture klarna-eu order-0 try 1 of 4 …" in labels


def labelled(events, name, count):
    """Return the labels of the tasks received, once there are so many."""
    labels = [each["args"] for each in events if each["type"] == "task-received" and each["name"] == name]

    return labels if len(labels) >= count else None


def test_neither_events_nor_messages_hold_more_than_ids(shop, new_worker, sandbox, wire, events, until):
    """Brokers and monitors keep copies: a key opens a payment, and a payload tells what somebody bought."""
    sandbox.fault("status", status=503, times=None)
    worker = new_worker().ready()

    [captured] = shop.enqueue(
        Capture(account="klarna-eu", order_id=ORDER, amount=123_456, reference="parcel-1", description="a fine thing")
    )
    until(lambda: shop.open_tickets() == [("ladder_exhausted", "open", 1)], tell=worker.log)
    until(lambda: labelled(events, "post-purchase.escalate", 1))

    told = wire.text() + repr(events)
    key = shop.show(captured)["idempotency_key"]
    secrets = (key, "123456", "parcel-1", "a fine thing", "sandbox", "captured_amount", ORDER)
    assert str(captured) in told
    assert [] == [each for each in secrets if each in told]


@contextmanager
def running_flower(environment, folder, port):
    """`post-purchase flower`, stopped at the end as a supervisor stops it."""
    told = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(Path(worker.__file__).parents[1]),
        "FLOWER_BASIC_AUTH": LOOKS,
    }
    with (folder / "flower.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "flower", f"--port={port}", f"--folder={folder / 'flower'}"],
            env=told,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


LOOKS = "operator:looks"


def seen_by_flower(port):
    """The labels of the tasks that Flower knows; None while it does not answer."""
    headers = {"Authorization": f"Basic {b64encode(LOOKS.encode()).decode()}"}
    try:
        with urlopen(
            Request(f"http://127.0.0.1:{port}/api/tasks", headers=headers), timeout=5
        ) as answer:  # loopback only
            return sorted(each["args"] for each in json.load(answer).values())
    except OSError:
        return None


@pytest.mark.timeout(300)
def test_what_flower_has_seen_is_there_after_a_restart(shop, new_worker, environment, tmp_path, free_port, until):
    """A deployment at noon must not hide what went wrong in the morning."""
    port = free_port()
    with running_flower(environment, tmp_path, port):
        until(lambda: seen_by_flower(port) == [], within=90)
        new_worker().ready(within=90)
        shop.enqueue(Capture(account="klarna-eu", order_id=ORDER, amount=1000, reference="parcel-1"))
        before = until(lambda: seen_by_flower(port), within=60)

    with running_flower(environment, tmp_path, port):
        after = until(lambda: seen_by_flower(port), within=90)

    assert ["capture klarna-eu 4ba29b50… try 1 of 4"] == before == after
