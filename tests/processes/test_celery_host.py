"""A shop that has a Celery app of its own, and whose workers execute commands beside its own tasks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery, current_app

import worker
from worker.cli.probes import FAIL
from worker.contrib.celery import AlreadyJoined, join
from worker.publish import EXECUTE_QUEUE, UPKEEP_QUEUE

CHECKOUT = Path(worker.__file__).parent.parent

#: A shop with settings that would be wrong for payments, and a task that tells under which ones it ran.
GARDEN = """
import json, os
from celery import Celery
from worker.contrib.celery import join

app = Celery("garden", broker=os.environ["GARDEN_BROKER"])
app.conf.update(
    task_default_queue="garden",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=3,
    task_soft_time_limit=1,
    worker_concurrency=2,
)
join(app)


@app.task(name="garden.water", bind=True)
def water(self, number):
    told = {
        "queue": self.request.delivery_info["routing_key"],
        "late": self.acks_late,
        "limits": [self.time_limit, self.soft_time_limit],
        "default": app.conf.task_default_queue,
    }
    with open(f"watered-{number}", "w") as file:
        json.dump(told, file)
"""

ALL_QUEUES = ("--queues", f"garden,{EXECUTE_QUEUE},{UPKEEP_QUEUE}")
OWN_QUEUE = ("--queues", "garden")


@pytest.fixture
def environment(environment, broker, tmp_path):
    """The same broker for both, and no prefix, because the garden's app has none."""
    (tmp_path / "garden.py").write_text(GARDEN)

    return {**environment, "POST_PURCHASE_BROKER__KEY_PREFIX": "", "GARDEN_BROKER": broker.url}


@pytest.fixture
def water(broker, tmp_path, until):
    """Has the garden's own task done, and returns what it told."""
    app = Celery("gardener", broker=broker.url, set_as_current=False)
    app.conf.task_default_queue = "garden"
    done = tmp_path / "watered-1"

    def water():
        app.send_task("garden.water", [1])
        return json.loads(until(lambda: done.exists() and done.read_text()))

    yield water
    app.close()


def check(environment, folder):
    """What the doctor finds, by name."""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "check", "--json"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    return {each["name"]: each for each in json.loads(done.stdout)["checks"]}


def test_joining_leaves_a_hosts_app_as_it_was():
    """Its default queue, its settings and the current app of the process belong to the host."""
    app = Celery("garden", broker="memory://", set_as_current=False)
    app.conf.update(task_default_queue="garden", task_acks_late=True)
    before, current = dict(app.conf), current_app._get_current_object()

    join(app)

    assert before == dict(app.conf)
    assert current is current_app._get_current_object()
    assert ["garden"] == list(app.amqp.queues.consume_from)
    assert "garden" == app.amqp.router.route({}, "garden.water")["queue"].name


def test_an_app_is_joined_once():
    """Two sets of services behind one pair of tasks would take turns by chance."""
    app = Celery("garden", broker="memory://", set_as_current=False)
    join(app)

    with pytest.raises(AlreadyJoined, match="'garden'"):
        join(app)


