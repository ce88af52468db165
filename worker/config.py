"""What a process is told: every key, the layers it can come from, and whether the values can work together.

Decides which layer wins (default.toml, then the profile, the environment, a host framework's settings, the
arguments), what each key may hold, and which combinations are unsafe. Every problem found is reported, not only the
first, and never with a secret in it.
A default stands in `settings/default.toml` and nowhere else; each layer carries only what was set in it.
Leaves to `wiring`, the one reader, what is built from the values.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    SecretStr,
    ValidationError,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from .domain.errors import PostPurchaseError
from .rates import FILE_NAME as RATES_FILE_NAME, TABLE_BY_PROVIDER, PublishedRates, Rates, read_rates
from .resources import settings_dir as packaged_settings

PREFIX = "POST_PURCHASE_"
PROFILE_NAME = f"{PREFIX}PROFILE"
#: Names with this start belong to the project's own tests and are no settings.
TEST_PREFIX = f"{PREFIX}TEST_"

#: Files of the settings folder that are no profiles: what lies under all of them, and what the providers publish.
_NO_PROFILES = frozenset({"default", "rates"})

#: Both providers forget an idempotency key after a day. A longer window would let a second payment through.
LONGEST_KEY_WINDOW_SECONDS = 86_400
#: Longer than anything a wait or a timeout is for, and short enough for date arithmetic.
LONGEST_SECONDS = 366 * 86_400

#: Where a value stands: the names of its tables, then its own.
Key = tuple[str, ...]
#: Stands in a `Key` for the name of any account.
ANY_ACCOUNT = "<name>"


class ConfigurationError(PostPurchaseError):
    """The settings cannot be used."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        Exception.__init__(self, self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


