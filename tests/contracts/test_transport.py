from __future__ import annotations

from itertools import takewhile
from uuid import uuid4

import pytest

from worker.ports import Answer, NoAnswer, Request
from worker.providers.transport import AlreadyInFlight, BrokenHeader, UnsafeAddress


def effects(line):
    return [(each["kind"], each["amount"]) for each in line.world.effects()]


def statuses(line):
    return [each["status"] for each in line.world.requests()]


# --- what arrives ------------------------------------------------------------------------------------------


def test_a_request_arrives_as_it_was_built(line, order_id):
    """The key and the bytes are what makes a repeat harmless; neither may change on the way."""
    line.capture(order_id, key="the-key")

    (seen,) = line.world.requests()

    assert ("POST", f"/ordermanagement/v1/orders/{order_id}/captures") == (seen["method"], seen["path"])
    assert '{"captured_amount": 1000}' == seen["body"]
    assert "the-key" == seen["headers"]["Klarna-Idempotency-Key"]


def test_a_read_has_no_body(line, order_id):
    """A body on a GET is refused by some gateways."""
    line.ask(path=order_id)

    (seen,) = line.world.requests()

    assert ("GET", "") == (seen["method"], seen["body"])


def test_a_true_answer_comes_back_whole(line, order_id):
    """A read's answer is what the host gets."""
    answer = line.ask(path=order_id)

    assert isinstance(answer, Answer)
    assert (200, True) == (answer.status, answer.complete)
    assert answer.body.startswith(b'{"order_id":')
    assert "application/json" == answer.headers["content-type"]


def test_header_names_come_in_lower_case(line, order_id):
    """The provider looks ids up by one spelling."""
    answer = line.capture(order_id)

    assert 201 == answer.status
    assert {"capture-id", "location", "klarna-correlation-id"} <= answer.headers.keys()


def test_an_answer_without_content_is_whole(line, order_id):
    """Most changes are answered 204."""
    answer = line.ask("POST", f"{order_id}/acknowledge")

    assert (204, b"", True) == (answer.status, answer.body, answer.complete)


def test_wrong_credentials_are_answered_and_not_executed(line, order_id):
    """A 401 is an answer like any other; what it means is the provider's business."""
    answer = line.capture(order_id, password="wrong")

    assert 401 == answer.status
    assert [] == effects(line)


def test_answers_come_back_under_their_own_tags(line, order_id):
    """The tag is the only link between an answer and the command it belongs to."""
    reading = line.start(path=order_id)
    capturing = line.start("POST", f"{order_id}/captures", body={"captured_amount": 700})

    ended = line.end()

    assert {reading: 200, capturing: 201} == {tag: answer.status for tag, answer in ended.items()}


# --- what never got there ----------------------------------------------------------------------------------


def test_a_refused_connection_means_not_sent(line, order_id):
    """Only then may an unkeyed change be known to have had no effect."""
    line.site.refuse_connections()

    ended = line.capture(order_id)

    assert isinstance(ended, NoAnswer)
    assert (False, "connect_failed") == (ended.sent, ended.code)
    assert [] == line.world.requests()


def test_a_port_that_opens_again_is_reached_again(line, order_id):
    """An outage ends, and nothing of it may stay behind in the transport."""
    line.site.refuse_connections()
    line.capture(order_id)
    line.site.accept_connections()

    answer = line.capture(order_id)

    assert 201 == answer.status


# --- what nobody answered ----------------------------------------------------------------------------------


def test_a_dropped_reply_leaves_it_sent(line, order_id):
    """It was executed here, and no client could tell."""
    line.world.fault("drop_reply")

    ended = line.capture(order_id)

    assert (True, "no_answer") == (ended.sent, ended.code)
    assert [("capture", 1000)] == effects(line)


@pytest.mark.parametrize(("executed", "expected"), [(True, [("capture", 1000)]), (False, [])])
def test_a_reset_leaves_it_sent(line, order_id, executed, expected):
    """Both look the same from here, so both must be called the same."""
    line.world.fault("reset", executed=executed)

    ended = line.capture(order_id)

    assert (True, "reset") == (ended.sent, ended.code)
    assert expected == effects(line)


