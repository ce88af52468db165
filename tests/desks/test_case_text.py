import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest

from worker.desks.case_text import announcement, as_html, as_json, as_text, one_line
from worker.domain.outcome import Problem
from worker.domain.ticket import HEADLINE, NEXT_STEPS, Reason


class Page(HTMLParser):
    """The tags of a page and the words that a person sees."""

    def __init__(self, page):
        super().__init__()
        self.tags = set()
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.tags.update(f"{tag} {name}" for name, _ in attrs)

    def handle_data(self, data):
        self.words += f"{data} "


def as_words(case_file):
    return Page(as_html(case_file)).words


for_people = pytest.mark.parametrize("write", [as_text, as_words], ids=["text", "html"])


@for_people
@pytest.mark.parametrize("reason", Reason)
def test_a_ticket_says_what_happened_and_what_to_do(write, reason, a_case_file):
    """Whoever is woken by a ticket must not need the manual."""
    case_file = a_case_file(reason=reason)

    written = write(case_file)

    assert [] == [words for words in (HEADLINE[reason], str(reason), *NEXT_STEPS[reason]) if words not in written]


@for_people
def test_a_ticket_tells_everything_it_holds(write, a_case_file):
    """What is missing here has to be dug out of the database at night."""
    written = write(a_case_file(total=7))

    expected = [
        "019ab3c4-0000-7000-8000-00000000000f",
        "klarna-eu",
        "2026-11-22 12:00:00 UTC",
        "7 in this ticket, 1 of them in this message",
        "00000000-0000-0000-0000-000000000001",
        "capture",
        "order-1",
        "shipment-1",
        "12345 (minor units)",
        "7d7f0000-0000-5000-8000-000000000001",
        "escalated",
        "yes: an attempt may have been carried out",
        "18 h 54 min left when this was written",
        "no_answer: No answer within 30 s (correlation id corr-problem)",
        "2026-11-22 07:00:00",
        "2026-11-22 07:00:30",
        "in_doubt",
        "503",
        "INTERNAL",
        "corr-attempt",
        "2026-11-22 12:01:05",
        "ambiguous",
        "2 captures carry the reference that the caller gave: c-1, c-2.",
    ]
    assert [] == [words for words in expected if words not in written]


def test_attempts_stand_in_a_table(a_case_file):
    """A person compares them line by line."""
    text = as_text(a_case_file())

    assert (
        """
Attempts
  no  started (UTC)        finished (UTC)       outcome   status  code       correlation id
  1   2026-11-22 07:00:00  2026-11-22 07:00:30  in_doubt  -       no_answer  -
  2   2026-11-22 11:59:00  2026-11-22 12:00:00  in_doubt  503     INTERNAL   corr-attempt
"""
        in text
    )


def test_readings_stand_in_a_table(a_case_file):
    """They are why a person is asked, and what an operator weighs against a look of their own."""
    text = as_text(a_case_file())

    assert text.endswith(
        """
Readings at the provider
  read (UTC)           for     found      evidence
  2026-11-22 12:01:00  ticket  unread     The read told nothing: no_answer.
  2026-11-22 12:01:05  ticket  ambiguous  2 captures carry the reference that the caller gave: c-1, c-2.
"""
    )


@for_people
def test_of_many_readings_the_last_are_shown_and_the_others_counted(write, a_case, a_case_file):
    """A pending refund is read for two weeks, hour by hour; a mail of hundreds of lines is read by nobody."""
    (reading, _) = a_case().readings
    readings = tuple(replace(reading, evidence=f"Reading {number}.") for number in range(336))

    written = write(a_case_file(a_case(readings=readings)))

    assert [f"Reading {number}." for number in range(326, 336)] == re.findall(r"Reading \d+\.", written)
    assert "the last 10; 326 before them are left out" in written


@pytest.mark.parametrize("written", [as_text, as_html, lambda case_file: json.dumps(as_json(case_file))])
def test_evidence_is_cut_where_it_tells_no_more(written, a_case, a_case_file):
    """Whoever wrote it bounded it; a row from elsewhere must not make a mail of megabytes."""
    (reading, _) = a_case().readings
    case = a_case(readings=(replace(reading, evidence="x" * 1_000_000),))

    assert len(written(a_case_file(case))) < 10_000


@for_people
def test_evidence_is_shown_as_text(write, a_case, a_case_file):
    """It quotes what a provider, or a stranger by way of the provider, has written."""
    (reading, _) = a_case().readings
    odd = '<script>alert("1")</script>\r\nProblem  none\u202e'
    case = a_case(readings=(replace(reading, evidence=odd, purpose=odd, verdict=odd),))
    case_file = a_case_file(case)

    assert 3 == write(case_file).count(r'<script>alert("1")</script>\r\nProblem  none\u202e')
    assert "script" not in Page(as_html(case_file)).tags


@for_people
def test_what_is_not_known_is_shown_as_such(write, a_case, a_case_file):
    """A command may be escalated before anything was sent."""
    case = a_case(reference=None, amount=None, in_doubt=False, key_window_left=None, problem=None)
    case = replace(case, attempts=(), readings=())

    written = write(a_case_file(case))

    assert "None" not in written
    assert "does not apply: nothing was sent, or no key bounds it" in written
    assert 2 == written.count("none")


