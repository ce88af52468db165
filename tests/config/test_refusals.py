from __future__ import annotations

from datetime import date

import pytest

from worker.config import ConfigurationError
from worker.domain.errors import PostPurchaseError

SECONDS = "must be a number of seconds, above 0 and at most 31622400"
WINDOW = "must be a number of seconds, above 0 and at most 86400: providers forget a key then"
LADDER = "must be three numbers of seconds, above 0 and each above the one before"
PORT = "must be a port, a whole number from 1 to 65535"
URL = "must be a URL that starts with https:// (or http:// and a loopback host)"
HOST = "must name a host, and if a port then one from 1 to 65535"
ADDRESSES = "must be mail addresses such as payments@example.com, without display names"


def test_a_refusal_is_one_of_ours(problems):
    """Whoever catches the root of our errors catches this one."""
    assert issubclass(ConfigurationError, PostPurchaseError)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("database.pool_size", 0, "must be a whole number, at least 1, got 0"),
        ("database.pool_size", 2.0, "must be a whole number, at least 1, got 2.0"),
        ("database.pool_size", "2", "must be a whole number, at least 1, got '2'"),
        ("database.pool_size", True, "must be a whole number, at least 1, got true"),
        ("http.total_timeout_seconds", 0, f"{SECONDS}, got 0"),
        ("http.total_timeout_seconds", -1, f"{SECONDS}, got -1"),
        ("http.total_timeout_seconds", "30", f"{SECONDS}, got '30'"),
        ("http.total_timeout_seconds", float("inf"), f"{SECONDS}, got inf"),
        ("http.total_timeout_seconds", float("nan"), f"{SECONDS}, got nan"),
        ("http.total_timeout_seconds", True, f"{SECONDS}, got true"),
        ("http.total_timeout_seconds", date(2026, 1, 1), f"{SECONDS}, got a date"),
        ("http.total_timeout_seconds", {"seconds": "s3cret"}, f"{SECONDS}, got a table"),
        ("http.total_timeout_seconds", [1], f"{SECONDS}, got [1]"),
        ("http.ca_file", "nowhere.pem", "names 'nowhere.pem', which is not a file"),
        ("http.ca_file", 5, "must be the path of a file, got 5"),
        ("retry.ladder_seconds", [1, 2], f"{LADDER}, got [1, 2]"),
        ("retry.ladder_seconds", [1, 2, 3, 4], f"{LADDER}, got [1, 2, 3, 4]"),
        ("retry.ladder_seconds", [5, 300, 300], f"{LADDER}, got [5, 300, 300]"),
        ("retry.ladder_seconds", [300, 5, 18000], f"{LADDER}, got [300, 5, 18000]"),
        ("retry.ladder_seconds", [0, 5, 300], f"{LADDER}, got [0, 5, 300]"),
        ("retry.ladder_seconds", ["a", "b", 3], f"{LADDER}, got ['a', 'b', 3]"),
        ("retry.ladder_seconds", 5, f"{LADDER}, got 5"),
        ("retry.key_window_seconds", 86401, f"{WINDOW}, got 86401"),
        ("accounts.klarna-eu.key_window_seconds", 90000, f"{WINDOW}, got 90000"),
        ("accounts.klarna-eu.keyed", "true", "must be true or false, got 'true'"),
        ("accounts.klarna-eu.provider", "other", "must be one of klarna, bluesnap, got 'other'"),
        ("accounts.klarna-eu.region", "mars", "must be one of eu, na, oc, got 'mars'"),
        ("accounts.klarna-eu.environment", "live", "must be one of production, playground, got 'live'"),
        ("broker.key_prefix", "", "must be 1 to 64 letters, digits or any of : _ . -, got ''"),
        ("broker.key_prefix", "a b", "must be 1 to 64 letters, digits or any of : _ . -, got 'a b'"),
        ("tickets.desk", "pigeon", "must be one of log, email, webhook, got 'pigeon'"),
        ("tickets.email.port", 0, f"{PORT}, got 0"),
        ("tickets.email.port", 65536, f"{PORT}, got 65536"),
        ("tickets.email.security", "ssl", "must be one of none, starttls, tls, got 'ssl'"),
        ("tickets.email.host", "mail server", "must be a host name or an IP address, got 'mail server'"),
        (
            "tickets.email.sender",
            "nobody",
            "must be a mail address such as payments@example.com, without a display name, got 'nobody'",
        ),
        (
            "tickets.email.recipients",
            ["a@example.com", "b\r\nBcc: c@example.com"],
            f"{ADDRESSES}, got ['a@example.com', 'b\\r\\nBcc: c@example.com']",
        ),
        ("log.format", "xml", "must be one of json, console, got 'xml'"),
        ("log.format", "x" * 100, f"must be one of json, console, got '{'x' * 79}..."),
        ("log.level", "loud", "must be one of debug, info, warning, error, critical, got 'loud'"),
        ("log.level", 5, "must be one of debug, info, warning, error, critical, got 5"),
        ("sandbox.port", -1, "must be a port, a whole number from 1 to 65535, or 0 for any free one, got -1"),
    ],
)  # fmt: skip - one case a line
def test_a_value_of_the_wrong_form_is_refused_with_the_right_one(problems, key, value, reason):
    """The line says where the value is, what it has to be and what it is; nobody has to look anything up."""
    assert f"argument {key} {reason}" in problems("test", overrides={key: value})


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("HTTP__MAX_IN_FLIGHT", "many", "must be a whole number, at least 1, got 'many'"),
        ("HTTP__MAX_IN_FLIGHT", "1.5", "must be a whole number, at least 1, got '1.5'"),
        ("LEASE__SECONDS", "90s", f"{SECONDS}, got '90s'"),
        ("LEASE__SECONDS", "inf", f"{SECONDS}, got inf"),
        ("RETRY__LADDER_SECONDS", "5;300;18000", f"{LADDER}, got '5;300;18000'"),
        ("RETRY__LADDER_SECONDS", "5,300", f"{LADDER}, got [5.0, 300.0]"),
        ("ACCOUNTS__KLARNA_EU__KEYED", "maybe", "must be true or false, got 'maybe'"),
    ],
)
def test_text_that_is_no_such_value_is_refused_by_the_name_of_the_environment(problems, name, text, reason):
    """A person who set a variable looks for the variable, not for a key in a file."""
    assert (f"POST_PURCHASE_{name} {reason}",) == problems("test", environ={f"POST_PURCHASE_{name}": text})


