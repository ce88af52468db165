"""The image as nodes of pytest-celery: workers and a broker that a test may kill, restart and add to.

Decides of what a setup consists: workers from the project's own image, as locked down as in docker-compose.yml; Redis
or RabbitMQ, new for each test; a PostgreSQL and a sandbox with a certificate, both for all tests, with a database and
an empty world for each. The shop that enqueues is this process. Fixtures of pytest-celery are named one by one: its
plugin would put them into every test of the project.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass

import docker
import pytest
import trustme
from pytest_celery import (
    CeleryTestWorker,
    CeleryWorkerContainer,
    RabbitMQContainer,
    RedisContainer,
    celery_broker,
    celery_broker_cluster,
    celery_broker_cluster_config,
    celery_rabbitmq_broker,
    celery_redis_broker,
    celery_setup,
    celery_setup_cls,
    celery_setup_config,
    celery_setup_name,
    celery_setup_worker,
    celery_worker,
    celery_worker_cluster,
    celery_worker_cluster_config,
    default_worker_app,
    default_worker_cls,
)
from pytest_docker_tools import container, fxtr, network, volume
from sqlalchemy import make_url, select

from worker import Capture
from worker.config import load
from worker.domain.commands import Command
from worker.sandbox import SandboxControl
from worker.service import inspect
from worker.store.schema import attempt, command, ticket, ticket_command
from worker.wiring import Services, build_celery

#: What pytest finds here besides what is written below.
__all__ = [
    "celery_broker",
    "celery_broker_cluster",
    "celery_broker_cluster_config",
    "celery_rabbitmq_broker",
    "celery_redis_broker",
    "celery_setup",
    "celery_setup_cls",
    "celery_setup_config",
    "celery_setup_name",
    "celery_setup_worker",
    "celery_worker",
    "celery_worker_cluster",
    "celery_worker_cluster_config",
    "default_worker_app",
    "default_worker_cls",
]

POSTGRES_PASSWORD = secrets.token_hex(12)

#: The name that the sandbox is reached by, and its certificate is made out to.
PROVIDER = f"provider-{secrets.token_hex(4)}"
PROVIDER_URL = f"https://{PROVIDER}:8090"
CERTIFICATES = "/run/certificates"

#: As docker-compose.yml starts what is ours; but nobody asks for its health here.
HARDENED = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "healthcheck": {"test": ["NONE"]},
}

#: What workers and shop are told alike: the profile sandbox, with calls long enough to be killed in, and so few
#: of them in flight that one worker cannot take everything there is.
WAYS = {
    "POST_PURCHASE_PROFILE": "sandbox",
    "POST_PURCHASE_HTTP__MAX_IN_FLIGHT": "5",
    "POST_PURCHASE_HTTP__TOTAL_TIMEOUT_SECONDS": "4",
    "POST_PURCHASE_READ_BACK__PAUSE_SECONDS": "4.2",
    "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL": PROVIDER_URL,
    "POST_PURCHASE_ACCOUNTS__BLUESNAP_US__BASE_URL": PROVIDER_URL,
    "POST_PURCHASE_LOG__FORMAT": "json",
}


@pytest.fixture
def rungs():
    """The ladder, with the waits of production."""
    return (5, 300, 18000)


@pytest.fixture
def ways(rungs):
    return {**WAYS, "POST_PURCHASE_RETRY__LADDER_SECONDS": ",".join(map(str, rungs))}


# ----------------------------------------------------------------------------------------------- containers for all


@pytest.fixture(scope="session")
def docker_client(request):
    # pytest-docker-tools reads an option of its plugin, which is not loaded: containers are always new.
    request.config.option.reuse_containers = False
    client = docker.from_env()
    yield client
    client.close()


default_pytest_celery_network = network(scope="session")

postgresql = container(
    scope="session",
    image="postgres:17-alpine",
    environment={"POSTGRES_PASSWORD": POSTGRES_PASSWORD},
    ports={"5432/tcp": ("127.0.0.1", None)},
    network="{default_pytest_celery_network.name}",
    timeout=60,
)


@pytest.fixture(scope="session")
def postgresql_server(postgresql):
    """The server in its container, as it is reached from here: databases are made on it as on any other."""
    port = postgresql.ports["5432/tcp"][0]

    return f"postgresql+psycopg://postgres:{POSTGRES_PASSWORD}@127.0.0.1:{port}/postgres"


@pytest.fixture(scope="session")
def certificates():
    """The files of a certificate for the sandbox, and of who signed it."""
    authority = trustme.CA()
    issued = authority.issue_cert(PROVIDER)

    return {
        "ca.pem": authority.cert_pem.bytes(),
        "cert.pem": issued.cert_chain_pems[0].bytes(),
        "key.pem": issued.private_key_pem.bytes(),
    }


certificate_folder = volume(scope="session", initial_content=fxtr("certificates"))

provider = container(
    scope="session",
    name=PROVIDER,
    image="{image}",
    command=[
        *("post-purchase", "sandbox", "--host", "0.0.0.0", "--create-orders", "100000"),  # noqa: S104  # in a container
        *("--certificate", f"{CERTIFICATES}/cert.pem", "--key", f"{CERTIFICATES}/key.pem"),
    ],
    environment={"POST_PURCHASE_PROFILE": "sandbox"},
    volumes={"{certificate_folder.name}": {"bind": CERTIFICATES, "mode": "ro"}},
    ports={"8091/tcp": ("127.0.0.1", None)},
    network="{default_pytest_celery_network.name}",
    timeout=60,
    **HARDENED,
)


@pytest.fixture
def sandbox(provider):
    """The provider, driven from here, with nothing in it."""
    control = SandboxControl(f"http://127.0.0.1:{provider.ports['8091/tcp'][0]}")
    control.reset()

    return control


# ---------------------------------------------------------------------------------------------------------- brokers


class RabbitMQ(RabbitMQContainer):
    @property
    def ready_prompt(self):
        """What every release says; the log line that is waited for otherwise goes to a file with some."""
        return "Starting broker... completed"


def stable_port(number):
    """A fixture: the port of a container, published at one that stays the same over a restart."""

    @pytest.fixture
    def ports(free_port):
        return {number: ("127.0.0.1", free_port())}

    return ports


redis_ports = stable_port("6379/tcp")
rabbitmq_ports = stable_port("5672/tcp")

default_redis_broker = container(
    image="redis:7-alpine",
    command=RedisContainer.command(),
    ports=fxtr("redis_ports"),
    network="{default_pytest_celery_network.name}",
    wrapper_class=RedisContainer,
    timeout=60,
)

default_rabbitmq_broker = container(
    image="rabbitmq:4",
    ports=fxtr("rabbitmq_ports"),
    network="{default_pytest_celery_network.name}",
    wrapper_class=RabbitMQ,
    timeout=120,
)


@pytest.fixture
def celery_backend_cluster():
    """None: the database is the record."""


@pytest.fixture
def celery_backend_cluster_config():
    return None


# ---------------------------------------------------------------------------------------------------------- workers


class Worker(CeleryWorkerContainer):
    """The project's own image as it is: it is told in its environment what others are told, and no file is put in."""

    @classmethod
    def worker_name(cls):
        return "celery"

    @property
    def is_running(self):
        self.reload()

        return self.status == "running"

    @property
    def exit_code(self):
        return self.attrs["State"]["ExitCode"]


