"""What the machine gives at this moment: a fixed Python loop, bare libcurl calls, and pgbench on like statements.

Decides the yardsticks that every rate is a ratio of. Cores that are shared change their speed by a half within
seconds, so the yardsticks are taken anew in every round and stand beside what was measured in it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from uuid import uuid4

import psycopg
import pycurl

from .machinery import CHECKOUT, Stub, cpu_seconds
from .sql import plain
from .target import require_loopback

#: Calls that the bare loop keeps in flight: as many as a worker's window.
_IN_FLIGHT = 200

_TURNS = 200_000

#: Rows that an update by key chooses from.
_ROWS = 10_000


def python_loop() -> float:
    """Milliseconds of a fixed loop, the best of five: how fast a core is now."""
    best = float("inf")
    for _ in range(5):
        began, total = time.perf_counter(), 0
        for number in range(_TURNS):
            total += number * number % 7
        best = min(best, time.perf_counter() - began)

    return round(best * 1000, 2)


def call_for(url: str, seconds: float) -> int:
    """Keep libcurl's multi interface full for a while; return how many calls ended."""
    multi, ended = pycurl.CurlMulti(), 0
    multi.setopt(pycurl.M_MAXCONNECTS, _IN_FLIGHT)

    def prepare(handle: pycurl.Curl) -> None:
        handle.setopt(pycurl.URL, f"{url}/ordermanagement/v1/orders/o/captures")
        handle.setopt(pycurl.POSTFIELDS, '{"captured_amount":1000,"reference":"00000000-0000-0000-0000-000000000000"}')
        handle.setopt(
            pycurl.HTTPHEADER,
            ["Content-Type: application/json", "Accept: application/json", f"Klarna-Idempotency-Key: {uuid4()}"],
        )
        handle.setopt(pycurl.WRITEDATA, BytesIO())
        multi.add_handle(handle)

    for _ in range(_IN_FLIGHT):
        prepare(pycurl.Curl())
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        multi.perform()
        _, done, failed = multi.info_read(_IN_FLIGHT)
        ended += len(done)
        for handle in [*done, *(each[0] for each in failed)]:
            multi.remove_handle(handle)
            prepare(handle)
        if not done:
            multi.select(0.1)

    return ended


def bare_calls(stub: Stub, *, processes: int, seconds: float) -> dict[str, float]:
    """Calls a second of that many bare loops, and what the stub itself could take on a core of its own."""
    stub.ask("set", latency=0.0, failures=0)
    stub.ask("reset")
    assert stub.process is not None  # noqa: S101  # it was started before
    before, began = cpu_seconds(stub.process.pid), time.monotonic()
    loops = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.baselines", stub.url, str(seconds)],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    ended = [json.loads(loop.communicate(timeout=seconds + 30)[0]) for loop in loops]
    lasted, used = time.monotonic() - began, cpu_seconds(stub.process.pid) - before
    calls = sum(each["calls"] for each in ended)
    stub.ask("reset")

    return {
        "calls_per_second": round(sum(each["calls"] / each["seconds"] for each in ended), 1),
        "client_ms_a_call": round(sum(each["cpu"] for each in ended) * 1000 / calls, 4),
        "stub_ms_a_call": round(used * 1000 / calls, 4),
        "stub_ceiling_per_second": round(calls / used) if used else round(calls / lasted),
    }


def pgbench(url: str, *, seconds: float, clients: int = 8) -> dict[str, float]:
    """Transactions a second of single-row inserts and updates by key, with 8 clients; empty without pgbench."""
    program = shutil.which("pgbench")
    if program is None:
        return {}
    address = plain(url)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_baseline")
        connection.execute(
            "CREATE TABLE bench_baseline (id bigserial PRIMARY KEY, key uuid NOT NULL DEFAULT gen_random_uuid(),"
            " state text NOT NULL DEFAULT 'pending', payload bytea, changed timestamptz DEFAULT now())"
        )
        connection.execute(
            "INSERT INTO bench_baseline (payload) SELECT decode(repeat('ab', 80), 'hex') FROM generate_series(1, %s)",
            [_ROWS],
        )
    scripts = {
        "insert": "INSERT INTO bench_baseline (payload) VALUES (decode(repeat('ab', 80), 'hex'));",
        "update": (
            f"\\set id random(1, {_ROWS})\n"
            "UPDATE bench_baseline SET state = 'executing', changed = now() WHERE id = :id;"
        ),
    }
    found = {}
    for name, script in scripts.items():
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            options = ["-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(max(1, round(seconds)))]
            told = subprocess.run(
                [program, *options, "-f", file.name, address], capture_output=True, text=True, timeout=60, check=True
            ).stdout
        found[f"{name}s_per_second"] = float(told.partition("tps = ")[2].partition(" ")[0])

    return found


def take(stub: Stub, database_url: str, *, seconds: float) -> dict[str, Any]:
    """Take all yardsticks, one after the other."""
    return {
        "python_loop_ms": python_loop(),
        "curl": bare_calls(stub, processes=1, seconds=seconds),
        "pgbench": pgbench(database_url, seconds=seconds),
    }


def ratios(rate: float, yardstick: Mapping[str, Any]) -> dict[str, float]:
    """A rate as a part of the bare libcurl loop's, and of pgbench's single INSERTs where there is a pgbench."""
    inserts = yardstick["pgbench"].get("inserts_per_second")

    return {
        "of_bare_calls": round(rate / yardstick["curl"]["calls_per_second"], 3),
        **({"of_bare_inserts": round(rate / inserts, 3)} if inserts else {}),
    }


def main() -> None:
    """Be one bare loop: `python -m bench.baselines URL SECONDS`."""
    url, seconds = require_loopback(sys.argv[1]), float(sys.argv[2])
    began, cpu = time.monotonic(), time.process_time()
    calls = call_for(url, seconds)
    told = {"calls": calls, "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