# ------------------------------------------------------------------------------------------- what a value looks like


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What a value has to be, in words, and how the text of the environment becomes one."""

    expects: str
    parse: Callable[[str], object] = str
    is_shown: bool = True  # False: a wrong value may hold a secret and is never repeated in a message


def redacted_url(url: str) -> str:
    """The URL without what would open a door: the password, and query parameters that are named like secrets."""
    return ";".join(_redacted_address(address) for address in re.split(r";(?=[\w+.-]+://)", url))


def _redacted_address(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    rest = re.sub(r"(?i)([?&][^=&]*(?:password|secret|token|key|sig)[^=&]*=)[^&]*", r"\1***", rest)
    # A password may itself hold an unescaped "@", "/" or "?": everything up to the last "@" counts as credentials.
    credentials, at, place = rest.rpartition("@")
    if not at:
        return f"{scheme}://{rest}"
    user, colon, _ = credentials.partition(":")
    # A user name alone is a token at some web services, and harmless in a database URL.
    shown = "***" if scheme.lower() in {"http", "https"} else f"{user}:***" if colon else user
    return f"{scheme}://{shown}@{place}"


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _webhook_url(value: str) -> str:
    is_plain_text = value.isascii() and value.isprintable() and not re.search(r"[\s\\]", value)
    if not is_plain_text or not value.lower().startswith(("https://", "http://")):
        raise ValueError("must be a URL that starts with https:// (or http:// and a loopback host)")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("must name a host, and if a port then one from 1 to 65535") from None
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password; those have keys of their own")
    if port == 0 or parts.netloc.endswith(":") or not re.fullmatch(r"[A-Za-z0-9.-]+|[0-9a-f:.]*:[0-9a-f:.]*", host):
        raise ValueError("must name a host, and if a port then one from 1 to 65535")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("must start with https://; http:// is for a loopback host (127.0.0.0/8, ::1, localhost)")
    return value


def _service_url(value: str) -> str:
    if "?" in value or "#" in value:
        raise ValueError("must not have a query or a fragment")
    return _webhook_url(value).rstrip("/")


#: How a database may be named, and the SQLAlchemy driver that is used for it.
_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
}


def _database_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in _DRIVERS:
        raise ValueError("must be a database URL that starts with postgresql:// or sqlite:///")
    url = f"{_DRIVERS[scheme]}://{rest}"
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        # Neither is chained: both may repeat parts of the URL.
        raise ValueError("cannot be read as a URL; special characters in a password are percent-encoded") from None
    return url


_BROKER_SCHEMES = (
    *("redis://", "rediss://", "redis+socket://", "sentinel://"),
    *("amqp://", "amqps://", "pyamqp://", "filesystem://", "memory://"),
)


def _broker_url(value: str) -> str:
    if not value.startswith(_BROKER_SCHEMES):
        raise ValueError(f"must be a broker URL that starts with one of {', '.join(_BROKER_SCHEMES)}")
    if re.search(r"(?i)[?&]ssl_cert_reqs=(?:CERT_)?(?:NONE|OPTIONAL)\b", value):
        raise ValueError("must not switch the verification of certificates off (ssl_cert_reqs)")
    return value


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "redis+socket://")):
        raise ValueError("must be a URL that starts with redis://, rediss:// or redis+socket://")
    return _broker_url(value)


def _secret(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("must not be empty")
    # A line break would end the header or the mail command that carries the secret.
    if not value.get_secret_value().isprintable():
        raise ValueError("must not hold line breaks or other control characters")
    return value


def _basic_user(value: SecretStr) -> SecretStr:
    if ":" in value.get_secret_value():
        raise ValueError("must not hold a colon, which ends the user name in HTTP basic authentication")
    return value


def _existing_file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f"names {str(value)!r}, which is not a file")
    return value


def _rising(value: tuple[float, ...]) -> tuple[float, ...]:
    if list(value) != sorted(set(value)):
        raise ValueError
    return value


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


Seconds = Annotated[
    float,
    Field(strict=True, gt=0, le=LONGEST_SECONDS),
    _Form(expects=f"a number of seconds, above 0 and at most {LONGEST_SECONDS}", parse=float),
]
KeyWindow = Annotated[
    float,
    Field(strict=True, gt=0, le=LONGEST_KEY_WINDOW_SECONDS),
    _Form(
        expects=f"a number of seconds, above 0 and at most {LONGEST_KEY_WINDOW_SECONDS}: providers forget a key then",
        parse=float,
    ),
]
Ladder = Annotated[
    tuple[Seconds, Seconds, Seconds],
    AfterValidator(_rising),
    _Form(expects="three numbers of seconds, above 0 and each above the one before", parse=_numbers),
]
Count = Annotated[int, Field(strict=True, ge=1), _Form(expects="a whole number, at least 1", parse=int)]
Retention = Annotated[int, Field(strict=True, ge=0), _Form(expects="a whole number of days, or 0 for ever", parse=int)]
Port = Annotated[
    int, Field(strict=True, ge=1, le=65_535), _Form(expects="a port, a whole number from 1 to 65535", parse=int)
]
FreePort = Annotated[
    int,
    Field(strict=True, ge=0, le=65_535),
    _Form(expects="a port, a whole number from 1 to 65535, or 0 for any free one", parse=int),
]
Switch = Annotated[bool, Field(strict=True), _Form(expects="true or false", parse=_switch)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$"), _Form(expects="a host name or an IP address")]
KeyPrefix = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9:_.-]{1,64}$"),
    _Form(expects="1 to 64 letters, digits or any of : _ . -"),
]
DatabaseUrl = Annotated[str, AfterValidator(_database_url), _Form(expects="a database URL", is_shown=False)]
BrokerUrl = Annotated[str, AfterValidator(_broker_url), _Form(expects="a broker URL", is_shown=False)]
RedisUrl = Annotated[str, AfterValidator(_redis_url), _Form(expects="a URL", is_shown=False)]
Share = Annotated[
    float,
    Field(strict=True, gt=0, le=1),
    _Form(expects="a share, above 0 and at most 1", parse=float),
]
Headroom = Annotated[
    float,
    Field(strict=True, ge=0, lt=1),
    _Form(expects="a share, at least 0 and below 1", parse=float),
]
#: A name that becomes part of a key which all processes share.
SharedName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9-]{1,64}$"),
    _Form(expects="1 to 64 of the characters a-z, 0-9 and -"),
]
RatesFile = Annotated[Path, AfterValidator(_existing_file), _Form(expects="the path of a file")]
ServiceUrl = Annotated[str, AfterValidator(_service_url), _Form(expects="a URL", is_shown=False)]
WebhookUrl = Annotated[str, AfterValidator(_webhook_url), _Form(expects="a URL", is_shown=False)]
Secret = Annotated[SecretStr, AfterValidator(_secret), _Form(expects="text", is_shown=False)]
BasicUser = Annotated[
    SecretStr, AfterValidator(_secret), AfterValidator(_basic_user), _Form(expects="text", is_shown=False)
]
SecretFile = Annotated[Path, _Form(expects="the path of a file", is_shown=False)]
CertificateFile = Annotated[Path, AfterValidator(_existing_file), _Form(expects="the path of a file")]
ArchiveFolder = Annotated[Path, _Form(expects="the path of a folder")]
Mailbox = Annotated[
    str,
    Field(pattern=r"^[^@\s,;<>]+@[^@\s,;<>]+$"),
    _Form(expects="a mail address such as payments@example.com, without a display name"),
]
Mailboxes = Annotated[
    tuple[Mailbox, ...],
    _Form(expects="mail addresses such as payments@example.com, without display names", parse=_parts),
]


# --------------------------------------------------------------------------------------------------------- the tables


class _Table(BaseModel):
    """A table of settings: fixed, complete, and safe to print."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redacted_url(value) if isinstance(value, str) else value


class DatabaseSettings(_Table):
    """Where commands are stored."""

    url: DatabaseUrl
    pooler: Literal["none", "transaction"]
    pool_size: Count
    busy_timeout_seconds: Seconds
    statement_timeout_seconds: Seconds
    connect_timeout_seconds: Seconds
    patience_seconds: Seconds


class BrokerSettings(_Table):
    """What carries the messages, and how little a publisher lets it cost."""

    url: BrokerUrl
    queue_type: Literal["classic", "quorum"]
    key_prefix: KeyPrefix | None = None  # none on a broker shared with a host's own Celery app that has none
    visibility_timeout_seconds: Seconds
    publish_timeout_seconds: Seconds
    publish_rate_per_second: Count
    publish_pause_seconds: Seconds
    socket_timeout_seconds: Seconds
    watch_seconds: Seconds


class RetrySettings(_Table):
    """When a failed attempt is repeated, and until when that is safe."""

    ladder_seconds: Ladder
    key_window_seconds: KeyWindow
    key_margin_seconds: Seconds
    throttle_base_seconds: Seconds
    throttle_cap_seconds: Seconds
    throttle_patience_seconds: Seconds


