import pytest


@pytest.fixture(params=["valkey", "redis", "rabbitmq", "filesystem"])
def broker_url(request, tmp_path, new_redis, redis_programs):
    match request.param:
        case "rabbitmq":
            return request.getfixturevalue("rabbitmq_url")
        case "filesystem":
            return f"filesystem://{tmp_path / 'messages'}"
        case name if name in redis_programs:
            return new_redis(redis_programs[name]).url
        case name:
            pytest.skip(f"{name}-server is not installed")


@pytest.fixture
def environment(postgresql_url, broker_url, sandbox, settings_for):
    return settings_for(postgresql_url, broker_url, sandbox.base_url)


def test_the_main_job_is_done_over_every_broker(new_worker, shop, sandbox, captures, until):
    """A message at once, a countdown, a batch and a ticket: what one broker cannot carry, a shop finds out too late."""
    at_once, retried, refused, *backlog = captures(20)
    sandbox.fault("status", status=503, order_id=retried.order_id)
    sandbox.fault("singular_error", order_id=refused.order_id)
    worker = new_worker().ready()

    shop.enqueue(at_once, retried, refused)
    shop.store(*backlog)
    until(lambda: shop.states() == {"succeeded": 19, "rejected": 1}, tell=worker.log)
    until(lambda: shop.open_tickets() == [("refused", "open", 1)], tell=worker.log)

    assert 19 == len(sandbox.effects()) == len({each["key"] for each in sandbox.effects()})