@pytest.mark.parametrize(("executed", "expected"), [(True, [("capture", 1000)]), (False, [])])
def test_no_answer_in_time_leaves_it_sent(line, order_id, executed, expected):
    """A time-out says nothing about what happened at the other end."""
    line.world.fault("hang", executed=executed)

    ended = line.capture(order_id)

    assert (True, "no_answer") == (ended.sent, ended.code)
    assert expected == effects(line)


def test_a_hang_that_ends_in_time_was_still_no_answer(line, order_id):
    """The connection closed before a byte came."""
    line.world.fault("hang", seconds=0.1)

    ended = line.capture(order_id)

    assert (True, "no_answer") == (ended.sent, ended.code)


def test_what_is_slower_than_the_time_limit_may_still_be_executed(line, order_id):
    """The other end goes on working for a client that has given up."""
    line.world.fault("delay", seconds=1.5)
    ended = line.capture(order_id, key="slow")

    before = effects(line)
    while not line.world.effects():
        line.pause()

    assert (True, "no_answer") == (ended.sent, ended.code)
    assert ([], [("capture", 1000)]) == (before, effects(line))


def test_what_is_slower_but_in_time_is_an_answer(line, order_id):
    """Slowness alone is no failure."""
    line.world.fault("delay", seconds=0.2)

    answer = line.capture(order_id)

    assert (201, True) == (answer.status, answer.complete)


# --- what broke off ----------------------------------------------------------------------------------------


def test_an_answer_that_breaks_off_keeps_its_status(line, order_id):
    """Half an answer is known to be half."""
    line.world.fault("truncated", status=503)

    answer = line.capture(order_id)

    assert (503, False) == (answer.status, answer.complete)
    assert int(answer.headers["content-length"]) > len(answer.body) > 0


def test_a_slow_answer_that_arrives_in_time_is_whole(line, order_id):
    """Nothing is cut off that is still on its way."""
    line.world.fault("slow_body", seconds=0.3)

    answer = line.ask(path=order_id)

    assert (200, True) == (answer.status, answer.complete)
    assert answer.body.endswith(b"}")


def test_a_slow_body_is_cut_off_with_its_status(line, order_id):
    """The head has come, so the status is known; the body is not all there."""
    line.world.fault("slow_body", seconds=4)

    answer = line.ask(path=order_id)

    assert (200, False) == (answer.status, answer.complete)
    assert int(answer.headers["content-length"]) > len(answer.body) > 0


def test_a_slow_head_is_cut_off_with_its_status(line, order_id):
    """The status stands in the first line; ids that were to follow are missing rather than halved."""
    line.world.fault("slow_body", seconds=3)

    answer = line.ask("POST", f"{order_id}/acknowledge")

    assert (204, False) == (answer.status, answer.complete)


# --- connections -------------------------------------------------------------------------------------------


def test_a_kept_connection_is_used_again(line, order_id):
    """A handshake for each of a thousand commands would cost more than the commands."""
    line.ask(path=order_id)
    line.ask(path=order_id)

    assert [1, 1] == [each["connection"] for each in line.world.requests()]


def test_a_request_that_must_not_be_repeated_gets_a_connection_of_its_own(line, order_id):
    """On a kept one that dies, the library would send it again unasked."""
    line.ask(path=order_id)
    line.capture(order_id, repeatable=False)
    line.ask(path=order_id)

    assert [1, 2, 1] == [each["connection"] for each in line.world.requests()]


def test_a_repeatable_request_is_repeated_when_its_kept_connection_dies(line, order_id):
    """The library does so by itself; under a key it is harmless, and the answer is the first one's."""
    line.ask(path=order_id)
    line.world.fault("close_idle", executed=True)

    answer = line.capture(order_id, key="the-key")

    assert 201 == answer.status
    assert [200, None, 201] == statuses(line)
    assert [("capture", 1000)] == effects(line)


def test_a_reply_lost_on_a_kept_connection_is_asked_for_again(line, order_id):
    """The library cannot tell a provider that hung up after the work from a connection that had been dead."""
    line.ask(path=order_id)
    line.world.fault("drop_reply")

    answer = line.capture(order_id, key="the-key")

    assert 201 == answer.status
    assert [("capture", 1000)] == effects(line)


