from __future__ import annotations

import pytest

from worker.config import SETTINGS, environment_name


@pytest.mark.parametrize(
    ("name", "text", "read", "expected"),
    [
        ("DATABASE__POOL_SIZE", "7", lambda s: s.database.pool_size, 7),
        ("BROKER__PUBLISH_TIMEOUT_SECONDS", "0.25", lambda s: s.broker.publish_timeout_seconds, 0.25),
        ("RETRY__LADDER_SECONDS", "5,300,18000", lambda s: s.retry.ladder_seconds, (5, 300, 18000)),
        ("RETRY__LADDER_SECONDS", " 0.5, 1 ,2.5 ", lambda s: s.retry.ladder_seconds, (0.5, 1, 2.5)),
        ("RETRY__KEY_WINDOW_SECONDS", "43200", lambda s: s.retry.key_window_seconds, 43200),
        ("LOG__LEVEL", "WARNING", lambda s: s.log.level, "warning"),
        (
            "TICKETS__EMAIL__RECIPIENTS",
            "a@example.com, b@example.com",
            lambda s: s.tickets.email.recipients,
            ("a@example.com", "b@example.com"),
        ),
        ("ACCOUNTS__KLARNA_EU__KEYED", "False", lambda s: s.accounts["klarna-eu"].keyed, False),
        (
            "PROVIDERS__KLARNA__HOSTS__PRODUCTION__EU",
            "https://eu.example.com",
            lambda s: s.providers.klarna.hosts.production.eu,
            "https://eu.example.com",
        ),
    ],
)  # fmt: skip - one case a line
def test_the_text_of_the_environment_becomes_the_value_of_the_key(load, name, text, read, expected):
    """An environment knows text only, so it is the one layer that is converted."""
    assert expected == read(load("test", environ={f"POST_PURCHASE_{name}": text}))


def test_lists_arrive_as_tuples(load):
    """A list could be changed by whoever got it, for everybody else as well."""
    settings = load("test")

    assert isinstance(settings.retry.ladder_seconds, tuple)
    assert isinstance(settings.tickets.email.recipients, tuple)


def test_every_key_has_a_name_in_the_environment_that_is_understood(load, problems):
    """A key that only a file can set cannot be set in a container."""
    names = [environment_name(key).replace("<NAME>", "KLARNA_EU") for key in SETTINGS]

    lines = problems("test", environ=dict.fromkeys(names, "\n"))

    assert len(names) == len(set(names))
    assert not [line for line in lines if "is not a setting" in line]


def test_an_account_of_the_environment_goes_by_lower_case_and_hyphens(load):
    """Names in the environment have no hyphens, and the account's name is part of every idempotency key."""
    prefix = "POST_PURCHASE_ACCOUNTS__KLARNA_NORTH_2__"
    settings = load(
        "test",
        environ={
            f"{prefix}PROVIDER": "klarna",
            f"{prefix}BASE_URL": "https://klarna.example.com",
            f"{prefix}USERNAME": "user",
            f"{prefix}PASSWORD": "pass",
        },
    )

    assert "https://klarna.example.com" == settings.accounts["klarna-north-2"].base_url


@pytest.mark.parametrize("name", ["klarna-eu", "eu", "a--b", "-a", "a-", "1"])
def test_an_account_of_a_profile_is_found_by_its_name_in_capitals(load, account, name):
    """Credentials come from the environment and everything else from the file, for any name an account can have."""
    path = account('provider = "klarna"\nbase_url = "https://klarna.example.com"', name=name)
    prefix = f"POST_PURCHASE_ACCOUNTS__{name.upper().replace('-', '_')}__"

    settings = load(path, environ={f"{prefix}USERNAME": "user", f"{prefix}PASSWORD": "pass"})

    assert [name] == list(settings.accounts)
    assert "pass" == settings.accounts[name].password.get_secret_value()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("POST_PURCHASE_DATABSE__URL", "POST_PURCHASE_DATABASE__URL"),
        ("POST_PURCHASE_DATABASE_URL", "POST_PURCHASE_DATABASE__URL"),
        ("POST_PURCHASE_DATABASE", "POST_PURCHASE_DATABASE__URL"),
        ("POST_PURCHASE_database__url", "POST_PURCHASE_DATABASE__URL"),
        ("POST_PURCHASE_RETRY__LADDER", "POST_PURCHASE_RETRY__LADDER_SECONDS"),
        ("POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASEURL", "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL"),
        ("POST_PURCHASE_ACCOUNT__KLARNA_EU__PASSWORD", "POST_PURCHASE_ACCOUNTS__KLARNA_EU__PASSWORD"),
        ("POST_PURCHASE_ACCOUNTS__BASE_URL", "POST_PURCHASE_ACCOUNTS__<NAME>__BASE_URL"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_right_one(problems, name, nearest):
    """A misspelt name that is silently ignored leaves the old value in force, and nobody knows."""
    assert (f"{name} is not a setting; did you mean {nearest}?",) == problems("test", environ={name: "x"})


def test_a_name_that_is_like_no_other_is_sent_to_the_list(problems):
    """A far-fetched guess would be worse than none."""
    expected = ("POST_PURCHASE_XYZZY is not a setting; docs/configuration.md lists what there is",)

    assert expected == problems("test", environ={"POST_PURCHASE_XYZZY": "1"})


@pytest.mark.parametrize(
    "name",
    ["POST_PURCHASE_PROFILE", "POST_PURCHASE_TEST_DATABASE_URL", "POST_PURCHASE_TEST_ANYTHING", "POSTGRES_URL", "PATH"],
)
def test_reserved_and_foreign_names_are_not_looked_at(load, name):
    """Other programs share the environment, and the tests have names of their own."""
    assert load("test") == load("test", environ={name: "test"})


def test_an_empty_value_is_refused_where_one_is_needed(problems):
    """An unset variable that a compose file passes on is empty, and the profile's value would be used unnoticed."""
    line = "POST_PURCHASE_DATABASE__URL is empty; give it a value or take it out of the environment"

    assert line in problems("test", environ={"POST_PURCHASE_DATABASE__URL": ""})


def test_an_empty_value_takes_an_optional_one_away(load, account):
    """The environment can undo what a profile says, too."""
    path = account(
        'provider = "klarna"\nbase_url = "https://klarna.example.com"\nkey_window_seconds = 3600\n'
        'username = "user"\npassword = "pass"'
    )

    settings = load(path, environ={"POST_PURCHASE_ACCOUNTS__KLARNA_EU__KEY_WINDOW_SECONDS": ""})

    assert settings.accounts["klarna-eu"].key_window_seconds is None
