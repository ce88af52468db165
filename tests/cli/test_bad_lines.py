from __future__ import annotations

import io
import json
import tracemalloc

import pytest

from worker.cli.lines import LINE_BYTES, BadLine, read_lines
from worker.domain.klarna_commands import KLARNA_COMMANDS

KINDS = {"klarna-eu": KLARNA_COMMANDS}


@pytest.fixture
def enqueue(run, file, count):
    """Enqueues a file, of which nothing may be stored; gives what was said, in lines, without the name of the file."""

    def call(*lines):
        path = file(*lines)
        done = run("enqueue", path)
        assert (2, "", 0) == (done.code, done.out, count())
        *said, last = done.err.splitlines()
        assert f"post-purchase: {path}: nothing was stored" == last
        return [line.removeprefix(f"post-purchase: {path} ") for line in said]

    return call


def padded(line, length):
    """The JSON of a line, padded with spaces to so many bytes."""
    text = json.dumps(line).encode()

    return text + b" " * (length - len(text))


LINES = 1_001
LINE = {"name": "shirt", "quantity": 1, "unit_price": 1, "total_amount": 1}

BAD = {
    "unknown kind": ({"kind": "captur"}, "'captur' is not a kind of command; did you mean 'capture'?"),
    "no kind": ({"kind": None}, "kind: is required"),
    "unknown account": ({"account": "klarna-us"}, "No such account is configured: 'klarna-us'"),
    "no account": ({"account": None}, "account: is required"),
    "an account that may be data": ({"account": "4111 1111 1111 1111"}, "'(unreadable name)'"),
    "unknown field": ({"amonut": 1}, "amonut: is not a field here; did you mean amount?"),
    "amount 0": ({"amount": 0}, "amount: must be at least 1"),
    "negative amount": ({"amount": -5}, "amount: must be at least 1"),
    "fractional amount": ({"amount": 10.5}, "amount: must be a whole number"),
    "amount as text": ({"amount": "1000"}, "amount: must be a whole number"),
    "amount above the limit": ({"amount": 200_000_001}, "amount: must be at most 200000000"),
    "no amount": ({"amount": None}, "amount: is required"),
    "order id with a slash": ({"order_id": "a/b"}, "order_id: goes into a URL path"),
    "order id with dots": ({"order_id": "a..b"}, "order_id: goes into a URL path"),
    "order id with a question mark": ({"order_id": "a?b"}, "order_id: goes into a URL path"),
    "order id with a control character": ({"order_id": "a\u0007b"}, "order_id: goes into a URL path"),
    "empty order id": ({"order_id": ""}, "order_id: must not be empty"),
    "long reference": ({"reference": "r" * 256}, "reference: must have at most 255 characters"),
    "1,001 order lines": ({"order_lines": [LINE] * LINES}, "order_lines: must have at most 1000 items"),
    "naive datetime": ({"due_at": "2030-01-31T09:00:00"}, "due_at: has no time zone"),
    "a card number": ({"description": "4111 1111 1111 1111"}, "holds what may be a card number"),
}