class BreakerSettings(_Table):
    """When an account is paused because its provider is ill, and how it is tried again."""

    failures: Count
    refusals: Count
    probe_seconds: Seconds
    probe_cap_seconds: Seconds
    interval_seconds: Seconds


class ReadBackSettings(_Table):
    """How the provider is read when it is not known what became of a command."""

    pause_seconds: Seconds
    absent_seconds: Seconds
    settle_every_seconds: Seconds
    settle_within_seconds: Seconds


class HttpSettings(_Table):
    """How a provider is called."""

    connect_timeout_seconds: Seconds
    total_timeout_seconds: Seconds
    max_in_flight: Count
    ca_file: CertificateFile | None = None


class LimitsSettings(_Table):
    """How the provider's quotas are shared and used."""

    place: Literal["auto", "redis", "database", "process"]
    redis_url: RedisUrl | None = None
    rates_file: RatesFile | None = None
    use: Share
    headroom: Headroom
    learned_seconds: Seconds
    back_off_base_seconds: Seconds
    back_off_cap_seconds: Seconds
    away_seconds: Seconds
    alarm_seconds: Seconds
    timeout_seconds: Seconds


class LeaseSettings(_Table):
    """How long a claim holds."""

    seconds: Seconds
    pacing_seconds: Seconds
    reserve_seconds: Seconds


class DispatchSettings(_Table):
    """How due commands are handed to the broker."""

    horizon_seconds: Seconds
    republish_seconds: Seconds
    batch_size: Count
    window: Count
    held_messages: Count
    interval_seconds: Seconds


class SweepSettings(_Table):
    """How what nobody looks after is found."""

    interval_seconds: Seconds
    batch_size: Count


class PruneSettings(_Table):
    """How long commands are kept after their end."""

    retention_days: Retention
    archive_folder: ArchiveFolder | None = None
    batch_size: Count
    pause_seconds: Seconds
    interval_seconds: Seconds


class ExecuteSettings(_Table):
    """How a task works through a batch."""

    batch_size: Count
    pump_seconds: Seconds
    record_delay_seconds: Seconds
    concurrency: Count


class EmailSettings(_Table):
    """The mail server of the desk `email`."""

    host: Host | None = None
    port: Port
    security: Literal["none", "starttls", "tls"]
    username: Secret | None = None
    username_file: SecretFile | None = None
    password: Secret | None = None
    password_file: SecretFile | None = None
    sender: Mailbox | None = None
    recipients: Mailboxes
    timeout_seconds: Seconds


class WebhookSettings(_Table):
    """The receiver of the desk `webhook`."""

    url: WebhookUrl | None = Field(default=None, repr=False)  # such URLs often carry a token in their path
    secret: Secret | None = None
    secret_file: SecretFile | None = None
    timeout_seconds: Seconds


class TicketSettings(_Table):
    """Where tickets go, and how often that is tried."""

    desk: Literal["log", "email", "webhook"]
    retry_base_seconds: Seconds
    retry_cap_seconds: Seconds
    append_interval_seconds: Seconds
    lease_seconds: Seconds
    email: EmailSettings
    webhook: WebhookSettings


class LogSettings(_Table):
    """How the process tells what it does."""

    format: Literal["json", "console"]
    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lowered)]


class HostSettings(_Table):
    """What a host that follows its commands is told."""

    is_told: Switch


class SandboxSettings(_Table):
    """Where the sandbox listens."""

    host: Host
    port: FreePort
    control_port: FreePort


class RegionHosts(_Table):
    """A provider's base URL for each region of a merchant account."""

    eu: ServiceUrl
    na: ServiceUrl
    oc: ServiceUrl


class KlarnaHosts(_Table):
    """Klarna's base URLs for money and for play."""

    production: RegionHosts
    playground: RegionHosts


class KlarnaSettings(_Table):
    """What is known of Klarna."""

    hosts: KlarnaHosts


class BlueSnapHosts(_Table):
    """BlueSnap's base URLs for money and for play; it knows no regions."""

    production: ServiceUrl
    playground: ServiceUrl


class BlueSnapSettings(_Table):
    """What is known of BlueSnap."""

    hosts: BlueSnapHosts
    key_window_seconds: KeyWindow


class ProvidersSettings(_Table):
    """The providers that an account can be at."""

    klarna: KlarnaSettings
    bluesnap: BlueSnapSettings


class AccountSettings(_Table):
    """A merchant account at a provider. What `base_url` was not given is filled in from region and environment."""

    provider: Literal["klarna", "bluesnap"]
    region: Literal["eu", "na", "oc"] | None = None
    environment: Literal["production", "playground"] | None = None
    base_url: ServiceUrl
    username: BasicUser | None = None
    username_file: SecretFile | None = None
    password: Secret | None = None
    password_file: SecretFile | None = None
    key_window_seconds: KeyWindow | None = None
    keyed: Switch = True  # an account is unkeyed only if its provider says so
    merchant_id: Count | None = None
    rate_table: SharedName | None = None
    acquiring_partner: SharedName | None = None
    max_in_flight: Count | None = None
    max_rate_per_second: Count | None = None


