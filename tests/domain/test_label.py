from __future__ import annotations

import pytest

from worker.domain.label import batch_label, command_label


@pytest.fixture
def label():
    def of(order_id="4ba29b50-be7b-44f5-a492-113e6a865e22", *, failures=0, tries=4):
        return command_label(kind="capture", account="klarna-eu", order_id=order_id, failures=failures, tries=tries)

    return of


def test_a_label_names_kind_account_order_and_try(label):
    """Flower shows nothing else, and must show no payload."""
    assert "capture klarna-eu 4ba29b50… try 2 of 4" == label(failures=1)


@pytest.mark.parametrize(
    ("order_id", "shown"), [("1234567", "1234567"), ("12345678", "12345678"), ("123456789", "12345678…")]
)
def test_only_a_long_order_id_is_shortened(label, order_id, shown):
    """A mark of omission where nothing was left out would send people looking for more."""
    assert f"capture klarna-eu {shown} try 1 of 4" == label(order_id)


@pytest.mark.parametrize(("failures", "shown"), [(0, 1), (3, 4), (4, 4)])
def test_the_try_never_exceeds_the_tries(label, failures, shown):
    """`try 5 of 4` is the kind of thing that makes people distrust a screen."""
    assert label(failures=failures).endswith(f"try {shown} of 4")


def test_a_ladder_of_another_length_is_counted_as_it_is(label):
    """The waits are a setting."""
    assert label(failures=1, tries=2).endswith("try 2 of 2")


def test_a_message_of_one_is_named_after_its_command(label):
    """At low load, Flower shows a task per command."""
    assert label() == batch_label([label()])


def test_a_message_of_many_says_how_many_and_the_first(label):
    """Fifty labels would not fit on a line."""
    assert f"3 commands: {label()} …" == batch_label([label(), label("other"), label("third")])
