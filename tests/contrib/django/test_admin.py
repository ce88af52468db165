"""The admin: what people see, what they may do, and what is refused or shown as text."""

from __future__ import annotations

import json
from datetime import timedelta
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from worker import AddCaptureShippingInfo, Capture, Refund
from worker.contrib.django import admin, enqueue, tell_finished
from worker.contrib.django.models import Action, Command, ReadOnly
from worker.contrib.django.verbs import VERBS, permission

LIST = "/admin/post_purchase/command/"

PARCEL = {"tracking_number": "PX-1", "shipping_company": "Post"}

#: What a browser would run if it were not shown as text.
MARKUP = "<script>alert(1)</script>&amp;\"'"


def capture(**fields):
    return Capture(**{"account": "klarna-eu", "order_id": "order-1", "amount": 1000, "reference": "parcel-1", **fields})


def page(command_id):
    return f"{LIST}{command_id}/change/"


@pytest.fixture
def signed_in():
    """A browser of somebody with the given permissions."""

    def sign_in(*permissions, checks_csrf=False, name="on call"):
        user = User.objects.create(username=name, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        browser = Client(enforce_csrf_checks=checks_csrf)
        browser.force_login(user)
        return browser

    return sign_in


@pytest.fixture
def chief():
    browser = Client()
    browser.force_login(User.objects.create(username="chief", is_staff=True, is_superuser=True))

    return browser


def act(browser, verb, *ids, **more):
    return browser.post(LIST, {"action": verb, "_selected_action": [str(each) for each in ids], "index": "0", **more})


def confirm(browser, verb, *ids, why="seen in the portal", headers=None, follow=False, **more):
    selected = [str(each) for each in ids]

    given = {"action": verb, "_selected_action": selected, "confirmed": "yes", "why": why, **more}

    return browser.post(LIST, given, headers=headers, follow=follow)


def test_the_list_shows_how_a_command_stands(shop, chief):
    """State, doubt, age and what is left of the key are what a person decides by."""
    enqueued = enqueue(capture())
    shop.execute("UPDATE post_purchase_command SET first_sent_at = created_at, in_doubt = true")

    shown = chief.get(LIST).content.decode()

    for text in ("order-1", "parcel-1", "klarna-eu", "capture", "pending", "1000", "23 h", str(enqueued.id)):
        assert text in shown


def test_a_page_of_one_command_shows_its_attempts_tickets_and_actions(shop, chief):
    """Who decides must see what was tried, what the desk knows, and what colleagues did."""
    enqueued = enqueue(capture())
    shop.execute("UPDATE post_purchase_command SET claims = 1, attempts = 1, first_sent_at = created_at")
    shop.execute("INSERT INTO post_purchase_attempt SELECT id, 1, 1, 'host:1', created_at FROM post_purchase_command")
    shop.execute(
        "INSERT INTO post_purchase_outcome SELECT id, 1, false, 'in_doubt', 503, 'no_json', 'a page', 'corr-7', "
        "created_at FROM post_purchase_command"
    )
    shop.escalate()
    shop.execute(
        "INSERT INTO post_purchase_ticket "
        "(id, account, reason, is_incident, state, desk, external_ref, opened_at, tries) "
        "SELECT id, account, 'ladder_exhausted', false, 'open', 'log', 'T-42', created_at, 0 FROM post_purchase_command"
    )
    shop.execute(
        "INSERT INTO post_purchase_ticket_command (ticket_id, command_id, linked_at) "
        "SELECT id, id, created_at FROM post_purchase_command"
    )
    confirm(chief, "retry", enqueued.id, why="provider is back")

    shown = chief.get(page(enqueued.id)).content.decode()
    ticket = chief.get(f"/admin/post_purchase/ticket/{enqueued.id}/change/").content.decode()
    tickets = chief.get("/admin/post_purchase/ticket/?state=open").content.decode()
    log = chief.get("/admin/post_purchase/action/?verb=retry").content.decode()

    for text in ("503", "no_json", "corr-7", "in_doubt", "ladder_exhausted", "T-42", "provider is back", "chief"):
        assert text in shown, text
    assert "capture order-1" in ticket
    assert "T-42" in tickets
    assert "provider is back" in log


def test_payloads_are_not_shown(shop, chief):
    """They may hold somebody's address."""
    enqueued = enqueue(capture())

    shown = chief.get(page(enqueued.id)).content.decode()

    assert "captured_amount" not in shown
    assert "payload" not in {field.name for field in Command._meta.get_fields()}


@pytest.mark.parametrize("verb", ["retry", "resolve", "cancel"])
def test_a_verb_asks_for_a_reason_and_records_who(shop, chief, verb):
    """Months later somebody asks why, and whom to ask."""
    enqueued = enqueue(capture())
    shop.escalate()

    asked = act(chief, verb, enqueued.id)
    before = shop.seen("state")
    answer = confirm(chief, verb, enqueued.id)

    assert (200, ["escalated"]) == (asked.status_code, before)
    assert "Reason" in asked.content.decode()
    assert 302 == answer.status_code
    assert [{"retry": "pending", "resolve": "succeeded", "cancel": "cancelled"}[verb]] == shop.seen("state")
    (action,) = Action.objects.all()
    assert (verb, "chief", "seen in the portal") == (action.verb, action.by, action.why)


def amended(**fields):
    return json.dumps({"kind": "capture", "account": "klarna-eu", "order_id": "order-1", "amount": 900, **fields})


def test_amend_is_asked_with_what_is_known(shop, chief):
    """Whoever has to type an order id by night mistypes it; what may be somebody's address is not repeated."""
    shoe = {"name": "Shoe", "quantity": 1, "unit_price": 1000, "total_amount": 1000}
    enqueued = enqueue(capture(order_lines=[shoe], keyed=False))
    shop.escalate()

    asked = act(chief, "amend", enqueued.id)

    known = {"kind": "capture", "account": "klarna-eu", "order_id": "order-1", "reference": "parcel-1", "amount": 1000}
    assert {**known, "keyed": False} == json.loads(asked.context["form"].initial["amended"])
    assert "Shoe" not in asked.content.decode()


def test_amend_is_asked_with_the_capture_that_a_command_is_about(shop, chief):
    """The one id that leads to the right parcel."""
    enqueued = enqueue(
        AddCaptureShippingInfo(account="klarna-eu", order_id="order-1", capture_id="capture-7", shipping_info=[PARCEL])
    )
    shop.escalate()

    asked = act(chief, "amend", enqueued.id)

    known = {
        "kind": "add_capture_shipping_info",
        "account": "klarna-eu",
        "order_id": "order-1",
        "capture_id": "capture-7",
    }
    assert known == json.loads(asked.context["form"].initial["amended"])


def test_amend_replaces_an_escalated_command(shop, chief):
    """The parcel held less than was asked for: the new amount goes out in the old one's place, and it is known why."""
    enqueued = enqueue(capture())
    shop.escalate()

    answer = confirm(chief, "amend", enqueued.id, amended=amended(reference="parcel-1"), follow=True)
    old, new = Command.objects.order_by("id")
    shown = chief.get(page(new.id)).content.decode()

    assert ("cancelled", "pending", 900) == (old.state, new.state, new.amount)
    assert (enqueued.id, old.seq) == (new.replaces, new.turn)
    assert page(new.id) in answer.content.decode()
    assert page(old.id) in shown
    (action,) = Action.objects.all()
    assert ("amend", "chief", "seen in the portal", old.id) == (action.verb, action.by, action.why, action.command_id)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "This field is required"),
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        (amended(amount="9"), "amount: must be a whole number"),
        (amended(amuont=9), "amuont: is not a field here; did you mean"),
        (amended(order_id="order-2"), "its order_id is &#x27;order-1&#x27;, and an amended command keeps it"),
        (amended(account="klarna-uk"), "configured are: bluesnap-us, klarna-eu"),
        (amended(reference=f"{MARKUP}\n"), "reference: may hold no control characters"),
        (amended() + amended(), "is not valid JSON"),
    ],
)
def test_an_amendment_that_cannot_be_is_refused_on_its_page(shop_on_sqlite, chief, given, said):
    """What was typed is still there to be mended, and nothing has happened."""
    enqueued = enqueue(capture())
    shop_on_sqlite.escalate()

    answer = confirm(chief, "amend", enqueued.id, amended=given)

    assert 200 == answer.status_code
    assert said in answer.content.decode()
    assert given == answer.context["form"]["amended"].value()
    assert ["escalated"] == shop_on_sqlite.seen("state")
    assert 0 == Action.objects.count()