class Settings(_Table):
    """Everything a process is told. `profile` is the name it was loaded under, and `rates` are no keys either."""

    profile: str
    rates: InstanceOf[Rates]
    database: DatabaseSettings
    broker: BrokerSettings
    retry: RetrySettings
    read_back: ReadBackSettings
    breaker: BreakerSettings
    http: HttpSettings
    limits: LimitsSettings
    lease: LeaseSettings
    dispatch: DispatchSettings
    sweep: SweepSettings
    prune: PruneSettings
    execute: ExecuteSettings
    tickets: TicketSettings
    log: LogSettings
    host: HostSettings
    sandbox: SandboxSettings
    providers: ProvidersSettings
    accounts: Annotated[Mapping[str, AccountSettings], AfterValidator(MappingProxyType)]

    def rates_of(self, account: str) -> PublishedRates:
        """Return the rate table that an account lives under, for both of its provider's systems."""
        return self.rates.tables[_rate_table(self.accounts[account])]

    def environment_of(self, account: str) -> str:
        """Say which of its provider's systems an account is at; what is not its playground counts as production."""
        settings = self.accounts[account]
        hosts = getattr(self.providers, settings.provider).hosts.playground
        urls = hosts.model_dump().values() if isinstance(hosts, RegionHosts) else (hosts,)

        return settings.environment or ("playground" if settings.base_url in urls else "production")


# ----------------------------------------------------------------------------------------------------- names of keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key as the model declares it."""

    form: _Form
    is_optional: bool


def _declared(table: type[_Table], under: Key = ()) -> Iterator[tuple[Key, Setting]]:
    for name, field in table.model_fields.items():
        if get_origin(field.annotation) is Mapping:
            yield from _declared(get_args(field.annotation)[1], (*under, name, ANY_ACCOUNT))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, _Table):
            yield from _declared(field.annotation, (*under, name))
        elif under:
            form = _form_of(field.annotation, field.metadata)
            yield (*under, name), Setting(form=form, is_optional=not field.is_required())


def _form_of(annotation: object, metadata: Iterable[object]) -> _Form:
    for part in metadata:
        if isinstance(part, _Form):
            return part
    if get_origin(annotation) is Annotated:
        inner, *inner_metadata = get_args(annotation)
        return _form_of(inner, inner_metadata)
    if get_origin(annotation) in {Union, UnionType}:
        return _form_of(get_args(annotation)[0], ())
    return _Form(expects=f"one of {', '.join(get_args(annotation))}")


#: Every key there is; `ANY_ACCOUNT` stands for the name of an account.
SETTINGS: Mapping[Key, Setting] = MappingProxyType(dict(_declared(Settings)))
_TABLES = frozenset(key[:length] for key in SETTINGS for length in range(1, len(key)))


def dotted(key: Key) -> str:
    """The name of a key in a profile and in arguments."""
    return ".".join(key)


def environment_name(key: Key) -> str:
    """The name of a key in the environment."""
    return PREFIX + "__".join(part.upper().replace("-", "_") for part in key)


def _schema_key(key: Key) -> Key:
    return (key[0], ANY_ACCOUNT, *key[2:]) if key[:1] == ("accounts",) and len(key) > 1 else key


def _key_of(name: str) -> Key | None:
    """The key that a name of the environment means. Account names hold no underscores, so there is one at most."""
    body = name.removeprefix(PREFIX).lower()
    if body.startswith("accounts__"):
        account, _, field = body.removeprefix("accounts__").rpartition("__")
        key: Key = ("accounts", account.replace("_", "-"), field)
    else:
        key = tuple(body.split("__"))

    return key if _schema_key(key) in SETTINGS and environment_name(key) == name else None


def _unknown(name: str, nearest: str | None) -> str:
    hint = f"did you mean {nearest}?" if nearest else "docs/configuration.md lists what there is"
    return f"{name} is not a setting; {hint}"


def _nearest(name: str, candidates: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1)), None)


# -------------------------------------------------------------------------------------------------------- the layers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One value as one layer carries it. None takes away what the layers below have set."""

    key: Key
    value: object
    name: str  # what a person has to look for in order to change it


def _entries(table: Mapping[str, object], under: Key, place: str, problems: list[str]) -> Iterator[_Entry]:
    for part, value in table.items():
        key = (*under, part)
        schema_key = _schema_key(key)
        if schema_key in SETTINGS:
            yield _Entry(key=key, value=value, name=f"{place}{dotted(key)}")
        elif schema_key not in _TABLES:
            known = _TABLES if isinstance(value, Mapping) else SETTINGS
            account = key[1] if key[2:] else ANY_ACCOUNT
            nearest = _nearest(dotted(key), (dotted(other).replace(ANY_ACCOUNT, account) for other in known))
            problems.append(place + _unknown(dotted(key), nearest))
        elif isinstance(value, Mapping):
            yield from _entries(value, key, place, problems)
        else:
            problems.append(f"{place}{dotted(key)} is a table of settings and takes no value itself")


def _file_entries(file: Path, problems: list[str]) -> Iterator[_Entry]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{file} cannot be read: {error.strerror}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{file} is not valid TOML: {error}"]) from None
    except UnicodeDecodeError:
        raise ConfigurationError([f"{file} is not valid TOML: it is not UTF-8 text"]) from None

    return _entries(table, (), f"{file}: ", problems)


