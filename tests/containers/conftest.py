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
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from worker.sandbox import SandboxControl

ROOT = Path(__file__).resolve().parents[2]
BASE_IMAGE = "python:3.13-slim"
OFFICIAL_IMAGES = (BASE_IMAGE, "postgres:17-alpine", "redis:7-alpine", "rabbitmq:4")

#: Every process that stays, and tells whether it is well.
SERVICES = ("postgres", "redis", "sandbox", "worker", "flower")

PULL_SECONDS = 300
BUILD_SECONDS = 600
UP_SECONDS = 300

#: Every test of this folder: it needs an engine, takes its time, and the first one waits for image and services.
MARKS = (pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(PULL_SECONDS + BUILD_SECONDS + UP_SECONDS))


def pytest_addoption(parser):
    parser.addoption("--short", action="store_true", help="only the container tests that are marked short")


def pytest_itemcollected(item):
    for mark in MARKS:
        item.add_marker(mark)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Skip this folder as a whole, in the same words, where it cannot be tried; others are not kept waiting."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    if ours and config.getoption("--short", default=False):
        left_out = [item for item in ours if item.get_closest_marker("short") is None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
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


def wait_until(fact: Callable[[], Any], *, within: float = 120.0, tell: Callable[[], object] = str) -> Any:
    """Return what `fact` returns once that is true; fail when it does not become so, with what there is to tell."""
    deadline = time.monotonic() + within
    while not (found := fact()):
        assert time.monotonic() < deadline, f"it did not come true within {within} s\n{tell()}"
        time.sleep(0.1)

    return found


def docker(*arguments: str, given: str | None = None, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Ask the engine; one that does not answer in time has failed."""
    command = ["docker", *arguments]
    # The classic builder is there wherever the engine is.
    environment = {"DOCKER_BUILDKIT": "0", **os.environ}
    try:
        return subprocess.run(
            command, env=environment, input=given, capture_output=True, text=True, check=False, timeout=seconds
        )
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

    def run(self, *arguments, seconds=120):
        """Run a verb of compose with the settings of the file alone: no developer's variable may change them."""
        return subprocess.run(
            [*self.command, "--project-name", self.project, "--env-file", str(self.env_file), *arguments],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "POST_"))},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def container(self, service):
        """The id of a service's container, whether it runs or not."""
        labels = {"com.docker.compose.project": self.project, "com.docker.compose.service": service}
        wanted = [part for name, value in labels.items() for part in ("--filter", f"label={name}={value}")]

        return succeeded(docker("ps", "--all", "--quiet", *wanted)).strip()

    def post_purchase(self, *arguments, given=None):
        """Run the command line inside the worker's container; its JSON."""
        inside = ("exec", "--interactive", self.container("worker"))

        return json.loads(succeeded(docker(*inside, "post-purchase", *arguments, "--json", given=given)))

    def enqueue(self, *commands):
        """Store commands as a shop would that writes a line for each; their ids."""
        lines = "".join(json.dumps(command) + "\n" for command in commands)

        return [row["id"] for row in self.post_purchase("enqueue", "-", given=lines)]

    def show(self, command_id):
        return self.post_purchase("show", command_id)

    def await_success(self, ids):
        def have_succeeded():
            listed = self.post_purchase("list", "--state", "succeeded", "--limit", "1000")
            return set(ids) <= {row["id"] for row in listed}

        wait_until(have_succeeded, tell=self.logs)

    def inspect(self, service, what):
        """What the engine knows of a service's container."""
        return json.loads(succeeded(docker("inspect", "--format", f"{{{{json {what}}}}}", self.container(service))))

    def crash(self, service):
        """Kill the main process of a service from outside, as a fault does; come back when it has been started again.

        `docker kill` would tell the engine that somebody wants the container to stay down.
        """
        pid, restarts = (self.inspect(service, what) for what in (".State.Pid", ".RestartCount"))
        outside = ("run", "--rm", "--pid", "host", "--user", "0", "--network", "none", BASE_IMAGE)
        succeeded(docker(*outside, "sh", "-c", f"kill -KILL {pid}"))
        wait_until(
            lambda: self.inspect(service, ".RestartCount") > restarts and self.inspect(service, ".State.Running"),
            tell=self.logs,
        )

    def logs(self):
        return self.run("logs", "--no-color", "--tail", "30").stdout

    def await_health(self):
        """Wait until every service says that it is well."""
        wait_until(
            lambda: {"healthy"} == {self.inspect(service, ".State.Health.Status") for service in SERVICES},
            within=UP_SECONDS,
            tell=self.logs,
        )

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


@pytest.fixture(scope="session")
def until():
    return wait_until


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The project's image, built from this checkout, or the one that is given to be tried."""
    if given := os.environ.get("POST_PURCHASE_TEST_IMAGE"):
        yield given
        return
    tag = f"post-purchase-worker:test-{secrets.token_hex(4)}"
    succeeded(docker("build", "--tag", tag, str(ROOT), seconds=BUILD_SECONDS))
    yield tag
    docker("image", "rm", "--force", tag)


@pytest.fixture(scope="session")
def added_bytes(image):
    """How much larger the image is than the one that it is made from."""
    size, base = (
        int(succeeded(docker("image", "inspect", "--format", "{{.Size}}", each))) for each in (image, BASE_IMAGE)
    )

    return size - base


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


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def free_port():
        with socket.create_server(("127.0.0.1", 0)) as one:
            return one.getsockname()[1]

    return free_port


@pytest.fixture(scope="session")
def settings(image, free_port) -> dict[str, str]:
    return {
        "COMPOSE_PROFILES": "sandbox",
        "POSTGRES_PASSWORD": secrets.token_hex(12),
        "FLOWER_BASIC_AUTH": "operator:looks",
        "FLOWER_PORT": str(free_port()),
        "SANDBOX_CONTROL_PORT": str(free_port()),
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