@for_people
def test_an_attempt_that_has_not_ended_is_shown_as_such(write, a_case, a_case_file):
    """A worker may have died in it; what it sent may still arrive."""
    whole = a_case()
    last = type(whole.attempts[0])(
        number=3,
        started_at=whole.attempts[1].finished_at,
        finished_at=None,
        outcome=None,
        status=None,
        code=None,
        correlation_id=None,
    )

    written = write(a_case_file(a_case(attempts=(last,))))

    assert "None" not in written
    assert "unknown" in written


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (timedelta(days=2, hours=3, minutes=4), "2 d 3 h left when"),
        (timedelta(hours=3, minutes=4, seconds=5), "3 h 4 min left when"),
        (timedelta(minutes=4, seconds=5), "4 min 5 s left when"),
        (timedelta(seconds=5), "5 s left when"),
        (timedelta(0), "closed 0 s before this was written: sending it again could move money twice"),
        (timedelta(hours=-3), "closed 3 h 0 min before this was written: sending it again could move money twice"),
    ],
)
def test_the_rest_of_the_key_window_is_told_in_words(left, expected, a_case, a_case_file):
    """It decides whether a retry is safe at all."""
    text = as_text(a_case_file(a_case(key_window_left=left)))

    assert expected in text


def test_times_are_told_in_utc(a_case_file):
    """Times of several servers stand side by side."""
    opened_at = datetime(2026, 11, 22, 23, 30, tzinfo=timezone(timedelta(hours=5)))

    case_file = a_case_file(opened_at=opened_at)

    assert "Opened at  2026-11-22 18:30:00 UTC" in as_text(case_file)
    assert "2026-11-22T18:30:00.000Z" == as_json(case_file)["opened_at"]


def test_markup_in_an_order_id_is_shown_as_text(a_case, a_case_file):
    """It must not run, load or hide anything in the mail program of whoever reads the ticket."""
    markup = '<img src="https://evil.example/x" onerror="alert(1)"></td><script>alert("2")</script>&amp;'
    case = a_case(order_id=markup, reference=markup, problem=Problem(code=markup, message=markup))

    page = Page(as_html(a_case_file(case, account=markup)))

    assert {"img", "script", "img src", "img onerror"}.isdisjoint(page.tags)
    assert 6 == page.words.count(markup)


def test_the_page_loads_nothing(a_case_file):
    """A picture from elsewhere would tell its owner when a ticket is read."""
    page = as_html(a_case_file())

    assert [] == [word for word in ("src=", "href=", "url(", "<link", "<script", "http:", "https:") if word in page]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("order-1", "order-1"),
        ("größe ✓ 注文", "größe ✓ 注文"),
        ("a\r\nb", r"a\r\nb"),
        ("a\tb", r"a\tb"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\u2028b", r"a\u2028b"),
        ("a\u202eb", r"a\u202eb"),
        ("a\ud800b", r"a\ud800b"),
        ("a\u00a0b", "a b"),
    ],
)
def test_what_breaks_or_hides_a_line_is_shown_as_an_escape(text, expected):
    """A forged line in a ticket could talk an operator into paying twice."""
    shown = one_line(text)

    assert expected == shown


def test_the_dictionary_is_json(a_case, a_case_file):
    """It goes to logs and webhooks as it is."""
    case_file = a_case_file(a_case(), a_case(2, key_window_left=None, problem=None, attempts=(), readings=()))

    content = json.loads(json.dumps(as_json(case_file)))

    assert as_json(case_file) == content


def test_the_dictionary_keeps_ids_as_they_are(a_case, a_case_file):
    """A machine looks the order up by its id; JSON needs no help with quoting."""
    odd = "a\nb<c>"

    content = as_json(a_case_file(a_case(order_id=odd, reference=odd)))

    assert (odd, odd) == (content["cases"][0]["order_id"], content["cases"][0]["reference"])


def test_the_dictionary_says_what_the_text_says(a_case_file):
    """A ticket system must be able to show the same."""
    content = as_json(a_case_file())

    expected = {
        "command_id": "00000000-0000-0000-0000-000000000001",
        "account": "klarna-eu",
        "kind": "capture",
        "order_id": "order-1",
        "reference": "shipment-1",
        "amount": 12_345,
        "idempotency_key": "7d7f0000-0000-5000-8000-000000000001",
        "state": "escalated",
        "in_doubt": True,
        "key_window_left_seconds": 68_040,
        "problem": {
            "code": "no_answer",
            "message": "No answer within 30 s",
            "status": None,
            "correlation_id": "corr-problem",
        },
        "attempts": [
            {
                "number": 1,
                "started_at": "2026-11-22T07:00:00.000Z",
                "finished_at": "2026-11-22T07:00:30.000Z",
                "outcome": "in_doubt",
                "status": None,
                "code": "no_answer",
                "correlation_id": None,
            },
            {
                "number": 2,
                "started_at": "2026-11-22T11:59:00.000Z",
                "finished_at": "2026-11-22T12:00:00.000Z",
                "outcome": "in_doubt",
                "status": 503,
                "code": "INTERNAL",
                "correlation_id": "corr-attempt",
            },
        ],
        "readings": [
            {
                "read_at": "2026-11-22T12:01:00.000Z",
                "purpose": "ticket",
                "verdict": "unread",
                "evidence": "The read told nothing: no_answer.",
            },
            {
                "read_at": "2026-11-22T12:01:05.000Z",
                "purpose": "ticket",
                "verdict": "ambiguous",
                "evidence": "2 captures carry the reference that the caller gave: c-1, c-2.",
            },
        ],
        "readings_total": 2,
    }
    assert [expected] == content["cases"]


