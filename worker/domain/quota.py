"""How much a provider lets through in a second: what is published, what it says in headers, and what follows.

Decides which quotas bound a command, how the headers `X-Ratelimit-*` are read, which quota counts when the published
one and the provider's own word differ, and how long a bucket keeps still after a 429. Pure: how a quota is shared by
processes is `limits`, which quotas are published stands in `settings/rates.toml`.

A *bucket* is what one quota fills: one level of one category at one data centre. A command counts in the bucket of its
account (Klarna's "partner") and, where the account has one, in that of its acquiring partner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .errors import PostPurchaseError

LIMIT_HEADER = "x-ratelimit-limit"
REMAINING_HEADER = "x-ratelimit-remaining"
RESET_HEADER = "x-ratelimit-reset"

#: Stands in a rate table for every kind that it does not name.
ANY_KIND = "*"

#: No provider says so much; a longer header is not taken apart.
_LONGEST_HEADER = 4_096

#: Above it a number is nonsense, and below it all arithmetic is exact.
_HIGHEST_QUOTA = 1_000_000

#: The longest window that a per-second quota may be derived from.
_LONGEST_WINDOW = 86_400

#: Doubling ends here; every cap is reached long before.
_MOST_DOUBLINGS = 30


class KindNotAllowed(PostPurchaseError):
    """The provider's quota for this kind of command is 0 at this level: it is not for this account to ask."""


class Level(StrEnum):
    """Whose quota it is."""

    PARTNER = "partner"  # the account's own
    ACQUIRING_PARTNER = "acquiring_partner"  # shared by all accounts of one acquiring partner


#: How the provider's names of policies begin → the level that is meant.
_LEVEL_BY_PREFIX: Mapping[str, Level] = {"account_": Level.PARTNER, "psp_": Level.ACQUIRING_PARTNER}


