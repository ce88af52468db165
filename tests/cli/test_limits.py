from __future__ import annotations


def test_published_quotas_are_shown_for_every_account(run_json):
    """Before the first answer of a provider, what it publishes is all there is to go by."""
    lines = run_json("limits")

    assert [("klarna-eu", "order-management", 200.0, None), ("bluesnap-us", "api", None, None)] == [
        (line["name"], line["category"], line["configured"], line["learned"]) for line in lines
    ]


def test_an_acquiring_partner_has_a_line_of_its_own(run_json):
    """Its quota is what all its accounts run into together."""
    lines = run_json(
        "limits",
        ACCOUNTS__KLARNA_EU__RATE_TABLE="klarna-network",
        ACCOUNTS__KLARNA_EU__ACQUIRING_PARTNER="our-acquirer",
    )

    assert {
        ("partner", "klarna-eu", "payment-transaction-capture", 50.0),
        ("acquiring_partner", "our-acquirer", "payment-transaction-capture", 200.0),
        ("partner", "klarna-eu", "payment-transaction-management", 200.0),
        ("acquiring_partner", "our-acquirer", "payment-transaction-management", 500.0),
        ("partner", "bluesnap-us", "api", None),
    } == {(line["level"], line["name"], line["category"], line["configured"]) for line in lines}


def test_people_read_a_table(run):
    """Whoever asks why nothing is sent wants to see it at a glance."""
    done = run("limits")

    assert 0 == done.code, done
    assert "order-management" in done.out
    assert "configured\tlearned" in done.out


def test_a_redis_that_is_away_is_named(run):
    """The quotas are where the processes meet; a look at one process's memory would be a lie."""
    done = run("limits", LIMITS__PLACE="redis", LIMITS__REDIS_URL="redis://user:secret@127.0.0.1:1/0")

    assert 3 == done.code
    assert "redis://user:***@127.0.0.1:1/0" in done.err
    assert "secret" not in done.err
