import re
import traceback

import pytest
from structlog.testing import capture_logs

from worker.desks import DeskMisconfigured
from worker.desks.case_text import as_html, as_text
from worker.desks.email import EmailDesk
from worker.domain.errors import DeskUnavailable

PASSWORD = "correct-horse-battery"
LOGIN = ("worker", PASSWORD)


def lines(text):
    return text.replace("\r\n", "\n").rstrip("\n")


def test_a_mail_holds_the_case_file_as_text_and_as_html(a_mail_server, an_email_desk, a_case_file):
    """People read mail on telephones as well as in terminals."""
    server = a_mail_server()

    an_email_desk(server.port).open(a_case_file())

    (mail,) = server.mails
    assert "multipart/alternative" == mail.message.get_content_type()
    assert lines(as_text(a_case_file())) == lines(mail.part("plain"))
    assert lines(as_html(a_case_file())) == lines(mail.part("html"))


def test_a_mail_says_in_its_headers_what_it_is(a_mail_server, an_email_desk, a_case_file):
    """Filters sort by them, and holiday notices stay silent."""
    server = a_mail_server()

    an_email_desk(server.port, recipients=["a@shop.example", "Desk B <b@shop.example>"]).open(a_case_file())

    (mail,) = server.mails
    expected = {
        "Subject": "[post-purchase] klarna-eu: The third retry failed (capture of order order-1)",
        "From": "Post purchase <worker@shop.example>",
        "To": "a@shop.example, Desk B <b@shop.example>",
        "Date": "Sun, 22 Nov 2026 12:00:00 -0000",
        "X-Post-Purchase-Ticket": "019ab3c4-0000-7000-8000-00000000000f",
        "Auto-Submitted": "auto-generated",
    }
    assert expected == {name: mail.message[name] for name in expected}


def test_a_mail_goes_to_everyone_named(a_mail_server, an_email_desk, a_case_file):
    """The envelope decides, not the header."""
    server = a_mail_server()

    an_email_desk(server.port, recipients=["a@shop.example", "Desk B <b@shop.example>"]).open(a_case_file())

    (mail,) = server.mails
    assert ("worker@shop.example", ["a@shop.example", "b@shop.example"]) == (mail.sender, mail.recipients)


def test_the_reference_is_the_id_of_the_opening_mail(a_mail_server, an_email_desk, a_case_file):
    """By it the mail is found in the server's log and in any mailbox."""
    server = a_mail_server()

    external_ref = an_email_desk(server.port).open(a_case_file())

    (mail,) = server.mails
    assert external_ref == mail.message["Message-ID"]
    assert re.fullmatch(
        r"<post-purchase-019ab3c4-0000-7000-8000-00000000000f-[0-9a-f]{32}@shop\.example>", external_ref
    )


@pytest.mark.parametrize("domain", ["shop.example", f"{'long-' * 11}name.shop.example"])
def test_further_mails_are_replies_to_the_first(domain, a_mail_server, an_email_desk, a_case, a_case_file):
    """Mailboxes thread by the bare ids; an id that is folded or encoded is no id."""
    server = a_mail_server()
    desk = an_email_desk(server.port, sender=f"worker@{domain}")

    external_ref = desk.open(a_case_file())
    desk.append(external_ref, a_case_file(a_case(2), total=2))

    _, reply = server.mails
    assert f"\r\nIn-Reply-To: {external_ref}\r\n".encode() in reply.raw
    assert f"\r\nReferences: {external_ref}\r\n".encode() in reply.raw
    assert external_ref != reply.message["Message-ID"]


def test_a_closing_is_a_reply_that_says_so_in_its_subject(a_mail_server, an_email_desk, a_case_file, a_closing_file):
    """It stands in the thread of the ticket, and whoever reads subjects alone knows that it is over."""
    server = a_mail_server()
    desk = an_email_desk(server.port)

    external_ref = desk.open(a_case_file())
    desk.close(external_ref, a_closing_file())

    _, reply = server.mails
    subject = "[post-purchase] klarna-eu: closed: The third retry failed (capture of order order-1 and 1 more)"
    assert (external_ref, external_ref) == (reply.message["In-Reply-To"], reply.message["References"])
    assert subject == reply.message["Subject"]
    assert "<post-purchase-019ab3c4-0000-7000-8000-00000000000f-closed@shop.example>" == reply.message["Message-ID"]
    assert str(a_case_file().ticket_id) == reply.message["X-Post-Purchase-Ticket"]
    assert (as_text(a_closing_file()), as_html(a_closing_file())) == (
        reply.part("plain").replace("\r\n", "\n"),
        reply.part("html").replace("\r\n", "\n"),
    )


