from __future__ import annotations

import pickle
import traceback

import pytest

from worker.config import ConfigurationError, redacted_url

KLARNA = 'provider = "klarna"\nbase_url = "https://klarna.example.com"\n'
WAYS = (
    "accounts.klarna-eu has no {0}; give it in POST_PURCHASE_ACCOUNTS__KLARNA_EU__{1}, or the path of a file that "
    "holds it in POST_PURCHASE_ACCOUNTS__KLARNA_EU__{1}_FILE"
)


@pytest.fixture
def secret_file(tmp_path):
    def write(content, name="secret"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def test_an_account_without_credentials_names_the_two_ways_to_give_them(problems, account):
    """Without them every call would be refused, and a refused call is an incident."""
    assert (WAYS.format("username", "USERNAME"), WAYS.format("password", "PASSWORD")) == problems(account(KLARNA))


def test_a_process_that_sends_nothing_needs_no_credentials(load, account):
    """Migrating a database or listing commands should not hold the key to the money."""
    settings = load(account(KLARNA), require_credentials=False)

    assert settings.accounts["klarna-eu"].username is None


def test_a_process_that_sends_nothing_reads_no_secret_file(load, account):
    """The files may be readable for the worker's user alone."""
    path = account(f'{KLARNA}username_file = "/nowhere/user"\npassword_file = "/nowhere/pass"')

    settings = load(path, require_credentials=False)

    assert settings.accounts["klarna-eu"].password is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b"s3cret", "s3cret"),
        (b" s3cret ", " s3cret "),
        ("gr\u00fcn".encode(), "gr\u00fcn"),
    ],
)
def test_a_secret_file_is_read_without_the_line_break_at_its_end(load, account, secret_file, content, expected):
    """Editors and `echo` put one there, and it is no part of the password; a space might be."""
    file = secret_file(content)

    settings = load(account(f'{KLARNA}username = "user"\npassword_file = "{file}"'))

    assert expected == settings.accounts["klarna-eu"].password.get_secret_value()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must not be empty"),
        (b"\n", "must not be empty"),
        (b"s3cret\nX-Other: 1", "must not hold line breaks or other control characters"),
        (b"s3cret\n\n", "must not hold line breaks or other control characters"),
        (b"s3cret\0", "must not hold line breaks or other control characters"),
    ],
)
def test_a_secret_that_no_header_can_carry_is_refused(problems, account, secret_file, content, reason):
    """A line break inside would end the header that carries it."""
    file = secret_file(content)
    path = account(f'{KLARNA}username = "user"\npassword_file = "{file}"')

    lines = problems(path)

    assert (f"{path}: accounts.klarna-eu.password_file: the content of {str(file)!r} {reason}",) == lines
    assert "s3cret" not in "".join(lines)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_secret_file_that_cannot_be_read_is_named_with_its_key(problems, account, tmp_path, content):
    """A mount that failed is found at the start, and the line says which."""
    file = tmp_path / "secret"
    if content:
        file.write_bytes(content)
    reason = "it is not UTF-8 text" if content else "No such file or directory"

    name = "POST_PURCHASE_ACCOUNTS__KLARNA_EU__PASSWORD_FILE"

    lines = problems(account(f'{KLARNA}username = "user"'), environ={name: str(file)})

    assert (f"{name} names the file {str(file)!r}, which cannot be read: {reason}",) == lines


def test_a_secret_file_of_a_higher_layer_replaces_a_value(load, secret_file):
    """The sandbox profile's own password must not win over the file that the environment names."""
    file = secret_file(b"from the file")

    settings = load("sandbox", environ={"POST_PURCHASE_ACCOUNTS__KLARNA_EU__PASSWORD_FILE": str(file)})

    assert "from the file" == settings.accounts["klarna-eu"].password.get_secret_value()


def test_a_value_of_a_higher_layer_replaces_a_secret_file(load, account):
    """The same rule the other way round; the file is then not even looked for."""
    path = account(f'{KLARNA}username = "user"\npassword_file = "/nowhere"')

    settings = load(path, environ={"POST_PURCHASE_ACCOUNTS__KLARNA_EU__PASSWORD": "given"})

    assert "given" == settings.accounts["klarna-eu"].password.get_secret_value()
    assert settings.accounts["klarna-eu"].password_file is None


def test_a_password_that_a_file_replaces_is_gone_even_if_the_file_is_not_read(load, secret_file):
    """A process without credentials must not fall back to somebody else's."""
    environ = {"POST_PURCHASE_ACCOUNTS__KLARNA_EU__PASSWORD_FILE": str(secret_file(b"x"))}

    settings = load("sandbox", environ=environ, require_credentials=False)

    assert settings.accounts["klarna-eu"].password is None


def test_a_value_and_a_file_in_one_layer_exclude_each_other(problems, account):
    """Which of them was meant, only the person knows."""
    path = account(f'{KLARNA}username = "user"\npassword = "s3cret"\npassword_file = "/nowhere"')

    (line,) = problems(path)

    assert line == (
        f"{path}: accounts.klarna-eu.password_file and {path}: accounts.klarna-eu.password exclude each other; "
        "give one of them"
    )


def test_a_user_name_with_a_colon_is_refused(problems, account):
    """In basic authentication the first colon ends the user name, and the rest would be taken for the password."""
    path = account(f'{KLARNA}username = "us:er"\npassword = "pass"')

    (line,) = problems(path)

    assert line == (
        f"{path}: accounts.klarna-eu.username must not hold a colon, which ends the user name in HTTP basic "
        "authentication"
    )


