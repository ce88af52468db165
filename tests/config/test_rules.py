from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"lease.seconds": 66},
            (
                "argument lease.seconds: lease.seconds is 66 and must be above 66 (lease.pacing_seconds 1 + "
                "http.connect_timeout_seconds 5 + http.total_timeout_seconds 30 + lease.reserve_seconds 30): "
                "a command could be claimed again while its request is still under way"
            ),
        ),
        (
            {"retry.key_margin_seconds": 90},
            (
                "argument retry.key_margin_seconds: retry.key_margin_seconds is 90 and must be above lease.seconds, "
                "which is 90: a request may leave as late as its lease allows, and must end before the provider "
                "forgets its key"
            ),
        ),
        (
            {"retry.throttle_base_seconds": 61},
            (
                "argument retry.throttle_base_seconds: retry.throttle_cap_seconds is 60 and must be at least "
                "retry.throttle_base_seconds, which is 61: the longest wait cannot be shorter than the first"
            ),
        ),
        (
            {"http.connect_timeout_seconds": 31, "lease.seconds": 200},
            (
                "argument http.connect_timeout_seconds: http.total_timeout_seconds is 30 and must be at least "
                "http.connect_timeout_seconds, which is 31: the whole takes at least as long as its beginning"
            ),
        ),
        (
            {"dispatch.horizon_seconds": 3600},
            (
                "argument dispatch.horizon_seconds: broker.visibility_timeout_seconds is 3600 and must be above "
                "dispatch.horizon_seconds, which is 3600: the broker would deliver a message again while it is held "
                "for its countdown"
            ),
        ),
        (
            {"tickets.retry_cap_seconds": 4},
            (
                "argument tickets.retry_cap_seconds: tickets.retry_cap_seconds is 4 and must be at least "
                "tickets.retry_base_seconds, which is 5: the longest wait cannot be shorter than the first"
            ),
        ),
        (
            {
                "tickets.desk": "webhook",
                "tickets.webhook.url": "https://desk.example.com",
                "tickets.webhook.secret": "s3cret",
                "tickets.lease_seconds": 15,
            },
            (
                "argument tickets.lease_seconds: tickets.lease_seconds is 15 and must be above "
                "tickets.webhook.timeout_seconds, which is 15: two workers could open the same ticket"
            ),
        ),
        (
            {"tickets.email.security": "none", "tickets.email.host": "mail.example.com"},
            (
                "argument tickets.email.security: tickets.email.security is none, which is for a loopback host "
                "(127.0.0.0/8, ::1, localhost); use starttls or tls"
            ),
        ),
    ],
)
def test_values_that_are_unsafe_together_are_refused_with_the_reason(problems, overrides, line):
    """Each value may be right by itself; what goes wrong between them shows only under load or at night."""
    assert (line,) == problems("development", overrides=overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"lease.seconds": 66.1},
        {"lease.seconds": 40, "lease.reserve_seconds": 3},
        {"retry.key_margin_seconds": 90.5},
        {"retry.key_window_seconds": 2},  # shorter than the provider's day is the safe side already
        {"retry.throttle_base_seconds": 60},
        {"http.connect_timeout_seconds": 30, "lease.seconds": 92},
        {"dispatch.horizon_seconds": 3599},
        {"tickets.retry_cap_seconds": 5},
        {"tickets.lease_seconds": 1},  # the desk `log` needs no time
        {"tickets.email.security": "none", "tickets.email.host": "127.0.0.1"},
    ],
)
def test_values_on_the_safe_side_of_a_rule_are_taken(load, overrides):
    """A rule that refuses more than it says costs an installation its freedom."""
    load("development", overrides=overrides)


def test_a_broken_rule_is_put_down_to_the_layer_that_broke_it(problems):
    """The lease stands in the defaults, but it was the variable that made it too short."""
    (line,) = problems("development", environ={"POST_PURCHASE_HTTP__TOTAL_TIMEOUT_SECONDS": "59"})

    assert line.startswith("POST_PURCHASE_HTTP__TOTAL_TIMEOUT_SECONDS: lease.seconds is 90 and must be above 95 (")


def test_a_rule_waits_until_both_its_sides_can_be_read(problems):
    """Compared with a value that is not the meant one, it would only mislead."""
    overrides = {"lease.seconds": 20, "http.total_timeout_seconds": "short"}

    (line,) = problems("development", overrides=overrides)

    assert line.startswith("argument http.total_timeout_seconds must be a number of seconds")


@pytest.mark.parametrize(
    ("desk", "missing"),
    [
        ("email", ["tickets.email.host", "tickets.email.sender", "tickets.email.recipients"]),
        ("webhook", ["tickets.webhook.url"]),
    ],
)
def test_a_desk_says_what_it_needs(problems, desk, missing):
    """Otherwise the first ticket would find out, and tickets come when something is wrong already."""
    lines = problems("development", overrides={"tickets.desk": desk}, require_credentials=False)

    assert [
        f"argument tickets.desk: the desk {desk} needs a value: {key} is not set: give it in a profile, or as "
        f"POST_PURCHASE_{key.upper().replace('.', '__')}"
        for key in missing
    ] == list(lines)
