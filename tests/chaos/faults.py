"""What befalls a run: each fault as one small function that begins, yields while it lasts, and ends; and the table.

Decides what a fault does and what it needs for itself. When which one comes is `plan.py`; none of them judges anything.
A fault leaves everything as it was: what it stopped runs again, what it put in the way is gone.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import psutil
import psycopg
import redis

from worker.config import load
from worker.publish import ESCALATE_TASK, EXECUTE_QUEUE, EXECUTE_TASK, UPKEEP_QUEUE
from worker.wiring import build_celery

from .proxy import Obstacle
from .rig import LEASE_SECONDS, WITH_CLOCK, WORKERS, Rig, RigError, Unit, clock_library, free_port, wait_until
from .version import previous_version

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where a fault happens: the rig, its own chance, and the worker it is aimed at where it is aimed at one."""

    rig: Rig
    chance: random.Random
    worker: int

    @property
    def unit(self) -> Unit:
        """The worker's process."""
        return self.rig.workers[self.worker]


Act = Callable[[Scene], AbstractContextManager[None]]

#: A queue of ours is a list in Redis under this name.
_QUEUE = f"post-purchase:{EXECUTE_QUEUE}"

#: More messages that come too late would only cost time.
_MOST_LATE = 300

#: How long two versions work side by side, and the previous one alone once it is back.
_SIDE_BY_SIDE_SECONDS = 4.0


# ------------------------------------------------------------------------------------------------------------ workers


@contextmanager
def _killed(scene: Scene) -> Iterator[None]:
    """SIGKILL to every process of a worker."""
    scene.unit.kill()
    yield
    scene.unit.start()


@contextmanager
def _told_to_end(scene: Scene) -> Iterator[None]:
    """SIGTERM, as every deployment sends it; the supervisor starts it again."""
    scene.unit.tell(signal.SIGTERM)
    yield


@contextmanager
def _stalled(scene: Scene) -> Iterator[None]:
    """SIGSTOP to every process of a worker for longer than its leases, then SIGCONT."""
    with scene.unit.lock:
        scene.unit.tell(signal.SIGSTOP, group=True)
        yield
        scene.unit.tell(signal.SIGCONT, group=True)