def _environment_entries(environ: Mapping[str, str], problems: list[str]) -> Iterator[_Entry]:
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name.startswith(TEST_PREFIX) or name == PROFILE_NAME:
            continue
        key = _key_of(name)
        if key is None:
            problems.append(_unknown(name, _nearest_in_environment(name)))
            continue
        setting = SETTINGS[_schema_key(key)]
        if not text and not setting.is_optional:
            problems.append(f"{name} is empty; give it a value or take it out of the environment")
            continue
        yield _Entry(key=key, value=_parsed(text, setting.form) if text else None, name=name)


def _parsed(text: str, form: _Form) -> object:
    try:
        return form.parse(text)
    except (ValueError, KeyError):
        return text  # validation refuses it, in the words of the key's form


def _nearest_in_environment(name: str) -> str | None:
    parts = name.upper().split("__")
    account = parts[1] if parts[2:] else ANY_ACCOUNT.upper()
    names = (environment_name(key).replace(ANY_ACCOUNT.upper(), account) for key in SETTINGS)
    # Compared without the prefix, which all of them share: with it, anything looks like anything.
    nearest = _nearest(name.upper().removeprefix(PREFIX), (other.removeprefix(PREFIX) for other in names))

    return PREFIX + nearest if nearest else None


def _host_entries(host: HostLayer, problems: list[str]) -> Iterator[_Entry]:
    entries = _entries(host.values, (), f"{host.place}: ", problems)

    return (entry for entry in entries if entry.value is not None)


def _argument_entries(overrides: Mapping[str, object], problems: list[str]) -> Iterator[_Entry]:
    for name, value in overrides.items():
        *tables, last = name.split(".")
        table: dict[str, object] = {last: value}
        for part in reversed(tables):
            table = {part: table}
        yield from (entry for entry in _entries(table, (), "argument ", problems) if entry.value is not None)


def _profile_file(profile: str, folder: Path) -> Path:
    if profile.endswith(".toml") or os.sep in profile:
        return Path(profile)
    names = sorted(file.stem for file in folder.glob("*.toml") if file.stem not in _NO_PROFILES)
    if profile not in names:
        known = ", ".join(names)
        raise ConfigurationError(
            [f"{profile!r} is not a profile ({PROFILE_NAME}): there are {known}, or give the path of a .toml file"]
        )
    return folder / f"{profile}.toml"


# -------------------------------------------------------------------------------------------------- layers to settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where the value of a key came from. The higher rank won."""

    rank: int
    name: str


_AnyTable = TypeVar("_AnyTable", bound=_Table)


