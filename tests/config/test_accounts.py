from __future__ import annotations

import pytest

KLARNA = 'provider = "klarna"\nusername = "user"\npassword = "pass"\n'

HOSTS = {
    ("production", "eu"): "https://api.klarna.com",
    ("production", "na"): "https://api-na.klarna.com",
    ("production", "oc"): "https://api-oc.klarna.com",
    ("playground", "eu"): "https://api.playground.klarna.com",
    ("playground", "na"): "https://api-na.playground.klarna.com",
    ("playground", "oc"): "https://api-oc.playground.klarna.com",
}


@pytest.mark.parametrize(("environment", "region"), HOSTS)
def test_region_and_environment_name_the_host(load, account, environment, region):
    """Nobody should have to know Klarna's hosts by heart, and each account belongs to exactly one of them."""
    path = account(f'{KLARNA}region = "{region}"\nenvironment = "{environment}"')

    assert HOSTS[environment, region] == load(path).accounts["klarna-eu"].base_url


def test_a_base_url_wins_over_region_and_environment(load, account):
    """Merchants of the old checkout live at hosts of another name, and a test points at its own server."""
    path = account(f'{KLARNA}region = "eu"\nenvironment = "production"\nbase_url = "https://klarna.example.com"')

    assert "https://klarna.example.com" == load(path).accounts["klarna-eu"].base_url


def test_another_host_can_be_given_for_a_region(load, account):
    """Hosts are data: when the provider moves, no release is needed."""
    path = account(f'{KLARNA}region = "eu"\nenvironment = "production"')

    settings = load(path, overrides={"providers.klarna.hosts.production.eu": "https://new.example.com"})

    assert "https://new.example.com" == settings.accounts["klarna-eu"].base_url


@pytest.mark.parametrize("given", ["", 'region = "eu"', 'environment = "production"'])
def test_an_account_without_an_address_says_how_to_give_one(problems, account, given):
    """There are two ways, and half of the second is none."""
    (line,) = problems(account(f"{KLARNA}{given}"))

    assert line == (
        "accounts.klarna-eu.base_url is not set: give it in POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL, "
        "or give the account's provider, region and environment"
    )


def test_a_wrong_region_is_reported_once(problems, account):
    """That no address follows from it is no second problem."""
    path = account(f'{KLARNA}region = "mars"\nenvironment = "production"')

    assert (f"{path}: accounts.klarna-eu.region must be one of eu, na, oc, got 'mars'",) == problems(path)


def test_an_account_without_a_provider_is_refused(problems):
    """The three variables of an account that no profile knows are not enough to know how to speak to it."""
    prefix = "POST_PURCHASE_ACCOUNTS__OTHER__"
    environ = {f"{prefix}BASE_URL": "https://x.example.com", f"{prefix}USERNAME": "user", f"{prefix}PASSWORD": "pass"}

    assert (
        "accounts.other.provider is not set: give it in a profile, or as POST_PURCHASE_ACCOUNTS__OTHER__PROVIDER",
    ) == problems("test", environ=environ)


@pytest.mark.parametrize(
    "url",
    [
        "https://klarna.example.com",
        "https://klarna.example.com:8443",
        "https://klarna.example.com/proxy",
        "https://[2001:db8::1]:8443",
        "http://127.0.0.1:8090",
        "http://127.8.9.10",
        "http://localhost:8090",
        "http://[::1]:8090",
    ],
)
def test_https_anywhere_and_http_to_this_machine_are_taken(load, account, url):
    """Plain http never leaves the machine, so nobody can read the credentials on the way."""
    assert url == load(account(f'{KLARNA}base_url = "{url}"')).accounts["klarna-eu"].base_url


def test_a_slash_at_the_end_is_dropped(load, account):
    """Paths are put behind the base URL, and a double slash is another path."""
    path = account(f'{KLARNA}base_url = "https://klarna.example.com/proxy/"')

    assert "https://klarna.example.com/proxy" == load(path).accounts["klarna-eu"].base_url


FORM = "must be a URL that starts with https:// (or http:// and a loopback host)"
HOST = "must name a host, and if a port then one from 1 to 65535"
LOOPBACK = "must start with https://; http:// is for a loopback host (127.0.0.0/8, ::1, localhost)"
USER = "must not hold a user name or password; those have keys of their own"
QUERY = "must not have a query or a fragment"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://klarna.example.com", LOOPBACK),
        ("http://10.0.0.1", LOOPBACK),
        ("http://0.0.0.0", LOOPBACK),
        ("http://127.0.0.1.example.com", LOOPBACK),
        ("http://localhost.example.com", LOOPBACK),
        ("http://2130706433", LOOPBACK),
        ("HTTP://klarna.example.com", LOOPBACK),
        ("https://user:s3cret@klarna.example.com", USER),
        ("http://127.0.0.1@klarna.example.com", USER),
        ("https://s3cret@klarna.example.com", USER),
        ("https://klarna.example.com?key=s3cret", QUERY),
        ("https://klarna.example.com/?", QUERY),
        ("https://klarna.example.com#top", QUERY),
        ("ftp://klarna.example.com", FORM),
        ("klarna.example.com", FORM),
        ("", FORM),
        ("https:\\\\\\\\klarna.example.com", FORM),
        ("http://127.0.0.1\\\\@klarna.example.com", FORM),
        ("https://klarna.example.com/a b", FORM),
        ("https://klarna.example.com\\n", FORM),
        ("https://klarn\u00e4.example.com", FORM),
        ("https://", HOST),
        ("https:///path", HOST),
        ("https://:443", HOST),
        ("https://klarna.example.com:", HOST),
        ("https://klarna.example.com:0", HOST),
        ("https://klarna.example.com:65536", HOST),
        ("https://klarna.example.com:http", HOST),
        ("https://[::1", HOST),
        ("https://klarna_example%2ecom", HOST),
    ],
)
def test_an_address_that_is_no_safe_base_url_is_refused(problems, account, url, reason):
    """Credentials go to this address with every request, and some addresses only look like the right one."""
    path = account(f'{KLARNA}base_url = "{url}"')

    lines = problems(path)

    assert (f"{path}: accounts.klarna-eu.base_url {reason}",) == lines
    assert "s3cret" not in "".join(lines)