@contextmanager
def _pool_process_stalled(scene: Scene) -> Iterator[None]:
    """SIGSTOP to one process of the pool: its siblings take its commands over while it sleeps."""
    chosen = scene.unit.processes()[1:]
    for process in chosen[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    yield
    for process in chosen[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


@contextmanager
def _taken_for_memory(scene: Scene) -> Iterator[None]:
    """SIGKILL to the largest process of a worker, as the system does when memory runs out."""
    sizes = []
    for process in scene.unit.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes.append((process.memory_info().rss, process))
    for _, process in sorted(sizes, key=lambda each: -each[0])[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    yield


@contextmanager
def _without_memory(units: Callable[[Scene], list[Unit]], scene: Scene) -> Iterator[None]:
    """No more address space for any process of a worker, or of upkeep: every larger allocation fails."""
    processes = [process for unit in units(scene) for process in unit.processes()]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            _limit(process.pid, process.memory_info().vms + (256 << 10))
    yield
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            _limit(process.pid, resource.RLIM_INFINITY)


def _limit(process: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


# -------------------------------------------------------------------------------------------------------------- Redis


@contextmanager
def _redis_restarted(scene: Scene) -> Iterator[None]:
    """Killed, away for a while, and back with nothing in it."""
    scene.rig.redis.unit.kill()
    yield
    scene.rig.redis.start()


@contextmanager
def _redis_flushed(scene: Scene) -> Iterator[None]:
    """FLUSHALL, several times: messages, held countdowns, quotas and bindings are gone."""
    client = scene.rig.redis.client
    for _ in range(3):
        with contextlib.suppress(redis.RedisError):
            client.flushall()
        time.sleep(0.2)
    yield


@contextmanager
def _redis_read_only(scene: Scene) -> Iterator[None]:
    """A replica of a server that is not there: it answers reads and refuses writes."""
    _redis(scene, "REPLICAOF", "127.0.0.1", free_port())
    yield
    _redis_until_done(scene, "REPLICAOF", "NO", "ONE")


@contextmanager
def _redis_full(scene: Scene) -> Iterator[None]:
    """No memory left, and nothing may be evicted."""
    _redis(scene, "CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
    yield
    _redis_until_done(scene, "CONFIG", "SET", "maxmemory", "0")


@contextmanager
def _redis_slow(scene: Scene) -> Iterator[None]:
    """It answers nobody for half a second, again and again."""
    stop = threading.Event()

    def pause() -> None:
        while not stop.wait(0.6):
            _redis(scene, "CLIENT", "PAUSE", 500, "ALL")

    pausing = threading.Thread(target=pause, daemon=True)
    pausing.start()
    yield
    stop.set()
    pausing.join()


@contextmanager
def _redis_frozen(scene: Scene) -> Iterator[None]:
    """It holds every connection and says nothing."""
    unit = scene.rig.redis.unit
    with unit.lock:
        unit.tell(signal.SIGSTOP)
        yield
        unit.tell(signal.SIGCONT)


def _redis(scene: Scene, *words: str | int) -> bool:
    try:
        scene.rig.redis.client.execute_command(*words)
    except redis.RedisError:
        return False

    return True


def _redis_until_done(scene: Scene, *words: str | int) -> None:
    wait_until(lambda: _redis(scene, *words), within=20, what=f"Redis, {words[0]}")


# --------------------------------------------------------------------------------------------------------- PostgreSQL


@contextmanager
def _postgresql_restarted(number: signal.Signals, scene: Scene) -> Iterator[None]:
    """Stopped in fast or in immediate mode, away for a while, and back after its recovery."""
    scene.rig.postgres.unit.end(number)
    yield
    scene.rig.postgres.start()


@contextmanager
def _postgresql_moved(scene: Scene) -> Iterator[None]:
    """As in a failover: gone at once, and back under another address, to which the lines follow a little later."""
    server = scene.rig.postgres
    server.unit.end(signal.SIGQUIT)
    server.port = free_port()
    server.start()
    yield
    for lines in scene.rig.all_lines:
        lines.postgresql.target = ("127.0.0.1", server.port)


@contextmanager
def _connections_ended(scene: Scene) -> Iterator[None]:
    """`pg_terminate_backend` for every connection there is, three times."""
    for _ in range(3):
        _sql(
            scene,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        time.sleep(0.3)
    yield


@contextmanager
def _disk_full(scene: Scene) -> Iterator[None]:
    """Not a byte left on its disk, or where it has none of its own: refused as if there were none."""
    disk = scene.rig.postgres.disk
    if disk is None:
        with _refusing(scene, "53100", 1.0):
            yield
        return
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    yield
    filler.unlink()
    wait_until(scene.rig.postgres.answers, within=60, what="PostgreSQL after its disk was full")


@contextmanager
def _serialization_failures(scene: Scene) -> Iterator[None]:
    """Every third write to a command fails with SQLSTATE 40001."""
    with _refusing(scene, "40001", 0.3):
        yield


@contextmanager
def _refusing(scene: Scene, code: str, share: float) -> Iterator[None]:
    """Have a share of the writes to commands fail."""
    _sql(
        scene,
        f"""CREATE OR REPLACE FUNCTION chaos_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF random() < {share} THEN RAISE EXCEPTION 'chaos' USING ERRCODE = '{code}'; END IF; RETURN NEW; END
            $$;
            CREATE OR REPLACE TRIGGER chaos_refuse BEFORE INSERT OR UPDATE ON post_purchase_command
            FOR EACH ROW EXECUTE FUNCTION chaos_refuse()""",
    )
    yield
    drop = "DROP TRIGGER IF EXISTS chaos_refuse ON post_purchase_command"
    wait_until(lambda: _sql(scene, drop), within=30, what="PostgreSQL, to lift a trigger")


@contextmanager
def _locked(scene: Scene) -> Iterator[None]:
    """Somebody holds the table of commands for longer than a statement may take."""
    holder = None
    with contextlib.suppress(psycopg.Error):
        holder = scene.rig.postgres.connect(scene.rig.database)
        holder.autocommit = False
        holder.execute("LOCK TABLE post_purchase_command IN ACCESS EXCLUSIVE MODE")
    yield
    if holder is not None:
        holder.close()


def _sql(scene: Scene, statement: str) -> bool:
    try:
        with scene.rig.postgres.connect(scene.rig.database) as connection:
            connection.execute(statement.encode())
    except psycopg.Error:
        return False

    return True


# ------------------------------------------------------------------------------------------------------------ network


def _proxies(scene: Scene, pair: str) -> list[Any]:
    """The lines of one pair: of one worker, or now and then of everybody but the shop."""
    everybody = scene.chance.random() < 0.3
    lines = [*scene.rig.lines, scene.rig.upkeep_lines] if everybody else [scene.rig.lines[scene.worker]]

    return [each.named(pair) for each in lines]


@contextmanager
def _obstructed(pair: str, obstacle: Obstacle, scene: Scene) -> Iterator[None]:
    proxies = _proxies(scene, pair)
    for proxy in proxies:
        proxy.meet(obstacle)
    yield
    for proxy in proxies:
        proxy.clear()


@contextmanager
def _line_reset(pair: str, scene: Scene) -> Iterator[None]:
    """Every connection is torn down, five times."""
    proxies = _proxies(scene, pair)
    for _ in range(5):
        for proxy in proxies:
            proxy.reset()
        time.sleep(scene.chance.uniform(0.05, 0.4))
    yield


# -------------------------------------------------------------------------------------------------------------- clock


def has_clock() -> bool:
    """Whether the library is there that shows a process another time."""
    return clock_library() is not None


@contextmanager
def _clock_jumped(seconds: int, scene: Scene) -> Iterator[None]:
    """The wall clock of one worker jumps, and back again."""
    scene.rig.clock_file.write_text(f"{seconds:+d}\n", encoding="ascii")
    yield
    scene.rig.clock_file.write_text("+0\n", encoding="ascii")


# ----------------------------------------------------------------------------------------------------------- messages


@contextmanager
def _forged(scene: Scene) -> Iterator[None]:
    """Messages that nobody of ours sent: ids of others and of nobody, doubled, far from due, and no ids at all."""
    with _producer(scene) as send:
        known = _ids(scene, "")
        for _ in range(40):
            ids = [str(uuid.UUID(int=scene.chance.getrandbits(128), version=4)) for _ in range(3)]
            ids += scene.chance.sample(known, min(8, len(known))) * 2
            scene.chance.shuffle(ids)
            send(EXECUTE_TASK, EXECUTE_QUEUE, [ids])
        for garbage in ([[]], [["no-id"]], [[None]], ["no-list"], [7], [], [[], "more"]):
            send(EXECUTE_TASK, EXECUTE_QUEUE, garbage)
        for garbage in ([str(uuid.uuid4())], ["no-id"], [None], []):
            send(ESCALATE_TASK, UPKEEP_QUEUE, garbage)
    yield


@contextmanager
def _doubled(scene: Scene) -> Iterator[None]:
    """Every command that is not finished is handed out again, three times over, to whoever takes it."""
    with _producer(scene) as send:
        for _ in range(3):
            ids = _ids(scene, "WHERE finalized_at IS NULL")
            for start in range(0, min(len(ids), 600), 20):
                send(EXECUTE_TASK, EXECUTE_QUEUE, [ids[start : start + 20]])
            time.sleep(0.1)
    yield


@contextmanager
def _late(scene: Scene) -> Iterator[None]:
    """What is in the queue is taken out, held past its time, and comes when it is done long since."""
    held: list[Any] = []
    stop = threading.Event()
    client = scene.rig.redis.client

    def hold() -> None:
        while not stop.wait(0.02) and len(held) < _MOST_LATE:
            with contextlib.suppress(redis.RedisError):
                held.extend(client.rpop(_QUEUE, 50) or [])

    holding = threading.Thread(target=hold, daemon=True)
    holding.start()
    yield
    stop.set()
    holding.join()
    scene.chance.shuffle(held)
    if held:
        with contextlib.suppress(redis.RedisError):
            client.lpush(_QUEUE, *held)


@contextmanager
def _reordered(scene: Scene) -> Iterator[None]:
    """What is in the queue is dealt anew, again and again."""
    client = scene.rig.redis.client
    for _ in range(30):
        with contextlib.suppress(redis.RedisError):
            taken = list(client.rpop(_QUEUE, 200) or [])
            scene.chance.shuffle(taken)
            if taken:
                client.lpush(_QUEUE, *taken)
        time.sleep(0.03)
    yield


@contextmanager
def _lost(scene: Scene) -> Iterator[None]:
    """What is in the queue disappears, and so does what comes into it for a while."""
    stop = threading.Event()
    client = scene.rig.redis.client

    def lose() -> None:
        while not stop.wait(0.02):
            with contextlib.suppress(redis.RedisError):
                client.delete(_QUEUE, f"post-purchase:{UPKEEP_QUEUE}")

    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    yield
    stop.set()
    losing.join()


@contextmanager
def _producer(scene: Scene) -> Iterator[Callable[[str, str, list[Any]], None]]:
    """Celery's own producer; a message that does not get through is no message."""
    app = build_celery("chaos", load(environ=scene.rig.environment(scene.rig.shop_lines)))

    def send(task: str, queue: str, arguments: list[Any]) -> None:
        with contextlib.suppress(Exception):
            app.send_task(task, args=arguments, queue=queue, retry=False)

    yield send
    app.close()


def _ids(scene: Scene, which: str) -> list[str]:
    with contextlib.suppress(psycopg.Error), scene.rig.postgres.connect(scene.rig.database) as connection:
        found = connection.execute(f"SELECT id FROM post_purchase_command {which} ORDER BY seq".encode())  # noqa: S608  # words of our own
        return [str(each) for (each,) in found.fetchall()]
    return []


# ------------------------------------------------------------------------------------------------- upkeep and versions


@contextmanager
def _upkeep_ten_at_once(scene: Scene) -> Iterator[None]:
    """Ten more that dispatch and sweep."""
    unit = scene.rig.upkeep("upkeeps", scene.rig.workers[0].folder, times=10)
    scene.rig.guests.append(unit)
    unit.start()
    yield
    unit.kill()


@contextmanager
def _no_upkeep(scene: Scene) -> Iterator[None]:
    """Nobody dispatches and nobody sweeps; only where upkeep runs apart from the workers."""
    for unit in scene.rig.upkeeps:
        unit.kill()
    yield
    for unit in scene.rig.upkeeps:
        unit.start()


@contextmanager
def _deployed_and_back(scene: Scene) -> Iterator[None]:
    """A new version beside the previous one, then alone, taken back as `docs/deploy.md` says, and deployed again."""
    rig = scene.rig
    older, previous = previous_version(), rig.previous
    if older is None or previous is None:
        raise RigError("this run does not begin with the previous version")

    def deployed() -> None:
        wait_until(rig.migrate, within=90, what="a migration in the middle of a run")
        for unit in (*rig.workers, *rig.upkeeps):
            unit.start()
        wait_until(lambda: any(unit.is_ready for unit in rig.workers), within=60, what="a worker of the new version")
        time.sleep(_SIDE_BY_SIDE_SECONDS)
        previous.end(signal.SIGTERM)

    deployed()
    yield
    with contextlib.ExitStack() as held:
        # Meanwhile no other fault starts one of the new version.
        for unit in (*rig.workers, *rig.upkeeps):
            held.enter_context(unit.lock)
            unit.end(signal.SIGTERM)
        wait_until(lambda: rig.migrate(back_to=older.schema), within=90, what="a migration back in the middle of a run")
        previous.start()
        wait_until(lambda: previous.is_ready, within=60, what="a worker of the previous version, brought back")
        time.sleep(_SIDE_BY_SIDE_SECONDS)
        deployed()


# ----------------------------------------------------------------------------------------------------------- provider

#: What the provider, or what stands before it, does to single requests. None of them claims success for what was not
#: done, nor refuses by name what was done.
ANSWERS: tuple[tuple[str, Json], ...] = (
    ("status", {"status": 500}),
    ("status", {"status": 503, "body": "html"}),
    ("status", {"status": 409}),
    ("status", {"status": 401, "body": "html"}),
    ("throttle", {}),
    ("execute_then_status", {"status": 500}),
    ("execute_then_status", {"status": 504, "body": "html"}),
    ("drop_reply", {}),
    ("reset", {"executed": True}),
    ("reset", {"executed": False}),
    ("hang", {"executed": True}),
    ("hang", {"executed": False}),
    ("html", {"executed": True}),
    ("html", {"executed": False, "status": 403}),
    ("truncated", {"executed": False, "status": 502}),
    ("truncated", {"executed": True}),
    ("not_json", {"executed": True, "status": 500}),
    ("delay", {"seconds": 0.7}),
    ("delay", {"seconds": 2.5}),
    ("slow_body", {"seconds": 0.5}),
    ("slow_body", {"seconds": 2.0}),
    ("no_id_header", {"location": False}),
    ("close_idle", {"executed": True}),
    ("close_idle", {"executed": False}),
    ("stale_read", {"seconds": 2.5, "method": "GET"}),
    ("status", {"status": 503, "method": "GET"}),
    ("hang", {"method": "GET"}),
    ("bare_xml", {"status": 503, "executed": True, "path": "^/services/2/"}),
    ("status", {"status": 400, "code": "PROCESSING_TIMEOUT", "path": "^/services/2/"}),
    ("execute_then_status", {"status": 400, "code": "PROCESSING_TIMEOUT", "path": "^/services/2/"}),
    ("status", {"status": 400, "code": "TRANSACTION_ALREADY_CAPTURED", "path": "^/services/2/"}),
)


@contextmanager
def _odd_answers(scene: Scene) -> Iterator[None]:
    """Forty requests meet one oddity or another."""
    for _ in range(12):
        kind, options = scene.chance.choice(ANSWERS)
        scene.rig.sandbox.control.fault(kind, times=scene.chance.randint(1, 6), **options)
    yield


@contextmanager
def _answers_lost(scene: Scene) -> Iterator[None]:
    """Everything is done and nobody is told: the case that makes duplicates elsewhere."""
    scene.rig.sandbox.control.fault("drop_reply", times=30)
    yield


@contextmanager
def _provider_slow(scene: Scene) -> Iterator[None]:
    """Done after the client has given up."""
    scene.rig.sandbox.control.fault("delay", times=60, seconds=scene.chance.choice([1.0, 1.4, 2.5]))
    yield


@contextmanager
def _provider_away(scene: Scene) -> Iterator[None]:
    """It refuses connections."""
    scene.rig.sandbox.control.refuse_connections()
    yield
    scene.rig.sandbox.control.accept_connections()


@contextmanager
def _provider_broken(scene: Scene) -> Iterator[None]:
    """Every request meets a gateway that has lost what is behind it."""
    scene.rig.sandbox.control.fault("execute_then_status", times=80, status=503, body="html")
    yield
    scene.rig.sandbox.control.clear_faults()


# -------------------------------------------------------------------------------------------------------------- table


class Where(Enum):
    """What is particular about a run."""

    DEPLOYED = "it begins with the previous version, and the new one is deployed"
    UPKEEP_APART = "upkeep runs apart from the workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of the table.

    Attributes:
        act: What it does.
        group: What it is counted under in the report.
        seconds: How long it lasts, from … to.
        takes: How long its beginning and its end take besides, about.
        seat: What it needs for itself while it lasts; None: nothing. `worker` is one seat for each worker.
        only_where: In which runs it has a meaning; None: in all.
        is_possible: Whether it can be had here.
    """

    act: Act
    group: str
    seconds: tuple[float, float]
    takes: float = 0.0
    seat: str | None = None
    only_where: Where | None = None
    is_possible: Callable[[], bool] = lambda: True


#: To deploy, to take back and to deploy again: three starts, each with its time side by side.
DEPLOYING_SECONDS = 30.0

_AT_ONCE = (0.1, 0.3)
_A_WHILE = (1.0, 4.0)
_BEYOND_A_LEASE = (LEASE_SECONDS + 0.7, LEASE_SECONDS + 3.0)

_PAIRS = ("redis", "postgresql", "provider")
_OBSTACLES = {
    "delayed": Obstacle(delay=0.3),
    "halved": Obstacle(halved=0.2),
    "held": Obstacle(is_held=True),
    "refused": Obstacle(is_refused=True),
}


def _network() -> Iterator[tuple[str, Fault]]:
    for pair in _PAIRS:
        # What is held on the way to a provider is let go before it is read back: longer than that no request travels.
        seconds = (0.5, 2.5) if pair == "provider" else _A_WHILE
        for name, obstacle in _OBSTACLES.items():
            act = partial(_obstructed, pair, obstacle)
            yield f"line to {pair} {name}", Fault(act=act, group="network", seconds=seconds, seat=f"line-{pair}")
        yield f"line to {pair} reset", Fault(act=partial(_line_reset, pair), group="network", seconds=_AT_ONCE)


FAULTS: Mapping[str, Fault] = {
    "worker killed": Fault(act=_killed, group="process", seconds=(0.2, 3.0), seat="worker"),
    "worker told to end": Fault(act=_told_to_end, group="process", seconds=(3.0, 4.0), seat="worker"),
    "worker stalled": Fault(act=_stalled, group="process", seconds=_BEYOND_A_LEASE, seat="worker"),
    "pool process stalled": Fault(act=_pool_process_stalled, group="process", seconds=_BEYOND_A_LEASE, seat="worker"),
    "pool process killed for memory": Fault(act=_taken_for_memory, group="process", seconds=_AT_ONCE, seat="worker"),
    "worker without memory": Fault(
        act=partial(_without_memory, lambda scene: [scene.unit]), group="process", seconds=_A_WHILE, seat="worker"
    ),
    "upkeep without memory": Fault(
        act=partial(_without_memory, lambda scene: scene.rig.upkeeps),
        group="process",
        seconds=_A_WHILE,
        seat="upkeep",
        only_where=Where.UPKEEP_APART,
    ),
    "Redis restarted": Fault(act=_redis_restarted, group="Redis", seconds=(0.3, 3.0), seat="redis"),
    "Redis flushed": Fault(act=_redis_flushed, group="Redis", seconds=_AT_ONCE),
    "Redis read-only": Fault(act=_redis_read_only, group="Redis", seconds=_A_WHILE, seat="redis"),
    "Redis full": Fault(act=_redis_full, group="Redis", seconds=_A_WHILE, seat="redis"),
    "Redis slow": Fault(act=_redis_slow, group="Redis", seconds=_A_WHILE, seat="redis"),
    "Redis frozen": Fault(act=_redis_frozen, group="Redis", seconds=_A_WHILE, seat="redis"),
    "PostgreSQL restarted, fast": Fault(
        act=partial(_postgresql_restarted, signal.SIGINT), group="PostgreSQL", seconds=(0.3, 2.5), seat="postgresql"
    ),
    "PostgreSQL restarted, immediate": Fault(
        act=partial(_postgresql_restarted, signal.SIGQUIT), group="PostgreSQL", seconds=(0.3, 2.5), seat="postgresql"
    ),
    "PostgreSQL moved": Fault(act=_postgresql_moved, group="PostgreSQL", seconds=(0.5, 2.0), seat="postgresql"),
    "PostgreSQL connections ended": Fault(act=_connections_ended, group="PostgreSQL", seconds=_AT_ONCE),
    "PostgreSQL disk full": Fault(act=_disk_full, group="PostgreSQL", seconds=(1.0, 3.0), seat="postgresql"),
    "PostgreSQL table locked": Fault(act=_locked, group="PostgreSQL", seconds=(2.0, 4.5), seat="postgresql"),
    "PostgreSQL serialization failures": Fault(
        act=_serialization_failures, group="PostgreSQL", seconds=_A_WHILE, seat="postgresql"
    ),
    **dict(_network()),
    "clock an hour ahead": Fault(
        act=partial(_clock_jumped, 3_600),
        group="clock",
        seconds=(2.0, 5.0),
        seat="clock",
        is_possible=has_clock,
    ),
    "clock an hour back": Fault(
        act=partial(_clock_jumped, -3_600),
        group="clock",
        seconds=(2.0, 5.0),
        seat="clock",
        is_possible=has_clock,
    ),
    "messages forged": Fault(act=_forged, group="messages", seconds=_AT_ONCE),
    "messages doubled": Fault(act=_doubled, group="messages", seconds=_AT_ONCE),
    "messages late": Fault(act=_late, group="messages", seconds=(2.0, 5.0), seat="queue"),
    "messages reordered": Fault(act=_reordered, group="messages", seconds=_AT_ONCE, seat="queue"),
    "messages lost": Fault(act=_lost, group="messages", seconds=(0.5, 3.0), seat="queue"),
    "upkeep ten at once": Fault(act=_upkeep_ten_at_once, group="upkeep", seconds=(3.0, 6.0), seat="upkeep"),
    "no upkeep": Fault(
        act=_no_upkeep, group="upkeep", seconds=(2.0, 5.0), seat="upkeep", only_where=Where.UPKEEP_APART
    ),
    "new version deployed, and back": Fault(
        act=_deployed_and_back,
        group="version",
        seconds=(2.0, 4.0),
        takes=DEPLOYING_SECONDS,
        only_where=Where.DEPLOYED,
        is_possible=lambda: previous_version() is not None,
    ),
    "odd answers": Fault(act=_odd_answers, group="provider", seconds=_A_WHILE),
    "answers lost": Fault(act=_answers_lost, group="provider", seconds=_A_WHILE),
    "provider slow": Fault(act=_provider_slow, group="provider", seconds=_A_WHILE),
    "provider away": Fault(act=_provider_away, group="provider", seconds=(0.5, 3.0), seat="provider"),
    "provider broken": Fault(act=_provider_broken, group="provider", seconds=(0.5, 2.0), seat="provider"),
}

#: Whose clock jumps is decided when the workers start; any other fault is aimed at any worker.
AIMED_AT = {"clock": WITH_CLOCK}

ANY_WORKER = range(WORKERS)
