from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from collections import namedtuple
from datetime import UTC, datetime
from uuid import UUID

import pytest
import structlog

from worker import logs
from worker.config import LogSettings

#: Names as the callers choose them.
STARTED, FINISHED = "attempt.started", "attempt.finished"


@pytest.fixture(autouse=True)
def untouched():
    """The logging of the process as it was: other tests have their own ideas of it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def stderr(capsys):
    """All that has been written so far."""
    written = []

    def read():
        written.append(capsys.readouterr().err)
        return "".join(written)

    return read


@pytest.fixture
def logged(stderr):
    """Logs as JSON and reads it back: one object for each line that was written."""
    logs.configure(LogSettings(format="json", level="info"))
    return lambda: [json.loads(line) for line in stderr().splitlines()]


@pytest.fixture
def log():
    return structlog.stdlib.get_logger("worker.test")


def fail(message):
    raise RuntimeError(message)


def test_an_event_is_one_json_object_on_one_line(logged, log, stderr):
    """Collectors of logs read line by line."""
    log.info(FINISHED, outcome="succeeded", note="first\nsecond \u2028 gr\u00fcn")

    (line,) = logged()
    assert {"event": FINISHED, "level": "info", "logger": "worker.test", "outcome": "succeeded"}.items() <= line.items()
    assert "first\nsecond \u2028 gr\u00fcn" == line["note"]
    assert stderr().isascii()


def test_a_line_starts_with_when_how_grave_and_what(logged, log):
    """Those are what a person looks for in a long line."""
    log.warning(FINISHED, account="klarna-eu")

    assert ["timestamp", "level", "event", "logger", "account"] == list(logged()[0])


def test_the_time_is_iso_in_utc(logged, log):
    """Lines of several machines are sorted by it."""
    before = datetime.now(UTC)
    log.info(FINISHED)
    after = datetime.now(UTC)

    (line,) = logged()
    assert line["timestamp"].endswith("Z")
    assert before <= datetime.fromisoformat(line["timestamp"]) <= after


@pytest.mark.parametrize("name", ["celery.worker", "kombu.connection", "sqlalchemy.pool", "other"])
def test_lines_of_other_libraries_have_the_same_shape(logged, name):
    """One reader for all lines: what Celery says about a task stands beside what we say about it."""
    with logs.bound(task_id="t-1"):
        logging.getLogger(name).warning("lost %s of %d", "one", 2)

    (line,) = logged()
    assert {"event": "lost one of 2", "level": "warning", "logger": name, "task_id": "t-1"}.items() <= line.items()


def test_an_exception_is_part_of_its_line(logged, log):
    """A traceback printed below would be many lines that belong to nothing."""
    try:
        fail("broken")
    except RuntimeError:
        log.exception(FINISHED)
        logging.getLogger("celery").exception("task raised")

    ours, theirs = logged()
    assert ours["exception"].endswith("RuntimeError: broken")
    assert theirs["exception"].endswith("RuntimeError: broken")


def test_a_warning_is_a_line_too(logged):
    """Python would print it in two lines of plain text, in the middle of the JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)

    (line,) = logged()
    assert "py.warnings" == line["logger"]
    assert "DeprecationWarning: old way" in line["event"]


def test_the_level_holds_for_everybody(stderr, log):
    """An operator who asks for errors only means the whole process."""
    logs.configure(LogSettings(format="json", level="error"))

    log.warning(FINISHED)
    logging.getLogger("celery").warning("lost")
    log.error(FINISHED)

    assert 1 == len(stderr().splitlines())


def test_configuring_twice_does_not_write_twice(logged, log):
    """The command line configures, and then the worker that it starts does so again."""
    logs.configure(LogSettings(format="json", level="info"))

    log.info(FINISHED)
    logging.getLogger("celery").info("ready")

    assert [FINISHED, "ready"] == [line["event"] for line in logged()]


def test_the_last_configuration_counts_for_loggers_that_were_in_use(logged, log, stderr):
    """Modules keep their loggers; what they write later must follow the later settings."""
    log.info(STARTED)

    logs.configure(LogSettings(format="console", level="error"))
    log.info(FINISHED)
    log.error(FINISHED)

    first, second = stderr().splitlines()
    assert STARTED == json.loads(first)["event"]
    assert FINISHED in second
    assert "error" in second


def test_handlers_of_others_stay(logged):
    """A host or an error reporter hangs its own on the root logger."""
    theirs = logging.NullHandler()
    logging.getLogger().addHandler(theirs)

    logs.configure(LogSettings(format="json", level="info"))

    assert theirs in logging.getLogger().handlers


def test_lines_follow_a_stderr_that_was_replaced(logged, log, monkeypatch):
    """Test runners and daemons replace it after the configuration."""
    later = io.StringIO()
    monkeypatch.setattr("sys.stderr", later)

    log.info(FINISHED)

    assert FINISHED == json.loads(later.getvalue())["event"]


