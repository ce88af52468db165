"""Each port in its real and in its shipped form, each with a way to see what has reached the other side."""

from __future__ import annotations

import json
import socket
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import redis
from celery import Celery
from structlog.testing import capture_logs

from worker.desks.log import LogDesk
from worker.ports import Request
from worker.providers.transport import CurlTransport
from worker.publish import CeleryPublisher
from worker.sandbox import Sandbox
from worker.testing import ManualClock, RecordingDesk, RecordingPublisher, SandboxTransport

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TOTAL_TIMEOUT = 1.0
KEY = "Klarna-Idempotency-Key"


# --- transports --------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Line:
    """A transport with the sandbox at its other end: `world` makes orders and faults, `site` is the sandbox's port.

    `pause` lets a moment pass in which the sandbox may work.
    """

    transport: object
    base_url: str
    world: object
    site: object
    pause: object

    def start(self, method="GET", path="", *, body=None, key=None, repeatable=True, password="sandbox", tag=None):
        tag = tag or uuid4()
        headers = {"Accept": "application/json"} | ({KEY: key} if key else {})
        request = Request(
            method=method,
            url=f"{self.base_url}/ordermanagement/v1/orders/{path}",
            headers=headers,
            body=None if body is None else json.dumps(body).encode(),
            authorization="Basic " + b64encode(f"sandbox:{password}".encode()).decode(),
            repeatable=repeatable,
        )
        self.transport.send(tag, request)

        return tag

    def ask(self, *args, **options):
        """Send one request, wait for what comes of it."""
        tag = self.start(*args, **options)

        return self.end()[tag]

    def end(self):
        ended = {}
        give_up_at = time.monotonic() + 20
        while self.transport.in_flight and time.monotonic() < give_up_at:
            ended.update(self.transport.collect(0.5))

        return ended

    def capture(self, order_id, amount=1000, **options):
        return self.ask("POST", f"{order_id}/captures", body={"captured_amount": amount}, **options)


@pytest.fixture
def curl_line():
    with Sandbox() as sandbox:
        transport = CurlTransport(connect_timeout=5.0, total_timeout=TOTAL_TIMEOUT)
        yield Line(
            transport=transport,
            base_url=sandbox.base_url,
            world=sandbox,
            site=sandbox,
            pause=lambda: time.sleep(0.02),
        )
        transport.close()


@pytest.fixture
def sandbox_line():
    clock = ManualClock(NOON)
    transport = SandboxTransport(clock=clock, total_timeout=TOTAL_TIMEOUT)

    def pause():
        clock.advance(timedelta(seconds=0.02))
        transport.settle()

    yield Line(
        transport=transport,
        base_url="http://127.0.0.1:8090",
        world=transport.world,
        site=transport,
        pause=pause,
    )
    transport.close()


@pytest.fixture(params=["curl", "sandbox"])
def line(request):
    return request.getfixturevalue(f"{request.param}_line")


@pytest.fixture
def order_id(line):
    return line.world.create_order(amount=10_000)["order_id"]


# --- publishers --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A message as it lies at the broker."""

    task: str
    ids: tuple[UUID, ...]
    label: str
    has_countdown: bool


@dataclass(kw_only=True)
class Wire:
    """A publisher, a broker that can go away, and a look at what lies there."""

    publisher: object
    lying: object
    go_away: object
    pass_time: object


@dataclass
class Ticking:
    seconds: float = 1_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def celery_wire(broker_server):
    prefix = f"contract-{uuid4()}:"
    ticking = Ticking()
    app = Celery("contract", set_as_current=False)
    app.conf.update(
        broker_url=broker_server,
        broker_transport_options={
            "global_keyprefix": prefix,
            "socket_timeout": 2.0,
            "socket_connect_timeout": 2.0,
            "max_retries": 0,  # kombu's own tries for a connection, two seconds apart
        },
        task_ignore_result=True,
    )
    publisher = CeleryPublisher(app, rate=50, pause=30.0, held=2, monotonic=ticking)
    looking = redis.Redis.from_url(broker_server)

    def lying():
        queues = [f"{prefix}{name}" for name in ("post-purchase.execute", "post-purchase.upkeep")]
        raw = [each for queue in queues for each in reversed(looking.lrange(queue, 0, -1))]

        return [_delivered(json.loads(each)) for each in raw]

    def go_away():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        app.conf.broker_url = f"redis://127.0.0.1:{port}/0"

    def pass_time(seconds):
        ticking.seconds += seconds

    yield Wire(publisher=publisher, lying=lying, go_away=go_away, pass_time=pass_time)
    app.close()
    looking.close()


def _delivered(message):
    (argument,), _, _ = json.loads(b64decode(message["body"]))
    headers = message["headers"]

    return Delivered(
        task=headers["task"].removeprefix("post-purchase."),
        ids=tuple(UUID(each) for each in ([argument] if isinstance(argument, str) else argument)),
        label=headers["argsrepr"],
        has_countdown=headers["eta"] is not None,
    )


@pytest.fixture
def recording_wire():
    clock = ManualClock(NOON)
    publisher = RecordingPublisher(clock=clock, held=2)

    def lying():
        return [
            Delivered(task=each.task, ids=each.ids, label=each.label, has_countdown=each.countdown is not None)
            for each in publisher.waiting
        ]

    def go_away():
        publisher.is_away = True

    return Wire(
        publisher=publisher,
        lying=lying,
        go_away=go_away,
        pass_time=lambda seconds: clock.advance(timedelta(seconds=seconds)),
    )


@pytest.fixture(params=["celery", "recording"])
def broker(request):
    return request.getfixturevalue(f"{request.param}_wire")


# --- desks -------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Counter:
    """A desk, and the ids of the tickets that it was told of."""

    desk: object
    told: object


@pytest.fixture
def log_counter():
    with capture_logs() as entries:
        yield Counter(desk=LogDesk(), told=lambda: [each["ticket_id"] for each in entries])


@pytest.fixture
def recording_counter():
    desk = RecordingDesk()

    return Counter(desk=desk, told=lambda: [str(each.case_file.ticket_id) for each in desk.told])


@pytest.fixture(params=["log", "recording"])
def counter(request):
    return request.getfixturevalue(f"{request.param}_counter")