def test_the_longest_reference_fits_its_column(a_mail_server, an_email_desk, a_case_file):
    """A ticket whose reference cannot be stored would be opened again and again."""
    server = a_mail_server()
    domain = ".".join(["a" * 33] * 4 + ["a" * 33])

    external_ref = an_email_desk(server.port, sender=f"w@{domain}").open(a_case_file())

    assert 169 == len(domain)
    assert 255 == len(external_ref)


def test_a_mail_is_not_a_reply_to_another_desks_ticket(a_mail_server, an_email_desk, a_case_file):
    """The settings were changed while the ticket was open; its reference is no Message-ID."""
    server = a_mail_server()

    an_email_desk(server.port).append("log:019ab3c4-0000-7000-8000-00000000000f", a_case_file())

    (mail,) = server.mails
    assert (None, None) == (mail.message["In-Reply-To"], mail.message["References"])


def test_a_line_break_in_an_order_id_adds_no_header(a_mail_server, an_email_desk, a_case, a_case_file):
    """Otherwise whoever picks order ids could add recipients."""
    server = a_mail_server()

    an_email_desk(server.port).open(a_case_file(a_case(order_id="o\r\nBcc: thief@evil.example\r\n\r\nHello")))

    (mail,) = server.mails
    assert mail.message["Bcc"] is None
    assert ["payments@shop.example"] == mail.recipients
    assert r"order o\r\nBcc: thief@evil.example\r\n\r\nHello" in mail.message["Subject"]


def test_a_long_subject_is_cut(a_mail_server, an_email_desk, a_case, a_case_file):
    """Servers refuse lines of 1,000 characters, and a refused mail is a ticket that nobody sees."""
    server = a_mail_server()

    an_email_desk(server.port).open(a_case_file(a_case(order_id="ö" * 5_000)))

    (mail,) = server.mails
    assert 200 == len(mail.message["Subject"])
    assert max(len(line) for line in mail.raw.splitlines()) <= 998


def test_a_subject_stands_on_its_own_line(a_mail_server, an_email_desk, a_case_file):
    """Filters that read line by line see an empty subject otherwise."""
    server = a_mail_server()

    an_email_desk(server.port).open(a_case_file())

    (mail,) = server.mails
    assert b"Subject: [post-purchase] klarna-eu: The third retry failed (capture of order order-1)\r\n" in mail.raw


def test_the_lines_of_a_mail_are_short(a_mail_server, an_email_desk, a_case, a_case_file):
    """Long ones are cut on the way, where a signature over the mail then breaks."""
    server = a_mail_server()

    an_email_desk(server.port).open(a_case_file(a_case(reference="r" * 255)))

    (mail,) = server.mails
    _, _, body = mail.raw.partition(b"\r\n\r\n")
    assert max(len(line) for line in body.splitlines()) <= 78


def test_a_mail_travels_as_plain_ascii(a_mail_server, an_email_desk, a_case, a_case_file):
    """Not every server on the way takes 8-bit mail; what is written must arrive all the same."""
    server = a_mail_server()

    an_email_desk(server.port).open(a_case_file(a_case(reference="Größe ✓ 注文")))

    (mail,) = server.mails
    assert mail.raw.isascii()
    assert "Größe ✓ 注文" in mail.part("plain")
    assert "Größe ✓ 注文" in mail.part("html")


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_log_in_and_mail_are_encrypted(security, a_mail_server, an_email_desk, a_case_file, believed_authority):
    """Both pass through networks where others listen."""
    server = a_mail_server(security=security, certificate=believed_authority.issue_cert("127.0.0.1"), login=LOGIN)

    an_email_desk(server.port, security=security, username="worker", password=PASSWORD).open(a_case_file())

    (mail,) = server.mails
    assert (True, "worker") == (mail.was_encrypted, mail.login)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_server_whose_issuer_is_unknown_gets_nothing(security, a_mail_server, an_email_desk, a_case_file, authority):
    """It may be anybody."""
    server = a_mail_server(security=security, certificate=authority.issue_cert("127.0.0.1"), login=LOGIN)
    desk = an_email_desk(server.port, security=security, username="worker", password=PASSWORD)

    with pytest.raises(DeskUnavailable, match=r"127\.0\.0\.1:\d+ shows a certificate that does not hold"):
        desk.open(a_case_file())

    assert ([], []) == (server.logins, server.mails)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_server_with_the_certificate_of_another_gets_nothing(
    security, a_mail_server, an_email_desk, a_case_file, believed_authority
):
    """A valid certificate of somebody else proves nothing."""
    server = a_mail_server(
        security=security, certificate=believed_authority.issue_cert("mail.evil.example"), login=LOGIN
    )
    desk = an_email_desk(server.port, security=security, username="worker", password=PASSWORD)

    with pytest.raises(DeskUnavailable, match="shows a certificate that does not hold"):
        desk.open(a_case_file())

    assert ([], []) == (server.logins, server.mails)


