from __future__ import annotations

import pytest

from worker.domain.quota import AccountRates, Quota
from worker.wiring import COMMANDS

PUBLISHED = {
    "payment-transaction-capture": ((50, 200), (12, 50)),
    "payment-transaction-management": ((200, 500), (50, 125)),
    "dispute": ((20, 50), (5, 12)),
    "partner-management": ((20, 50), (5, 12)),
    "account-onboarding": ((0, 10), (0, 5)),
    "settlement": ((0, 150), (0, 37)),
    "on-site-messaging": ((200, 500), (50, 125)),
}


@pytest.fixture
def own_rates(tmp_path):
    """Writes a file of quotas and gives its path."""

    def write(text):
        path = tmp_path / "own-rates.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


GOOD = """
[own]
first = ["refund"]
max_in_flight = 5
[own.categories]
"*" = "everything"
[own.production]
everything = 7
[own.playground]
"""


def test_the_table_of_two_levels_is_the_published_one(load):
    """A slip in a number is a quota exceeded, or one left lying, for ever."""
    tables = load("test").rates.tables["klarna-network"].by_environment

    assert {
        name: tuple(Quota(partner=own, acquiring_partner=shared) for own, shared in both)
        for name, both in PUBLISHED.items()
    } == {
        name: (tables["production"].quota(name), tables["playground"].quota(name))
        for name in tables["production"].quota_by_category
    }


def test_order_management_has_one_quota_for_everything(load):
    """Klarna counts it per merchant, 200 a second for money and 50 for play."""
    tables = load("test").rates.tables["klarna-v1"].by_environment

    assert [200, 50] == [
        tables[name].quota(tables[name].category("capture")).partner for name in ("production", "playground")
    ]


@pytest.mark.parametrize(
    ("provider", "table"), [("klarna", "klarna-v1"), ("klarna", "klarna-network"), ("bluesnap", "bluesnap")]
)
def test_every_kind_of_command_names_a_category_and_is_allowed(load, provider, table):
    """A kind without a category would be sent without any quota, or not at all."""
    for rates in load("test").rates.tables[table].by_environment.values():
        for kind in COMMANDS[provider]:
            AccountRates(account="shop", host="h", table=rates, acquiring_partner="acquirer").require_allowed(kind)


def test_an_account_gets_its_providers_table_unless_it_names_one(load, account):
    """Most have no reason to know that there are tables."""
    plain = load(
        account('provider = "klarna"\nregion = "eu"\nenvironment = "playground"\nusername = "u"\npassword = "p"')
    )
    named = load(
        account(
            'provider = "klarna"\nregion = "eu"\nenvironment = "production"\nusername = "u"\npassword = "p"\n'
            'rate_table = "klarna-network"\nacquiring_partner = "acquirer"'
        )
    )

    assert ("klarna-v1", "playground") == (plain.rates_of("klarna-eu").name, plain.environment_of("klarna-eu"))
    assert ("klarna-network", "production") == (named.rates_of("klarna-eu").name, named.environment_of("klarna-eu"))


@pytest.mark.parametrize(
    ("base_url", "environment"),
    [("https://api.playground.klarna.com", "playground"), ("https://api.klarna.com", "production")],
)
def test_an_account_with_an_address_alone_is_at_what_the_address_says(load, account, base_url, environment):
    """The playground's quotas are a quarter; whoever is not known to play gets those for money."""
    settings = load(account(f'provider = "klarna"\nbase_url = "{base_url}"\nusername = "u"\npassword = "p"'))

    assert environment == settings.environment_of("klarna-eu")


def test_bluesnap_has_no_quota_and_few_calls_at_once(load):
    """It publishes no numbers and refuses too many at once."""
    settings = load("test")

    assert 20 == settings.rates_of("bluesnap-us").max_in_flight
    assert 200 == settings.rates_of("klarna-eu").max_in_flight


def test_an_own_file_is_laid_over_the_published_tables(load, own_rates):
    """A contract of one's own must not need a fork of the package."""
    settings = load("test", overrides={"limits.rates_file": own_rates(GOOD), "accounts.klarna-eu.rate_table": "own"})

    rates = settings.rates_of("klarna-eu")

    assert (5, 7) == (rates.max_in_flight, rates.by_environment["production"].quota("everything").partner)
    assert "klarna-v1" in settings.rates.tables


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[own", "is not valid TOML"),
        ("own = 5", "own must be a table"),
        (
            GOOD.replace("max_in_flight = 5", "max_in_flight = 0"),
            "own.max_in_flight must be a whole number, at least 1",
        ),
        (GOOD.replace('"*"', '"capture"'), 'own.categories must give kinds their category by name, and "*"'),
        (GOOD.replace("everything = 7", "everything = -7"), "own.production.everything must be a whole number"),
        (GOOD.replace("everything = 7", "everything = [7]"), "own.production.everything must be a whole number"),
        (GOOD.replace("[own.playground]", ""), "own.playground must be a table"),
        (GOOD.replace("[own.playground]", "[own.test]"), "own.test is not known; there are"),
        (GOOD.replace('["refund"]', '"refund"'), "own.first must be a list of kinds"),
    ],
)
def test_a_file_that_says_nonsense_is_refused_with_the_place(problems, own_rates, text, reason):
    """Quotas are read once and believed for months."""
    path = own_rates(text)

    lines = problems("test", overrides={"limits.rates_file": path})

    assert any(line.startswith(path) and reason in line for line in lines), lines


def test_an_unknown_table_is_refused_with_those_that_there_are(problems):
    """A slip of the pen would otherwise be an account without quotas."""
    lines = problems("test", overrides={"accounts.klarna-eu.rate_table": "klarna-v3"})

    assert 1 == len(lines)
    assert "argument accounts.klarna-eu.rate_table is 'klarna-v3', which is no table of quotas; there are" in lines[0]


def test_an_acquiring_partner_in_a_table_of_one_level_is_refused(problems):
    """It would be ignored, and somebody would count on it."""
    lines = problems("test", overrides={"accounts.klarna-eu.acquiring_partner": "acquirer"})

    assert 1 == len(lines)
    assert "klarna-v1, which knows no level of acquiring partners" in lines[0]


def test_redis_as_the_place_needs_a_redis(problems):
    """Found out at the first command, it would stop all of them."""
    lines = problems("test", overrides={"limits.place": "redis"})

    assert 1 == len(lines)
    assert "POST_PURCHASE_LIMITS__REDIS_URL" in lines[0]


def test_a_back_off_cannot_shrink(problems):
    """A cap below the base is a slip of the pen."""
    lines = problems("test", overrides={"limits.back_off_base_seconds": 5, "limits.back_off_cap_seconds": 1})

    assert "limits.back_off_cap_seconds is 1 and must be at least limits.back_off_base_seconds" in lines[0]
