"""The desk that sends mail over SMTP.

Decides the mail of a ticket, how the mails of one ticket hang together in a mailbox, and what counts as sent: the
server took the mail for at least one recipient. Leaves the words to `case_text`, the next try to `service/escalate`.

Mail knows no idempotent sending. What may be sent twice (the server took the mail, its answer was lost) carries the
same Message-ID both times, by which mailboxes and people recognise the repeat.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from email.headerregistry import Address, AddressHeader
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import Literal
from uuid import UUID

import structlog

from ..domain.errors import DeskUnavailable
from ..domain.ticket import CaseFile
from . import DeskMisconfigured, explain_failure, hang_up_at, is_host, is_loopback, verified_tls
from .case_text import announcement, as_html, as_text, one_line

Security = Literal["none", "starttls", "tls"]

RECIPIENTS_REFUSED = "ticket.recipients_refused"

_HIGHEST_PORT = 65_535

#: Long enough for account, headline and order; mailboxes cut what is longer, and servers refuse from 998 on.
_SUBJECT_LENGTH = 200

#: RFC 5322 allows header lines of 998 characters. Folded at 78, as Python would, long ids come out encoded, so that no
#: mailbox finds the mail that is answered, and subjects start on the second line.
_UNFOLDED = SMTP.clone(max_line_length=998)

#: A Message-ID is stored as the ticket's reference, 255 characters at most; its other part takes 86 of them.
_DOMAIN_LENGTH = 169

_MESSAGE_ID = re.compile(r"<[!-;=?-~]+@[!-;=?-~]+>")

#: RFC 3463: what a server says in figures, before it says it in words.
_ENHANCED_STATUS = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}\b")

#: What a mail server's refusal means and what to look at, the first that fits.
_REFUSALS: tuple[tuple[type[smtplib.SMTPException], str], ...] = (
    (
        smtplib.SMTPAuthenticationError,
        "refused the log-in. Check tickets.email.username and tickets.email.password (or password_file)",
    ),
    (
        smtplib.SMTPSenderRefused,
        "refused the sender. Check tickets.email.sender, and whether the server wants a log-in first",
    ),
    (smtplib.SMTPRecipientsRefused, "refused every recipient. Check tickets.email.recipients"),
    (smtplib.SMTPDataError, "refused the mail itself. Check the server's log and its limits"),
    (
        smtplib.SMTPNotSupportedError,
        "does not offer what is asked of it (STARTTLS or a log-in). Check tickets.email.security, port and username",
    ),
    (smtplib.SMTPConnectError, "turned the connection away. Check whether it serves this machine"),
    (
        smtplib.SMTPServerDisconnected,
        "hung up. Check that tickets.email.port is meant for tickets.email.security (587 starttls, 465 tls)",
    ),
    (smtplib.SMTPException, "did not speak SMTP as expected. Check tickets.email.host and port, and the server's log"),
)


class EmailDesk:
    """Sends a ticket as a mail, and what follows as replies to that mail; its reference is the Message-ID.

    Args:
        host: The mail server.
        port: Usually 587 with `starttls`, 465 with `tls`.
        security: `none` is refused unless the host is this machine.
        username: None when the server wants no log-in.
        password: Goes with the user name.
        sender: One address, with or without a display name.
        recipients: At least one address.
        timeout: Seconds that one mail may take.
        now: Seconds since 1970, for the mail's date.
    """

    name: str = "email"

    def __init__(
        self,
        host: str,
        *,
        port: int,
        security: Security,
        username: str | None,
        password: str | None,
        sender: str,
        recipients: Sequence[str],
        timeout: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        _refuse_unusable(host, port=port, security=security, username=username, password=password, timeout=timeout)
        if not recipients:
            raise DeskMisconfigured("tickets.email.recipients is empty. Name at least one address")
        self._host = host
        self._port = port
        self._security = security
        self._username = username
        self._password = password
        self._sender = _address(sender, setting="tickets.email.sender")
        if len(self._sender.domain) > _DOMAIN_LENGTH:
            raise DeskMisconfigured(f"tickets.email.sender has a domain of more than {_DOMAIN_LENGTH} characters")
        self._recipients = tuple(_address(recipient, setting="tickets.email.recipients") for recipient in recipients)
        self._timeout = timeout
        self._now = now

    def __repr__(self) -> str:
        return f"{type(self).__name__}(host={self._host!r}, port={self._port!r}, security={self._security!r})"

    def open(self, case_file: CaseFile) -> str:
        """Send the mail that opens the ticket."""
        mail = self._mail(case_file)
        self._send(mail, ticket_id=case_file.ticket_id)

        return str(mail["Message-ID"])

    def append(self, external_ref: str, case_file: CaseFile) -> None:
        """Send the further commands as a reply to the mail that opened the ticket."""
        self._reply(external_ref, case_file)

    def close(self, external_ref: str, case_file: CaseFile) -> None:
        """Send, as a reply to the mail that opened the ticket, that nothing is left to do."""
        self._reply(external_ref, case_file)

    def _reply(self, external_ref: str, case_file: CaseFile) -> None:
        mail = self._mail(case_file)
        # A ticket opened at another desk, before the settings changed, has a reference that no mailbox knows.
        if _MESSAGE_ID.fullmatch(external_ref):
            mail["In-Reply-To"] = external_ref
            mail["References"] = external_ref
        self._send(mail, ticket_id=case_file.ticket_id)

    def _mail(self, case_file: CaseFile) -> EmailMessage:
        mail = EmailMessage(policy=SMTP)
        mail["Subject"] = one_line(case_file.subject)[:_SUBJECT_LENGTH]
        mail["From"] = self._sender
        mail["To"] = self._recipients
        mail["Date"] = formatdate(self._now())
        mail["Message-ID"] = f"<post-purchase-{announcement(case_file)}@{self._sender.domain}>"
        mail["X-Post-Purchase-Ticket"] = str(case_file.ticket_id)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: keeps holiday notices from answering
        mail.set_content(as_text(case_file), cte="quoted-printable")
        mail.add_alternative(as_html(case_file), subtype="html", cte="quoted-printable")

        return mail

    def _send(self, mail: EmailMessage, *, ticket_id: UUID) -> None:
        sender, recipients = self._sender.addr_spec, [recipient.addr_spec for recipient in self._recipients]
        late = threading.Event()
        try:
            with self._session(late) as session:
                refused = session.sendmail(sender, recipients, mail.as_bytes(policy=_UNFOLDED))
        except OSError as error:
            # Without its cause: a mail server's own words may repeat addresses and what it was sent at the log-in.
            words = _explain(TimeoutError() if late.is_set() else error)
            raise DeskUnavailable(f"mail server {self._host}:{self._port} {words}") from None
        if refused:
            # Trying again would send the others the same mail for as long as the settings stand.
            places = [place for place, recipient in enumerate(recipients, start=1) if recipient in refused]
            codes = sorted({code for code, _ in refused.values()})
            structlog.get_logger(__name__).warning(
                RECIPIENTS_REFUSED,
                ticket_id=str(ticket_id),
                places=places,
                codes=codes,
                fix="correct the addresses at these places, counted from 1, in tickets.email.recipients",
            )

    @contextlib.contextmanager
    def _session(self, late: threading.Event) -> Iterator[smtplib.SMTP]:
        deadline = time.monotonic() + self._timeout
        session = (
            smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout, context=verified_tls())
            if self._security == "tls"
            else smtplib.SMTP(self._host, self._port, timeout=self._timeout)
        )
        with contextlib.closing(session), hang_up_at(deadline, lambda: session.sock, late):
            if self._security == "starttls":
                session.starttls(context=verified_tls())
            if self._username and self._password:
                session.login(self._username, self._password)
            yield session
            # The mail is in the server's hands by now: a farewell that fails changes nothing.
            with contextlib.suppress(OSError):
                session.quit()


def _refuse_unusable(
    host: str, *, port: int, security: str, username: str | None, password: str | None, timeout: float
) -> None:
    """Refuse what can reach no server, or would reach one without TLS. No sentence repeats the log-in."""
    if not is_host(host):
        raise DeskMisconfigured(
            f"tickets.email.host is {one_line(host)!r}, which is neither a host name nor an address"
        )
    if not 1 <= port <= _HIGHEST_PORT:
        raise DeskMisconfigured(f"tickets.email.port is {port}; it must be from 1 to {_HIGHEST_PORT}")
    if security not in {"none", "starttls", "tls"}:
        raise DeskMisconfigured(f"tickets.email.security is {security!r}; it must be starttls, tls or none")
    if security == "none" and not is_loopback(host):
        raise DeskMisconfigured(
            f"tickets.email.security is none, but {host} is not this machine. Set it to starttls or tls"
        )
    if bool(username) != bool(password):
        raise DeskMisconfigured("tickets.email.username and tickets.email.password belong together. Set both or none")
    if not f"{username or ''}{password or ''}".isascii():
        raise DeskMisconfigured(
            "tickets.email.username and password hold non-ASCII characters, which SMTP log-ins do not carry"
        )
    if not timeout > 0:
        raise DeskMisconfigured(f"tickets.email.timeout_seconds is {timeout}; it must be above 0")


def _address(text: str, *, setting: str) -> Address:
    """Read one address of the settings; what could become a second one, or a header, is refused."""
    problem = DeskMisconfigured(f"{setting} has an entry that is not one ASCII mail address such as desk@example.com")
    if one_line(text) != text:
        raise problem
    header = SMTP.header_factory("To", text)
    if header.defects or not isinstance(header, AddressHeader) or len(header.addresses) != 1:
        raise problem
    address = header.addresses[0]
    if not (address.username and address.domain and address.addr_spec.isascii()):
        raise problem

    return address


def _explain(error: OSError) -> str:
    if isinstance(error, smtplib.SMTPServerDisconnected) and isinstance(error.__context__, TimeoutError):
        return explain_failure(error.__context__)  # smtplib calls a server that says nothing disconnected
    if not isinstance(error, smtplib.SMTPException):
        return explain_failure(error)
    words = next(words for kind, words in _REFUSALS if isinstance(error, kind))
    figures = _figures(error)

    return f"{words}. It answered {figures}" if figures else words


def _figures(error: smtplib.SMTPException) -> str:
    """List the status codes of a refusal; the server's words stay out."""
    match error:
        case smtplib.SMTPRecipientsRefused(recipients=recipients):
            figures = {_figure(code, said) for code, said in recipients.values()}
        case smtplib.SMTPResponseException(smtp_code=code, smtp_error=said):
            figures = {_figure(code, said)}
        case _:
            figures = set()

    return ", ".join(sorted(figures))


def _figure(code: int, said: bytes | str) -> str:
    enhanced = _ENHANCED_STATUS.match(said if isinstance(said, bytes) else said.encode(errors="replace"))

    return f"{code} {enhanced.group().decode()}" if enhanced else str(code)
