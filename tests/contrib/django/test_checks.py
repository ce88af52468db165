"""What `manage.py check` says, and that it names the command that helps."""

from __future__ import annotations

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.test import override_settings

from worker import Capture
from worker.contrib.django import enqueue


def found(*, databases=None, deploy=False):
    messages = checks.run_checks(databases=databases, include_deployment_checks=deploy)

    return {each.id: each for each in messages if each.id.startswith("post_purchase.")}


def capture(**fields):
    return Capture(**{"account": "klarna-eu", "order_id": "order-1", "amount": 1000, "reference": "parcel-1", **fields})


def test_a_project_that_is_well_has_nothing_to_hear(shop):
    """A check that cries for nothing is soon silenced."""
    assert {} == found(databases=["default"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"acounts": {}}, "POST_PURCHASE: acounts is not a setting; did you mean accounts?"),
        ({"accounts": {"klarna-eu": {"pasword": "x"}}}, "did you mean accounts.klarna-eu.password?"),
        ({"accounts": {"klarna-uk": {"provider": "klarna"}}}, "accounts.klarna-uk.base_url is not set"),
        ({"tickets": {"desk": "pigeon"}}, "POST_PURCHASE: tickets.desk"),
        ({"using": "elsewhere"}, "POST_PURCHASE: using is 'elsewhere', which is not in DATABASES; there are default"),
        ({"database": {"url": "sqlite:///x"}}, "database.url is not given here; DATABASES and `using` say it"),
        ({"on_finished": "shop.orders.setle"}, "on_finished is 'shop.orders.setle', which cannot be imported"),
        ({"on_finished": "shop.orders.Order.objects.x"}, "cannot be imported"),
        ({"profile": "prodction"}, "'prodction' is not a profile"),
        ({7: {}}, "7 is no name of a setting"),
        ("accounts", "POST_PURCHASE must be a dictionary"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(shop_on_sqlite, setting, said):
    """One typing mistake must not cost an afternoon, nor wait for the first capture."""
    with override_settings(POST_PURCHASE=setting):
        messages = found()

    assert ["post_purchase.E001"] == list(messages)
    assert said in messages["post_purchase.E001"].msg
    assert "manage.py check" in messages["post_purchase.E001"].hint


def test_a_search_path_that_workers_would_not_follow_is_refused(shop_on, postgresql_url):
    """The shop would store commands in one schema, and workers would look for them in another."""
    shop_on(postgresql_url)
    connections["default"].settings_dict["OPTIONS"] = {"options": "-c search_path=payments"}

    messages = found()

    assert "ALTER ROLE" in messages["post_purchase.E001"].msg


def test_no_secret_is_repeated(shop):
    """What check prints lands in logs of builds."""
    account = {"provider": "klarna", "base_url": "http://127.0.0.1:1", "username": "u", "password": "s3cret\n"}

    with override_settings(POST_PURCHASE={"accounts": {"klarna-eu": account}}):
        said = str(found())

    assert "password" in said
    assert "s3cret" not in said


def test_a_project_without_accounts_is_warned(shop, settings_of):
    """Every enqueue would be refused, and by a customer's request."""
    settings_of(profile="production", accounts={}, on_finished=None)

    assert ["post_purchase.W001"] == list(found())


def test_a_schema_that_is_behind_names_the_command(shop):
    """The first deployment finds it before the first customer does."""
    shop.execute("UPDATE post_purchase_schema_version SET version_num = '0001'")

    (message,) = found(databases=["default"]).values()

    assert "post_purchase.W002" == message.id
    assert "manage.py migrate --database default" in message.hint


def test_a_database_that_was_not_asked_about_is_not_asked(shop):
    """`manage.py check` alone must work where no database is, as in a build."""
    shop.execute("UPDATE post_purchase_schema_version SET version_num = '0001'")

    assert {} == found()


def test_commands_of_an_account_that_is_gone_are_named(shop, settings_of):
    """They would climb the ladder without ever being sent."""
    enqueue(capture())
    settings_of(profile="production", accounts={})

    messages = found(databases=["default"])

    assert "manage.py post_purchase list --account klarna-eu" in messages["post_purchase.W003"].hint


def test_a_broker_that_is_away_is_a_warning_of_the_deployment(shop_on_sqlite, settings_of):
    """Commands are stored without it, so it must not stop a release; nor may it go unnoticed."""
    settings_of(broker={"url": "redis://user:s3cret@127.0.0.1:1/0"})

    messages = found(deploy=True)

    assert ["post_purchase.W005"] == list(messages)
    assert "manage.py post_purchase check" in messages["post_purchase.W005"].hint
    assert "s3cret" not in str(messages)


def test_a_host_that_is_not_told_is_noticed(shop):
    """Without a worker that tells, orders would stay unpaid in the shop for ever, and nobody would know."""
    enqueue(capture())
    shop.finish()
    if connections["default"].vendor == "sqlite":
        shop.execute("UPDATE post_purchase_command SET finalized_at = '2020-01-01 00:00:00.000000'")
    else:
        shop.execute("UPDATE post_purchase_command SET finalized_at = finalized_at - interval '1 day'")

    messages = found(databases=["default"])

    assert "celery -A worker.contrib.django worker" in messages["post_purchase.W004"].hint


def test_check_fails_where_the_setting_cannot_be_used(shop):
    """`manage.py check` is what deployments run, and its exit code is what they look at."""
    with override_settings(POST_PURCHASE={"acounts": {}}), pytest.raises(SystemCheckError, match="acounts"):
        call_command("check")
