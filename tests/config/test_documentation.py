from __future__ import annotations

import re
import tomllib

import pytest

from worker.config import SETTINGS, dotted, environment_name

ROW = re.compile(r"^\| `(?P<key>[a-z_.<>]+)` \| `(?P<name>[A-Z_<>]+)` \| (?P<unit>.+?) \| (?P<default>.+?) \| .+ \|$")


@pytest.fixture(scope="module")
def rows(root):
    text = (root / "docs" / "configuration.md").read_text(encoding="utf-8")
    return [found.groupdict() for found in map(ROW.match, text.splitlines()) if found]


@pytest.fixture(scope="module")
def defaults(root):
    """What default.toml sets, flat."""

    def flat(table, under):
        for name, value in table.items():
            yield from flat(value, (*under, name)) if isinstance(value, dict) else [((*under, name), value)]

    return dict(flat(tomllib.loads((root / "settings" / "default.toml").read_text(encoding="utf-8")), ()))


def test_every_key_is_documented_once_and_nothing_else_is(rows):
    """A key that is not in the list is found by nobody, and one that is gone is believed in for years."""
    assert [dotted(key) for key in SETTINGS] == [row["key"] for row in rows]


def test_every_key_is_documented_with_its_name_in_the_environment(rows):
    """These names are fixed: other people's deployments are scripted against them."""
    assert [environment_name(key) for key in SETTINGS] == [row["name"] for row in rows]


def test_every_documented_default_is_the_one_in_default_toml(rows, defaults):
    """The default stands in one place; this page only repeats it."""
    documented = {
        tuple(row["key"].split(".")): tomllib.loads(f"value = {row['default'].strip('`')}")["value"]
        for row in rows
        if row["default"].startswith("`")
    }

    assert defaults == {key: value for key, value in documented.items() if key[0] != "accounts"}
    assert {("accounts", "<name>", "keyed"): True} == {key: v for key, v in documented.items() if key[0] == "accounts"}


def test_what_has_no_default_is_documented_as_required_or_as_none(rows, defaults):
    """Whoever sets a process up wants to know what it will not start without."""
    expected = {
        dotted(key): "none" if setting.is_optional else "required"
        for key, setting in SETTINGS.items()
        if key not in defaults and key[-1] != "keyed"
    }

    assert expected == {row["key"]: row["default"] for row in rows if not row["default"].startswith("`")}


def test_durations_are_in_seconds_and_say_so_in_their_name(rows):
    """A bare number is read as milliseconds by one person and as minutes by the next."""
    in_seconds = {row["key"] for row in rows if row["unit"] == "seconds"}

    assert in_seconds == {row["key"] for row in rows if row["key"].endswith("seconds")}


def test_every_profile_is_documented(root):
    """A profile that is not in the list is started by accident only."""
    text = (root / "docs" / "configuration.md").read_text(encoding="utf-8")
    profiles = {path.stem for path in (root / "settings").glob("*.toml")} - {"default", "rates"}

    assert profiles == set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE))


def test_no_default_stands_in_the_model():
    """Two places for one default disagree sooner or later; only absence, and being keyed, are the model's own."""
    optional = {dotted(key) for key, setting in SETTINGS.items() if setting.is_optional}

    assert {
        "broker.key_prefix",
        "http.ca_file",
        "limits.redis_url",
        "limits.rates_file",
        "prune.archive_folder",
        "tickets.email.host",
        "tickets.email.username",
        "tickets.email.username_file",
        "tickets.email.password",
        "tickets.email.password_file",
        "tickets.email.sender",
        "tickets.webhook.url",
        "tickets.webhook.secret",
        "tickets.webhook.secret_file",
        *(
            f"accounts.<name>.{field}"
            for field in (
                *("region", "environment", "username", "username_file", "password", "password_file"),
                *("key_window_seconds", "keyed", "merchant_id"),
                *("rate_table", "acquiring_partner", "max_in_flight", "max_rate_per_second"),
            )
        ),
    } == optional
