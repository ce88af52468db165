import traceback
from dataclasses import replace

import pytest

from worker.domain.errors import DeskUnavailable
from worker.domain.outcome import Problem

DESKS = ["log", "email", "webhook"]
DESKS_THAT_CAN_BE_AWAY = ["email", "webhook"]

HOSTILE = "o-1\r\nForged: yes\r\n\r\nForged line <script>alert('x')</script>\x1b[2J\u202e\u2028Forged line\x00"


@pytest.fixture
def place(request):
    return request.getfixturevalue(f"{request.param}_place")


at_every_desk = pytest.mark.parametrize("place", DESKS, indirect=True)
at_desks_that_can_be_away = pytest.mark.parametrize("place", DESKS_THAT_CAN_BE_AWAY, indirect=True)


@at_every_desk
def test_opening_gives_a_reference_that_can_be_stored(place, a_case_file):
    """Later commands are added under the reference, so it must exist and fit its column."""
    external_ref = place.desk.open(a_case_file())

    assert external_ref.isprintable()
    assert 0 < len(external_ref) <= 255


@at_every_desk
def test_opening_twice_gives_the_same_reference(place, a_case_file):
    """A worker that dies after telling tells again, and the ticket must stay one."""
    first = place.desk.open(a_case_file())

    again = place.desk.open(a_case_file())

    assert first == again


@at_every_desk
def test_a_repeated_opening_is_recognisable(place, a_case_file):
    """Who hears twice of one ticket must be able to see that it is one."""
    place.desk.open(a_case_file())
    place.desk.open(a_case_file())

    first, again = place.told

    assert first.announcement == again.announcement


@at_every_desk
def test_a_repeated_appending_is_recognisable(place, a_case, a_case_file):
    """The same holds for what is added to a ticket later."""
    external_ref = place.desk.open(a_case_file())
    further = a_case_file(a_case(2), a_case(3), total=3)
    place.desk.append(external_ref, further)
    place.desk.append(external_ref, further)

    _, first, again = place.told

    assert first.announcement == again.announcement


@at_every_desk
def test_further_commands_are_news(place, a_case, a_case_file):
    """A receiver that drops repeats must not drop a command that it has not heard of."""
    external_ref = place.desk.open(a_case_file())
    place.desk.append(external_ref, a_case_file(a_case(2), total=2))
    place.desk.append(external_ref, a_case_file(a_case(3), total=3))

    announcements = {told.announcement for told in place.told}

    assert 3 == len(announcements)


@at_every_desk
def test_a_command_that_comes_back_after_a_retry_is_news(place, a_case, a_case_file):
    """An operator retried it and it failed again: dropping that as a repeat would leave nobody knowing."""
    external_ref = place.desk.open(a_case_file())
    before, *_, last = a_case(2).attempts
    place.desk.append(external_ref, a_case_file(a_case(2, attempts=(before,)), total=2))
    place.desk.append(external_ref, a_case_file(a_case(2, attempts=(before, last)), total=2))

    announcements = {told.announcement for told in place.told}

    assert 3 == len(announcements)


@at_every_desk
def test_what_is_added_names_its_ticket(place, a_case, a_case_file):
    """People look for the ticket by its id, which both messages must carry."""
    external_ref = place.desk.open(a_case_file())
    place.desk.append(external_ref, a_case_file(a_case(2), total=2))

    ticket_id = str(a_case_file().ticket_id)

    assert [True, True] == [ticket_id in told.content for told in place.told]


@at_every_desk
def test_a_repeated_closing_is_recognisable_and_news(place, a_case_file, a_closing_file):
    """It must not be dropped for a repeat of what came before, and may come twice."""
    external_ref = place.desk.open(a_case_file())
    place.desk.append(external_ref, a_case_file())
    place.desk.close(external_ref, a_closing_file())
    place.desk.close(external_ref, a_closing_file())

    opened, added, closed, again = place.told

    assert closed.announcement == again.announcement
    assert closed.announcement not in {opened.announcement, added.announcement}


@at_every_desk
def test_a_closing_says_what_became_of_the_commands(place, a_closing_file):
    """Whoever kept the ticket in mind can let go of it, and knows why."""
    place.desk.close("ref", a_closing_file())

    (told,) = place.told

    expected = [
        "019ab3c4-0000-7000-8000-00000000000f",
        "The third retry failed",
        "Nothing: no command of this ticket waits for a decision any more.",
        "capture",
        "order-1",
        "succeeded",
        "order-2",
        "cancelled",
        "itself",
        "operator",
    ]
    assert [] == [fact for fact in expected if fact not in told.content]