def test_a_command_that_may_be_there_is_not_amended(shop, chief):
    """Its money may have moved; a second command would move it again."""
    enqueued = enqueue(capture())
    shop.execute("UPDATE post_purchase_command SET claims = 1, attempts = 1, first_sent_at = created_at")
    shop.escalate()

    answer = confirm(chief, "amend", enqueued.id, amended=amended())

    assert "it is not known to be absent at the provider" in answer.content.decode()
    assert ["escalated"] == shop.seen("state")


def test_another_amendment_of_the_same_command_is_refused(shop, chief):
    """Two people at one ticket would otherwise capture twice."""
    enqueued = enqueue(capture())
    shop.execute("UPDATE post_purchase_command SET state = 'rejected', finalized_at = created_at")
    confirm(chief, "amend", enqueued.id, amended=amended())

    again = confirm(chief, "amend", enqueued.id, amended=amended())
    other = confirm(chief, "amend", enqueued.id, amended=amended(amount=800))

    assert 302 == again.status_code
    assert "differs in captured_amount" in other.content.decode()
    assert ["pending", "rejected"] == sorted(shop.seen("state"))


def test_amend_takes_one_command_at_a_time(shop, chief):
    """One new command cannot take the place of two."""
    first, second = enqueue(capture()), enqueue(capture(reference="parcel-2"))
    shop.escalate()

    answer = act(chief, "amend", first.id, second.id)

    assert 302 == answer.status_code
    assert "tick a single one" in chief.get(LIST).content.decode()