@pytest.mark.parametrize("fault", ["drop_reply", "reset"])
def test_an_answer_to_a_repeat_says_that_it_is_one(line, order_id, fault):
    """The first sending may have been carried out, whatever the second is answered."""
    plain = line.ask(path=order_id)
    line.world.fault(fault)
    line.world.fault("throttle")

    answer = line.capture(order_id, key="the-key")
    after = line.capture(order_id, key="another")

    assert (429, True) == (answer.status, answer.was_repeated)
    assert [False, False] == [plain.was_repeated, after.was_repeated]


def test_a_reset_on_a_kept_connection_is_asked_for_again(line, order_id):
    """The same holds for a connection that was torn down."""
    line.ask(path=order_id)
    line.world.fault("reset", executed=True)

    answer = line.capture(order_id, key="the-key")

    assert 201 == answer.status
    assert [("capture", 1000)] == effects(line)


def test_a_connection_is_not_used_again_after_an_answer_that_broke_off(line, order_id):
    """Nobody knows where the next answer would begin."""
    line.world.fault("truncated", status=503)
    line.ask(path=order_id)
    line.ask(path=order_id)

    assert [1, 2] == [each["connection"] for each in line.world.requests()]


# --- sending and collecting --------------------------------------------------------------------------------


def test_what_was_sent_and_not_collected_is_in_flight(line, order_id):
    """The task fills its window by this number."""
    line.start(path=order_id)
    line.start(path=order_id)

    before = line.transport.in_flight
    line.end()

    assert (2, 0) == (before, line.transport.in_flight)


def test_a_tag_in_flight_is_not_sent_again(line, order_id):
    """Two answers under one tag could not be told apart."""
    tag = line.start(path=order_id)

    with pytest.raises(AlreadyInFlight):
        line.start(path=order_id, tag=tag)

    assert [tag] == list(line.end())


def test_a_tag_may_be_used_again_once_it_is_collected(line, order_id):
    """A command's retry goes under the command's own id."""
    tag = uuid4()
    line.ask(path=order_id, tag=tag)

    answer = line.ask(path=order_id, tag=tag)

    assert 200 == answer.status


def test_collect_comes_back_empty_handed_when_the_time_is_up(line, order_id):
    """The task has other things to do than to wait for one slow answer."""
    line.world.fault("delay", seconds=0.6)
    line.start(path=order_id)

    early = line.transport.collect(0.05)

    assert [] == list(early)
    assert 1 == line.transport.in_flight


def test_what_was_taken_leaves_with_flush(line):
    """A send keeps to its moment, though nobody looks for answers before the next transaction is over."""
    line.ask()
    before = len(line.world.requests())
    line.start()

    line.transport.flush()

    pauses = takewhile(lambda _: len(line.world.requests()) == before, range(500))
    for _ in pauses:
        line.pause()

    assert before + 1 == len(line.world.requests())


def test_collect_does_not_wait_when_nothing_is_in_flight(line):
    """A task without calls ends."""
    assert [] == list(line.transport.collect(60.0))


@pytest.mark.parametrize("url", ["http://api.example.com/x", "ftp://127.0.0.1/x", "http://user@127.0.0.1:1/x"])
def test_an_unsafe_address_is_refused_before_anything_is_sent(line, url):
    """Credentials go over TLS, or nowhere."""
    request = Request(method="GET", url=url, headers={}, body=None, authorization="Basic eA==", repeatable=True)

    with pytest.raises(UnsafeAddress):
        line.transport.send(uuid4(), request)

    assert 0 == line.transport.in_flight


def test_a_header_that_would_break_out_of_its_line_is_refused(line):
    """What is sent as two headers was meant as one."""
    request = Request(
        method="GET",
        url=f"{line.base_url}/x",
        headers={"Accept": "a\r\nForged: yes"},
        body=None,
        authorization="Basic eA==",
        repeatable=True,
    )

    with pytest.raises(BrokenHeader):
        line.transport.send(uuid4(), request)

    assert [] == line.world.requests()
