from __future__ import annotations

from uuid import UUID

ONE, OTHER = UUID(int=1), UUID(int=2)
LABEL = "capture klarna-eu 4ba29b50… try 1 of 4"


def test_a_message_carries_ids_and_a_label_and_nothing_else(broker):
    """A broker is read by many; payloads stay in the database."""
    taken = broker.publisher.execute([ONE, OTHER], label=LABEL)

    (message,) = broker.lying()

    assert taken
    assert ("execute", (ONE, OTHER), LABEL, False) == (message.task, message.ids, message.label, message.has_countdown)


def test_a_countdown_goes_with_the_message(broker):
    """The near waits of the ladder are the broker's to keep."""
    broker.publisher.execute([ONE], label=LABEL, countdown=5.0)

    (message,) = broker.lying()

    assert message.has_countdown


def test_a_ticket_goes_its_own_way(broker):
    """A backlog of commands must not keep people from being told."""
    broker.publisher.escalate(ONE, label="refused klarna-eu")

    (message,) = broker.lying()

    assert ("escalate", (ONE,), "refused klarna-eu") == (message.task, message.ids, message.label)


def test_messages_lie_in_the_order_in_which_they_were_handed_over(broker):
    """Who waited longest is served first."""
    broker.publisher.execute([ONE], label="first")
    broker.publisher.execute([OTHER], label="second")

    assert ["first", "second"] == [each.label for each in broker.lying()]


def test_only_so_many_countdowns_are_held(broker):
    """They lie in a worker's memory, and a killed worker loses them for up to an hour."""
    before = broker.publisher.may_hold()
    broker.publisher.execute([ONE], label=LABEL, countdown=5.0)
    broker.publisher.execute([OTHER], label=LABEL, countdown=300.0)

    assert (True, False) == (before, broker.publisher.may_hold())


def test_a_countdown_that_is_over_makes_room(broker):
    """What has come due is not held any more."""
    broker.publisher.execute([ONE], label=LABEL, countdown=5.0)
    broker.publisher.execute([OTHER], label=LABEL, countdown=300.0)

    broker.pass_time(6.0)

    assert broker.publisher.may_hold()


def test_messages_without_a_countdown_take_no_room(broker):
    """Only what waits is held."""
    for _ in range(3):
        broker.publisher.execute([ONE], label=LABEL)

    assert broker.publisher.may_hold()


def test_a_broker_that_is_away_is_no_error(broker):
    """The caller's commit stands, and dispatch makes the message good."""
    broker.go_away()

    assert (False, False) == (
        broker.publisher.execute([ONE], label=LABEL),
        broker.publisher.escalate(OTHER, label=LABEL),
    )


def test_nothing_is_reserved_while_the_broker_is_away(broker):
    """An enqueue must not count on a message that will not be sent."""
    before = broker.publisher.reserve()
    broker.go_away()
    broker.publisher.execute([ONE], label=LABEL)

    assert (True, False) == (before, broker.publisher.reserve())


def test_a_broker_that_is_away_holds_nothing(broker):
    """A command marked as held would wait for a countdown that nobody keeps."""
    before = broker.publisher.may_hold()
    broker.go_away()
    broker.publisher.execute([ONE], label=LABEL, countdown=300.0)

    assert (True, False) == (before, broker.publisher.may_hold())
