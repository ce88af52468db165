"""The wheel, installed into both host projects on every Python that it is for: `make hosts`."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from worker.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")

#: A venv with all that a host needs is filled from an index of packages.
INSTALL_SECONDS = 600
pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(INSTALL_SECONDS + 120)]

#: What is not ours is not looked at: the hosts' own packages do not warn.
QUIET = ("-W", "ignore")

DJANGO_SHIPS = """
import worker
assert "site-packages" in worker.__file__, worker.__file__
from django.db import transaction
from shop import models, orders
from worker.contrib.django.models import Command

class Thinks(Exception):
    pass

try:
    with transaction.atomic():
        models.Order.objects.create(number="0", klarna_id="k-0", amount=1000)
        orders.ship("0")
        raise Thinks
except Thinks:
    pass
assert (0, 0) == (models.Order.objects.count(), Command.objects.count())
models.Order.objects.create(number="1", klarna_id="k-1", amount=1000)
orders.ship("1")
"""

FLASK_SHIPS = """
import worker
assert "site-packages" in worker.__file__, worker.__file__
from bookshop import create_app
from bookshop.extensions import db, post_purchase
from worker import Capture
from sqlalchemy import text

app = create_app()
with app.app_context():
    post_purchase.enqueue(Capture(account="klarna-eu", order_id="k-0", amount=1000, reference="parcel-0"))
    db.session.rollback()
    assert 0 == db.session.scalar(text("SELECT count(*) FROM post_purchase_command"))
client = app.test_client()
number = client.post("/orders", json={"klarna_id": "k-1", "amount": 1000}).json["order"]
client.post(f"/orders/{number}/ship")
"""


@dataclass(frozen=True)
class Host:
    """A host project: what is installed, what it runs, and how its own end of the story is seen."""

    extra: str
    packages: tuple[str, ...]
    prepares: tuple[tuple[str, ...], ...]
    ships: tuple[str, ...]
    works: tuple[str, ...]
    database: str
    ended: str


HOSTS = {
    "django_shop": Host(
        extra="django",
        packages=(),
        prepares=(("manage.py", "migrate"), ("manage.py", "check", "--database", "default")),
        ships=("manage.py", "shell", "-v", "0", "-c", DJANGO_SHIPS),
        works=("-m", "celery", "-A", "worker.contrib.django", "worker", "--concurrency", "1"),
        database="shop.sqlite3",
        ended="SELECT state = 'paid' FROM shop_order",
    ),
    "flask_shop": Host(
        extra="flask",
        packages=("flask-migrate",),
        prepares=(
            ("-m", "flask", "--app", "bookshop", "post-purchase", "db", "upgrade"),
            ("-m", "flask", "--app", "bookshop", "db", "upgrade"),
        ),
        ships=("-c", FLASK_SHIPS),
        works=(
            *("-m", "celery", "--app", "bookshop.celery_app", "worker", "--concurrency", "1"),
            *("--queues", "bookshop,post-purchase.execute,post-purchase.upkeep"),
        ),
        database="instance/bookshop.db",
        ended="SELECT mailed_from IS NOT NULL FROM bookshop_order",
    ),
}


def interpreter(version):
    """Find a Python of this version on the path or among pyenv's; None where there is none that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    asks = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for each in filter(None, found):
        # Version managers leave names on the path that only print an error.
        asked = subprocess.run([each, "-c", asks], capture_output=True, text=True, check=False)
        if asked.stdout.strip() == version:
            return each

    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built once, as `make wheel` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=ROOT)
    [wheel] = folder.glob("*.whl")

    return wheel


def installed(found, *packages, folder):
    """Make an environment with these packages and return its interpreter.

    It needs no pip of its own, and what is never imported need not be compiled.
    """
    run(found, "-m", "venv", "--without-pip", str(folder / "venv"), cwd=folder)
    python = str(folder / "venv" / "bin" / "python")
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-compile", "--constraint", str(ROOT / "constraints.txt"), *packages, cwd=folder)

    return python


def run(*words, cwd, **environment):
    done = subprocess.run(
        words, cwd=cwd, env={**inherited(), **environment}, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, f"{words}\n{done.stdout}{done.stderr}"


def inherited():
    """What a process is told that has nothing to do with this checkout."""
    ours = ("PYTHON", "POST_PURCHASE_", "DJANGO_", "FLASK_", "SHOP_")

    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@contextmanager
def running(python, words, *, project, environment):
    with (project / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [python, *QUIET, *words],
            cwd=project,
            env={**inherited(), **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield worker
    finally:
        os.killpg(worker.pid, signal.SIGTERM)
        worker.wait(timeout=30)


def ends(worker, host, project):
    """Wait until the host itself knows how its order ended."""
    gives_up = time.monotonic() + 60
    while True:
        with closing(sqlite3.connect(project / host.database, timeout=10)) as connection:
            if connection.execute(host.ended).fetchall() == [(1,)]:
                return
        assert worker.poll() is None, (project / "worker.log").read_text()
        assert time.monotonic() < gives_up, (project / "worker.log").read_text()
        time.sleep(0.1)


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("name", HOSTS)
def test_a_host_installs_the_wheel_and_works(name, version, wheel, tmp_path, broker_server):
    """What works from a checkout may lack a file in the wheel, or a line that an older Python understands."""
    found = interpreter(version)
    if found is None:
        pytest.skip(f"no Python {version} on the path or among pyenv's versions")
    host, project = HOSTS[name], tmp_path / name
    shutil.copytree(
        ROOT / "tests" / "hosts" / name, project, ignore=shutil.ignore_patterns("__pycache__", "instance", "*.sqlite3")
    )
    python = installed(found, f"{wheel}[{host.extra}]", *host.packages, folder=tmp_path)

    with Sandbox(create_orders=100_000) as sandbox:
        environment = {
            "DJANGO_SETTINGS_MODULE": "settings",
            "SHOP_BROKER_URL": broker_server,
            "SHOP_KEY_PREFIX": f"{tmp_path.name}:",
            "SHOP_KLARNA_URL": sandbox.base_url,
            "FLASK_CELERY__broker_url": broker_server,
            "FLASK_CELERY__broker_transport_options": f'{{"global_keyprefix": "{tmp_path.name}:"}}',
            "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL": sandbox.base_url,
        }
        for words in (*host.prepares, host.ships):
            run(python, *QUIET, *words, cwd=project, **environment)
        with running(python, host.works, project=project, environment=environment) as worker:
            ends(worker, host, project)

        assert ["k-1"] == [each["order_id"] for each in sandbox.effects()]
