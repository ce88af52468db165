"""Several hosts, each a network and a host name of its own: what they share is a database, a Redis and the provider."""

import os
import shutil
import subprocess

import pytest
from sqlalchemy import make_url

HOSTS, WORKERS = 3, 2
COMMANDS, QUOTA = 240, 40


def tell(*arguments):
    subprocess.run(arguments, check=True, capture_output=True)


@pytest.fixture
def hosts():
    """The ways into three hosts; each reaches this one at the second address of its network, and nothing else."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "socat"))):
        pytest.skip("hosts are network namespaces, which take root, iproute2, util-linux and socat")
    names = [f"pp{os.getpid()}-{number}" for number in range(HOSTS)]
    made = []
    try:
        for number, name in enumerate(names):
            here, there = f"ppv{os.getpid() % 100_000}-{number}", "eth0"
            tell("ip", "netns", "add", name)
            made.append(name)
            tell("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            tell("ip", "address", "add", f"{gateway(number)}/30", "dev", here)
            tell("ip", "link", "set", here, "up")
            inside = ("ip", "netns", "exec", name)
            tell(*inside, "ip", "address", "add", f"{gateway(number)[:-1]}2/30", "dev", there)
            tell(*inside, "ip", "link", "set", there, "up")
            tell(*inside, "ip", "link", "set", "lo", "up")
        yield [
            ("ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name)
            for name in names
        ]
    finally:
        for name in made:
            tell("ip", "netns", "delete", name)


def gateway(number):
    return f"10.231.{number}.1"


@pytest.fixture
def reached(until):
    """Let a host reach what listens here: at the same port of its own loopback, over its network."""
    running = []

    def run(*arguments):
        running.append(subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def reach(host, number, port, target=None):
        run("socat", f"TCP-LISTEN:{port},bind={gateway(number)},fork,reuseaddr", target or f"TCP:127.0.0.1:{port}")
        run(*host, "socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", f"TCP:{gateway(number)}:{port}")
        until(lambda: b"127.0.0.1" in subprocess.check_output([*host, "ss", "-Htln", f"sport = :{port}"]))

    yield reach
    for each in running:
        each.kill()
        each.wait()


@pytest.fixture
def database(postgresql_url, free_port):
    """Where the hosts find the database: a port, what is behind it, and the URL."""
    url = make_url(postgresql_url)
    if url.host:
        return url.port or 5432, f"TCP:{url.host}:{url.port or 5432}", postgresql_url
    port = free_port()
    there = url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)

    return port, f"UNIX-CONNECT:{url.query['host']}/.s.PGSQL.{url.query.get('port', 5432)}", there


def test_several_hosts_do_the_job_once_and_within_one_quota(
    hosts, reached, new_worker, shop, sandbox, captures, until, broker, database
):
    """Nothing holds them together but the database, the broker and the provider."""
    sandbox.quota("order-management", partner=QUOTA)
    port, target, url = database
    workers = []
    for number, host in enumerate(hosts):
        reached(host, number, make_url(sandbox.base_url).port)
        reached(host, number, broker.port)
        reached(host, number, port, target)
        workers += [
            new_worker(through=host, DATABASE__URL=url, ACCOUNTS__KLARNA_EU__MAX_RATE_PER_SECOND=str(QUOTA))
            for _ in range(WORKERS)
        ]
    for each in workers:
        each.ready(within=90)

    shop.store(*captures(COMMANDS))
    until(lambda: shop.states() == {"succeeded": COMMANDS}, within=60, tell=workers[0].log)

    effects, seconds = sandbox.effects(), sandbox.quotas()["seconds"]
    assert COMMANDS == len(effects) == len({each["key"] for each in effects})
    assert HOSTS == len({holder.partition(":")[0] for holder in shop.holders()})
    # With a quota of its own each host would have as many refused as let through.
    assert sum(each["throttled"] for each in seconds) < COMMANDS / 10