@pytest.fixture
def default_worker_env(ways, celery_worker_cluster_config, postgresql, postgresql_url):
    (broker_url,) = celery_worker_cluster_config["celery_broker_cluster_config"]["urls"]
    database = make_url(postgresql_url).set(drivername="postgresql", host=postgresql.id[:12], port=5432)

    return {
        **ways,
        "POST_PURCHASE_DATABASE__URL": database.render_as_string(hide_password=False),
        "POST_PURCHASE_BROKER__URL": broker_url,
        "POST_PURCHASE_HTTP__CA_FILE": f"{CERTIFICATES}/ca.pem",
    }


WORKER = {
    "image": "{image}",
    "environment": fxtr("default_worker_env"),
    "volumes": {"{certificate_folder.name}": {"bind": CERTIFICATES, "mode": "ro"}},
    "network": "{default_pytest_celery_network.name}",
    "wrapper_class": Worker,
    "timeout": 60,
    **HARDENED,
}

default_worker_container = container(**WORKER)
second_worker_container = container(**WORKER)
third_worker_container = container(**WORKER)


@pytest.fixture
def add_worker(request, celery_setup):
    """Start the second worker, and at the next call the third; the node, once it takes messages."""
    names = iter(("second_worker_container", "third_worker_container"))

    def add_worker():
        node = CeleryTestWorker(request.getfixturevalue(next(names)), celery_setup.app)
        assert node.ready()
        celery_setup.worker_cluster.nodes = (*celery_setup.worker_cluster.nodes, node)

        return node

    return add_worker