@at_every_desk
def test_the_reference_of_another_desk_does_no_harm(place, a_case_file, a_closing_file):
    """Settings may change from one desk to another while a ticket is open."""
    place.desk.append("another desk's\r\nForged: yes", a_case_file())
    place.desk.close("another desk's\r\nForged: yes", a_closing_file())

    assert [2, 0] == [len(place.told), sum("Forged" in name for told in place.told for name in told.headers)]


@at_every_desk
def test_the_facts_reach_the_person(place, a_case_file):
    """With these a person can look the order up at the provider and decide."""
    place.desk.open(a_case_file())

    (told,) = place.told

    expected = [
        "klarna-eu",
        "The third retry failed",
        "capture",
        "order-1",
        "shipment-1",
        "12345",
        "7d7f0000-0000-5000-8000-000000000001",
        "00000000-0000-0000-0000-000000000001",
        "escalated",
        "No answer within 30 s",
        "in_doubt",
        "503",
        "INTERNAL",
        "corr-attempt",
        "post-purchase resolve ID --by NAME --reason TEXT",
    ]
    assert [] == [fact for fact in expected if fact not in told.content]


@at_every_desk
def test_line_breaks_and_markup_in_what_others_wrote_are_harmless(place, a_case, a_case_file, a_closing_file):
    """Order ids come from the shop and messages from the provider: neither may write lines or headers of ours."""
    case = a_case(
        account=HOSTILE,
        order_id=HOSTILE,
        reference=HOSTILE,
        problem=Problem(code=HOSTILE, message=HOSTILE, correlation_id=HOSTILE),
    )
    hostile = a_case_file(case, account=HOSTILE)

    (ended, *_) = a_closing_file().closing.first
    over = a_closing_file(replace(ended, order_id=HOSTILE, reference=HOSTILE))

    external_ref = place.desk.open(hostile)
    place.desk.append(external_ref, hostile)
    place.desk.close(external_ref, over)

    assert 3 == len(place.told)
    for told in place.told:
        assert not [name for name in told.headers if "Forged" in name]
        assert not [line for line in told.content.splitlines() if line.startswith("Forged")]
        assert {"\x1b", "\u202e", "\u2028", "\x00"}.isdisjoint(told.content)


@at_desks_that_can_be_away
def test_an_absent_desk_is_reported_with_its_address_and_what_to_check(place, a_case_file):
    """The message is all that an operator sees; the ticket stays stored and is told again."""
    with pytest.raises(DeskUnavailable, match=r"127\.0\.0\.1:\d+ refused the connection\. Check the port"):
        place.away.open(a_case_file())


@at_desks_that_can_be_away
def test_an_absent_desk_takes_no_further_commands(place, a_case_file):
    """Were this silent, the commands would count as announced."""
    with pytest.raises(DeskUnavailable):
        place.away.append("ref", a_case_file())


@at_desks_that_can_be_away
def test_an_absent_desk_takes_no_closing(place, a_closing_file):
    """Were this silent, a person would look at a ticket that is over."""
    with pytest.raises(DeskUnavailable):
        place.away.close("ref", a_closing_file())


@at_every_desk
def test_no_desk_shows_its_secrets(place):
    """A `repr` ends up in logs and reports."""
    shown = repr(place.desk)

    assert [] == [secret for secret in place.secrets if secret in shown]


@at_desks_that_can_be_away
def test_no_error_shows_secrets(place, a_case_file):
    """Errors end up in logs, reports and the ticket's own row."""
    with pytest.raises(DeskUnavailable) as caught:
        place.away.open(a_case_file())

    shown = "".join(traceback.format_exception(caught.value))

    assert [] == [secret for secret in place.secrets if secret in shown]


@at_every_desk
def test_nothing_told_holds_a_secret(place, a_case_file):
    """What is told is kept in mailboxes and other people's systems."""
    place.desk.open(a_case_file())

    (told,) = place.told

    shown = f"{told.headers} {told.content}"
    assert [] == [secret for secret in place.secrets if secret in shown]


@pytest.mark.parametrize(("place", "name"), [(name, name) for name in DESKS], indirect=["place"])
def test_each_desk_has_its_own_name(place, name):
    """The name is stored with the ticket and chosen in the settings."""
    assert name == place.desk.name