def test_a_command_that_is_read_back_shows_what_was_read(shop, chief):
    """What was there decides whether to resolve, retry or amend."""
    enqueued = enqueue(capture())
    purpose = json.dumps({"purpose": "recheck", "reason": "ladder_exhausted"})
    shop.execute("UPDATE post_purchase_command SET claims = 1, absent_at = created_at, read_back = :of", of=purpose)
    shop.execute(
        "INSERT INTO post_purchase_reading SELECT id, 1, 'recheck', 'absent', 'no capture of 1000 there', created_at "
        "FROM post_purchase_command"
    )

    shown = chief.get(page(enqueued.id)).content.decode()

    assert "What was read at the provider" in shown
    assert "no capture of 1000 there" in shown
    assert '<div class="readonly">recheck</div>' in shown


@pytest.mark.parametrize("why", ["", "   "])
def test_without_a_reason_nothing_is_done(shop, chief, why):
    """A reason that may be left out is left out."""
    enqueued = enqueue(capture())
    shop.escalate()

    answer = confirm(chief, "resolve", enqueued.id, why=why)

    assert 200 == answer.status_code
    assert ["escalated"] == shop.seen("state")


def test_a_retry_is_published_after_its_commit(shop, chief):
    """Whoever retries wants to see it go, and a worker must find it committed."""
    enqueued = enqueue(capture())
    shop.escalate()
    shop.publisher.published.clear()

    confirm(chief, "retry", enqueued.id)

    assert [enqueued.id] == shop.publisher.published


def test_a_refused_verb_says_why_and_holds_back_no_other(shop, chief):
    """One that may not be retried must not keep the others waiting."""
    first, second = enqueue(capture()), enqueue(capture(reference="parcel-2"))
    shop.execute("UPDATE post_purchase_command SET state = 'escalated' WHERE reference = 'parcel-2'")

    answer = confirm(chief, "retry", first.id, second.id, follow="")
    said = chief.get(answer.url).content.decode()

    assert "only an escalated command can take this verb" in said
    assert "Retry: 1 command" in said
    assert ["pending", "pending"] == shop.seen("state")


def test_a_verb_needs_its_own_permission(shop, signed_in):
    """Looking is for many; taking a payment back is for few."""
    enqueued = enqueue(capture())
    shop.escalate()
    browser = signed_in("view_command", "retry_command")

    shown = browser.get(LIST).content.decode()
    confirm(browser, "cancel", enqueued.id)
    refused = shop.seen("state")
    confirm(browser, "retry", enqueued.id)

    assert "Retry selected" in shown
    assert "Cancel selected" not in shown
    assert ["escalated"] == refused
    assert ["pending"] == shop.seen("state")


