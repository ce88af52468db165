"""The published quotas as data: `settings/rates.toml`, and an installation's own file laid over it.

Decides the form of such a file and what is refused in it. Leaves what a quota means to `domain.quota`, and which
account lives under which table to the settings.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .domain.quota import ANY_KIND, Quota, RateTable

FILE_NAME = "rates.toml"

#: The words for a provider's two systems, as an account's `environment` has them.
ENVIRONMENTS = ("production", "playground")

#: The table of a provider's accounts that name none.
TABLE_BY_PROVIDER: Mapping[str, str] = {"klarna": "klarna-v1", "bluesnap": "bluesnap"}

_KEYS = ("first", "max_in_flight", "categories", *ENVIRONMENTS)

#: A quota for a partner and one for an acquiring partner.
_BOTH_LEVELS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRates:
    """One table of the file."""

    name: str
    max_in_flight: int
    by_environment: Mapping[str, RateTable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """All tables, by name."""

    tables: Mapping[str, PublishedRates]


def read_rates(files: Sequence[Path], problems: list[str]) -> Rates:
    """Read files, each laid over the ones before it, table by table; what is wrong is added to `problems`."""
    tables: dict[str, PublishedRates] = {}
    for file in files:
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            problems.append(f"{file} cannot be read: {error.strerror}")
            continue
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            problems.append(f"{file} is not valid TOML: {error}")
            continue
        for name, table in content.items():
            found = list(_problems(table))
            problems += [f"{file}: {name}{problem}" for problem in found]
            if not found:
                tables[name] = _published(name, table)

    return Rates(tables=tables)


def _problems(table: Any) -> Iterator[str]:
    if not isinstance(table, dict):
        yield f" must be a table with {', '.join(_KEYS)}"
        return
    for key in table:
        if key not in _KEYS:
            yield f".{key} is not known; there are {', '.join(_KEYS)}"
    first, most = table.get("first", []), table.get("max_in_flight")
    if not isinstance(first, list) or not all(isinstance(kind, str) for kind in first):
        yield ".first must be a list of kinds, such as ['capture']"
    if not _is_whole(most) or most == 0:
        yield ".max_in_flight must be a whole number, at least 1"
    categories = table.get("categories")
    if not isinstance(categories, dict) or ANY_KIND not in categories or not all(map(_is_name, categories.values())):
        yield f'.categories must give kinds their category by name, and "{ANY_KIND}" that of all others'
    for environment in ENVIRONMENTS:
        quotas = table.get(environment)
        if not isinstance(quotas, dict):
            yield f".{environment} must be a table of categories and quotas, which may be empty"
            continue
        for category, quota in quotas.items():
            if not _is_name(category) or not _is_quota(quota):
                yield (
                    f".{environment}.{category} must be a whole number of commands a second, 0 or more, or a pair "
                    "[partner, acquiring partner] of them"
                )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and "/" not in value


def _is_quota(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, list) and len(value) == _BOTH_LEVELS and all(map(_is_whole, value)))


def _published(name: str, table: Mapping[str, Any]) -> PublishedRates:
    return PublishedRates(
        name=name,
        max_in_flight=table["max_in_flight"],
        by_environment={
            environment: RateTable(
                name=name,
                category_by_kind=table["categories"],
                quota_by_category={category: _quota(value) for category, value in table[environment].items()},
                first=frozenset(table.get("first", ())),
                has_levels=any(isinstance(value, list) for value in table[environment].values()),
            )
            for environment in ENVIRONMENTS
        },
    )


def _quota(value: int | Sequence[int]) -> Quota:
    if isinstance(value, int):
        return Quota(partner=float(value))

    return Quota(partner=float(value[0]), acquiring_partner=float(value[1]))
