"""What the Django project says of us: the one setting `POST_PURCHASE`, and the database it already has.

Decides which keys are Django's business (`profile`, `using`, `on_finished`) and that the worker's database is one of
`DATABASES`, so that nobody has to write its address twice. Every other key is one of ours, spelled as in a profile, and
is judged where all settings are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string
from sqlalchemy.engine import URL

from ...config import ConfigurationError, HostLayer, load
from ...wiring import Services
from .lending import DjangoServices

NAME = "POST_PURCHASE"

#: What Django's backend takes for itself out of OPTIONS; the rest is the driver's.
_DJANGOS_OWN = frozenset({"assume_role", "isolation_level", "pool", "server_side_binding"})

_services: dict[int, DjangoServices] = {}


def given() -> dict[str, Any]:
    """Return the setting as it stands in the project.

    Raises:
        ConfigurationError: It is no dictionary, or not one with names as keys.
    """
    found = getattr(settings, NAME, {})
    if not isinstance(found, Mapping):
        raise ConfigurationError([f"{NAME} must be a dictionary such as {{'accounts': {{...}}}}, not {found!r:.60}"])
    _demand_names(found, NAME)

    return dict(found)


def _demand_names(table: Mapping[Any, Any], place: str) -> None:
    for key, value in table.items():
        if not isinstance(key, str):
            raise ConfigurationError([f"{place}: {key!r} is no name of a setting; names are text"])
        if isinstance(value, Mapping):
            _demand_names(value, f"{place}[{key!r}]")


def using() -> str:
    """Return the alias of the database that holds the worker's tables.

    Raises:
        ConfigurationError: There is no such database, or it is of a kind that cannot hold them.
    """
    alias = str(given().get("using", DEFAULT_DB_ALIAS))
    if alias not in connections:
        known = ", ".join(sorted(connections))
        raise ConfigurationError([f"{NAME}: using is {alias!r}, which is not in DATABASES; there are {known}"])
    if connections[alias].vendor not in {"postgresql", "sqlite"}:
        vendor = connections[alias].vendor
        raise ConfigurationError([f"{NAME}: using is {alias!r}, which is {vendor}; it must be PostgreSQL or SQLite"])

    return alias


def on_finished() -> Callable[[Any], None] | None:
    """Return what the project wants to be called with each command that is final; None when it wants nothing.

    Raises:
        ConfigurationError: What it names cannot be imported or called.
    """
    path = given().get("on_finished")
    if path is None:
        return None
    try:
        found = import_string(path)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError([f"{NAME}: on_finished is {path!r}, which cannot be imported: {error}"]) from error
    if not callable(found):
        raise ConfigurationError([f"{NAME}: on_finished is {path!r}, which is no function"])

    hook: Callable[[Any], None] = found

    return hook


def layer() -> HostLayer:
    """Return what the project says as a layer of settings, its database included.

    Raises:
        ConfigurationError: What is Django's business in it cannot be used.
    """
    values = given()
    profile, _, hook = (values.pop(name, None) for name in ("profile", "using", "on_finished"))
    known = (("database", "url", _url(using())), ("host", "is_told", hook is not None))
    for table, name, value in known:
        given_table = values.get(table, {})
        if not isinstance(given_table, Mapping) or name in given_table:
            who = "DATABASES and `using` say" if name == "url" else "`on_finished` says"
            raise ConfigurationError([f"{NAME}: {table}.{name} is not given here; {who} it"])
        values[table] = {**given_table, name: value}

    return HostLayer(profile=None if profile is None else str(profile), values=values, place=NAME)


def _url(alias: str) -> str:
    """The address of one of Django's databases, as this process's own engine takes it.

    `settings_dict` and not `DATABASES`: under a test runner it names the test's database.
    """
    connection = connections[alias]
    given = connection.settings_dict
    if connection.vendor == "sqlite":
        name = str(given["NAME"])
        if name.startswith("file:"):
            return f"sqlite:///{name}{'&' if '?' in name else '?'}uri=true"
        return f"sqlite:///{name}"

    if "search_path" in str(given["OPTIONS"].get("options", "")):
        fix = "give the path to the role, which all connections share: ALTER ROLE … SET search_path = …"
        raise ConfigurationError([f"{NAME}: DATABASES[{alias!r}] sets search_path in its OPTIONS; {fix}"])

    host = str(given["HOST"] or "")
    query = {key: str(value) for key, value in given["OPTIONS"].items() if key not in _DJANGOS_OWN}
    if host.startswith("/"):
        query["host"], host = host, ""  # the folder of a socket
    url = URL.create(
        "postgresql",
        username=given["USER"] or None,
        password=given["PASSWORD"] or None,
        host=host or None,
        port=int(given["PORT"]) if given["PORT"] else None,
        database=given["NAME"] or None,
        query=query,
    )

    return url.render_as_string(hide_password=False)


def services() -> DjangoServices:
    """Return this process's services on Django's connection; a forked process makes its own.

    Raises:
        ConfigurationError: `POST_PURCHASE`, the environment or the profile cannot be used.
    """
    found = _services.get(os.getpid())
    if found is None:
        # Credentials are the workers' business. Two threads may both get here: one's is kept, and none holds anything.
        made = DjangoServices(load(require_credentials=False), using=using())
        found = _services.setdefault(os.getpid(), made)

    return found


def own_services() -> Services:
    """Return services on a connection of their own, for what outlives a request; the caller closes them.

    Raises:
        ConfigurationError: `POST_PURCHASE`, the environment or the profile cannot be used.
    """
    return Services(load(require_credentials=False))


def forget(*, setting: str, **_: object) -> None:
    """Let the next use read the settings again: a test has changed them."""
    if setting in {NAME, "DATABASES"}:
        _services.clear()
