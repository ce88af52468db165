"""The image and the compose file as they are used: built, brought up under a name of their own, taken down again.

Skips only where no Docker engine answers or an official image cannot be had; anything else that goes wrong fails.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from worker.sandbox import SandboxControl

ROOT = Path(__file__).resolve().parents[2]
OFFICIAL_IMAGES = ("python:3.13-slim", "postgres:17-alpine", "redis:7-alpine")

#: Every process that stays, and tells whether it is well.
SERVICES = ("postgres", "redis", "sandbox", "worker", "flower")

PULL_SECONDS = 300
BUILD_SECONDS = 600
UP_SECONDS = 180

#: Every test of this folder: it needs an engine, takes its time, and the first one waits for image and services.
MARKS = (pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(PULL_SECONDS + BUILD_SECONDS + UP_SECONDS))


def pytest_itemcollected(item):
    for mark in MARKS:
        item.add_marker(mark)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Skip this folder as a whole, in the same words, where it cannot be tried; others are not kept waiting."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = what_is_missing() if ours else None
    if reason is not None:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


def what_is_missing() -> str | None:
    """Say why no container can be started here."""
    if shutil.which("docker") is None:
        return "Docker is not installed (no `docker` on the path)"
    if docker("info").returncode:
        return "no Docker engine answers (`docker info` failed)"
    for image in OFFICIAL_IMAGES:
        is_here = docker("image", "inspect", image).returncode == 0
        if not is_here and docker("pull", "--quiet", image, seconds=PULL_SECONDS).returncode:
            return f"the image {image} is neither here nor can it be pulled"

    return None


def _until(holds: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s for {what}", pytrace=False)
        time.sleep(0.2)


def docker(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Ask the engine; one that does not answer in time has failed."""
    command = ["docker", *arguments]
    # The classic builder is there wherever the engine is.
    environment = {"DOCKER_BUILDKIT": "0", **os.environ}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=f"no end after {seconds} s")


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        pytest.fail(f"{' '.join(done.args)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}", pytrace=False)
    return done.stdout


def compose_command() -> list[str]:
    """`docker compose`, or where only that is installed the `docker-compose` before it."""
    if docker("compose", "version").returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.fail("a Docker engine answers, but there is neither `docker compose` nor docker-compose", pytrace=False)


@dataclass(frozen=True)
class Compose:
    """The services of docker-compose.yml under a project name that nobody else has."""

    settings: Mapping[str, str]
    env_file: Path
    project: str = field(default_factory=lambda: f"post-purchase-test-{secrets.token_hex(4)}")
    command: Sequence[str] = field(default_factory=compose_command)

    def __post_init__(self):
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))

    def run(self, *arguments, given=None, seconds=120):
        """Run a verb of compose with the settings of the file alone: no developer's variable may change them."""
        return subprocess.run(
            [*self.command, "--project-name", self.project, "--env-file", str(self.env_file), *arguments],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "POST_"))},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def post_purchase(self, *arguments, given=None):
        """Run the command line inside the worker's container; its JSON."""
        said = succeeded(self.run("exec", "-T", "worker", "post-purchase", *arguments, "--json", given=given))

        return json.loads(said)

    def enqueue(self, *commands):
        """Store commands as a shop would that writes a line for each; their ids."""
        lines = "".join(json.dumps(command) + "\n" for command in commands)

        return [row["id"] for row in self.post_purchase("enqueue", "-", given=lines)]

    def show(self, command_id):
        return self.post_purchase("show", command_id)

    def await_success(self, ids, *, seconds=60):
        _until(
            lambda: {"succeeded"} == {self.show(each)["state"] for each in ids},
            "every command to succeed",
            seconds=seconds,
        )

    def inspect(self, service, what):
        """What the engine knows of a service's container."""
        container = succeeded(self.run("ps", "--all", "--quiet", service)).split()

        return json.loads(succeeded(docker("inspect", "--format", f"{{{{json {what}}}}}", *container)))

    def await_health(self):
        """Wait until every service says that it is well."""

        def is_healthy():
            return {"healthy"} == {self.inspect(service, ".State.Health.Status") for service in SERVICES}

        try:
            _until(is_healthy, "every service to be healthy", seconds=UP_SECONDS)
        except pytest.fail.Exception as failed:
            logs = self.run("logs", "--no-color", "--tail", "30").stdout
            pytest.fail(f"{failed}\n{logs}", pytrace=False)

    def get(self, path, *, authorization=None):
        """Ask Flower at its port of this host; the status of its answer."""
        headers = {} if authorization is None else {"Authorization": authorization}
        request = Request(f"http://127.0.0.1:{self.settings['FLOWER_PORT']}{path}", headers=headers)
        try:
            # A proxy that the environment names must not come between a test and its own machine.
            with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
                return answer.status
        except HTTPError as error:
            with error:
                return error.code


@pytest.fixture
def until():
    """Wait for a fact to come true, and fail if it does not."""
    return _until


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The project's image, built from this checkout."""
    tag = f"post-purchase-worker:test-{secrets.token_hex(4)}"
    succeeded(docker("build", "--tag", tag, str(ROOT), seconds=BUILD_SECONDS))
    yield tag
    docker("image", "rm", "--force", tag)


@pytest.fixture(scope="session")
def run_image(image):
    """Run a command in a container of its own, with nothing but a writable /tmp."""

    def run_image(*command):
        locked = ("--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL")
        return docker("run", *locked, image, *command)

    return run_image


@pytest.fixture(scope="session")
def image_facts(image):
    """What the image says of itself."""
    return json.loads(succeeded(docker("image", "inspect", "--format", "{{json .Config}}", image)))


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()

    return ports


@pytest.fixture(scope="session")
def settings(image) -> dict[str, str]:
    flower, control = free_ports(2)

    return {
        "COMPOSE_PROFILES": "sandbox",
        "POSTGRES_PASSWORD": secrets.token_hex(12),
        "FLOWER_BASIC_AUTH": "operator:looks",
        "FLOWER_PORT": flower,
        "SANDBOX_CONTROL_PORT": control,
        "POST_PURCHASE_IMAGE": image,
    }


@pytest.fixture(scope="session")
def compose(settings, tmp_path_factory) -> Iterator[Compose]:
    """Every service of the profile sandbox, up and healthy; taken down with its volumes at the end."""
    compose = Compose(settings, tmp_path_factory.mktemp("compose") / "env")
    try:
        succeeded(compose.run("up", "--detach", "--no-build", seconds=UP_SECONDS))
        compose.await_health()
        yield compose
    finally:
        compose.run("down", "--volumes", "--remove-orphans", "--timeout", "20", seconds=UP_SECONDS)


@pytest.fixture
def control(compose, settings) -> SandboxControl:
    """The sandbox of the services, driven from this host."""
    return SandboxControl(f"http://127.0.0.1:{settings['SANDBOX_CONTROL_PORT']}")


@pytest.fixture
def effects_on(control):
    """What the provider did to an order, by kind."""

    def effects_on(order_id):
        return [effect["kind"] for effect in control.effects() if effect["order_id"] == order_id]

    return effects_on
