from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest

from worker import Acknowledge, Refund


def the_wait_after(attempt, *, before):
    """How long the next attempt was waited for, from the end of the one that failed."""
    return datetime.fromisoformat(before["started_at"]) - datetime.fromisoformat(attempt["finished_at"])


@pytest.mark.short
def test_each_command_has_one_effect(nodes, shop, sandbox, captures, until):
    """This is what the image is for: what a shop's transaction stored is done at the provider, once."""
    first, *others = captures(30)
    name = {"account": first.account, "order_id": first.order_id}

    shop.enqueue(Acknowledge(**name, reference="order"), first, Refund(**name, amount=400, reference="return"), *others)
    until(lambda: shop.states() == ["succeeded"] * 32, tell=nodes.worker.logs)

    assert {"acknowledge": 1, "capture": 30, "refund": 1} == Counter(each["kind"] for each in sandbox.effects())
    assert 30 == len({each["order_id"] for each in sandbox.effects()})


def test_a_failed_attempt_is_followed_after_its_countdown(nodes, shop, sandbox, captures, until, rungs):
    """The broker's client holds the message until the rung is over; one that gave it out at once would hammer."""
    [capture] = captures(1)
    sandbox.fault("status", status=503)

    [command_id] = shop.enqueue(capture)
    [countdown] = until(lambda: held_by(nodes), tell=nodes.worker.logs)
    until(lambda: shop.states() == ["succeeded"], tell=nodes.worker.logs)

    assert [str(command_id)] == countdown["request"]["args"][0]
    first, second = shop.show(command_id)["attempts"]
    assert timedelta(seconds=rungs[0]) <= the_wait_after(first, before=second)
    assert 1 == len(sandbox.effects())


def held_by(nodes):
    """What workers hold until its time comes."""
    answers = nodes.app.control.inspect(timeout=5, limit=len(nodes.worker_cluster)).scheduled() or {}

    return [each for scheduled in answers.values() for each in scheduled]


@pytest.mark.parametrize("rungs", [pytest.param((0.4, 0.5, 0.6), id="quick")])
def test_a_used_up_ladder_ends_in_one_ticket(nodes, shop, sandbox, captures, until, rungs):
    """After the third retry a person has to know, and is told once."""
    sandbox.fault("status", status=503, times=None)

    [command_id] = shop.enqueue(*captures(1))
    until(lambda: shop.tickets() == [("ladder_exhausted", "open")], tell=nodes.worker.logs)

    assert ("escalated", 1 + len(rungs)) == tuple(shop.show(command_id)[name] for name in ("state", "attempts_count"))
    assert 1 == nodes.worker.logs().count('"event": "ticket.opened"')
    assert [] == sandbox.effects()


def test_a_restart_of_the_broker_loses_no_command(nodes, shop, sandbox, captures, until):
    """A message is a hint: what was held, and what came in while nobody could be told, is in the database."""
    waiting, *meanwhile = captures(5)
    sandbox.fault("status", status=503, order_id=waiting.order_id)
    shop.enqueue(waiting)
    until(lambda: held_by(nodes), tell=nodes.worker.logs)

    nodes.broker.kill()
    shop.enqueue(*meanwhile)
    nodes.broker.restart()
    until(lambda: shop.states() == ["succeeded"] * 5, tell=nodes.worker.logs)

    assert {each.order_id: 1 for each in (waiting, *meanwhile)} == effects_by_order(sandbox)
    nodes.worker.container.reload()
    assert "running" == nodes.worker.container.status


def effects_by_order(sandbox):
    return Counter(each["order_id"] for each in sandbox.effects())


def test_what_a_killed_worker_had_in_flight_is_done_once(nodes, add_worker, shop, sandbox, captures, until):
    """The money has moved, and whoever was to hear of it is gone: its successor asks under the same key."""
    orders = captures(4)
    sandbox.fault("hang", executed=True, times=4)
    ids = shop.enqueue(*orders)
    until(lambda: len(sandbox.effects()) == 4, tell=nodes.worker.logs)

    nodes.worker.kill()
    successor = add_worker()
    until(lambda: shop.states() == ["succeeded"] * 4, tell=successor.logs)

    assert {each.order_id: 1 for each in orders} == effects_by_order(sandbox)
    hosts = [nodes.worker.container.id[:12], successor.container.id[:12]]
    assert dict.fromkeys(ids, hosts) == shop.hosts_by_command()


def test_a_rolling_restart_costs_no_attempt(nodes, add_worker, shop, sandbox, captures, until):
    """A deploy takes one worker after the other; its calls in flight end, and the rest is the other's."""
    add_worker()
    sandbox.fault("delay", seconds=0.3, times=None)
    orders, exits = [], []

    for number, node in enumerate(nodes.worker_cluster):
        batch = captures(40, of=f"batch-{number}")
        orders += batch
        ids = shop.enqueue(*batch)
        until(lambda ids=ids: ids[0] in shop.hosts_by_command(), tell=node.logs)
        node.kill("SIGTERM")
        until(lambda node=node: not node.container.is_running, tell=node.logs)
        exits.append(node.container.exit_code)
        node.restart()
        until(lambda node=node: node.logs().count(" ready.") == 2, tell=node.logs)
    until(lambda: shop.states() == ["succeeded"] * 80, tell=nodes.worker.logs)

    assert [0, 0] == exits
    assert {each.order_id: 1 for each in orders} == effects_by_order(sandbox)
    assert {1} == {len(hosts) for hosts in shop.hosts_by_command().values()}


def test_three_workers_share_what_was_one_workers(nodes, add_worker, shop, sandbox, captures, until):
    """Whoever adds workers in a rush wants them to take part at once, and none to do what another does."""
    sandbox.fault("delay", seconds=0.3, times=None)
    before, after = captures(100, of="before"), captures(200, of="after")
    shop.enqueue(*before)
    until(sandbox.effects, tell=nodes.worker.logs)

    added = [add_worker() for _ in range(2)]
    shop.enqueue(*after)
    until(lambda: shop.states() == ["succeeded"] * 300, tell=nodes.worker.logs)

    assert {each.order_id: 1 for each in (*before, *after)} == effects_by_order(sandbox)
    hosts = shop.hosts_by_command().values()
    assert {1} == {len(each) for each in hosts}
    assert {node.container.id[:12] for node in (nodes.worker, *added)} == {host for each in hosts for host in each}