class _Gathering:
    """The layers laid over one another, and what was found wrong with them."""

    def __init__(self, *, require_credentials: bool) -> None:
        self.problems: list[str] = []
        self._require_credentials = require_credentials
        self._values: dict[Key, object] = {}
        self._origins: dict[Key, _Origin] = {}
        self._layers = 0

    def lay(self, layer: Iterable[_Entry]) -> None:
        """Put a layer on top."""
        self._layers += 1
        for entry in layer:
            if entry.value is None:
                self._values.pop(entry.key, None)
            else:
                self._values[entry.key] = entry.value
                self._origins[entry.key] = _Origin(rank=self._layers, name=entry.name)

    def read_secret_files(self) -> None:
        """Replace each name of a secret file by what it holds, unless a higher layer gives the secret itself."""
        for file_key in [key for key in self._values if key[-1].endswith("_file")]:
            key = (*file_key[:-1], file_key[-1].removesuffix("_file"))
            if _schema_key(key) in SETTINGS:
                self._read_secret_file(file_key, key)

    def _read_secret_file(self, file_key: Key, key: Key) -> None:
        origin, path = self._origins[file_key], self._values[file_key]
        if key in self._values:
            given = self._origins[key]
            if given.rank == origin.rank:
                self.problems.append(f"{origin.name} and {given.name} exclude each other; give one of them")
                return
            if given.rank > origin.rank:
                del self._values[file_key]
                return
            del self._values[key]
        if not self._require_credentials or not isinstance(path, str | Path):
            return

        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.problems.append(f"{origin.name} names the file {str(path)!r}, which cannot be read: {why}")
        else:
            self._values[key] = SecretStr(text.removesuffix("\n").removesuffix("\r"))
            self._origins[key] = _Origin(rank=origin.rank, name=f"{origin.name}: the content of {str(path)!r}")

    def find_base_urls(self) -> None:
        """Give each account without a base URL the provider's own, by environment and, where it has some, region."""
        for account in self._account_names():
            at = ("accounts", account)
            names = (self._values.get((*at, field)) for field in _place_fields(self._values.get((*at, "provider"))))
            provider, *place = map(str, names)
            host = self._values.get(("providers", provider, "hosts", *place))
            if host is not None:
                self._values.setdefault((*at, "base_url"), host)

    def settings(self, profile: str, *, rates_file: Path) -> Settings:
        """The whole, or all problems at once. `rates_file` holds what the providers publish."""
        tables = {
            name: self._validated(field.annotation, (name,))
            for name, field in Settings.model_fields.items()
            if isinstance(field.annotation, type) and issubclass(field.annotation, _Table)
        }
        self._apply_rules(tables)
        accounts = {name: self._account(name) for name in self._account_names()}
        limits = tables["limits"]
        own = limits.rates_file if isinstance(limits, LimitsSettings) else None
        rates = read_rates([rates_file] if own is None else [rates_file, own], self.problems)
        self._demand_rate_tables(accounts, rates)
        if self.problems:
            raise ConfigurationError(self.problems)

        return Settings.model_validate({"profile": profile, "rates": rates, "accounts": accounts, **tables})

    def _demand_rate_tables(self, accounts: Mapping[str, AccountSettings | None], rates: Rates) -> None:
        for name, account in accounts.items():
            if account is None:
                continue
            table = rates.tables.get(_rate_table(account))
            if table is None:
                known = ", ".join(rates.tables)
                self.problems.append(
                    f"{self._name(('accounts', name, 'rate_table'))} is {_rate_table(account)!r}, which is no table of "
                    f"quotas; there are {known}, and limits.rates_file may name a file with others"
                )
            elif account.acquiring_partner is not None and not table.by_environment["production"].has_levels:
                self.problems.append(
                    f"{self._name(('accounts', name, 'acquiring_partner'))} has no meaning in the rate table "
                    f"{table.name}, which knows no level of acquiring partners; give the account another rate_table"
                )

    def _account_names(self) -> list[str]:
        return list(dict.fromkeys(key[1] for key in self._values if key[0] == "accounts"))

    def _validated(self, table: type[_AnyTable], under: Key) -> _AnyTable | None:
        values: dict[str, Any] = {}
        for key, value in self._values.items():
            if key[: len(under)] == under:
                *tables, name = key[len(under) :]
                inner = values
                for part in tables:
                    inner = inner.setdefault(part, {})
                inner[name] = value

        try:
            return table.model_validate(values)
        except ValidationError as error:
            self._report(error, under)
            return None

    def _report(self, error: ValidationError, under: Key) -> None:
        reported = set()
        for detail in error.errors(include_url=False):
            key = (*under, *(str(part) for part in detail["loc"]))
            while _schema_key(key) not in SETTINGS and _schema_key(key) not in _TABLES:
                key = key[:-1]  # from an item of a list to the list itself
            if key in reported:
                continue
            reported.add(key)
            if key in self._values:
                reason = str(detail.get("ctx", {}).get("error", "")) or self._expectation(key)
                self.problems.append(f"{self._name(key)} {reason}")
            elif not self._is_base_url_in_doubt(key):
                self.problems.append(_how_to_set(key, self._values.get((*key[:-1], "provider"))))

    def _expectation(self, key: Key) -> str:
        form = SETTINGS[_schema_key(key)].form
        got = f", got {_shown(self._values[key])}" if form.is_shown else ""

        return f"must be {form.expects}{got}"

    def _is_base_url_in_doubt(self, key: Key) -> bool:
        """A wrong provider, region or environment is reported itself; that no base URL follows from it is not news."""
        fields = _place_fields(self._values.get((*key[:-1], "provider")))
        return key[-1] == "base_url" and all((*key[:-1], field) in self._values for field in fields)

    def _name(self, *keys: Key) -> str:
        """What a person has to look for: of several keys, the one that the highest layer has set."""
        origins = [self._origins[key] for key in keys if key in self._origins]
        return max(origins, key=lambda origin: origin.rank).name if origins else dotted(keys[0])

    def _apply_rules(self, tables: Mapping[str, _Table | None]) -> None:
        for names, rule in _RULES:
            concerned = [tables[name] for name in names]
            if None not in concerned:
                self.problems += [f"{self._name(*breach.keys)}: {breach.reason}" for breach in rule(*concerned)]
        tickets = tables["tickets"]
        if isinstance(tickets, TicketSettings) and self._require_credentials:
            self.problems += _missing_desk_credentials(tickets)

    def _account(self, name: str) -> AccountSettings | None:
        under = ("accounts", name)
        if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
            first = self._name(next(key for key in self._values if key[:2] == under))
            self.problems.append(
                f"{first}: an account's name is 1 to 64 of the characters a-z, 0-9 and -, not {name!r}"
            )
            return None
        account = self._validated(AccountSettings, under)
        if account is None:
            return None
        if self._require_credentials:
            self._demand_credentials(account, under)
        return account

    def _demand_credentials(self, account: AccountSettings, under: Key) -> None:
        for field in ("username", "password"):
            file_key = (*under, f"{field}_file")
            # Where a file was named, either it was read or that it could not be is reported already.
            if getattr(account, field) is None and file_key not in self._values:
                self.problems.append(
                    f"{dotted(under)} has no {field}; give it in {environment_name((*under, field))}, "
                    f"or the path of a file that holds it in {environment_name(file_key)}"
                )


def _rate_table(account: AccountSettings) -> str:
    return account.rate_table or TABLE_BY_PROVIDER[account.provider]


def _place_fields(provider: object) -> tuple[str, ...]:
    """The fields of an account that name its provider's host, in the order of the hosts' tables."""
    has_regions = ("providers", str(provider), "hosts", "production") not in SETTINGS

    return ("provider", "environment", "region") if has_regions else ("provider", "environment")