def test_nobody_looks_without_permission(shop, signed_in):
    """Orders and references are the shop's business."""
    enqueued = enqueue(capture())
    browser = signed_in("retry_command")

    answers = [browser.get(LIST).status_code, browser.get(page(enqueued.id)).status_code]

    assert [403, 403] == answers
    assert 302 == Client().get(LIST).status_code


@pytest.mark.parametrize("place", ["add/", "{id}/change/", "{id}/delete/"])
def test_nothing_can_be_edited(shop, chief, place):
    """A row changed by hand would skip the fence, the ledger and the ticket."""
    enqueued = enqueue(capture())

    answer = chief.post(LIST + place.format(id=enqueued.id), {"state": "succeeded", "post": "yes"})

    assert 403 == answer.status_code
    assert ["pending"] == shop.seen("state")


def test_models_refuse_to_be_written(shop):
    """The shop's own code has no business in these tables either."""
    enqueue(capture())
    command = Command.objects.get()

    for write in (command.save, command.delete, Command.objects.all().delete, lambda: Command.objects.update(kind="x")):
        with pytest.raises(ReadOnly):
            write()

    assert ["capture"] == shop.seen("kind")


@pytest.mark.parametrize("verb", list(VERBS))
def test_a_form_without_its_token_is_refused(shop_on_sqlite, signed_in, verb):
    """A page elsewhere could otherwise have an operator's browser take payments back."""
    enqueued = enqueue(capture())
    shop_on_sqlite.escalate()
    browser = signed_in("view_command", permission(verb), checks_csrf=True)

    answers = [act(browser, verb, enqueued.id), confirm(browser, verb, enqueued.id, amended=amended())]

    assert [403, 403] == [each.status_code for each in answers]
    assert ["escalated"] == shop_on_sqlite.seen("state")


@pytest.mark.parametrize(("origin", "status"), [("https://elsewhere.example", 403), ("http://testserver", 302)])
def test_another_sites_form_is_refused_even_with_a_token(shop_on_sqlite, signed_in, origin, status):
    """A token may leak; where a request comes from is said by the browser."""
    enqueued = enqueue(capture())
    browser = signed_in("view_command", "cancel_command", checks_csrf=True)
    token = browser.get(LIST).context["csrf_token"]

    answer = confirm(browser, "cancel", enqueued.id, csrfmiddlewaretoken=str(token), headers={"Origin": origin})

    assert status == answer.status_code
    assert ["pending" if status == 403 else "cancelled"] == shop_on_sqlite.seen("state")


@pytest.mark.parametrize("verb", list(VERBS))
def test_no_verb_without_its_permission(shop_on_sqlite, signed_in, verb):
    """Neither the page that asks nor the answer to it, whoever knows how to write the request by hand."""
    enqueued = enqueue(capture())
    shop_on_sqlite.escalate()
    others = [permission(each) for each in VERBS if each != verb]
    browser = signed_in("view_command", *others)

    act(browser, verb, enqueued.id)
    confirm(browser, verb, enqueued.id, amended=amended())
    offered = browser.get(page(enqueued.id)).context["verbs"]

    assert ["escalated"] == shop_on_sqlite.seen("state")
    assert 0 == Action.objects.count()
    assert verb not in dict(offered)


def test_markup_is_shown_as_text(shop, chief):
    """Order ids and references come from elsewhere; a browser must never run them."""
    enqueued = enqueue(capture(reference=MARKUP))
    shop.execute("UPDATE post_purchase_command SET order_id = :markup", markup=MARKUP)  # enqueue would refuse it
    shop.escalate()
    confirm(chief, "retry", enqueued.id, why=MARKUP)
    shop.escalate()
    shop.execute(
        "INSERT INTO post_purchase_reading SELECT id, 1, 'ticket', 'ambiguous', :markup, created_at "
        "FROM post_purchase_command",
        markup=MARKUP,
    )

    pages = [
        chief.get(LIST),
        chief.get(LIST, {"q": MARKUP}),
        chief.get(page(enqueued.id)),
        act(chief, "cancel", enqueued.id),
        confirm(chief, "cancel", enqueued.id, why=""),
        act(chief, "amend", enqueued.id),
        confirm(chief, "amend", enqueued.id, amended=MARKUP),
        chief.get("/admin/post_purchase/action/"),
    ]

    for each in pages:
        assert 200 == each.status_code
        assert "<script>alert" not in each.content.decode()
        assert "&lt;script&gt;alert" in each.content.decode()


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("order-1", {"parcel-1", "parcel-10"}),
        ("order", {"parcel-1", "parcel-10", "100%"}),
        ("parcel-10", {"parcel-10"}),
        ("100%", {"100%"}),
        ("%", set()),
        ("rder-1", set()),
        ("  order-2 ", {"100%"}),
    ],
)
def test_a_search_is_for_the_beginning(shop, chief, term, found):
    """What people have in hand is an order, a parcel or the beginning of one."""
    for order, reference in (("order-1", "parcel-1"), ("order-1", "parcel-10"), ("order-2", "100%")):
        enqueue(capture(order_id=order, reference=reference))

    listed = chief.get(LIST, {"q": term}).context["cl"].result_list

    assert found == {each.reference for each in listed}