def test_a_wrong_value_in_a_profile_is_refused_by_its_file(problems, profile):
    """With several files in play, the key alone would not say where to change it."""
    path = profile("[http]\nmax_in_flight = 0")

    assert (f"{path}: http.max_in_flight must be a whole number, at least 1, got 0",) == problems(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[databse]\npool_size = 1", "databse is not a setting; did you mean database?"),
        ("[http]\nmax_inflight = 1", "http.max_inflight is not a setting; did you mean http.max_in_flight?"),
        ("max_in_flight = 1", "max_in_flight is not a setting; did you mean http.max_in_flight?"),
        ("[tickets.mail]\nport = 1", "tickets.mail is not a setting; did you mean tickets.email?"),
        ("[accounts.a]\nbaseurl = 1", "accounts.a.baseurl is not a setting; did you mean accounts.a.base_url?"),
        ("profile = 'x'", "profile is not a setting; docs/configuration.md lists what there is"),
        ('"http.max_in_flight" = 1', "http.max_in_flight is not a setting; did you mean http.max_in_flight?"),
        ("http = 5", "http is a table of settings and takes no value itself"),
        ("[[accounts]]", "accounts is a table of settings and takes no value itself"),
        ("[accounts]\nklarna = 's3cret'", "accounts.klarna is a table of settings and takes no value itself"),
    ],
)
def test_an_unknown_key_of_a_profile_is_refused_with_file_and_nearest_name(problems, tmp_path, text, line):
    """A misspelt key that is silently ignored leaves the default in force, and nobody knows."""
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")

    assert f"{path}: {line}" in problems(path)


def test_an_unknown_argument_is_refused_as_one(problems):
    """A caller's typing error is found at the start and not by its missing effect."""
    expected = ("argument http.max_inflight is not a setting; did you mean http.max_in_flight?",)

    assert expected == problems("test", overrides={"http.max_inflight": 5})


def test_all_problems_are_reported_at_once(problems, profile):
    """Whoever repairs one thing per restart of a container loses an afternoon."""
    path = profile("[http]\nmax_in_flight = 0\n[sweep]\nbatchsize = 1")

    lines = problems(
        path,
        environ={"POST_PURCHASE_DATABSE__URL": "x", "POST_PURCHASE_DATABASE__POOL_SIZE": "x"},
        overrides={"tickets.retry_cap_seconds": 1},
    )

    starts = [
        f"{path}: sweep.batchsize is not a setting",
        "POST_PURCHASE_DATABSE__URL is not a setting",
        "POST_PURCHASE_DATABASE__POOL_SIZE must be a whole number",
        f"{path}: http.max_in_flight must be a whole number",
        "argument tickets.retry_cap_seconds: tickets.retry_cap_seconds is 1",
    ]
    assert starts == [line[: len(start)] for line, start in zip(lines, starts, strict=True)]