def test_a_server_that_offers_no_starttls_gets_nothing(a_mail_server, an_email_desk, a_case_file):
    """Somebody on the way may have taken the offer out, to see the log-in."""
    server = a_mail_server(login=LOGIN)
    desk = an_email_desk(server.port, security="starttls", username="worker", password=PASSWORD)

    with pytest.raises(DeskUnavailable, match=r"does not offer .* Check tickets\.email\.security"):
        desk.open(a_case_file())

    assert ([], []) == (server.logins, server.mails)


def test_a_server_that_offers_no_log_in_is_reported(a_mail_server, an_email_desk, a_case_file):
    """A relay that trusts the network wants no user name, and the settings have one."""
    server = a_mail_server(login=None)
    server.answers["MAIL"] = "530 5.7.0 log in first"
    desk = an_email_desk(server.port)

    with pytest.raises(DeskUnavailable, match=r"Check tickets\.email\.sender, and whether the server wants a log-in"):
        desk.open(a_case_file())


def test_a_wrong_password_is_reported_without_repeating_it(a_mail_server, an_email_desk, a_case_file):
    """This server repeats what it was sent; neither its words nor the password may get into a log."""
    server = a_mail_server(login=("worker", "another"))
    desk = an_email_desk(server.port, username="worker", password=PASSWORD)

    with pytest.raises(DeskUnavailable) as caught:
        desk.open(a_case_file())

    shown = "".join(traceback.format_exception(caught.value))
    assert "refused the log-in. Check tickets.email.username and tickets.email.password" in shown
    assert "It answered 535 5.7.8" in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize(
    ("verb", "answer", "expected"),
    [
        ("MAIL", "451 4.3.0 busy", r"refused the sender\..* It answered 451 4\.3\.0"),
        ("MAIL", "550 5.7.1 not from here", r"refused the sender\..* It answered 550 5\.7\.1"),
        ("payments@shop.example", "450 4.2.1 greylisted", r"refused every recipient\..* It answered 450 4\.2\.1"),
        ("payments@shop.example", "550 no such user", r"refused every recipient\..* It answered 550"),
        ("DATA", "452 4.3.1 disk full", r"refused the mail itself\..* It answered 452 4\.3\.1"),
        ("DATA", "554 5.6.0 looks like spam", r"refused the mail itself\..* It answered 554 5\.6\.0"),
    ],
)
def test_a_refusal_is_reported_with_its_figures(*, verb, answer, expected, a_mail_server, an_email_desk, a_case_file):
    """For now or for good: the ticket stays stored and is told again, until the cause is mended."""
    server = a_mail_server(answers={verb: answer})

    with pytest.raises(DeskUnavailable, match=expected):
        an_email_desk(server.port).open(a_case_file())

    assert [] == server.mails


def test_a_refusal_shows_no_address(a_mail_server, an_email_desk, a_case_file):
    """Servers repeat the address they refuse, and it belongs to a person."""
    server = a_mail_server(answers={"payments@shop.example": "550 5.1.1 <payments@shop.example> is unknown"})

    with pytest.raises(DeskUnavailable) as caught:
        an_email_desk(server.port).open(a_case_file())

    assert "payments@shop.example" not in "".join(traceback.format_exception(caught.value))


def test_a_mail_that_reaches_somebody_has_landed(a_mail_server, an_email_desk, a_case_file):
    """Trying again for one bad address would send the others the same mail for ever; the log says which is bad."""
    server = a_mail_server(answers={"gone@shop.example": "550 5.1.1 unknown"})
    desk = an_email_desk(server.port, recipients=["payments@shop.example", "gone@shop.example"])

    with capture_logs() as events:
        external_ref = desk.open(a_case_file())

    (mail,) = server.mails
    (event,) = events
    assert (external_ref, ["payments@shop.example"]) == (mail.message["Message-ID"], mail.recipients)
    assert ("ticket.recipients_refused", "warning", [2], [550]) == (
        event["event"],
        event["log_level"],
        event["places"],
        event["codes"],
    )
    assert "gone@shop.example" not in str(event)


def test_a_server_that_says_nothing_is_given_up(a_peer, an_email_desk, a_case_file):
    """A worker that waits for ever tells no other ticket."""
    port = a_peer(lambda _, gone: gone.wait(30))

    with pytest.raises(DeskUnavailable, match=r"127\.0\.0\.1:\d+ did not answer in time"):
        an_email_desk(port, timeout=0.2).open(a_case_file())


