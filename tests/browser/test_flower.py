from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser.stage import until
from worker import Capture, TriggerSendOut
from worker.domain.errors import InvalidCommand

AWAY = "4ba29b50-be7b-44f5-a492-113e6a865e22"
LOST = "9a5627de-b32a-5943-976c-662e9bc5cc30"

#: What Flower could do to a worker or to a task, each as a POST.
ACTIONS = (
    "/api/worker/shutdown/celery@shop",
    "/api/worker/pool/shrink/celery@shop?n=2",
    "/api/worker/queue/cancel-consumer/celery@shop?queue=post-purchase.execute",
    "/api/task/revoke/00000000-0000-0000-0000-000000000000?terminate=true",
    "/api/task/abort/00000000-0000-0000-0000-000000000000",
    "/api/task/async-apply/post-purchase.execute",
    "/api/task/send-task/post-purchase.execute",
    "/api/task/rate-limit/post-purchase.execute?workername=celery@shop&ratelimit=0",
)

#: What Flower shows.
PLACES = ("/", "/tasks", "/broker", "/worker/celery@shop", "/api/tasks", "/api/workers", "/api/queues/length")

MARKUP = "<img src=x onerror=document.title='taken'><b id=planted>bold</b>"


@pytest.fixture
def row(page, on_stage):
    """Waits for a task in the list and returns its row."""

    def row(*texts):
        rows = page.locator("#tasks-table tbody tr")
        for text in texts:
            rows = rows.filter(has_text=text)

        def shown():
            page.goto(f"{on_stage.flower}/tasks")
            page.wait_for_selector("#tasks-table tbody tr")
            page.wait_for_function("!document.querySelector('#tasks-table_processing[style*=block]')")
            return rows.count()

        until(shown, tell=on_stage.worker_log)

        return rows.first

    return row


@pytest.fixture
def details(page, on_stage):
    """Opens a task from its row and returns what the page says, by its headings."""

    def details(row):
        row.locator("a").first.click()
        page.wait_for_selector("#task-page")
        headings, values = page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts()

        return dict(zip(headings, values, strict=True))

    return details


@pytest.fixture
def elsewhere(on_stage):
    """A page of another site that posts to Flower for whoever visits it; its address."""

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self):
            form = f'<form method=post action="{on_stage.flower}{self.path}"></form>'
            page = f"{form}<script>document.forms[0].submit()</script>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Trap) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        # Another name is another site to a browser.
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def is_at_work(on_stage):
    """Whether the worker still carries out what the shop asks for."""
    before = len(on_stage.sandbox.effects())
    on_stage.enqueue(Capture(account="klarna-eu", order_id=f"order-{before}", amount=100, reference=f"probe-{before}"))

    return until(lambda: len(on_stage.sandbox.effects()) > before, tell=on_stage.worker_log)


def test_a_retry_is_shown_as_scheduled_with_its_time(on_stage, row, details):
    """Whoever looks at night wants to know whether to wait."""
    on_stage.sandbox.fault("status", status=503, times=None, order_id=AWAY)
    on_stage.enqueue(Capture(account="klarna-eu", order_id=AWAY, amount=1000, reference="away"))

    # A task that is still at work may have taken the command before its own message came.
    tried = row("503 TEMPORARILY_UNAVAILABLE: 1").inner_text()
    scheduled = details(row("capture klarna-eu 4ba29b50… try 2 of 4", "SCHEDULED"))

    [command] = [each for each in on_stage.commands() if each["order_id"] == AWAY]
    assert "SUCCESS" in tried
    assert "SCHEDULED" == scheduled["Status"]
    assert f"{command['due_at']:%d %b %H:%M}" in scheduled["ETA"].replace("\N{NO-BREAK SPACE}", " ")


def test_an_escalation_is_shown_with_its_ticket(on_stage, row, details):
    """The ticket is where the work goes on."""
    on_stage.sandbox.fault("drop_reply", order_id=LOST)
    on_stage.enqueue(TriggerSendOut(account="klarna-eu", order_id=LOST, capture_id="capture-1", keyed=False))
    until(on_stage.tickets, tell=on_stage.worker_log)
    [(ticket_id, reason)] = on_stage.tickets()

    given_up = row("trigger_send_out klarna-eu 9a5627de… try 1 of 4", "SUCCESS").inner_text()
    told = details(row(f"ticket {ticket_id}", "told: "))

    assert "not_safe_to_retry" == reason
    assert "ticket_not_safe_to_retry: 1" in given_up
    assert f"told: log:{ticket_id}, ticket: {ticket_id}" == told["Result"]


