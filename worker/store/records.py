"""Many rows in one parameter: a table-valued JSON argument, so that a batch of writes is one statement.

Decides how a list of values becomes a FROM clause on PostgreSQL (`jsonb_to_recordset`) and on SQLite
(`json_each`). Leaves the statements themselves to `statements`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import FromClause, Text, bindparam, column, func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from .schema import in_utc

#: Escapes in JSON: pairs of surrogates, which are one character; NUL and half a pair; any other.
_ESCAPED = re.compile(r"\\ud[89ab]..\\ud[c-f]..|(?P<refused>\\u(?:0000|d[89a-f]..))|\\.")

#: Name of the parameter that carries the rows.
ROWS = "rows"


def records(dialect: str, columns: Mapping[str, TypeEngine[Any]]) -> FromClause:
    """Return a FROM clause with these columns, fed by the parameter `ROWS`."""
    if dialect == "sqlite":
        each = func.json_each(bindparam(ROWS, type_=Text())).table_valued("value", name="each_row")
        extracted = [
            type_coerce(func.json_extract(each.c.value, f"$.{name}"), kind).label(name)
            for name, kind in columns.items()
        ]

        return select(*extracted).select_from(each).subquery("given")

    typed = [column(name, kind) for name, kind in columns.items()]
    given = func.jsonb_to_recordset(type_coerce(bindparam(ROWS, type_=Text()), Text()).cast(JSONB))

    return given.table_valued(*typed, name="given").render_derived(name="given", with_types=True)


def encode(dialect: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the parameter for `records`: ids, times and JSON values as the database stores them."""
    convert = _sqlite if dialect == "sqlite" else _postgresql

    return {ROWS: _storable(json.dumps(list(rows), default=convert, separators=(",", ":")))}


def _storable(encoded: str) -> str:
    """Put the replacement character for what PostgreSQL refuses in JSON, such as an answer may hold."""
    if "\\u" not in encoded:
        return encoded

    return _ESCAPED.sub(lambda found: r"\ufffd" if found["refused"] else found[0], encoded)


def _postgresql(value: Any) -> str:
    match value:
        case UUID():
            return str(value)
        case datetime():
            return in_utc(value).isoformat()
        case bytes():
            return f"\\x{value.hex()}"
    raise TypeError(type(value).__name__)


def _sqlite(value: Any) -> str:
    match value:
        case UUID():
            return value.hex
        case datetime():
            return in_utc(value).strftime("%Y-%m-%d %H:%M:%S.%f")
    raise TypeError(type(value).__name__)
