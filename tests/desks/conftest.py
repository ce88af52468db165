"""Tickets to tell, and real servers to tell them to: SMTP, HTTP, and one that says whatever a test wants."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import socket
import ssl
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from uuid import UUID

import pytest
import structlog
import trustme
from aiosmtpd.smtp import SMTP, AuthResult
from structlog.testing import capture_logs

from worker.desks.email import EmailDesk
from worker.desks.log import LogDesk
from worker.desks.webhook import WebhookDesk
from worker.domain.outcome import Problem
from worker.domain.ticket import AttemptLine, Case, CaseFile, Closing, Ended, ReadingLine, Reason

TICKET_ID = UUID("019ab3c4-0000-7000-8000-00000000000f")
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PASSWORD = "correct-horse-battery"
SECRET = "staple-of-the-webhook"


# --- tickets -----------------------------------------------------------------------------------------------


def build_case(number=1, **changes):
    """Build a capture that got no answer."""
    case = Case(
        command_id=UUID(int=number),
        account="klarna-eu",
        kind="capture",
        order_id=f"order-{number}",
        reference=f"shipment-{number}",
        amount=12_345,
        idempotency_key=f"7d7f0000-0000-5000-8000-{number:012d}",
        state="escalated",
        in_doubt=True,
        key_window_left=timedelta(hours=18, minutes=54),
        problem=Problem(code="no_answer", message="No answer within 30 s", correlation_id="corr-problem"),
        attempts=(
            AttemptLine(
                number=1,
                started_at=NOON - timedelta(hours=5),
                finished_at=NOON - timedelta(hours=5) + timedelta(seconds=30),
                outcome="in_doubt",
                status=None,
                code="no_answer",
                correlation_id=None,
            ),
            AttemptLine(
                number=2,
                started_at=NOON - timedelta(minutes=1),
                finished_at=NOON,
                outcome="in_doubt",
                status=503,
                code="INTERNAL",
                correlation_id="corr-attempt",
            ),
        ),
        readings=(
            ReadingLine(
                purpose="ticket",
                verdict="unread",
                evidence="The read told nothing: no_answer.",
                read_at=NOON + timedelta(minutes=1),
            ),
            ReadingLine(
                purpose="ticket",
                verdict="ambiguous",
                evidence="2 captures carry the reference that the caller gave: c-1, c-2.",
                read_at=NOON + timedelta(minutes=1, seconds=5),
            ),
        ),
    )

    return replace(case, **changes)


def build_case_file(*cases, **changes):
    """Build a ticket about these commands, or about one."""
    cases = cases or (build_case(),)
    case_file = CaseFile(
        ticket_id=TICKET_ID,
        account="klarna-eu",
        reason=Reason.LADDER_EXHAUSTED,
        opened_at=NOON,
        cases=cases,
        total=len(cases),
    )

    return replace(case_file, **changes)


def build_closing_file(*ended, **changes):
    """Build a ticket that closed by itself: one command that succeeded, and one that an operator cancelled."""
    one = Ended(
        command_id=UUID(int=1),
        kind="capture",
        order_id="order-1",
        reference="shipment-1",
        amount=12_345,
        how="succeeded",
        by_operator=False,
    )
    ended = ended or (one, replace(one, command_id=UUID(int=2), order_id="order-2", how="cancelled", by_operator=True))
    closing = Closing(
        closed_at=NOON + timedelta(hours=7),
        by_operator=False,
        counts={"succeeded": 1, "cancelled": 1},
        decided_by_operator=1,
        first=ended,
    )

    closing = replace(closing, **changes)

    return replace(build_case_file(), cases=(), total=sum(closing.counts.values()), closing=closing)


@pytest.fixture
def a_closing_file():
    return build_closing_file


@pytest.fixture
def a_case():
    return build_case


@pytest.fixture
def a_case_file():
    return build_case_file


# --- servers -----------------------------------------------------------------------------------------------


@dataclass
class Post:
    """One HTTP request as it arrived."""

    path: str
    headers: dict
    body: bytes

    @property
    def content(self):
        return json.loads(self.body)


class Receiver(http.server.ThreadingHTTPServer):
    """A webhook receiver that checks each signature by its own arithmetic and answers what it is told to."""

    daemon_threads = False

    def __init__(self, certificate=None):
        super().__init__(("127.0.0.1", 0), _ReceiverHandler)
        self.posts = []
        self.forged = []
        self.answer = (200, {}, b"")
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(context)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def port(self):
        return self.server_address[1]

    def handle_error(self, request, client_address):
        """A client that turns away from a certificate is no error of the server."""


class _ReceiverHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        post = Post(path=self.path, headers=dict(self.headers.items()), body=body)
        signed = self.headers["Post-Purchase-Timestamp"].encode() + b"." + body
        expected = "v1=" + hmac.digest(SECRET.encode(), signed, hashlib.sha256).hex()
        (self.server.posts if expected == self.headers["Post-Purchase-Signature"] else self.server.forged).append(post)
        status, headers, content = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.server.forged.append(self.path)
        self.send_error(405)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(server):
    """Let an HTTP server serve for the length of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mail:
    """One mail as it arrived."""

    sender: str
    recipients: list
    message: EmailMessage
    raw: bytes
    was_encrypted: bool
    login: str | None

    def part(self, subtype):
        return self.message.get_body(preferencelist=(subtype,)).get_content()