class Broken(io.StringIO):
    def write(self, _):
        raise OSError("no space left on device")


def test_a_line_that_cannot_be_written_stops_nothing(logged, log, monkeypatch):
    """A full disk under the log must not end an attempt between its send and its record."""
    monkeypatch.setattr("sys.stderr", Broken())

    log.info(FINISHED)

    monkeypatch.undo()
    assert [] == logged()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "no_color", "coloured"),
    [(Terminal, "", True), (Terminal, "1", False), (io.StringIO, "", False)],
    ids=["terminal", "terminal without colours", "pipe"],
)
def test_the_console_is_coloured_on_a_terminal_only(monkeypatch, log, stream, no_color, coloured):
    """In a file or a pipe the codes for colours are noise."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("sys.stderr", stderr := stream())
    logs.configure(LogSettings(format="console", level="info"))

    log.info(FINISHED, account="klarna-eu")
    logging.getLogger("celery").info("ready")

    assert "klarna-eu" in stderr.getvalue()
    assert "ready" in stderr.getvalue()
    assert coloured == ("\x1b[" in stderr.getvalue())


@pytest.mark.parametrize("shape", ["json", "console"])
def test_a_traceback_shows_no_local_variables(stderr, log, shape):
    """The variables of a failing call hold the credentials it was made with."""
    logs.configure(LogSettings(format=shape, level="info"))

    def send(password):
        raise RuntimeError("broken")

    try:
        send("hunter" + "2")
    except RuntimeError:
        log.exception(FINISHED)

    text = stderr()
    assert "RuntimeError: broken" in text
    assert "hunter2" not in text


def test_bound_fields_are_on_every_line_inside_and_on_none_after(logged, log):
    """A task's id on the lines of the next task would send an operator to the wrong order."""
    with logs.bound(command_id="c-1"):
        log.info(STARTED)
    log.info(FINISHED)

    inside, after = logged()
    assert "c-1" == inside["command_id"]
    assert "command_id" not in after


def test_inner_bounds_give_way_to_the_outer_ones_again(logged, log):
    """A batch names its task, and within it each command itself."""
    with logs.bound(task_id="t-1", command_id="none"):
        with logs.bound(command_id="c-1"):
            log.info(STARTED)
        log.info(FINISHED)

    inner, outer = logged()
    assert ("t-1", "c-1") == (inner["task_id"], inner["command_id"])
    assert ("t-1", "none") == (outer["task_id"], outer["command_id"])


def test_what_was_bound_by_other_means_inside_is_gone_as_well(logged, log):
    """The edge clears what the whole call left behind, whoever bound it."""
    with logs.bound(task_id="t-1"):
        structlog.contextvars.bind_contextvars(leaked="yes")
    log.info(FINISHED)

    assert "leaked" not in logged()[0]


def test_bound_fields_are_gone_after_an_error(logged, log):
    """A task that fails is followed by another one in the same thread."""
    with pytest.raises(RuntimeError), logs.bound(task_id="t-1"):
        raise RuntimeError("broken")
    log.info(FINISHED)

    assert "task_id" not in logged()[0]


