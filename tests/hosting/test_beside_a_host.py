"""The wheel beside a host project that owns the same top-level names and has an Alembic of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from worker.resources import migrations_dir
from worker.store import migrate

NEWEST = migrate.newest(migrations_dir())
ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("worker", "migrations", "settings", "pyproject.toml", "LICENSE", "README.md")

HOST = {
    "settings/__init__.py": "OWNER = 'host'\n",
    "tests/__init__.py": "OWNER = 'host'\n",
    "migrations/__init__.py": "OWNER = 'host'\n",
    "models.py": """
from sqlalchemy import Column, Integer, MetaData, Table

metadata = MetaData()
parcel = Table("shop_parcel", metadata, Column("number", Integer, primary_key=True))
""",
    # With the `include_name` that keeps our tables out of a host's autogenerate.
    "migrations/env.py": """
import os
from alembic import context
from sqlalchemy import create_engine
from models import metadata

def include_name(name, type_, parent_names):
    return type_ != "table" or not name.startswith("post_purchase_")

engine = create_engine(os.environ["SHOP_DATABASE"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, include_name=include_name)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
""",
    "migrations/script.py.mako": """
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
""",
    "migrations/versions/1000_parcels.py": """
import sqlalchemy as sa
from alembic import op

revision = "1000"
down_revision = None

def upgrade():
    op.create_table("shop_parcel", sa.Column("number", sa.Integer, primary_key=True))

def downgrade():
    op.drop_table("shop_parcel")
""",
}

#: Runs in the host's folder: both schemas on one database, then what each side sees of the other.
BESIDE = """
import json, os
import migrations, settings, tests, worker
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

import models
from worker.resources import migrations_dir, settings_dir
from worker.store import migrate

config = Config()
config.set_main_option("script_location", "migrations")
engine = create_engine(os.environ["SHOP_DATABASE"])
told = {
    "owners": [settings.OWNER, migrations.OWNER, tests.OWNER],
    "worker": worker.__file__, "data": [str(settings_dir()), str(migrations_dir())],
}

def versions():
    with engine.connect() as connection:
        return {
            name: connection.execute(text(f"SELECT version_num FROM {name}")).scalar()
            for name in ("alembic_version", "post_purchase_schema_version")
            if inspect(connection).has_table(name)
        }

def host_sees():
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        return sorted({str(change[1]) for change in compare_metadata(context, models.metadata)})

command.upgrade(config, "head")
migrate.upgrade(engine, migrations_dir())
told["versions"] = versions()
told["we_see"] = migrate.differences(engine)
told["host_sees_without_include_name"] = host_sees()
command.check(config)  # raises when autogenerate would write anything

migrate.downgrade(engine, migrations_dir(), to="base")
told["after_ours_went"] = [versions(), sorted(inspect(engine).get_table_names())]
migrate.upgrade(engine, migrations_dir())
command.downgrade(config, "base")
told["after_the_hosts_went"] = [versions(), migrate.differences(engine)]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what installing the wheel would put on the path."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")

    return target / "site"


@pytest.fixture
def project(tmp_path):
    """A host project with its own `settings`, `migrations` and `tests`, and an Alembic of its own."""
    for name, content in HOST.items():
        place = tmp_path / "host" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)

    return tmp_path / "host"


@pytest.fixture
def told(installed, project, database_url):
    """What the host finds out; on SQLite in an empty database, on PostgreSQL after our schema is there."""
    url = f"sqlite:///{project}/shop.db" if database_url.startswith("sqlite") else database_url
    done = subprocess.run(
        [sys.executable, "-B", "-c", BESIDE],
        cwd=project,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(project), str(installed)]),
            "SHOP_DATABASE": url,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    return json.loads(done.stdout.splitlines()[-1])


def test_a_host_project_stays_untouched_beside_the_wheel(told, installed, project):
    """Whoever installs us keeps their own packages, their own tables and their own history."""
    assert ["host"] * 3 == told["owners"]
    assert str(installed / "worker" / "__init__.py") == told["worker"]
    assert [str(installed / "worker" / name) for name in ("_settings", "_migrations")] == told["data"]

    both = {"alembic_version": "1000", "post_purchase_schema_version": NEWEST}
    assert both == told["versions"]
    assert [] == told["we_see"]
    # Without `include_name`, the host's next autogenerate would drop every payment.
    assert "post_purchase_command" in " ".join(told["host_sees_without_include_name"])

    hosts_own = {"alembic_version": "1000", "post_purchase_schema_version": None}
    assert [hosts_own, ["alembic_version", "post_purchase_schema_version", "shop_parcel"]] == told["after_ours_went"]
    assert [{"alembic_version": None, "post_purchase_schema_version": NEWEST}, []] == told["after_the_hosts_went"]
    assert ["1000_parcels.py"] == [each.name for each in (project / "migrations" / "versions").glob("*.py")]