@dataclass
class MailServer:
    """A real SMTP server in a thread of its own. `answers` maps a verb, or an address, to what it is answered."""

    certificate: object = None
    security: str = "none"
    login: tuple | None = None
    answers: dict = field(default_factory=dict)
    mails: list = field(default_factory=list)
    logins: list = field(default_factory=list)
    port: int = 0

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        assert ready.wait(10)

        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._through.set)
        self._thread.join()

    async def _serve(self, ready):
        self._loop, self._through = asyncio.get_running_loop(), asyncio.Event()
        context = None
        if self.certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.certificate.configure_cert(context)

        def session():
            return SMTP(
                self,
                loop=self._loop,
                hostname="mail.test",
                tls_context=context if self.security == "starttls" else None,
                authenticator=self._authenticate if self.login else None,
                auth_require_tls=False,
            )

        server = await self._loop.create_server(
            session, "127.0.0.1", 0, ssl=context if self.security == "tls" else None
        )
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._through.wait()
        server.close()

    def _authenticate(self, server, session, envelope, mechanism, credentials):
        given = (credentials.login.decode(), credentials.password.decode())
        self.logins.append(given[0])
        if given == self.login:
            return AuthResult(success=True, auth_data=given[0])
        # A server may well repeat what it was sent.
        return AuthResult(success=False, handled=False, message=f"535 5.7.8 not {given[0]} with {given[1]}")

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802  # aiosmtpd finds it by this name
        if "MAIL" in self.answers:
            return self.answers["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802  # aiosmtpd finds it by this name
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  # aiosmtpd finds it by this name
        if "DATA" in self.answers:
            return self.answers["DATA"]
        self.mails.append(
            Mail(
                sender=envelope.mail_from,
                recipients=envelope.rcpt_tos,
                message=message_from_bytes(envelope.content, policy=default),
                raw=envelope.content,
                was_encrypted=server.transport.get_extra_info("ssl_object") is not None,
                login=session.auth_data,
            )
        )
        return "250 OK"

    async def handle_QUIT(self, server, session, envelope):  # noqa: N802  # aiosmtpd finds it by this name
        return self.answers.get("QUIT", "221 Bye")


@contextlib.contextmanager
def talking(script):
    """Let `script(connection, gone)` talk to everyone who connects; `gone` is set when the test is through."""
    listener = socket.create_server(("127.0.0.1", 0))
    gone = threading.Event()

    def accept():
        while True:
            connection, _ = listener.accept()
            with connection:
                if gone.is_set():
                    return
                with contextlib.suppress(OSError):
                    script(connection, gone)

    thread = threading.Thread(target=accept)
    thread.start()
    address = listener.getsockname()
    try:
        yield address[1]
    finally:
        gone.set()
        socket.create_connection(address).close()
        thread.join()
        listener.close()


@pytest.fixture
def a_peer():
    with contextlib.ExitStack() as stack:
        yield lambda script: stack.enter_context(talking(script))


@pytest.fixture
def a_mail_server():
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(MailServer(**settings))


@pytest.fixture
def a_receiver():
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(Receiver(**settings)))


@pytest.fixture
def a_closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture
def believed_authority(authority, tmp_path, monkeypatch):
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))

    return authority


# --- desks -------------------------------------------------------------------------------------------------


def build_email_desk(port, **changes):
    settings = {
        "port": port,
        "security": "none",
        "username": None,
        "password": None,
        "sender": "Post purchase <worker@shop.example>",
        "recipients": ["payments@shop.example"],
        "timeout": 10,
        "now": NOON.timestamp,
    }

    return EmailDesk("127.0.0.1", **(settings | changes))


def build_webhook_desk(port, *, scheme="http", **changes):
    settings = {"secret": SECRET, "timeout": 10, "now": NOON.timestamp}

    return WebhookDesk(f"{scheme}://127.0.0.1:{port}/tickets?token=in-the-address", **(settings | changes))


@pytest.fixture
def an_email_desk():
    return build_email_desk


@pytest.fixture
def a_webhook_desk():
    return build_webhook_desk


@dataclass
class Told:
    """What came out at the far end of a desk."""

    announcement: str
    headers: dict
    content: str


@dataclass
class Place:
    """A desk with its far end. `away` is a desk whose far end is not there; `secrets` is what must never show."""

    desk: object
    listen: object
    away: object = None
    secrets: tuple = ()

    @property
    def told(self):
        return self.listen()


@pytest.fixture
def log_place():
    render = structlog.dev.ConsoleRenderer(colors=False)
    with capture_logs() as events:
        yield Place(
            desk=LogDesk(),
            listen=lambda: [
                Told(
                    announcement=f"{event['event']} {event['announcement']}",
                    headers={},
                    content=render(None, "warning", dict(event)),
                )
                for event in events
            ],
        )


@pytest.fixture
def email_place(a_mail_server, a_closed_port, believed_authority):
    server = a_mail_server(
        certificate=believed_authority.issue_cert("127.0.0.1"), security="starttls", login=("worker", PASSWORD)
    )
    login = {"username": "worker", "password": PASSWORD}

    return Place(
        desk=build_email_desk(server.port, security="starttls", **login),
        listen=lambda: [
            Told(
                announcement=mail.message["Message-ID"],
                headers=dict(mail.message.items()),
                content=mail.part("plain"),
            )
            for mail in server.mails
        ],
        away=build_email_desk(a_closed_port, security="starttls", **login),
        secrets=(PASSWORD, base64.b64encode(f"\0worker\0{PASSWORD}".encode()).decode()),
    )


@pytest.fixture
def webhook_place(a_receiver, a_closed_port):
    receiver = a_receiver()

    return Place(
        desk=build_webhook_desk(receiver.port),
        listen=lambda: [
            Told(
                announcement=post.headers["Idempotency-Key"],
                headers=post.headers,
                content=post.body.decode(),
            )
            for post in receiver.posts
        ],
        away=build_webhook_desk(a_closed_port),
        secrets=(SECRET, "in-the-address"),
    )