# --- what is published -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Commands a second in one category. None: none is published, so only what the provider says bounds it."""

    partner: float | None
    acquiring_partner: float | None = None

    def at(self, level: Level) -> float | None:
        """Return the quota of a level."""
        return self.partner if level is Level.PARTNER else self.acquiring_partner


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTable:
    """What a provider publishes for one environment.

    Attributes:
        name: The table's name in the settings.
        category_by_kind: Which category a kind counts in; `ANY_KIND` stands for the rest.
        quota_by_category: The published quotas.
        first: The kinds that go before the others where they share a bucket.
        has_levels: Whether there is a level of acquiring partners.
    """

    name: str
    category_by_kind: Mapping[str, str]
    quota_by_category: Mapping[str, Quota]
    first: frozenset[str] = frozenset()
    has_levels: bool = False

    def category(self, kind: str) -> str:
        """Name the category that a kind counts in."""
        return self.category_by_kind.get(kind) or self.category_by_kind[ANY_KIND]

    def quota(self, category: str) -> Quota:
        """Return a category's quota."""
        return self.quota_by_category.get(category, Quota(partner=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What one quota fills. `name` is the account's or the acquiring partner's; quotas are per data centre (`host`).

    `quota` is the published one, None where none is; `ceiling` is the installation's own, above which it never goes.
    """

    level: Level
    name: str
    category: str
    host: str
    quota: float | None = field(compare=False)
    ceiling: float | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Name the bucket in one word, the same in every process. No part holds a slash: see the settings' rules."""
        return f"{self.host}/{self.level}/{self.name}/{self.category}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRates:
    """The quotas that an account lives under."""

    account: str
    host: str
    table: RateTable
    acquiring_partner: str | None = None
    ceiling: float | None = None

    def buckets(self, kind: str) -> tuple[Bucket, ...]:
        """Return the buckets that a command of this kind counts in, its account's own first."""
        return self.buckets_of(self.table.category(kind))

    def buckets_of(self, category: str) -> tuple[Bucket, ...]:
        """Return the buckets of a category, the account's own first."""
        quota = self.table.quota(category)
        own = Bucket(
            level=Level.PARTNER,
            name=self.account,
            category=category,
            host=self.host,
            quota=quota.partner,
            ceiling=self.ceiling,
        )
        if self.acquiring_partner is None or not self.table.has_levels:
            return (own,)

        return (
            own,
            Bucket(
                level=Level.ACQUIRING_PARTNER,
                name=self.acquiring_partner,
                category=category,
                host=self.host,
                quota=quota.acquiring_partner,
            ),
        )

    def goes_first(self, kind: str) -> bool:
        """Whether a kind goes before the others where they share a bucket."""
        return kind in self.table.first

    def require_allowed(self, kind: str) -> None:
        """Refuse a kind whose published quota is 0.

        Raises:
            KindNotAllowed: The provider takes no command of this kind from this account.
        """
        for bucket in self.buckets(kind):
            if bucket.quota == 0:
                raise KindNotAllowed(
                    f"{kind} counts as {bucket.category}, and rate table {self.table.name} has a quota of 0 for it at "
                    f"the level {bucket.level}; ask the provider, or give account {self.account} another rate_table"
                )


# --- what the provider says --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaPolicy:
    """One policy of the header `X-Ratelimit-Limit`: so many in so many seconds, under the provider's name for it."""

    quota: int
    window_seconds: int
    name: str

    @property
    def per_second(self) -> float:
        """The same for one second."""
        return self.quota / self.window_seconds

    @property
    def level(self) -> Level | None:
        """The level that the name means; None when it names neither."""
        return next((level for prefix, level in _LEVEL_BY_PREFIX.items() if self.name.startswith(prefix)), None)

    @property
    def category(self) -> str:
        """The category in the name; what stands there is the provider's word and may be unknown here."""
        _, separator, rest = self.name.partition("_")

        return rest if separator and self.level is not None else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the quota headers of one answer said.

    Attributes:
        nearest: The quota that is nearest to exhaustion, the first item of the header.
        policies: One for each level that was checked.
        remaining: How many are left of the nearest.
        reset_seconds: When the nearest is whole again.
        unread: Pieces that follow no grammar known here; for a log line.
    """

    nearest: int | None = None
    policies: tuple[QuotaPolicy, ...] = ()
    remaining: int | None = None
    reset_seconds: int | None = None
    unread: tuple[str, ...] = ()

    @property
    def exhausted(self) -> Level | None:
        """The level whose quota is the nearest to exhaustion; None when that cannot be told."""
        levels = {policy.level for policy in self.policies if policy.quota == self.nearest}

        return levels.pop() if len(levels) == 1 else None

    def quota_by_bucket(self, rates: AccountRates, category: str) -> dict[Bucket, float]:
        """Say which bucket has which quota by the provider's word, given that the command counts in `category`.

        A policy that names another category of the table is about that one. A name that nobody here knows is about the
        command that was answered. A lone number is the account's own quota where there is but one level.
        """
        known = rates.table.quota_by_category
        found: dict[Bucket, float] = {}
        for policy in self.policies:
            about = policy.category if policy.category in known else category
            for bucket in rates.buckets_of(about):
                if bucket.level is policy.level:
                    found[bucket] = policy.per_second
        buckets = rates.buckets_of(category)
        if not self.policies and self.nearest is not None and len(buckets) == 1:
            found[buckets[0]] = float(self.nearest)

        return found


def observed(headers: Mapping[str, str]) -> Observation | None:
    """Read the quota headers of an answer, whose names are in lower case; None when there are none."""
    names = (LIMIT_HEADER, REMAINING_HEADER, RESET_HEADER)
    if not any(name in headers for name in names):
        return None
    unread: list[str] = []
    nearest, policies = _limit(headers.get(LIMIT_HEADER, ""), unread)

    return Observation(
        nearest=nearest,
        policies=policies,
        remaining=_lone_number(headers.get(REMAINING_HEADER), unread),
        reset_seconds=_lone_number(headers.get(RESET_HEADER), unread),
        unread=tuple(unread),
    )


def _limit(text: str, unread: list[str]) -> tuple[int | None, tuple[QuotaPolicy, ...]]:
    if len(text) > _LONGEST_HEADER:
        unread.append(f"{text[:40]}…")
        return None, ()
    nearest: int | None = None
    policies = []
    for position, item in enumerate(_split(text, ",")):
        if not item:
            continue
        policy = _policy(item)
        number = _number(item)
        if position == 0 and number is not None:
            nearest = number
        elif policy is not None:
            policies.append(policy)
        else:
            unread.append(item[:80])

    return nearest, tuple(policies)


def _policy(item: str) -> QuotaPolicy | None:
    number, *parameters = _split(item, ";")
    quota = _number(number)
    values = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        values[name.strip().lower()] = _unquoted(value.strip())
    window = _number(values.get("w", "1"))
    if quota is None or not values.get("name") or window is None or not 1 <= window <= _LONGEST_WINDOW:
        return None

    return QuotaPolicy(quota=quota, window_seconds=window, name=values["name"])


def _split(text: str, separator: str) -> list[str]:
    """Split outside of quotes; within them a backslash protects the character behind it."""
    parts, part = [], ""
    is_quoted = is_protected = False
    for character in text:
        if character == separator and not is_quoted:
            parts.append(part.strip())
            part = ""
            continue
        part += character
        if is_protected:
            is_protected = False
        elif character == "\\" and is_quoted:
            is_protected = True
        elif character == '"':
            is_quoted = not is_quoted

    return [*parts, part.strip()]


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':  # noqa: PLR2004  # a pair of quotes
        return value
    plain, is_protected = "", False
    for character in value[1:-1]:
        if character == "\\" and not is_protected:
            is_protected = True
            continue
        plain += character
        is_protected = False

    return plain


def _lone_number(text: str | None, unread: list[str]) -> int | None:
    if text is None:
        return None
    number = _number(text.strip())
    if number is None:
        unread.append(text[:80])

    return number


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_HIGHEST_QUOTA))):
        return None
    number = int(text)

    return number if number <= _HIGHEST_QUOTA else None


# --- what follows ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A quota as the provider last told it, and how many seconds ago that was."""

    quota: float
    age_seconds: float


def quota_in_force(
    configured: float | None, learned: Learned | None, *, keep_seconds: float, ceiling: float | None = None
) -> float | None:
    """Say which quota counts now: what was learned, and when nothing was heard for long, the configured one again.

    What was learned holds for `keep_seconds` and goes back to the configured value in as long again, evenly, so that
    nothing jumps; where nothing is configured, it holds for both. `ceiling` is never exceeded. None: nothing bounds it.
    """
    quota = configured
    if learned is not None and learned.age_seconds < 2 * keep_seconds:
        back = max(0.0, learned.age_seconds / keep_seconds - 1.0)
        quota = learned.quota if configured is None else learned.quota + (configured - learned.quota) * back
    if ceiling is None:
        return quota

    return ceiling if quota is None else min(quota, ceiling)


def back_off(count: int, *, base: float, cap: float, chance: float) -> float:
    """Seconds for which a bucket keeps still after its `count`th 429 in a row: exponential, with full jitter.

    `chance` is a number in [0, 1), drawn once for the bucket: all who share it slow down together.
    """
    doublings = min(max(count, 1) - 1, _MOST_DOUBLINGS)

    return chance * min(cap, base * float(2**doublings))