def test_a_search_finds_a_key_an_id_and_an_order_that_looks_like_one(shop, chief):
    """A provider's log knows the key, a ticket knows the id, and Klarna's orders are UUIDs too."""
    order = "f3392f8b-6116-4073-ab96-e330819e2c07"
    enqueued = enqueue(capture(order_id=order))

    for term in (enqueued.idempotency_key, str(enqueued.id), order):
        assert [enqueued.id] == [each.id for each in chief.get(LIST, {"q": term}).context["cl"].result_list]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"state": "escalated"}, 1),
        ({"state": "pending"}, 2),
        ({"in_doubt": "True"}, 1),
        ({"account": "klarna-eu"}, 3),
        ({"state": "no such"}, 0),
    ],
)
def test_filters_keep_what_was_chosen(shop, chief, chosen, found):
    """The list of what waits for a person is where the day begins."""
    for number in range(3):
        enqueue(capture(reference=f"parcel-{number}"))
    shop.execute("UPDATE post_purchase_command SET state = 'escalated', in_doubt = true WHERE reference = 'parcel-1'")

    listed = chief.get(LIST, chosen)

    assert (200, found) == (listed.status_code, len(listed.context["cl"].result_list))


def test_a_kind_is_kept_together_with_everything_else(shop, chief):
    """Refunds are asked about on their own, and so are those of an order or a day."""
    enqueue(capture())
    enqueue(Refund(account="klarna-eu", order_id="order-1", amount=300, reference="return-1"))
    enqueue(Refund(account="klarna-eu", order_id="order-2", amount=400, reference="return-2"))
    today = timezone.localdate()

    offered = [
        each.lookup_choices for each in chief.get(LIST).context["cl"].filter_specs if each.parameter_name == "kind"
    ]
    kept = [
        {each.reference for each in chief.get(LIST, {"kind": "refund", **more}).context["cl"].result_list}
        for more in ({}, {"q": "order-1"}, {"state": "pending"}, {"created_at__year": today.year - 1}, {"kind": "x"})
    ]

    assert [[("capture", "capture"), ("refund", "refund")]] == offered
    assert [{"return-1", "return-2"}, {"return-1"}, {"return-1", "return-2"}, set(), set()] == kept


def test_a_kind_is_looked_for_among_the_newest_and_the_page_says_so(shop, chief, monkeypatch):
    """A rare kind would otherwise cost a walk through the whole table, and a silent end would be taken for all."""
    monkeypatch.setattr(admin, "KINDS_WITHIN", 2)
    for number in range(3):
        enqueue(capture(reference=f"parcel-{number}"))

    cut = chief.get(LIST, {"kind": "capture"})
    whole = chief.get(LIST, {"kind": "capture", "q": "parcel-0"})

    assert ["parcel-2", "parcel-1"] == [each.reference for each in cut.context["cl"].result_list]
    assert "among the newest 2" in cut.content.decode()
    assert ["parcel-0"] == [each.reference for each in whole.context["cl"].result_list]
    assert "among the newest" not in whole.content.decode()


def test_the_page_says_whether_the_shop_knows(shop, chief):
    """Whoever is asked why an order is not paid looks here first."""
    enqueued = enqueue(capture())

    before = chief.get(page(enqueued.id)).content.decode()
    shop.finish()
    tell_finished()
    after = chief.get(page(enqueued.id)).content.decode()

    assert "not yet" in before
    assert "not yet" not in after
    assert f"{timezone.localdate():%Y-%m-%d}" in after.split("Host told:")[1][:300]