def test_a_task_that_failed_says_why(on_stage, row, details):
    """A red badge without a reason sends people through the logs of every worker."""
    on_stage.send_nonsense("from a stranger")

    failed = details(row("from a stranger", "FAILURE"))

    assert "TaskFailed: ValueError, see task.failed of this task in the worker's log" == failed["Exception"]
    assert "Traceback" not in failed


def test_a_batch_shows_how_many_and_what_came_of_them(on_stage, row):
    """Fifty ids in a line tell a person nothing."""
    on_stage.store(
        *[Capture(account="klarna-eu", order_id=f"batch-{n}", amount=100, reference=f"batch-{n}") for n in range(20)]
    )

    batch = row("20 commands: capture klarna-eu batch-", "SUCCESS").inner_text()

    assert "now_succeeded: 20, succeeded: 20, claimed: 20" in batch


def test_our_queues_are_shown(on_stage, page):
    """How long they are is the first question when nothing seems to move."""
    page.goto(f"{on_stage.flower}/broker")

    shown = page.locator("#queue-table tbody tr td:first-child").all_inner_texts()

    assert ["post-purchase.execute", "post-purchase.upkeep"] == shown


def test_markup_is_shown_as_text(on_stage, page, row, details):
    """Whoever can put a message into the broker must not act in the browser of an operator."""
    on_stage.send_nonsense(MARKUP)

    in_list = row("planted").inner_text()
    title = page.title()
    alone = details(row("planted"))

    assert MARKUP in in_list
    assert MARKUP == alone["Arguments"]
    assert 0 == page.locator("#planted").count()
    assert "taken" not in (title, page.title())


def test_an_order_id_with_markup_does_not_get_as_far_as_flower():
    """It would go into the path of a URL too."""
    with pytest.raises(InvalidCommand, match="order_id"):
        Capture(account="klarna-eu", order_id="<b>1</b>", amount=100, reference="markup")


@pytest.mark.parametrize("path", ["/", "/tasks", "/broker"])
def test_a_wrong_password_is_refused(on_stage, new_page, path):
    """It names orders, amounts of work and hosts."""
    page = new_page("not-the-password")

    answer = page.goto(f"{on_stage.flower}{path}")

    assert (401, "Access denied") == (answer.status, page.inner_text("body"))


def test_without_a_password_nothing_is_seen(on_stage, new_page):
    """A port on loopback is open to every user of the machine, and to what runs in their browsers."""
    stranger = new_page().request

    answers = [stranger.get(f"{on_stage.flower}{path}") for path in PLACES]

    assert {401} == {answer.status for answer in answers}
    assert "post-purchase" not in "".join(answer.text() for answer in answers)


def test_nobody_acts_without_the_password(on_stage, new_page):
    """One request of somebody else's could stop the shop's worker."""
    stranger = new_page().request

    answers = [stranger.post(f"{on_stage.flower}{path}", data={"args": [["x"]]}) for path in ACTIONS]

    assert {401} == {answer.status for answer in answers}


def test_an_operator_only_looks(on_stage, page):
    """What is done here leaves no trace of who and why."""
    page.goto(on_stage.flower)
    post = "path => fetch(path, {method: 'POST', body: '{}'}).then(async it => [it.status, await it.text()])"

    answers = {path: tuple(page.evaluate(post, path)) for path in ACTIONS}

    assert dict.fromkeys(ACTIONS, (403, "Read only mode is enabled")) == answers


def test_a_page_of_another_site_cannot_act_for_an_operator(on_stage, page, elsewhere):
    """The browser knows the password and would send it along."""
    page.goto(on_stage.flower)

    answers = {}
    for path in ACTIONS:
        with page.expect_response(lambda answer: answer.url.startswith(f"{on_stage.flower}/api/")) as answered:
            page.goto(f"{elsewhere}{path}", wait_until="commit")
        answers[path] = (answered.value.status, answered.value.text())

    assert dict.fromkeys(ACTIONS, (403, "Cross-site request forbidden")) == answers


def test_a_page_of_another_site_cannot_read(on_stage, page, elsewhere):
    """What an operator may see is not for every page in the next tab."""
    page.goto(on_stage.flower)
    page.route(f"{elsewhere}/", lambda route: route.fulfill(body="<p>elsewhere", content_type="text/html"))
    page.goto(f"{elsewhere}/")

    said = page.evaluate(
        "url => fetch(url, {credentials: 'include'}).then(it => it.text(), problem => problem.message)",
        f"{on_stage.flower}/api/tasks",
    )

    assert "Failed to fetch" == said


def test_after_all_this_the_worker_still_works(on_stage):
    """A refusal counts when what was refused has not happened."""
    assert on_stage.worker.poll() is None
    assert is_at_work(on_stage)
