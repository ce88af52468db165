"""Years, months and days to choose from, without asking a million rows which of them occur.

Decides that every date between the first and the last command is offered, and which ids a period can have: an id of
version 7 begins with the moment at which it was made, in milliseconds.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.formats import date_format

#: An id carries the clock of the process that enqueued, the row that of the database; no two clocks that can still
#: speak TLS differ by so much.
_CLOCKS_DIFFER = timedelta(days=1)

#: Where the moment stands in an id: in its first 48 bits.
_MOMENT_SHIFT = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A year, a month of it, or a day of that."""

    year: int
    month: int | None = None
    day: int | None = None

    @property
    def begins_at(self) -> datetime:
        """Its first moment, in the project's time zone."""
        return timezone.make_aware(datetime(self.year, self.month or 1, self.day or 1))  # noqa: DTZ001  # made aware here

    @property
    def ends_at(self) -> datetime:
        """The first moment after it."""
        last_month = self.month or 12
        last_day = self.day or calendar.monthrange(self.year, last_month)[1]

        return timezone.make_aware(datetime(self.year, last_month, last_day) + timedelta(days=1))  # noqa: DTZ001  # as above


def period_of(parameters: Mapping[str, Any], field: str) -> Period | None:
    """Return what an address asks for; None for everything, or for what is no date."""
    names = [parameters.get(f"{field}__{part}") for part in ("year", "month", "day")]
    try:
        year, month, day = (None if each is None else int(each) for each in names)
        if year is None:
            return None
        period = Period(year=year, month=month, day=day if month else None)
        return period if period.begins_at < period.ends_at else None
    except (ValueError, OverflowError, TypeError):
        return None  # Django refuses it in its own words


def ids_around(period: Period) -> tuple[UUID, UUID]:
    """Return the ids between which all commands of a period are, with others of a day before and after."""
    return _id_at(period.begins_at - _CLOCKS_DIFFER), _id_at(period.ends_at + _CLOCKS_DIFFER)


def _id_at(moment: datetime) -> UUID:
    milliseconds = max(0, int(moment.timestamp() * 1_000))

    return UUID(int=min(milliseconds, 2**48 - 1) << _MOMENT_SHIFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dates:
    """What the date hierarchy shows: a way back, and what may be chosen next. In the shape of Django's template."""

    back: Mapping[str, str] | None
    choices: tuple[Mapping[str, str], ...]

    @classmethod
    def of(
        cls,
        chosen: Period | None,
        first: datetime | None,
        last: datetime | None,
        *,
        field: str,
        link: Callable[[dict[str, Any]], str],
    ) -> Dates:
        """Offer what lies between the first and the last row, one level below what is chosen."""
        if first is None or last is None:
            return cls(back=None, choices=())

        def to(period: Period) -> str:
            parts = {"year": period.year, "month": period.month, "day": period.day}
            return link({f"{field}__{name}": value for name, value in parts.items() if value is not None})

        offered = [
            {"title": _title(each), "link": to(each)}
            for each in _below(chosen, first, last)
            if each.begins_at <= last and each.ends_at > first
        ]
        if chosen is None:
            return cls(back=None, choices=tuple(offered))
        above = _above(chosen)
        back = (
            {"title": "All dates", "link": link({})} if above is None else {"title": _title(above), "link": to(above)}
        )

        return cls(back=back, choices=tuple(offered) or ({"title": _title(chosen)},))


def _below(chosen: Period | None, first: datetime, last: datetime) -> Iterator[Period]:
    match chosen:
        case None:
            yield from (Period(year=year) for year in range(first.year - 1, last.year + 2))
        case Period(month=None):
            yield from (Period(year=chosen.year, month=month) for month in range(1, 13))
        case Period(month=int(month), day=None):
            days = calendar.monthrange(chosen.year, month)[1]
            yield from (Period(year=chosen.year, month=month, day=day) for day in range(1, days + 1))
        case _:
            return


def _above(chosen: Period) -> Period | None:
    if chosen.day is not None:
        return Period(year=chosen.year, month=chosen.month)
    if chosen.month is not None:
        return Period(year=chosen.year)

    return None


def _title(period: Period) -> str:
    if period.month is None:
        return str(period.year)
    form = "YEAR_MONTH_FORMAT" if period.day is None else "MONTH_DAY_FORMAT"

    return str(date_format(timezone.localtime(period.begins_at), form))
