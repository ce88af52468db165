from __future__ import annotations

import re

import pytest

from worker.domain.ladder import Safety
from worker.providers import bluesnap, klarna
from worker.providers.bluesnap import BlueSnap
from worker.providers.klarna import Klarna
from worker.wiring import COMMANDS

GIVEN = {"account": "a", "base_url": "https://provider.example.com", "username": "u", "password": "p"}
PROVIDERS = {"klarna": (Klarna(**GIVEN), klarna.OPERATIONS), "bluesnap": (BlueSnap(**GIVEN), bluesnap.OPERATIONS)}
UNKEYED = {Safety.UNKEYED, Safety.UNKEYED_READABLE}


@pytest.fixture
def shown(root):
    """README's table: (safety class, provider) → kinds."""
    rows = re.findall(
        r"^\| (read|keyed|unkeyed-readable|unkeyed) \| (.*?) \| (.*?) \| .* \|$",
        (root / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )
    return {
        (safety, provider): re.findall(r"`(\w+)`", cell)
        for safety, *cells in rows
        for provider, cell in zip(("klarna", "bluesnap"), cells, strict=True)
    }


def test_the_page_shows_how_safe_each_command_is_to_repeat(shown):
    """Whoever chooses a provider, or wonders about a ticket, looks there."""
    expected = {
        (safety, name): [kind for kind in operations if provider.safety(kind, keyed=True) == safety]
        for safety in Safety
        for name, (provider, operations) in PROVIDERS.items()
    }

    assert expected == shown


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_provider_knows_the_commands_of_its_accounts_and_no_others(name):
    """A kind that can be stored and not sent would wait for ever."""
    _, operations = PROVIDERS[name]

    assert set(COMMANDS[name]) == set(operations)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_command_says_of_itself_what_its_provider_says_of_it(name):
    """Where an account is not configured, what was stored with the command is all there is to go by."""
    provider, _ = PROVIDERS[name]
    for kind, class_ in COMMANDS[name].items():
        protected = "keyed" in class_.model_fields
        repeatable = {Safety.READ} if class_.is_read else {Safety.KEYED} if protected else UNKEYED
        assert provider.safety(kind, keyed=True) in repeatable


@pytest.mark.parametrize("name", PROVIDERS)
def test_without_a_key_no_change_is_safe(name):
    """Only reads are."""
    provider, operations = PROVIDERS[name]

    assert {provider.safety(kind, keyed=False) for kind in operations} == {Safety.READ, *UNKEYED}


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_unkeyed_change_is_readable_where_it_can_be_looked_up(name):
    """Whether a person is called at once or after a look must not depend on which table is asked."""
    provider, operations = PROVIDERS[name]
    changes = [kind for kind, operation in operations.items() if not operation.is_read]

    readable = [kind for kind in changes if provider.safety(kind, keyed=False) is Safety.UNKEYED_READABLE]

    assert [kind for kind in changes if provider.reads_back(kind)] == readable
