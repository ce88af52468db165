from __future__ import annotations

import re

import pytest

from worker.providers import bluesnap, klarna
from worker.providers.bluesnap import BlueSnap
from worker.providers.klarna import Klarna
from worker.wiring import COMMANDS

GIVEN = {"account": "a", "base_url": "https://provider.example.com", "username": "u", "password": "p"}
PROVIDERS = {"klarna": (Klarna(**GIVEN), klarna.OPERATIONS), "bluesnap": (BlueSnap(**GIVEN), bluesnap.OPERATIONS)}


@pytest.fixture
def shown(root):
    """README's table: (safety class, provider) → kinds."""
    rows = re.findall(
        r"^\| (read|keyed|unkeyed) \| (.*?) \| (.*?) \| .* \|$", (root / "README.md").read_text("utf-8"), re.MULTILINE
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
        for safety in ("read", "keyed", "unkeyed")
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
        assert ("read" if class_.is_read else "keyed" if protected else "unkeyed") == provider.safety(kind, keyed=True)


@pytest.mark.parametrize("name", PROVIDERS)
def test_without_a_key_no_change_is_safe(name):
    """Only reads are."""
    provider, operations = PROVIDERS[name]

    assert {"read", "unkeyed"} == {str(provider.safety(kind, keyed=False)) for kind in operations}
