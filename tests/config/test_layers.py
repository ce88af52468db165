from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import ValidationError

from worker import config


def test_the_profile_is_laid_over_the_defaults(load, profile):
    """A profile says only what it wants otherwise; the rest keeps the one default there is."""
    settings = load(profile("[http]\nmax_in_flight = 7"))

    assert 7 == settings.http.max_in_flight
    assert 30 == settings.http.total_timeout_seconds


def test_the_environment_is_laid_over_the_profile(load, profile):
    """The same file serves several installations, and each gives its own differences."""
    settings = load(profile("[http]\nmax_in_flight = 7"), environ={"POST_PURCHASE_HTTP__MAX_IN_FLIGHT": "8"})

    assert 8 == settings.http.max_in_flight


def test_arguments_are_laid_over_the_environment(load):
    """What a person typed for this one run counts most."""
    settings = load(
        "test",
        environ={"POST_PURCHASE_HTTP__MAX_IN_FLIGHT": "8"},
        overrides={"http.max_in_flight": 9},
    )

    assert 9 == settings.http.max_in_flight


def test_a_layer_that_sets_one_key_leaves_its_neighbours_alone(load, profile):
    """Layers are merged key by key: a table in a higher layer does not replace the table below it."""
    settings = load(
        profile("[retry]\nthrottle_base_seconds = 2"),
        environ={"POST_PURCHASE_RETRY__THROTTLE_CAP_SECONDS": "20"},
        overrides={"retry": {"key_margin_seconds": 400}},
    )

    assert (2, 20, 400, 86400) == (
        settings.retry.throttle_base_seconds,
        settings.retry.throttle_cap_seconds,
        settings.retry.key_margin_seconds,
        settings.retry.key_window_seconds,
    )


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"database": {"url": "sqlite:///given.db"}}, id="nested"),
        pytest.param({"database.url": "sqlite:///given.db"}, id="dotted"),
    ],
)
def test_arguments_may_be_nested_or_dotted(load, overrides):
    """Code has tables at hand, a command line has one option per key."""
    assert "sqlite:///given.db" == load("test", overrides=overrides).database.url


def test_an_argument_that_is_none_was_not_given(load):
    """An option that was left out arrives as None, and must not take the value of the profile away."""
    assert load("test") == load("test", overrides={"database.url": None, "log": {"level": None}})


def test_an_argument_for_an_account_reaches_the_account_of_the_profile(load):
    """Tests and demonstrations point the profile's account at a server on a port of their own."""
    settings = load("sandbox", overrides={"accounts.klarna-eu.base_url": "http://127.0.0.1:1234"})

    assert "http://127.0.0.1:1234" == settings.accounts["klarna-eu"].base_url
    assert "sandbox" == settings.accounts["klarna-eu"].password.get_secret_value()


def test_without_a_name_the_profile_is_development(load):
    """A first run needs no preparation at all."""
    assert "development" == load().profile


def test_the_environment_names_the_profile(load):
    """Containers are configured by their environment only."""
    assert "sandbox" == load(environ={"POST_PURCHASE_PROFILE": "sandbox"}).profile


def test_an_empty_profile_name_counts_as_none(load):
    """Compose files pass unset variables on as empty ones."""
    assert "development" == load(environ={"POST_PURCHASE_PROFILE": ""}).profile


def test_the_argument_names_the_profile_before_the_environment_does(load):
    """A person who types a profile means it."""
    assert "test" == load("test", environ={"POST_PURCHASE_PROFILE": "sandbox"}).profile


@pytest.mark.parametrize("spelled", [Path, str])
def test_a_profile_may_be_a_file_of_ones_own(load, profile, spelled):
    """An installation keeps its settings outside the package."""
    path = profile("[http]\nmax_in_flight = 7")

    settings = load(spelled(path))

    assert 7 == settings.http.max_in_flight
    assert str(path) == settings.profile


def test_an_unknown_profile_names_those_there_are(problems):
    """A typing error in the one variable that decides everything must not start something else."""
    (line,) = problems("prodution")

    assert line == (
        "'prodution' is not a profile (POST_PURCHASE_PROFILE): there are development, production, sandbox, test, "
        "or give the path of a .toml file"
    )


def test_the_defaults_are_no_profile(problems):
    """They name no database, so a process that ran on them would fail later and less clearly."""
    assert problems("default")[0].startswith("'default' is not a profile")


def test_a_profile_file_that_is_not_there_is_named(problems, tmp_path):
    """A mount that failed looks exactly like this."""
    missing = tmp_path / "missing.toml"

    assert (f"{missing} cannot be read: No such file or directory",) == problems(missing)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"[database\n", "Expected ']'", id="syntax"),
        pytest.param(b"a = '\xff'", "it is not UTF-8 text", id="encoding"),
    ],
)
def test_a_profile_that_is_not_toml_is_named_with_the_place(problems, tmp_path, content, reason):
    """The person who reads the line has just edited that file."""
    broken = tmp_path / "broken.toml"
    broken.write_bytes(content)

    (line,) = problems(broken)

    assert line.startswith(f"{broken} is not valid TOML: {reason}")


@pytest.mark.parametrize("name", ["development", "sandbox", "test"])
def test_each_profile_for_one_machine_loads_by_itself(load, name):
    """Nothing has to be prepared before the first run or the tests."""
    settings = load(name)

    assert "klarna" == settings.accounts["klarna-eu"].provider
    assert settings.accounts["klarna-eu"].base_url.startswith("http://127.0.0.1:")


def test_the_production_profile_says_what_the_environment_has_to_give(problems):
    """Falling back to a database on local disk would lose the commands with the container."""
    assert (
        "database.url is not set: give it in a profile, or as POST_PURCHASE_DATABASE__URL",
        "broker.url is not set: give it in a profile, or as POST_PURCHASE_BROKER__URL",
    ) == problems("production")


def test_the_production_profile_runs_on_the_defaults(load):
    """The waits that were promised are the defaults, so a profile for money changes none of them."""
    settings = load(
        "production",
        environ={
            "POST_PURCHASE_DATABASE__URL": "postgresql://shop@db/shop",
            "POST_PURCHASE_BROKER__URL": "redis://redis/0",
        },
    )

    assert (5, 300, 18000) == settings.retry.ladder_seconds
    assert 90 == settings.lease.seconds
    assert "json" == settings.log.format


def test_the_sandbox_profile_scales_the_ladder_down(load):
    """A whole life, up to the ticket, has to pass while somebody is watching."""
    assert sum(load("sandbox").retry.ladder_seconds) < 10


def test_settings_cannot_be_changed(load):
    """A value that changes under way would hold for one half of a command's life only."""
    settings = load("test")

    with pytest.raises(ValidationError):
        settings.lease.seconds = 1
    with pytest.raises(TypeError):
        settings.accounts["other"] = settings.accounts["klarna-eu"]
    assert isinstance(settings.accounts, MappingProxyType)


def test_the_process_is_asked_only_when_nothing_was_passed(monkeypatch, root):
    """Tests and hosts pass an environment of their own, and then the real one has no say."""
    monkeypatch.setenv("POST_PURCHASE_NONSENSE", "1")

    assert "test" == config.load("test", environ={}).profile
    with pytest.raises(config.ConfigurationError):
        config.load("test")


def test_loading_leaves_the_environment_as_it_was(load):
    """The loader is called in host processes, whose environment is not ours."""
    before = dict(os.environ)

    load("test", environ={"POST_PURCHASE_LOG__LEVEL": "error"})

    assert before == dict(os.environ)
