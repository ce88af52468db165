from __future__ import annotations

import io
import json

import pytest
from typer.testing import CliRunner

from worker import bluesnap
from worker.cli import app
from worker.cli.lines import BadLine, Line, read_lines
from worker.domain import klarna_commands as klarna
from worker.wiring import COMMANDS

KINDS = {"klarna-eu": COMMANDS["klarna"], "bluesnap-us": COMMANDS["bluesnap"]}


def read(*objects):
    return list(read_lines(io.BytesIO("\n".join(map(json.dumps, objects)).encode()), KINDS))


def test_a_line_is_read_in_the_words_of_its_accounts_provider():
    """Both have a capture, and only one of them needs a currency."""
    captured = {"kind": "capture", "order_id": "1", "amount": 500}

    first, second, third = read(
        {**captured, "account": "klarna-eu"},
        {**captured, "account": "bluesnap-us", "currency": "USD"},
        {**captured, "account": "bluesnap-us"},
    )

    assert [klarna.Capture, bluesnap.Capture] == [type(each.command) for each in (first, second)]
    assert BadLine(number=3, reason="capture: currency: is required") == third


@pytest.mark.parametrize(
    ("account", "kind"), [("klarna-eu", "auth_reversal"), ("bluesnap-us", "acknowledge"), ("klarna-eu", "sale")]
)
def test_a_kind_of_the_other_provider_is_unknown(account, kind):
    """A typo in the account must not find a command that means something else."""
    (line,) = read({"kind": kind, "account": account, "order_id": "1"})

    assert isinstance(line, BadLine)
    assert f"'{kind}' is not a kind of command" in line.reason


@pytest.mark.parametrize("kind", sorted({*COMMANDS["klarna"], *COMMANDS["bluesnap"]}))
def test_a_line_without_an_account_is_refused_for_that(kind):
    """Whoever forgot it should not be told that there is no such kind."""
    (line,) = read({"kind": kind, "order_id": "1"})

    assert "account: is required" in line.reason


@pytest.mark.parametrize("written", ['{"a": 12.34}', '{"cardNumber": "1"}', '{"a": "4111111111111111"}'])
def test_what_bluesnap_must_not_be_sent_is_refused_in_a_file_too(written):
    """A file is the one way in that no program has looked at before."""
    (line,) = read({"kind": "create_shopper", "account": "bluesnap-us", "order_id": "1", "fields": json.loads(written)})

    assert isinstance(line, BadLine)
    assert "4111" not in line.reason


def test_every_line_of_a_mixed_file_is_a_command():
    """A shop at both providers has one file."""
    lines = read(
        {"kind": "capture", "account": "klarna-eu", "order_id": "1", "amount": 500},
        {"kind": "refund", "account": "bluesnap-us", "order_id": "1", "amount": 5, "currency": "JPY"},
    )

    assert all(isinstance(line, Line) for line in lines)


@pytest.mark.parametrize("kind", ["auth_reversal", "acknowledge", "capture"])
def test_the_list_can_be_asked_for_a_kind_of_either_provider(sqlite_url, kind):
    """A kind that can be stored can be looked for."""
    arguments = ["--profile", "test", "--set", f"database.url={sqlite_url}", "list", "--kind", kind, "--json"]

    shown = CliRunner().invoke(app, arguments)

    assert (0, []) == (shown.exit_code, json.loads(shown.stdout)), shown.output