BAD_TEXTS = {
    "not UTF-8": (b'{"kind": "capture", "account": "klarna-eu", "order_id": "\xff"}', "is not UTF-8 text (byte 58)"),
    "not JSON": ("{kind: capture}", "is not valid JSON"),
    "cut off": ('{"kind": "capture"', "is not valid JSON"),
    "a list": ('["capture"]', "is not a JSON object"),
    "a word": ("null", "is not a JSON object"),
    "a name twice": ('{"kind": "capture", "amount": 1, "amount": 1000}', "names amount twice"),
    "a name twice, deeper": ('{"kind": "capture", "order_lines": [{"name": "a", "name": "b"}]}', "names name twice"),
    "NaN": ('{"kind": "capture", "amount": NaN}', "holds NaN"),
    "Infinity": ('{"kind": "capture", "amount": -Infinity}', "holds -Infinity"),
    "a number without end": ('{"amount": ' + "9" * 5000 + "}", "holds a number of too many digits"),
    "a hole without bottom": ("[" * 100_000, "is nested too deeply"),
    "half a character": ('{"kind": "capture", "account": "klarna-eu", "order_id": "\\ud800"}', "line 2: capture: "),
    "a byte too long": (b"{" + b" " * LINE_BYTES, f"is longer than {LINE_BYTES} bytes"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
def test_a_bad_command_is_named_with_its_line_and_nothing_is_stored(enqueue, capture, changes, said):
    """Half a file is worse than none: nobody knows which half."""
    (line,) = enqueue(capture(reference="good-1"), capture(**changes), capture(reference="good-2"))

    assert line.startswith("line 2: ")
    assert said in line


@pytest.mark.parametrize(("text", "said"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_line_that_is_no_command_is_named_and_nothing_is_stored(enqueue, capture, text, said):
    """Whatever comes out of somebody's export must be refused in words, not with a traceback."""
    (line,) = enqueue(capture(reference="good-1"), text, capture(reference="good-2"))

    assert line.startswith("line 2: ")
    assert said in line


def test_every_bad_line_is_listed(enqueue, capture):
    """One run for each mistake in a file of thousands would take all day."""
    said = enqueue(*(capture(reference=f"r-{number}", amount=number % 2) for number in range(1000)))

    assert [f"line {number}: capture: amount: must be at least 1" for number in range(1, 1001, 2)] == said


def test_no_line_repeats_what_it_was_given(enqueue, capture):
    """A bad value may be somebody's address in the wrong column, and stderr ends up in logs."""
    secret = "Rue de la Paix 1"

    said = enqueue(capture(amount=secret), capture(order_id=secret), capture(account=secret), capture(**{secret: 1}))

    assert 4 == len(said)
    assert secret not in "".join(said)


def test_a_line_of_ten_megabytes_is_passed_over(enqueue, capture):
    """It must neither fill the memory nor shift the number of the lines after it."""
    said = enqueue(capture(), b'{"kind": "' + b"x" * 10_000_000 + b'"}', capture(amount=0))

    assert [
        f"line 2: is longer than {LINE_BYTES} bytes",
        "line 3: capture: amount: must be at least 1",
    ] == said


def test_a_line_of_exactly_the_limit_is_read(run_json, file, capture):
    """A limit that is off by one is found by whoever comes closest."""
    assert 1 == len(run_json("enqueue", file(padded(capture(), LINE_BYTES))))


def test_a_payload_above_the_providers_limit_is_named_with_its_line(enqueue, capture):
    """It fits into a line and not into a request; the provider would refuse it hours later."""
    wordy = {**LINE, "name": "n" * 255, "merchant_data": "m" * 1000}

    first, second = enqueue(capture(order_lines=[wordy] * 780), capture(amount=0))

    assert first.startswith("line 1: capture: is 10")
    assert "bytes long when sent; the provider takes at most 1000000" in first
    assert "line 2: capture: amount: must be at least 1" == second


@pytest.mark.parametrize("name", ["no-such-file.jsonl", "."])
def test_a_file_that_cannot_be_read_is_one_line(run, tmp_path, name):
    """A wrong path is the most common mistake of all."""
    done = run("enqueue", tmp_path / name)

    assert (2, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert "cannot be read: " in done.err


# --- reading -----------------------------------------------------------------------------------------------


def test_reading_holds_no_more_than_one_line():
    """A ten-megabyte line must cost what one line may cost, and not ten megabytes."""
    stream = io.BytesIO(b"x" * 50_000_000 + b"\n")
    tracemalloc.start()

    lines = list(read_lines(stream, KINDS))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [BadLine(number=1, reason=f"is longer than {LINE_BYTES} bytes")] == lines
    assert peak < 4 * LINE_BYTES


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"x" * (LINE_BYTES + 1), id="at the end of the file"),
        pytest.param(b"x" * (LINE_BYTES + 1) + b"\n", id="with its end"),
        pytest.param(b"x" * LINE_BYTES + b"\r\rx\n", id="with other ends inside"),
        pytest.param(b"x" * (3 * (LINE_BYTES + 2)), id="several pieces long"),
        pytest.param(b"x" * (2 * (LINE_BYTES + 2)) + b"\n", id="with its end at the border of a piece"),
    ],
)
def test_a_line_that_is_too_long_counts_as_one(text):
    """Otherwise every number after it would be wrong."""
    numbers = [(line.number, line.reason.startswith("is longer")) for line in read_lines(io.BytesIO(text), KINDS)]

    assert [(1, True)] == numbers