@pytest.mark.parametrize(
    ("overrides", "key", "why"),
    [
        (
            {"tickets.desk": "webhook", "tickets.webhook.url": "https://desk.example.com"},
            "webhook.secret",
            "the desk webhook signs what it sends",
        ),
        (
            {"tickets.desk": "email", "tickets.email.username": "user"},
            "email.password",
            "the desk email has a user name",
        ),
        (
            {"tickets.desk": "email", "tickets.email.password": "pass"},
            "email.username",
            "the desk email has a password",
        ),
    ],
)  # fmt: skip - one case a line
def test_a_desk_without_its_credentials_names_the_two_ways_to_give_them(load, problems, overrides, key, why):
    """A ticket that cannot be opened is found when something else has gone wrong already."""
    mail = {
        "tickets.email.host": "mail.example.com",
        "tickets.email.sender": "a@example.com",
        "tickets.email.recipients": ["b@example.com"],
    }
    name = f"POST_PURCHASE_TICKETS__{key.upper().replace('.', '__')}"

    lines = problems("test", overrides=mail | overrides)

    assert (
        f"tickets.{key} is not set, and {why}: give it in {name}, or the path of a file that holds it in {name}_FILE",
    ) == lines
    assert load("test", overrides=mail | overrides, require_credentials=False)


@pytest.mark.parametrize("desk", ["webhook", "email"])
def test_a_desk_reads_its_secret_files(load, secret_file, desk):
    """Desks hold credentials like accounts do, and get them in the same two ways."""
    field = {"webhook": "secret", "email": "password"}[desk]

    settings = load("test", overrides={f"tickets.{desk}.{field}_file": secret_file(b"s3cret\n")})

    assert "s3cret" == getattr(getattr(settings.tickets, desk), field).get_secret_value()


SECRETS = {
    "database.url": "postgresql://shop:s3cret-1@db/shop?password=s3cret-2",
    "broker.url": "sentinel://:s3cret-3@a:26379;sentinel://:s3cret-4@b:26379",
    "accounts.klarna-eu.username": "s3cret-5",
    "accounts.klarna-eu.password": "s3cret-6",
    "tickets.email.username": "s3cret-7",
    "tickets.email.password": "s3cret-8",
    "tickets.webhook.url": "https://desk.example.com/hook/s3cret-9",
    "tickets.webhook.secret": "s3cret-10",
}


@pytest.mark.parametrize("shown", [repr, str, "{}".format])
def test_settings_can_be_printed_without_a_secret(load, shown):
    """Settings end up in tracebacks, in support requests and in the output of debuggers."""
    settings = load("test", overrides=SECRETS)

    text = shown(settings) + shown(settings.accounts["klarna-eu"]) + shown(settings.database) + shown(settings.tickets)

    assert "s3cret" not in text
    assert "postgresql+psycopg://shop:***@db/shop?password=***" in text


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize("wrong", ["s3cret\n", ["s3cret"], {"s3cret": 1}, 0], ids=["text", "list", "table", "number"])
def test_no_refusal_repeats_a_secret(load, key, wrong):
    """A wrong value is often the right secret in the wrong place, and refusals end up in logs."""
    with pytest.raises(ConfigurationError) as refusal:
        load("test", overrides={key: wrong})

    assert f"argument {key} must" in str(refusal.value)
    assert "s3cret" not in "".join(traceback.format_exception(refusal.value))


def test_a_refusal_keeps_no_foreign_error_that_would_repeat_a_secret(load):
    """Error reporters walk along the chain of causes and show each of them."""
    with pytest.raises(ConfigurationError) as refusal:
        load("test", overrides={"database.url": "postgresql://shop:s3cret@db:port/shop"})

    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://shop:s3cret@db:5432/shop", "postgresql://shop:***@db:5432/shop"),
        ("postgresql://shop:s3/cr?et@x@db/shop", "postgresql://shop:***@db/shop"),
        ("postgresql://shop@db/shop", "postgresql://shop@db/shop"),
        ("postgresql://db:5432/shop?user=shop&password=s3cret", "postgresql://db:5432/shop?user=shop&password=***"),
        ("postgresql://db:5432/shop?password=s3@cret&a=b", "postgresql://db:5432/shop?password=***&a=b"),
        ("redis://:s3cret@redis:6379/0", "redis://:***@redis:6379/0"),
        ("redis://:s3;cret@redis:6379/0", "redis://:***@redis:6379/0"),
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("sentinel://:s3cret@a:1;sentinel://:s3cret@b:2", "sentinel://:***@a:1;sentinel://:***@b:2"),
        ("https://s3cret@desk.example.com/x", "https://***@desk.example.com/x"),
        ("https://user:s3cret@desk.example.com/x", "https://***@desk.example.com/x"),
        ("https://desk.example.com/x?access_token=s3cret", "https://desk.example.com/x?access_token=***"),
        ("sqlite:///var/post-purchase.db", "sqlite:///var/post-purchase.db"),
        ("memory://", "memory://"),
        ("klarna-eu", "klarna-eu"),
    ],
)
def test_a_redacted_url_still_says_where_it_leads(url, expected):
    """What helps to find a fault stays, what would open a door goes."""
    assert expected == redacted_url(url)


def test_a_refusal_survives_the_way_between_processes(problems, load):
    """Pools of processes send errors home pickled, and one that cannot be read back takes the pool down."""
    with pytest.raises(ConfigurationError) as refusal:
        load("nonsense")

    copy = pickle.loads(pickle.dumps(refusal.value))  # noqa: S301 - made one call earlier

    assert refusal.value.problems == copy.problems
    assert str(refusal.value) == str(copy)