@pytest.fixture
def celery_setup_app(shop):
    """An app that looks at workers, as Flower's does."""
    return build_celery("observer", shop.services.settings)


@pytest.fixture
def nodes(celery_setup, provider):
    """A worker and its broker, ready."""
    assert celery_setup.ready()

    return celery_setup


# ------------------------------------------------------------------------------------------------------------- shop


@dataclass(frozen=True)
class Shop:
    """Enqueues as a host does, and looks at what has become of it."""

    services: Services

    def enqueue(self, *commands: Command) -> list[uuid.UUID]:
        """Store and publish commands in one transaction."""
        with self.services.store.engine.begin() as connection:
            return [each.id for each in self.services.enqueue(connection, commands)]

    def show(self, command_id: uuid.UUID) -> dict[str, object]:
        with self.services.store.read() as transaction:
            return inspect.show(
                transaction, command_id, accounts=self.services.accounts, fallback=self.services.fallback
            )

    def states(self) -> list[str]:
        return [state for (state,) in self._rows(select(command.c.state))]

    def hosts_by_command(self) -> dict[uuid.UUID, list[str]]:
        """For each command, on which workers' hosts its attempts were made, in their order."""
        hosts: dict[uuid.UUID, list[str]] = {}
        for command_id, holder in self._rows(select(attempt.c.command_id, attempt.c.holder).order_by(attempt.c.number)):
            hosts.setdefault(command_id, []).append(holder.partition(":")[0])

        return hosts

    def tickets(self) -> list[tuple[str, str]]:
        """The reason and the state of each ticket, once for each command on it."""
        joined = select(ticket.c.reason, ticket.c.state).join(ticket_command, ticket_command.c.ticket_id == ticket.c.id)

        return [(reason, state) for reason, state in self._rows(joined)]

    def _rows(self, statement):
        with self.services.store.engine.connect() as connection:
            return connection.execute(statement).all()


@pytest.fixture
def captures():
    """So many captures, each of an order of its own."""

    def captures(count, *, of="order"):
        return [
            Capture(account="klarna-eu", order_id=f"{of}-{number}", amount=1000, reference=f"parcel-{number}")
            for number in range(count)
        ]

    return captures


@pytest.fixture
def shop(ways, celery_broker_cluster, postgresql_url):
    """This process, which tells the same database and broker at the addresses that they have from here."""
    broker = celery_broker_cluster[0].container
    # Its own `host_url` has another port where the tests run in a container themselves.
    [published] = [numbers[0] for numbers in broker.ports.values() if numbers]
    environment = {
        **ways,
        "POST_PURCHASE_DATABASE__URL": make_url(postgresql_url)
        .set(drivername="postgresql")
        .render_as_string(hide_password=False),
        "POST_PURCHASE_BROKER__URL": f"{broker.prefix()}127.0.0.1:{published}/{broker.vhost}",
    }
    services = Services(load(environ=environment))
    yield Shop(services)
    services.close()