def test_dates_lead_from_years_to_days(shop, chief):
    """A merchant asks about last Tuesday."""
    enqueue(capture())
    today = timezone.localdate()
    year = {"created_at__year": today.year}
    month = {**year, "created_at__month": today.month}
    day = {**month, "created_at__day": today.day}

    offered = [[c["title"] for c in chief.get(LIST, each).context["cl"].dates.choices] for each in ({}, year, month)]
    counts = [len(chief.get(LIST, each).context["cl"].result_list) for each in ({}, year, month, day)]
    before = chief.get(LIST, {**year, "created_at__year": today.year - 1}).context["cl"].result_list

    assert 1 <= min(map(len, offered))
    assert str(today.year) in offered[0]
    assert [1, 1, 1, 1] == counts
    assert [] == list(before)


@pytest.mark.parametrize(
    "query", ["created_at__year=x", "created_at__year=0", "created_at__year=9999&created_at__month=13", "p=x", "o=3.-1"]
)
def test_a_bent_address_is_no_error_of_the_server(shop, chief, query):
    """Bookmarks and scanners send anything."""
    enqueue(capture())

    assert chief.get(f"{LIST}?{query}").status_code in {200, 302, 400}


@pytest.mark.parametrize("selected", ["x", "' OR 1=1 --"])
def test_a_bent_selection_is_refused(shop, chief, selected):
    """The same, for what a form sends."""
    assert 400 == act(chief, "retry", selected).status_code


def test_all_that_match_is_never_what_a_verb_is_for(shop, chief):
    """A verb on rows that nobody has looked at is how a thousand refunds are cancelled."""
    first, _ = enqueue(capture()), enqueue(capture(reference="parcel-2"))

    confirm(chief, "cancel", first.id, select_across="1")

    assert ["cancelled", "pending"] == sorted(shop.seen("state"))


def test_a_list_counts_no_further_than_it_shows(shop, chief, monkeypatch):
    """A count over a million rows takes longer than everything else of the page."""
    monkeypatch.setattr(admin, "MOST", 2)
    for number in range(3):
        enqueue(capture(reference=f"parcel-{number}"))

    with CaptureQueriesContext(connection) as seen:
        answer = chief.get(LIST)

    counts = [each["sql"] for each in seen.captured_queries if "COUNT(" in each["sql"]]
    assert 1 == len(counts)
    assert "LIMIT 2" in counts[0]
    assert "These are the newest 2" in answer.content.decode()


def test_what_is_listed_can_be_aged(shop, chief):
    """Half a day and half a minute must not look the same."""
    lengths = {30: "30 s", 90: "1 min 30 s", 3_700: "1 h 1 min", 100_000: "1 d 3 h"}

    assert lengths == {seconds: admin._duration(timedelta(seconds=seconds)) for seconds in lengths}


def test_atomic_requests_and_verbs_go_together(shop, chief):
    """With the whole request in one transaction, a refused verb must not take a done one back."""
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    first, second = enqueue(capture()), enqueue(capture(reference="parcel-2"))
    shop.execute("UPDATE post_purchase_command SET state = 'escalated' WHERE reference = 'parcel-1'")
    shop.publisher.published.clear()

    confirm(chief, "retry", first.id, second.id)

    assert ["pending", "pending"] == shop.seen("state")
    assert [first.id] == shop.publisher.published
    assert [UUID(str(first.id))] == [each.command_id for each in Action.objects.all()]


@pytest.mark.parametrize("named_by", ["id", "idempotency_key"])
def test_a_search_says_that_a_command_was_pruned(shop, chief, named_by):
    """An empty list would look as if there never was such a payment."""
    enqueued = enqueue(capture())
    shop.execute(
        "INSERT INTO post_purchase_key SELECT account, idempotency_key, id, fingerprint, 'succeeded', created_at "
        "FROM post_purchase_command"
    )
    shop.execute("DELETE FROM post_purchase_command")

    shown = chief.get(LIST, {"q": str(getattr(enqueued, named_by))}).content.decode()

    assert f"{enqueued.id} of klarna-eu is succeeded since" in shown