@pytest.mark.parametrize("name", ["Klarna-EU", "klarna_eu", "kl\u00e4rna", "klarna.eu", "a" * 65, ""])
def test_a_name_no_account_can_have_is_refused(problems, account, name):
    """The name goes into idempotency keys, into the environment and into file names, and never changes."""
    path = account(f'{KLARNA}base_url = "https://klarna.example.com"', name=f'"{name}"')

    (line,) = problems(path)

    assert line.endswith(f"an account's name is 1 to 64 of the characters a-z, 0-9 and -, not {name!r}")


def test_there_may_be_no_account_at_all(load, profile):
    """A host that enqueues for others, or a database being migrated, needs none."""
    assert {} == dict(load(profile()).accounts)


def test_an_account_is_keyed_unless_it_says_otherwise(load, account):
    """The key is what makes a repeat safe; to go without it has to be a decision."""
    text = f'{KLARNA}base_url = "https://klarna.example.com"\n'

    assert load(account(text)).accounts["klarna-eu"].keyed
    assert not load(account(f"{text}keyed = false")).accounts["klarna-eu"].keyed


BLUESNAP = 'provider = "bluesnap"\nusername = "user"\npassword = "pass"\n'


@pytest.mark.parametrize(
    ("environment", "host"),
    [("production", "https://ws.bluesnap.com"), ("playground", "https://sandbox.bluesnap.com")],
)
@pytest.mark.parametrize("region", ["", 'region = "na"\n'])
def test_the_environment_alone_names_bluesnaps_host(load, account, environment, host, region):
    """BlueSnap has no regions; one that was given changes nothing."""
    path = account(f'{BLUESNAP}{region}environment = "{environment}"', name="bluesnap-us")

    assert host == load(path).accounts["bluesnap-us"].base_url


def test_a_base_url_wins_over_bluesnaps_environment(load, account):
    """A test points at its own server."""
    path = account(f'{BLUESNAP}environment = "production"\nbase_url = "https://other.example.com"', name="bluesnap-us")

    assert "https://other.example.com" == load(path).accounts["bluesnap-us"].base_url


def test_another_host_can_be_given_for_bluesnap(load, account):
    """Hosts are data: when the provider moves, no release is needed."""
    path = account(f'{BLUESNAP}environment = "production"', name="bluesnap-us")

    settings = load(path, overrides={"providers.bluesnap.hosts.production": "https://new.example.com"})

    assert "https://new.example.com" == settings.accounts["bluesnap-us"].base_url


@pytest.mark.parametrize("given", ["", 'region = "eu"'])
def test_a_bluesnap_account_without_an_address_says_how_to_give_one(problems, account, given):
    """It is not sent looking for a region."""
    (line,) = problems(account(f"{BLUESNAP}{given}", name="bluesnap-us"))

    assert line == (
        "accounts.bluesnap-us.base_url is not set: give it in POST_PURCHASE_ACCOUNTS__BLUESNAP_US__BASE_URL, "
        "or give the account's environment"
    )


def test_a_wrong_environment_of_a_bluesnap_account_is_reported_once(problems, account):
    """That no address follows from it is no second problem."""
    path = account(f'{BLUESNAP}environment = "mars"', name="bluesnap-us")

    (line,) = problems(path)

    assert line == (f"{path}: accounts.bluesnap-us.environment must be one of production, playground, got 'mars'")


def test_bluesnaps_keys_count_for_12_hours_unless_told_otherwise(load):
    """It keeps them for up to 24 h, and does not say how much less that may be."""
    assert 12 * 3600 == load("test").providers.bluesnap.key_window_seconds


@pytest.mark.parametrize("profile_name", ["development", "sandbox", "test"])
def test_the_profiles_for_trying_out_have_an_account_of_each_provider(load, profile_name):
    """Both can be tried without an account anywhere."""
    accounts = load(profile_name).accounts

    assert {"klarna-eu": "klarna", "bluesnap-us": "bluesnap"} == {n: a.provider for n, a in accounts.items()}
    assert all(each.base_url.startswith("http://127.0.0.1:") for each in accounts.values())


def test_bluesnaps_key_window_is_at_most_a_day(problems):
    """After that no key is left."""
    (line,) = problems("test", overrides={"providers.bluesnap.key_window_seconds": 86_401})

    assert "at most 86400" in line