def test_a_server_that_talks_on_for_ever_is_given_up(a_peer, an_email_desk, a_case_file):
    """Each line comes in time, and still the ticket's lease runs out."""

    def script(connection, gone):
        connection.sendall(b"220-mail.test\r\n220 mail.test\r\n")
        while not gone.wait(0.02):
            connection.sendall(b"250-one more\r\n")

    port = a_peer(script)

    with pytest.raises(DeskUnavailable, match="did not answer in time"):
        an_email_desk(port, timeout=0.3).open(a_case_file())


@pytest.mark.parametrize(
    ("greeting", "expected"),
    [
        (b"", "hung up"),
        (b"554 5.3.2 not for you\r\n", r"turned the connection away\..* It answered 554 5\.3\.2"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "turned the connection away"),
    ],
)
def test_what_does_not_greet_is_no_mail_server(greeting, expected, a_peer, an_email_desk, a_case_file):
    """The port may belong to something else."""
    port = a_peer(lambda connection, _: connection.sendall(greeting))

    with pytest.raises(DeskUnavailable, match=expected):
        an_email_desk(port).open(a_case_file())


def test_a_port_without_tls_is_reported_as_such(a_mail_server, an_email_desk, a_case_file):
    """Ports 465 and 587 are mixed up all the time."""
    server = a_mail_server()

    with pytest.raises(DeskUnavailable, match="does not speak TLS there"):
        an_email_desk(server.port, security="tls", timeout=5).open(a_case_file())


def dialogue(*, after_the_mail):
    """Play a server that takes a mail, and then does what the test wants."""

    def script(connection, gone):
        reader = connection.makefile("rb")
        with reader:
            connection.sendall(b"220 mail.test\r\n")
            for line in reader:
                verb = line[:4].upper()
                if verb == b"DATA":
                    connection.sendall(b"354 go on\r\n")
                    while reader.readline() != b".\r\n":
                        pass
                    after_the_mail(connection, gone)
                    return
                connection.sendall(b"250 OK\r\n")

    return script


def test_a_farewell_that_fails_does_not_undo_the_mail(a_peer, an_email_desk, a_case_file):
    """The server has taken it; reporting otherwise would send it twice."""
    port = a_peer(dialogue(after_the_mail=lambda connection, _: connection.sendall(b"250 taken\r\n")))

    external_ref = an_email_desk(port).open(a_case_file())

    assert external_ref


def test_an_answer_lost_after_the_mail_is_a_failure(a_peer, an_email_desk, a_case_file):
    """Nobody knows whether it was taken: better the same mail twice than never."""
    port = a_peer(dialogue(after_the_mail=lambda *_: None))

    with pytest.raises(DeskUnavailable, match="hung up"):
        an_email_desk(port).open(a_case_file())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"host": "mail.shop.example", "security": "none"},
            "security is none, but mail.shop.example is not this machine",
        ),
        ({"host": "10.0.0.25", "security": "none"}, "not this machine"),
        ({"host": ""}, "tickets.email.host"),
        ({"host": "mail\r\nshop"}, "tickets.email.host"),
        ({"port": 0}, "tickets.email.port"),
        ({"port": 65_536}, "tickets.email.port"),
        ({"security": "ssl"}, "must be starttls, tls or none"),
        ({"username": "worker"}, "belong together"),
        ({"password": PASSWORD}, "belong together"),
        ({"username": "worker", "password": f"{PASSWORD}ß"}, "non-ASCII"),
        ({"sender": "worker"}, "tickets.email.sender"),
        ({"sender": ""}, "tickets.email.sender"),
        ({"sender": "a@shop.example, b@shop.example"}, "tickets.email.sender"),
        ({"sender": f"worker@{'a' * 60}.{'a' * 60}.{'a' * 60}"}, "more than 169 characters"),
        ({"recipients": []}, "tickets.email.recipients is empty"),
        ({"recipients": ["a@shop.example\r\nBcc: b@evil.example"]}, "tickets.email.recipients"),
        ({"recipients": ["a@shop.example", "bücher@shop.example"]}, "tickets.email.recipients"),
        ({"recipients": ["@shop.example"]}, "tickets.email.recipients"),
        ({"timeout": 0}, "tickets.email.timeout_seconds"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changes, expected):
    """At start an operator is watching; at the first ticket nobody is."""
    settings = {
        "host": "mail.shop.example",
        "port": 587,
        "security": "starttls",
        "username": None,
        "password": None,
        "sender": "worker@shop.example",
        "recipients": ["payments@shop.example"],
        "timeout": 10,
    }

    with pytest.raises(DeskMisconfigured) as caught:
        EmailDesk(**(settings | changes))

    assert expected in str(caught.value)
    assert PASSWORD not in str(caught.value)
