from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from worker.domain.card import HOLDS_CARD_NUMBER, IS_CARD_FIELD, card_problems
from worker.domain.errors import FieldProblem

# The numbers card schemes publish for tests; none of them is anybody's.
CARD_NUMBERS = [
    pytest.param("4222222222222", id="13 digits"),
    pytest.param("30569309025904", id="14 digits"),
    pytest.param("378282246310005", id="15 digits"),
    pytest.param("4111111111111111", id="16 digits"),
    pytest.param("6304000000000000000", id="19 digits"),
]


def luhn_digit(digits):
    """The check digit, worked out another way than the code under test does it."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[::-2]]
    single = [int(digit) for digit in digits[-2::-2]]

    return str(-(sum(doubled) + sum(single)) % 10)


@pytest.mark.parametrize("number", CARD_NUMBERS)
def test_a_card_number_is_found_at_every_length(number):
    """Card numbers have 13 to 19 digits, and each scheme has its own length."""
    problems = card_problems(number, "description")

    assert [FieldProblem(field="description", message=HOLDS_CARD_NUMBER)] == problems


@given(st.text("0123456789", min_size=12, max_size=18))
def test_every_number_that_passes_the_luhn_check_is_found(digits):
    """No list of issuers is complete, so the check digit alone decides."""
    number = digits + luhn_digit(digits)

    problems = card_problems({"note": number})

    assert [FieldProblem(field="note", message=HOLDS_CARD_NUMBER)] == problems


@given(st.text("0123456789", max_size=11) | st.text("0123456789", min_size=19, max_size=40))
def test_a_number_shorter_or_longer_than_a_card_number_is_let_through(digits):
    """Twelve digits and twenty are on no card, whatever their check digit."""
    assert [] == card_problems(digits + luhn_digit(digits))


@given(st.text("0123456789", min_size=12, max_size=18), st.integers(1, 9))
def test_a_number_that_fails_the_luhn_check_is_let_through(digits, shift):
    """Nine out of ten long numbers are something else, such as a tracking number."""
    wrong = str((int(luhn_digit(digits)) + shift) % 10)

    assert [] == card_problems(digits + wrong)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("4111 1111 1111 1111", id="spaces"),
        pytest.param("4111-1111-1111-1111", id="dashes"),
        pytest.param("4111\u00a01111\u00a01111\u00a01111", id="non-breaking spaces"),
        pytest.param("4111\u20131111\u20131111\u20131111", id="en dashes"),
        pytest.param("4222 222 222 222", id="13 digits"),
        pytest.param("3056 930902 5904", id="14 digits"),
        pytest.param("3782 822463 10005", id="15 digits"),
        pytest.param("6304 0000 0000 0000 000", id="19 digits"),
        pytest.param("paid with 4111 1111 1111 1111, exp 12/30", id="in a sentence"),
        pytest.param("card:4111111111111111.", id="between signs"),
        pytest.param("\u5361\u53f74111111111111111", id="script without spaces"),
        pytest.param("\uff14" + "\uff11" * 15, id="full-width digits"),
        pytest.param("2030 4111 1111 1111 1111 123", id="between other numbers"),
    ],
)
def test_a_card_number_is_found_as_people_write_it(text):
    """Card numbers get into free text by hand, in the groups that are printed on the card."""
    problems = card_problems(text)

    assert [HOLDS_CARD_NUMBER] == [problem.message for problem in problems]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x4111111111111111", id="letter before"),
        pytest.param("4111111111111111x", id="letter after"),
        pytest.param("41 11 11 11 11 11 11 11", id="pairs"),
        pytest.param("4111  1111  1111  1111", id="double spaces"),
        pytest.param("", id="empty"),
    ],
)
def test_digits_that_no_card_carries_are_let_through(text):
    """A refusal stops a payment, so it needs the length, the groups and the edges of a card number."""
    assert [] == card_problems(text)


@given(st.uuids())
def test_no_uuid_is_taken_for_a_card_number(identifier):
    """Orders, captures and keys are UUIDs; refusing one in a thousand of them would be refusing payments by lot."""
    assert [] == card_problems([str(identifier), identifier.hex, identifier.urn])


@given(st.text("0123456789", min_size=32, max_size=32))
def test_a_uuid_of_digits_only_is_not_taken_for_a_card_number(digits):
    """Its groups look like numbers, but 8-4-4-4-12 is on no card."""
    assert [] == card_problems(str(UUID(digits)))


@pytest.mark.parametrize(
    "name",
    ["cardNumber", "card_number", "CARDNUMBER", "securityCode", "security_code", "Security-Code", "cvv", "CVC"],
)
def test_a_field_named_for_card_data_is_found_whatever_it_holds(name):
    """A security code is three digits that no check can tell from others; its name gives it away."""
    problems = card_problems({"payment": [{name: "12"}]})

    assert [FieldProblem(field=f"payment.0.{name}", message=IS_CARD_FIELD)] == problems


@pytest.mark.parametrize("number", [4111111111111111, -4111111111111111, 4111111111111111.0])
def test_a_card_number_given_as_a_number_is_found(number):
    """JSON has numbers, and a card number fits into one."""
    problems = card_problems({"quantity": number})

    assert ["quantity"] == [problem.field for problem in problems]


def test_every_place_is_listed_in_the_order_of_the_input():
    """Whoever corrects the input wants all places at once."""
    value = {"b": "4111111111111111", "a": [{"cvv": 1}, ("378282246310005",)]}

    problems = card_problems(value, "fields")

    assert ["fields.b", "fields.a.0.cvv", "fields.a.1.0"] == [problem.field for problem in problems]


@pytest.mark.parametrize("name", ["4111111111111111", "card_4111111111111111", "4111 1111 1111 1111"])
def test_a_card_number_used_as_a_name_is_found_and_not_repeated(name):
    """A problem is logged and shown, so its path must not carry what it warns of."""
    problems = card_problems({name: 1})

    assert [FieldProblem(field="(unreadable name)", message=HOLDS_CARD_NUMBER)] == problems


def test_input_nested_deeper_than_the_stack_is_searched_to_the_bottom():
    """Depth is the sender's choice; it must neither crash the check nor hide from it."""
    value = "4111111111111111"
    for _ in range(5_000):
        value = [value]

    assert 1 == len(card_problems(value))


def test_a_number_too_long_for_text_is_passed_over():
    """Python refuses to spell out a whole number of 5,000 digits; JSON may hold one."""
    assert [] == card_problems(10**5000)


@pytest.mark.parametrize("value", [None, True, 0.5, float("inf"), float("nan"), b"4111111111111111", {1}])
def test_what_is_no_text_and_no_card_sized_number_is_passed_over(value):
    """The check sees raw input, so nothing in it may make the check itself fail."""
    assert [] == card_problems(value)
