import structlog
from structlog.testing import capture_logs

from worker.desks.case_text import as_json
from worker.desks.log import LogDesk


def test_opening_is_one_warning_with_the_case_file(a_case_file):
    """A log watcher raises an alarm from the event's name, and finds everything in its fields."""
    case_file = a_case_file()

    with capture_logs() as events:
        LogDesk().open(case_file)

    expected = {
        "event": "ticket.opened",
        "log_level": "warning",
        "external_ref": "log:019ab3c4-0000-7000-8000-00000000000f",
        **as_json(case_file),
    }
    assert [expected] == events


def test_appending_is_one_warning_under_the_reference(a_case, a_case_file):
    """The two events of one ticket are found by what they share."""
    further = a_case_file(a_case(2), total=2)

    with capture_logs() as events:
        LogDesk().append("log:019ab3c4-0000-7000-8000-00000000000f", further)

    expected = {
        "event": "ticket.appended",
        "log_level": "warning",
        "external_ref": "log:019ab3c4-0000-7000-8000-00000000000f",
        **as_json(further),
    }
    assert [expected] == events


def test_closing_is_one_warning_under_the_reference(a_closing_file):
    """Who watches for warnings would otherwise see a ticket begin and never end."""
    with capture_logs() as events:
        LogDesk().close("log:019ab3c4-0000-7000-8000-00000000000f", a_closing_file())

    expected = {
        "event": "ticket.closed",
        "log_level": "warning",
        "external_ref": "log:019ab3c4-0000-7000-8000-00000000000f",
        **as_json(a_closing_file()),
    }
    assert [expected] == events


def test_the_reference_names_the_ticket(a_case_file):
    """There is nothing else to look a log line up by."""
    external_ref = LogDesk().open(a_case_file())

    assert "log:019ab3c4-0000-7000-8000-00000000000f" == external_ref


def test_a_terminal_is_not_steered_by_what_others_wrote(a_case, a_case_file):
    """A console prints short strings as they are; an escape in one could clear the screen of whoever watches."""
    steering = "\x1b[2J\u202e"
    hostile = a_case_file(a_case(account=steering, order_id=steering), account=steering)

    with capture_logs() as events:
        LogDesk().append(steering, hostile)

    shown = structlog.dev.ConsoleRenderer(colors=False)(None, "warning", dict(events[0]))
    assert {"\x1b", "\u202e"}.isdisjoint(shown)
