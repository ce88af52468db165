"""The pytest plugin `post_purchase`: a rehearsal as a fixture, with all that it is made of.

Decides what each test gets of its own: a sandbox on a port of its own, a clock, a database. Leaves what a rehearsal is
to `rehearsal`. pytest imports this module at each of its starts, so everything heavy is imported where it is used.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..sandbox import Sandbox
    from .rehearsal import FollowedClock, Rehearsal


@pytest.fixture
def post_purchase(
    post_purchase_engine: Engine,
    post_purchase_sandbox: Sandbox,
    post_purchase_clock: FollowedClock,
    post_purchase_accounts: Mapping[str, str | Mapping[str, object]],
    post_purchase_settings: Mapping[str, object],
) -> Iterator[Rehearsal]:
    """The whole worker in this process: `enqueue`, `run`, `state`, `show`, `commands`, `sandbox`, `clock`, `desk`."""
    from .rehearsal import Rehearsal  # noqa: PLC0415  # see above

    with Rehearsal(
        post_purchase_engine,
        sandbox=post_purchase_sandbox,
        clock=post_purchase_clock,
        accounts=post_purchase_accounts,
        settings=post_purchase_settings,
    ) as rehearsal:
        yield rehearsal


@pytest.fixture
def post_purchase_sandbox() -> Iterator[Sandbox]:
    """A provider that can fail on request: Klarna and BlueSnap on a free port of this machine."""
    from ..sandbox import Sandbox  # noqa: PLC0415  # see above

    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def post_purchase_clock(post_purchase_sandbox: Sandbox) -> FollowedClock:
    """The clock of the worker, its database and the sandbox; it stands still until it is moved."""
    from .rehearsal import FollowedClock  # noqa: PLC0415  # see above

    return FollowedClock(post_purchase_sandbox)


@pytest.fixture
def post_purchase_accounts() -> Mapping[str, str | Mapping[str, object]]:
    """The accounts and their providers. Override it with the names that your code uses."""
    return {"klarna": "klarna", "bluesnap": "bluesnap"}


@pytest.fixture
def post_purchase_settings() -> Mapping[str, object]:
    """Settings by dotted names, laid over the defaults. Override it where yours differ, such as in the ladder."""
    return {}


@pytest.fixture
def post_purchase_engine(tmp_path: Path, _post_purchase_template: Path) -> Iterator[Engine]:
    """A new SQLite database. Override it with the SQLAlchemy engine that your code commits to."""
    file = tmp_path / "post-purchase.db"
    shutil.copy(_post_purchase_template, file)
    engine = _engine(file)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _post_purchase_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the worker's tables, made once; each test copies it."""
    from ..resources import migrations_dir  # noqa: PLC0415  # see above
    from ..store import migrate  # noqa: PLC0415  # see above

    file = tmp_path_factory.mktemp("post-purchase") / "template.db"
    engine = _engine(file)
    migrate.upgrade(engine, migrations_dir())
    engine.dispose()

    return file


def _engine(file: Path) -> Engine:
    from ..store.engine import build_engine  # noqa: PLC0415  # see above

    wait = timedelta(seconds=5)

    return build_engine(
        f"sqlite:///{file}", pool_size=1, busy_timeout=wait, connect_timeout=wait, statement_timeout=wait
    )