def test_the_page_shows_what_is_tried_here():
    """People copy the block and the line; both must work as they stand."""
    page = (CHECKOUT / "docs" / "celery-hosts.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    [line] = [each for each in page.splitlines() if each.startswith("celery --app shop")]
    names = {}

    exec(code, names)  # noqa: S102  # the page's own example

    app = names["app"]
    assert {"post-purchase.execute", "post-purchase.escalate"} <= set(app.tasks)
    assert [app.conf.task_default_queue, EXECUTE_QUEUE, UPKEEP_QUEUE] == line.split("--queues ")[1].split(",")


def test_joining_reaches_no_other_app_of_the_process():
    """Celery hands a task to every app there is unless told not to; the other app may be another shop's."""
    first, second, other = (Celery(name, broker="memory://", set_as_current=False) for name in ("a", "b", "c"))

    join(first)
    join(second)

    assert first is first.tasks["post-purchase.execute"].app
    assert second is second.tasks["post-purchase.execute"].app
    assert not [name for name in other.tasks if name.startswith("post-purchase")]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_hosts_worker_executes_commands_beside_its_own_tasks(new_worker, shop, sandbox, captures, until, water, pool):
    """One set of workers is enough for a small shop, and neither side bends to the other's settings."""
    worker = new_worker(*ALL_QUEUES, "--pool", pool, app="garden").ready()

    shop.enqueue(*captures(3))
    watered = water()
    until(lambda: shop.states() == {"succeeded": 3}, tell=worker.log)

    assert {"queue": "garden", "late": True, "limits": [3, 1], "default": "garden"} == watered
    assert 3 == len(sandbox.effects())


def test_a_hosts_time_limits_do_not_cut_off_a_call_in_flight(new_worker, shop, sandbox, captures, until):
    """A limit that suits a mail would leave a capture in doubt."""
    sandbox.fault("delay", order_id="order-0", seconds=4)
    settings = {"HTTP__TOTAL_TIMEOUT_SECONDS": "6", "LEASE__SECONDS": "8"}
    worker = new_worker(*ALL_QUEUES, app="garden", **settings)

    [command_id] = shop.enqueue(*captures(1))
    until(lambda: shop.states() == {"succeeded": 1}, tell=worker.log)

    assert 1 == len(shop.show(command_id)["attempts"])
    assert 1 == len(sandbox.effects())


def test_a_hosts_worker_carries_upkeep(new_worker, shop, captures, until):
    """A shop that crashed between its commit and its message is made good by whoever takes commands."""
    worker = new_worker(*ALL_QUEUES, app="garden")

    shop.store(*captures(3))

    until(lambda: shop.states() == {"succeeded": 3}, tell=worker.log)


def test_a_hosts_worker_for_other_work_has_nothing_to_do_with_payments(new_worker, shop, captures, water, observer):
    """The workers that send mails need neither credentials nor a schema, and start without them."""
    worker = new_worker(*OWN_QUEUE, app="garden", ACCOUNTS__KLARNA_EU__PASSWORD="", DATABASE__URL="mysql://nowhere")
    worker.ready()
    shop.enqueue(*captures(1))

    water()

    [told] = observer.control.broadcast("post_purchase_upkeep", reply=True, limit=1, timeout=5)
    assert [{}] == list(told.values())
    assert {"pending": 1} == shop.states()


def test_the_doctor_looks_only_at_workers_that_take_commands(new_worker, environment, tmp_path):
    """A worker that sends mails has no upkeep, and nothing is wrong with it."""
    new_worker(*ALL_QUEUES, app="garden").ready()
    new_worker(*OWN_QUEUE, app="garden").ready()

    found = check(environment, tmp_path)

    assert "dispatch, sweep and probe tick in 1 of 1 workers" == found["upkeep"]["found"]
    assert [] == [name for name, each in found.items() if each["status"] == FAIL]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"BROKER__KEY_PREFIX": "payments:"}, "the settings' is redis://", id="another prefix"),
        pytest.param({"BROKER__URL": "redis://127.0.0.1:1/0"}, "the settings' is redis://127.0.0.1:1/0", id="another"),
        pytest.param({"ACCOUNTS__KLARNA_EU__PASSWORD": ""}, "has no password", id="no credentials"),
        pytest.param({"DATABASE__URL": "sqlite:///empty.db"}, "Run `post-purchase db upgrade`", id="no schema"),
    ],
)
def test_a_hosts_worker_that_could_not_work_refuses_to_start(new_worker, changes, sentence):
    """On another broker it would wait for ever for commands that others see published."""
    worker = new_worker(*ALL_QUEUES, app="garden", **changes)

    code = worker.ended(within=20)

    assert 2 == code
    assert sentence in worker.log()
    assert "Traceback" not in worker.log()


def test_a_hosts_worker_that_is_told_to_stop_ends_its_calls(new_worker, shop, sandbox, captures, until):
    """A deployment of the host must not put payments in doubt."""
    sandbox.fault("delay", order_id="order-0", seconds=1)
    worker = new_worker(*ALL_QUEUES, app="garden")
    shop.enqueue(*captures(1))
    until(lambda: len(shop.unanswered()) == 1, tell=worker.log)

    worker.tell(signal.SIGTERM, group=True)
    code = worker.ended(within=20)

    assert 0 == code
    assert {"succeeded": 1} == shop.states()


def test_our_lines_go_to_the_hosts_own_logging(new_worker):
    """A host reads one log in one form; ours is the host's guest."""
    worker = new_worker(*ALL_QUEUES, app="garden").ready()

    [line] = [each for each in worker.log().splitlines() if "worker.starting" in each]

    assert line.startswith("[")  # as Celery begins a line
    assert [] == worker.lines("worker.starting")
