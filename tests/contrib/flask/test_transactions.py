"""An order and its command in one transaction, as requests make them."""

import pytest

from worker import Capture, IdempotencyConflict


def capture(**fields):
    return Capture(**{"account": "klarna-eu", "order_id": "k-1", "amount": 1000, "reference": "parcel-1", **fields})


@pytest.fixture
def inside(app):
    """An application context, as a request has one."""
    with app.app_context():
        yield app


@pytest.fixture
def db(bookshop):
    return bookshop.db


@pytest.fixture
def order(bookshop):
    """Adds an order to the session."""

    def order(klarna_id="k-1"):
        made = bookshop.Order(klarna_id=klarna_id, amount=1000)
        bookshop.db.session.add(made)

        return made

    return order


@pytest.fixture
def orders(app, bookshop):
    """The orders that are stored, as another request sees them."""

    def orders():
        with app.app_context():
            return sorted(bookshop.db.session.scalars(bookshop.db.select(bookshop.Order.klarna_id)))

    return orders


def test_a_request_stores_its_change_and_its_command_together(app, published_by, stored_by):
    """The promise to the customer and the promise to the shop are one."""
    published = published_by(app)
    client = app.test_client()
    number = client.post("/orders", json={"klarna_id": "k-1", "amount": 1000}).json["order"]

    answer = client.post(f"/orders/{number}/ship")

    [command] = stored_by(app)
    assert {"command": str(command.id), "state": "pending"} == answer.json
    assert ("k-1", 1000, "capture") == (command.order_id, command.amount, command.kind)
    assert [command.id] == published


def test_a_rollback_leaves_neither(inside, bookshop, db, order, orders, published_by, stored_by):
    """A capture for a parcel that never left would be a customer's money for nothing."""
    published = published_by(inside)
    order()
    bookshop.post_purchase.enqueue(capture())

    db.session.rollback()

    assert [] == orders() == stored_by(inside) == published


def test_a_request_that_fails_leaves_neither(app, bookshop, order, orders, published_by, stored_by):
    """Flask-SQLAlchemy takes the session away at the end of a request, whatever became of it."""
    published = published_by(app)

    @app.post("/fail")
    def fail():
        order()
        bookshop.post_purchase.enqueue(capture())
        raise LookupError

    answer = app.test_client().post("/fail")

    assert 500 == answer.status_code
    assert [] == orders() == stored_by(app) == published


def test_nothing_is_published_before_the_outermost_commit(inside, bookshop, db, order, published_by, stored_by):
    """A worker that looked too early would find nothing, and a session rolled back after all would have paid."""
    published = published_by(inside)
    order()
    db.session.flush()
    with db.session.begin_nested():
        command = bookshop.post_purchase.enqueue(capture())
    assert [] == published

    db.session.commit()

    assert [command.id] == published == [each.id for each in stored_by(inside)]


def test_a_savepoint_that_is_rolled_back_takes_its_command_with_it(
    inside, bookshop, db, order, orders, published_by, stored_by
):
    """A shop tries something, gives it up and goes on; what it gave up must not be paid."""
    published = published_by(inside)
    order("k-1")
    kept = bookshop.post_purchase.enqueue(capture())
    db.session.flush()
    with db.session.begin_nested() as savepoint:
        order("k-2")
        bookshop.post_purchase.enqueue(capture(order_id="k-2"))
        savepoint.rollback()

    db.session.commit()

    assert ["k-1"] == orders()
    assert [kept.id] == [each.id for each in stored_by(inside)] == published


def test_a_session_goes_on_after_a_conflict(inside, bookshop, db, order, orders, stored_by, published_by):
    """The shop decides what a conflict means; its other changes are not ours to throw away."""
    published_by(inside)
    first = bookshop.post_purchase.enqueue(capture())
    db.session.commit()
    order("k-2")

    with pytest.raises(IdempotencyConflict):
        bookshop.post_purchase.enqueue(capture(amount=7))
    db.session.commit()

    assert ["k-2"] == orders()
    assert [first.id] == [each.id for each in stored_by(inside)]


def test_several_commands_are_stored_in_their_order_or_not_at_all(inside, bookshop, db, stored_by, published_by):
    """Half an import would be found out by customers."""
    published_by(inside)
    good = [capture(order_id=f"k-{number}") for number in range(3)]

    with pytest.raises(IdempotencyConflict):
        bookshop.post_purchase.enqueue_many([*good, capture(order_id="k-0", amount=7)])
    enqueued = bookshop.post_purchase.enqueue_many(good)
    db.session.commit()

    assert [each.id for each in enqueued] == [each.id for each in stored_by(inside)]
    assert ["k-0", "k-1", "k-2"] == [each.order_id for each in enqueued]


def test_another_connection_may_be_joined_instead(inside, bookshop, db, stored_by, published_by):
    """A script that writes without the session has a transaction too."""
    published = published_by(inside)

    with db.engine.begin() as connection:
        command = bookshop.post_purchase.enqueue(capture(), session=connection)

    assert [command.id] == [each.id for each in stored_by(inside)] == published


def test_a_broker_that_is_away_fails_no_request(new_app, sqlite_url, bookshop, stored_by):
    """The command is stored; that its message is late is nobody's error."""
    app = new_app(sqlite_url, POST_PURCHASE_BROKER__URL="redis://127.0.0.1:1/0")
    with app.app_context():
        bookshop.post_purchase.enqueue(capture())
        bookshop.db.session.commit()

    assert ["pending"] == [each.state for each in stored_by(app)]
