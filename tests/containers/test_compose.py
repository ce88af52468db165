from __future__ import annotations

import base64

import pytest


def command(kind, order_id, **fields):
    return {"kind": kind, "account": "klarna-eu", "order_id": order_id, "reference": f"{kind}-1", **fields}


def capture(order_id):
    return command("capture", order_id, amount=1000)


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_the_doctor_finds_everything_well(compose):
    """It is the first thing an operator runs, and it looks at all that a command needs on its way."""
    report = compose.post_purchase("check")

    assert report["ok"]
    assert {"ok"} == {finding["status"] for finding in report["checks"]}


def test_each_command_has_one_effect(compose, effects_on):
    """This is what all the containers are for."""
    order_id = "compose-life"
    commands = [command("acknowledge", order_id), capture(order_id), command("refund", order_id, amount=400)]

    compose.await_success(compose.enqueue(*commands))

    assert ["acknowledge", "capture", "refund"] == sorted(effects_on(order_id))


def test_the_same_reference_again_is_the_same_command(compose, effects_on):
    """A shop that is unsure whether it has asked must be able to ask again."""
    order_id = "compose-twice"
    first = compose.enqueue(capture(order_id))
    compose.await_success(first)

    second = compose.enqueue(capture(order_id))

    assert first == second
    assert ["capture"] == effects_on(order_id)


def test_a_lost_reply_costs_a_retry_and_no_second_capture(compose, control, effects_on):
    """The money has moved and nobody was told: the one case that a plain retry gets wrong."""
    order_id = "compose-lost-reply"
    control.fault("hang", order_id=order_id, executed=True)

    (command_id,) = compose.enqueue(capture(order_id))
    compose.await_success([command_id])

    assert ["in_doubt", "succeeded"] == [attempt["outcome"] for attempt in compose.show(command_id)["attempts"]]
    assert ["capture"] == effects_on(order_id)


@pytest.mark.parametrize("service", ["postgres", "redis", "sandbox", "worker", "flower"])
def test_a_kill_costs_commands_in_flight_nothing_but_time(compose, control, effects_on, until, service):
    """Whatever dies is started again by the engine, and finds in the database what was under way."""
    orders = [f"compose-{service}-{number}" for number in range(5)]
    # Nobody answers the first two calls of each. A sandbox keeps nothing: what it had done would be forgotten.
    control.fault("hang", executed=service != "sandbox", path=f"compose-{service}-", times=2 * len(orders))
    ids = compose.enqueue(*map(capture, orders))
    until(lambda: len([each for each in control.requests() if f"compose-{service}-" in each["path"]]) >= len(orders))

    compose.crash(service)
    compose.await_success(ids)

    assert {order_id: ["capture"] for order_id in orders} == {order_id: effects_on(order_id) for order_id in orders}


def test_a_stop_lets_the_call_in_flight_end(compose, control, until):
    """A deploy must not turn a capture that is under way into one that nobody knows about."""
    order_id = "compose-stopped"
    control.fault("slow_body", order_id=order_id, seconds=1)
    (command_id,) = compose.enqueue(capture(order_id))
    until(lambda: any(order_id in request["path"] for request in control.requests()))

    stopped = compose.run("stop", "worker")
    exit_code = compose.inspect("worker", ".State.ExitCode")
    started = compose.run("start", "worker")

    assert (0, 0, 0) == (stopped.returncode, exit_code, started.returncode)
    shown = compose.show(command_id)
    assert ("succeeded", 1) == (shown["state"], shown["attempts_count"])


def test_flower_shows_nothing_to_strangers(compose):
    """It names orders, and is the first door that a stranger tries."""
    user, password = compose.settings["FLOWER_BASIC_AUTH"].split(":")

    assert 401 == compose.get("/")
    assert 401 == compose.get("/api/workers", authorization=basic(f"{user}:not-{password}"))
    assert 200 == compose.get("/api/workers", authorization=basic(f"{user}:{password}"))


@pytest.mark.parametrize("service", ["postgres", "redis", "sandbox", "worker", "flower"])
def test_each_container_can_do_little_harm(compose, service):
    """Whoever breaks into one finds nothing to write to and no way to more rights."""
    limits = compose.inspect(service, ".HostConfig")

    assert limits["ReadonlyRootfs"]
    assert ["ALL"] == limits["CapDrop"]
    assert ["no-new-privileges:true"] == limits["SecurityOpt"]


@pytest.mark.parametrize("service", ["flower", "sandbox"])
def test_ports_are_open_to_this_host_only(compose, service):
    """Docker opens a port past the host's own firewall unless it is told the address."""
    bindings = compose.inspect(service, ".HostConfig.PortBindings")

    assert {"127.0.0.1"} == {binding["HostIp"] for each in bindings.values() for binding in each}


@pytest.mark.parametrize("name", ["COMPOSE_PROFILES", "POSTGRES_PASSWORD", "FLOWER_BASIC_AUTH"])
def test_a_setting_that_is_missing_is_named(compose, tmp_path, name):
    """An empty password that nobody noticed would be an open door."""
    without = {key: value for key, value in compose.settings.items() if key != name}

    done = type(compose)(without, tmp_path / "env").run("config")

    assert 0 != done.returncode
    assert f"set {name} to " in done.stderr