@for_people
@pytest.mark.parametrize(("by_operator", "expected"), [(False, "by itself"), (True, "by an operator")])
def test_a_closing_tells_everything_it_holds(write, a_closing_file, by_operator, expected):
    """Whoever asks whether all went well finds the figures first, and each command after them."""
    written = write(a_closing_file(by_operator=by_operator))

    facts = [
        "2026-11-22 19:00:00 UTC",
        expected,
        "1 cancelled, 1 succeeded; 1 of them decided by an operator",
        "What is left to do",
        "Nothing: no command of this ticket waits for a decision any more.",
        "00000000-0000-0000-0000-000000000002",
        "order-2",
        "shipment-1",
        "12345",
        "operator",
    ]
    assert [] == [fact for fact in facts if fact not in written]
    assert "What you can safely do now" not in written


@for_people
def test_of_a_large_closing_the_first_are_shown_and_the_others_counted(write, a_closing_file):
    """Nobody reads ten thousand lines to learn that all is well."""
    written = write(a_closing_file(counts={"succeeded": 10_000}))

    assert "10000 succeeded" in written
    assert "How they ended (the first 2; 9998 after them are left out)" in written


@for_people
@pytest.mark.parametrize(("how", "is_elsewhere"), [("succeeded", False), ("moved", True), ("rejected", True)])
def test_a_closing_says_where_commands_went_on(write, a_closing_file, how, is_elsewhere):
    """Some may wait for a person all the same, and that is no secret; where none does, the sentence would puzzle."""
    written = write(a_closing_file(counts={how: 2}))

    assert is_elsewhere is ("has a ticket of its own" in written)


def test_a_closing_is_told_to_machines(a_closing_file):
    """A ticket system closes its own ticket by it, and may show the same."""
    content = as_json(a_closing_file())

    expected = {
        "closed_at": "2026-11-22T19:00:00.000Z",
        "closed_by": "itself",
        "counts": {"succeeded": 1, "cancelled": 1},
        "decided_by_operator": 1,
        "first": [
            {
                "command_id": "00000000-0000-0000-0000-000000000001",
                "kind": "capture",
                "order_id": "order-1",
                "reference": "shipment-1",
                "amount": 12_345,
                "ended": "succeeded",
                "by": "itself",
            },
            {
                "command_id": "00000000-0000-0000-0000-000000000002",
                "kind": "capture",
                "order_id": "order-2",
                "reference": "shipment-1",
                "amount": 12_345,
                "ended": "cancelled",
                "by": "operator",
            },
        ],
    }
    assert (expected, [], 2) == (content["closing"], content["cases"], content["total"])
    assert content == json.loads(json.dumps(content))


def test_the_announcement_does_not_depend_on_the_order_of_commands(a_case, a_case_file):
    """A database may return the same commands in another order the second time."""
    one, other = a_case(1), a_case(2)

    announcements = {announcement(a_case_file(one, other)), announcement(a_case_file(other, one))}

    assert 1 == len(announcements)


def test_the_announcement_does_not_depend_on_the_time(a_case, a_case_file):
    """The key window shrinks between a telling and its repeat, and still it is the same news."""
    now, later = (a_case(key_window_left=timedelta(hours=hours)) for hours in (5, 4))

    announcements = {announcement(a_case_file(now)), announcement(a_case_file(later))}

    assert 1 == len(announcements)


def test_a_command_that_was_read_again_is_news(a_case, a_case_file):
    """An operator's recheck makes no attempt; a receiver that took it for a repeat would never show what it found."""
    before = a_case(readings=a_case().readings[:1])

    announcements = {announcement(a_case_file(before)), announcement(a_case_file(a_case()))}

    assert 2 == len(announcements)


def test_the_announcement_fits_into_a_header(a_case_file):
    """It becomes an idempotency key and part of a Message-ID."""
    name = announcement(a_case_file())

    assert name.isascii()
    assert name.replace("-", "").isalnum()
    assert name.startswith("019ab3c4-0000-7000-8000-00000000000f-")


def test_the_announcement_of_a_closing_does_not_depend_on_what_it_says(a_closing_file):
    """A ticket closes once; whatever a repeat may say of it, it is no news."""
    assert "019ab3c4-0000-7000-8000-00000000000f-closed" == announcement(a_closing_file(counts={"succeeded": 7}))