def _how_to_set(key: Key, provider: object = None) -> str:
    if key[-1] == "base_url":
        others = "provider, region and environment" if "region" in _place_fields(provider) else "environment"
        return f"{dotted(key)} is not set: give it in {environment_name(key)}, or give the account's {others}"
    return f"{dotted(key)} is not set: give it in a profile, or as {environment_name(key)}"


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return _cut(repr(value))
        case list() | tuple():
            return _cut(f"[{', '.join(_shown(item) for item in value)}]")
        case Mapping():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _cut(text: str, *, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


# ------------------------------------------------------------------------------------ what values must be to each other


@dataclass(frozen=True, slots=True, kw_only=True)
class _Breach:
    """A rule that does not hold, and the keys that have a say in it."""

    keys: tuple[Key, ...]
    reason: str


def _order(low: tuple[Key, float], high: tuple[Key, float], why: str, *, may_equal: bool = False) -> Iterator[_Breach]:
    (low_key, low_value), (high_key, high_value) = low, high
    if low_value < high_value or (may_equal and low_value == high_value):
        return
    relation = "at least" if may_equal else "above"
    yield _Breach(
        keys=(high_key, low_key),
        reason=f"{dotted(high_key)} is {high_value:g} and must be {relation} {dotted(low_key)}, "
        f"which is {low_value:g}: {why}",
    )


def _retry_rules(retry: RetrySettings, lease: LeaseSettings) -> Iterator[_Breach]:
    yield from _order(
        (("lease", "seconds"), lease.seconds),
        (("retry", "key_margin_seconds"), retry.key_margin_seconds),
        "a request may leave as late as its lease allows, and must end before the provider forgets its key",
    )
    yield from _order(
        (("retry", "throttle_base_seconds"), retry.throttle_base_seconds),
        (("retry", "throttle_cap_seconds"), retry.throttle_cap_seconds),
        "the longest wait cannot be shorter than the first",
        may_equal=True,
    )


def _breaker_rules(breaker: BreakerSettings) -> Iterator[_Breach]:
    yield from _order(
        (("breaker", "probe_seconds"), breaker.probe_seconds),
        (("breaker", "probe_cap_seconds"), breaker.probe_cap_seconds),
        "the longest wait between two probes cannot be shorter than the first",
        may_equal=True,
    )


def _read_back_rules(read_back: ReadBackSettings, http: HttpSettings) -> Iterator[_Breach]:
    yield from _order(
        (("http", "total_timeout_seconds"), http.total_timeout_seconds),
        (("read_back", "pause_seconds"), read_back.pause_seconds),
        "a request may still be under way while it is read what became of it",
    )
    yield from _order(
        (("read_back", "pause_seconds"), read_back.pause_seconds),
        (("read_back", "absent_seconds"), read_back.absent_seconds),
        "what two readings found must still count when the command is sent again",
    )
    yield from _order(
        (("read_back", "settle_every_seconds"), read_back.settle_every_seconds),
        (("read_back", "settle_within_seconds"), read_back.settle_within_seconds),
        "what is pending is read at least once before it is given up",
    )


def _http_rules(http: HttpSettings) -> Iterator[_Breach]:
    yield from _order(
        (("http", "connect_timeout_seconds"), http.connect_timeout_seconds),
        (("http", "total_timeout_seconds"), http.total_timeout_seconds),
        "the whole takes at least as long as its beginning",
        may_equal=True,
    )


def _limits_rules(limits: LimitsSettings, broker: BrokerSettings) -> Iterator[_Breach]:
    yield from _order(
        (("limits", "back_off_base_seconds"), limits.back_off_base_seconds),
        (("limits", "back_off_cap_seconds"), limits.back_off_cap_seconds),
        "the longest back-off cannot be shorter than the first",
        may_equal=True,
    )
    is_redis = limits.redis_url is not None or broker.url.startswith(("redis://", "rediss://", "redis+socket://"))
    if limits.place == "redis" and not is_redis:
        yield _Breach(
            keys=(("limits", "place"), ("limits", "redis_url")),
            reason="limits.place is redis and the broker is none: give the URL of one in "
            f"{environment_name(('limits', 'redis_url'))}, or set limits.place to database",
        )


def _lease_rules(lease: LeaseSettings, http: HttpSettings) -> Iterator[_Breach]:
    terms = {
        ("lease", "pacing_seconds"): lease.pacing_seconds,
        ("http", "connect_timeout_seconds"): http.connect_timeout_seconds,
        ("http", "total_timeout_seconds"): http.total_timeout_seconds,
        ("lease", "reserve_seconds"): lease.reserve_seconds,
    }
    needed = sum(terms.values())
    if lease.seconds <= needed:
        spelled = " + ".join(f"{dotted(key)} {value:g}" for key, value in terms.items())
        yield _Breach(
            keys=(("lease", "seconds"), *terms),
            reason=f"lease.seconds is {lease.seconds:g} and must be above {needed:g} ({spelled}): "
            "a command could be claimed again while its request is still under way",
        )


def _dispatch_rules(dispatch: DispatchSettings, broker: BrokerSettings) -> Iterator[_Breach]:
    yield from _order(
        (("dispatch", "horizon_seconds"), dispatch.horizon_seconds),
        (("broker", "visibility_timeout_seconds"), broker.visibility_timeout_seconds),
        "the broker would deliver a message again while it is held for its countdown",
    )


def _ticket_rules(tickets: TicketSettings) -> Iterator[_Breach]:
    yield from _order(
        (("tickets", "retry_base_seconds"), tickets.retry_base_seconds),
        (("tickets", "retry_cap_seconds"), tickets.retry_cap_seconds),
        "the longest wait cannot be shorter than the first",
        may_equal=True,
    )
    timeouts = {"email": tickets.email.timeout_seconds, "webhook": tickets.webhook.timeout_seconds}
    if tickets.desk in timeouts:
        yield from _order(
            (("tickets", tickets.desk, "timeout_seconds"), timeouts[tickets.desk]),
            (("tickets", "lease_seconds"), tickets.lease_seconds),
            "two workers could open the same ticket",
        )
    email = tickets.email
    if email.security == "none" and email.host is not None and not _is_loopback(email.host):
        yield _Breach(
            keys=(("tickets", "email", "security"), ("tickets", "email", "host")),
            reason="tickets.email.security is none, which is for a loopback host (127.0.0.0/8, ::1, localhost); "
            "use starttls or tls",
        )
    yield from _desk_rules(tickets)


#: What the model leaves optional because only one desk needs it.
_NEEDED_BY_DESK: dict[str, tuple[str, ...]] = {
    "log": (),
    "email": ("host", "sender", "recipients"),
    "webhook": ("url",),
}


def _desk_rules(tickets: TicketSettings) -> Iterator[_Breach]:
    for name in _NEEDED_BY_DESK[tickets.desk]:
        key = ("tickets", tickets.desk, name)
        if not getattr(getattr(tickets, tickets.desk), name):
            yield _Breach(
                keys=(("tickets", "desk"),), reason=f"the desk {tickets.desk} needs a value: {_how_to_set(key)}"
            )


def _missing_desk_credentials(tickets: TicketSettings) -> Iterator[str]:
    email, webhook = tickets.email, tickets.webhook
    if tickets.desk == "webhook" and webhook.secret is None and webhook.secret_file is None:
        yield _missing_desk_credential("webhook", "secret", "signs what it sends")
    if tickets.desk == "email":
        has_user, has_password = email.username or email.username_file, email.password or email.password_file
        if has_user and not has_password:
            yield _missing_desk_credential("email", "password", "has a user name")
        if has_password and not has_user:
            yield _missing_desk_credential("email", "username", "has a password")


def _missing_desk_credential(desk: str, field: str, why: str) -> str:
    key = ("tickets", desk, field)
    return (
        f"{dotted(key)} is not set, and the desk {desk} {why}: give it in {environment_name(key)}, "
        f"or the path of a file that holds it in {environment_name((*key[:-1], f'{field}_file'))}"
    )


_RULES: tuple[tuple[tuple[str, ...], Callable[..., Iterator[_Breach]]], ...] = (
    (("http",), _http_rules),
    (("limits", "broker"), _limits_rules),
    (("retry", "lease"), _retry_rules),
    (("breaker",), _breaker_rules),
    (("read_back", "http"), _read_back_rules),
    (("lease", "http"), _lease_rules),
    (("dispatch", "broker"), _dispatch_rules),
    (("tickets",), _ticket_rules),
)


# --------------------------------------------------------------------------------------------------------------- load


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLayer:
    """What a host framework's own settings say.

    Attributes:
        profile: Name of the profile below it, if the host names one.
        values: Nested as in a profile.
        place: Where a person finds them, such as `POST_PURCHASE`.
    """

    profile: str | None
    values: Mapping[str, object]
    place: str


#: Asked at each `load` of this process for what its host framework says; None where there is none.
_host: Callable[[], HostLayer] | None = None


def follow(host: Callable[[], HostLayer] | None) -> None:
    """Lay a host's own settings over the environment of this process, from now on; None: no longer."""
    global _host  # noqa: PLW0603  # one host for one process, as there is one environment
    _host = host


def load(
    profile: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    settings_dir: Path | None = None,
    require_credentials: bool = True,
) -> Settings:
    """Lay the layers over one another and check the result.

    Args:
        profile: Name of a profile in the settings folder, or the path of a TOML file. None: what
            `POST_PURCHASE_PROFILE` says, else `development`.
        environ: Stands in for the environment of the process, its host's settings included.
        overrides: The uppermost layer, nested or by dotted names; None as a value means "not given".
        settings_dir: Stands in for the settings folder of the package.
        require_credentials: False for a process that sends nothing: it needs no credentials, and reads no secret
            files.

    Raises:
        ConfigurationError: With every problem that was found, one line each.
    """
    host = _host() if environ is None and _host is not None else None
    environ = os.environ if environ is None else environ
    folder = packaged_settings() if settings_dir is None else settings_dir
    name = str(profile or (host and host.profile) or environ.get(PROFILE_NAME) or "development")

    gathering = _Gathering(require_credentials=require_credentials)
    layer = partial(_file_entries, problems=gathering.problems)
    gathering.lay(layer(folder / "default.toml"))
    gathering.lay(layer(_profile_file(name, folder)))
    gathering.lay(_environment_entries(environ, gathering.problems))
    if host is not None:
        gathering.lay(_host_entries(host, gathering.problems))
    gathering.lay(_argument_entries(overrides or {}, gathering.problems))
    gathering.read_secret_files()
    gathering.find_base_urls()

    return gathering.settings(name, rates_file=folder / RATES_FILE_NAME)