def test_bound_fields_stay_in_their_thread(logged, log):
    """Several tasks run in one process at once."""
    with logs.bound(task_id="t-1"):
        other = threading.Thread(target=log.info, args=(STARTED,))
        other.start()
        other.join()

    assert "task_id" not in logged()[0]


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "Proxy-Authorization",
        "HTTP_AUTHORIZATION",
        "password",
        "db_password",
        "passwd",
        "secret",
        "clientSecret",
        "webhook_secret",
        "token",
        "access_token",
        "vaultedToken",
        "api_key",
        "apiKey",
        "X-Api-Key",
        "private_key",
        "credentials",
        "Cookie",
        "Set-Cookie",
        "card",
        "cardNumber",
        "card_number",
        "creditCard",
        "cvv",
        "cvc",
        "securityCode",
        "iban",
        "email",
        "phone",
        "given_name",
        "street_address",
        "shipping_address",
        "date_of_birth",
    ],
)  # fmt: skip - a list of names
def test_a_field_that_is_named_like_a_secret_is_masked(logged, log, name):
    """The name is often the only sign: a password looks like any other word."""
    log.info(FINISHED, **{name: "hunter2", "headers": {name: ["hunter2"], "fine": 1}})

    (line,) = logged()
    assert "***" == line[name]
    assert {name: "***", "fine": 1} == line["headers"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idempotency_key", "1f0c"),
        ("key_window_seconds", 5),
        ("kind", "update_authorization"),
        ("update_authorization", 3),
        ("release_remaining_authorization", 1),
        ("key_prefix", "post-purchase:"),
        ("account", "klarna-eu"),
        ("discarded", 4),
        ("author", "operator"),
        ("status", 201),
        ("company", "x"),
        ("has_password", True),
        ("password", None),
        ("ratio", 0.5),
        ("huge", 10**30),
        ("amount", 200_000_000),
    ],
)  # fmt: skip - a list of names
def test_what_only_resembles_a_secret_stays_readable(logged, log, name, value):
    """A mask on everything would make the log useless at night."""
    log.info(FINISHED, **{name: value})

    assert value == logged()[0][name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paid with 4111111111111111.", "paid with ***."),
        ("4111 1111 1111 1111", "***"),
        ("card 4111-1111-1111-1111, exp 12/30", "card ***, exp 12/30"),
        ("378282246310005", "***"),
        ("4111111111111112", "4111111111111112"),  # fails the check digit, so it is no card
        ("01936c1e-1111-4111-8111-111111111111", "01936c1e-1111-4111-8111-111111111111"),
        ("2026-11-22T03:29:38.626456Z", "2026-11-22T03:29:38.626456Z"),
        ("postgresql://shop:hunter2@db/shop is away", "postgresql://shop:***@db/shop is away"),
        ("redis://:hunter2@redis:6379/0", "redis://:***@redis:6379/0"),
        ("redis://redis:6379/0, write to ops@example.com", "redis://redis:6379/0, write to ops@example.com"),
        ("https://hunter2@desk.example.com/", "https://***@desk.example.com/"),
        ("Authorization: Basic aHVudGVyMg==", "Authorization: ***"),
        ("{'Authorization': 'Bearer hunter2'}", "{'Authorization': '***'}"),
        ("sent Basic aHVudGVyMmh1bnRlcjI=", "sent Basic ***"),
        ("password=hunter2&user=x", "password=***&user=x"),
        ('{"access_token": "hunter2", "a": 1}', '{"access_token": "***", "a": 1}'),
        ("api_key: hunter2", "api_key: ***"),
        ("update_authorization klarna-eu 4ba29b50 try 2 of 4", "update_authorization klarna-eu 4ba29b50 try 2 of 4"),
        ("basic authentication was refused", "basic authentication was refused"),
    ],
)
def test_secrets_inside_a_text_are_masked(logged, log, text, expected):
    """Errors of other libraries like to repeat the URL or the header they choked on."""
    log.info(FINISHED, note=text, inner=[{"note": text}])
    logging.getLogger("celery").info("%s", text)

    ours, theirs = logged()
    assert expected == ours["note"]
    assert [{"note": expected}] == ours["inner"]
    assert expected == theirs["event"]


@pytest.mark.parametrize("number", [4111111111111111, 4111111111111111.0, 6304000000000000000])
def test_a_number_that_may_be_a_card_is_masked(logged, log, number):
    """A card number is one whether or not somebody put quotes around it."""
    log.info(FINISHED, number=number)

    assert "***" == logged()[0]["number"]


def test_a_secret_in_an_exception_is_masked(logged, log):
    """The message of an exception is a text like any other, and the traceback repeats it."""
    try:
        fail("cannot reach redis://:hunter2@redis:6379/0")
    except RuntimeError as error:
        log.exception(FINISHED, error=error)

    (line,) = logged()
    assert "RuntimeError('cannot reach redis://:***@redis:6379/0')" == line["error"]
    assert line["exception"].endswith("cannot reach redis://:***@redis:6379/0")


def test_a_bound_secret_is_masked(logged, log):
    """It would otherwise be on every line."""
    with logs.bound(password="hunter2"):
        log.info(FINISHED)

    assert "***" == logged()[0]["password"]


def test_values_that_json_does_not_know_become_text(logged, log):
    """A log call must never fail because of what it was given."""
    recursive = {}
    recursive["again"] = recursive
    pair = namedtuple("pair", "left right")  # noqa: PYI024 - made here only to be logged

    log.info(
        FINISHED,
        command_id=UUID(int=5),
        at=datetime(2026, 1, 1, tzinfo=UTC),
        body=b"gr\xff",
        pair=pair(1, 2),
        states={"pending"},
        nan=float("nan"),
        infinite=float("-inf"),
        table={1: "one"},
        recursive=recursive,
    )

    (line,) = logged()
    assert "00000000-0000-0000-0000-000000000005" == line["command_id"]
    assert "2026-01-01 00:00:00+00:00" == line["at"]
    assert "gr\ufffd" == line["body"]
    assert [1, 2] == line["pair"]
    assert ["pending"] == line["states"]
    assert ("nan", "-inf") == (line["nan"], line["infinite"])
    assert {"1": "one"} == line["table"]
    assert "..." in json.dumps(line["recursive"])
