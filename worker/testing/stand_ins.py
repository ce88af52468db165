"""What stands in for the outside world in tests: a provider, a broker and a desk, all in this process, on one clock.

Decides how each stand-in shows what the real one would show, without a socket, a server or a wait: time passes only on
the `ManualClock` that all of them share, and a wait moves it. They pass the contract suites of the real ones
(`tests/contracts`), so a test that holds with them holds with libcurl, a broker and a mailbox. Leaves the stand-in
provider itself to `sandbox`, and the database to the database: SQLite needs no stand-in.
"""

from __future__ import annotations

import asyncio
import heapq
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Literal, TypeVarTuple
from urllib.parse import urlsplit
from uuid import UUID

from ..domain.errors import DeskUnavailable
from ..domain.ticket import CaseFile
from ..ports import Answer, NoAnswer, Request
from ..providers.transport import IDLE_SECONDS, AlreadyInFlight, BrokenHeader, require_safe_address
from ..sandbox import wire
from ..sandbox.server import MOST_BODY_BYTES
from ..sandbox.world import World
from ..store.clock import ManualClock

__all__ = ["ManualClock", "Message", "RecordingDesk", "RecordingPublisher", "SandboxTransport", "Told", "World"]

_Arguments = TypeVarTuple("_Arguments")

#: A slow answer comes in so many pieces, as from the sandbox's server.
_PIECES = 50

#: A step so small that no test can mean it; it carries a rounded moment over its edge.
_TICK = timedelta(microseconds=1)


# --- a provider --------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """A request under way. `over` is when the client will know what came of it, and what that is."""

    tag: UUID
    request: Request
    sent_at: datetime
    connection: int = 0
    is_reused: bool = False
    has_been_sent: bool = False
    task: asyncio.Task[wire.Delivery] | None = None
    over: _Over | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Over:
    """The end of an exchange. `result` None: the connection died, and the request is sent again unasked."""

    at: datetime
    result: Answer | NoAnswer | None
    is_kept: bool = False


class SandboxTransport:
    """`ports.Transport` to a sandbox in this process, without sockets; it never blocks.

    What a fault of the sandbox looks like from here is what libcurl makes of it, down to the silent repeat of a
    repeatable request whose kept connection died. Any address that the real transport would take leads here. A wait
    in `collect` moves the clock, and the sandbox's own time follows the clock.

    Attributes:
        world: The sandbox: make orders and faults in it, and read its effects and requests.
    """

    def __init__(self, world: World | None = None, *, clock: ManualClock, total_timeout: float = 30.0) -> None:
        """Connect to a sandbox.

        Args:
            world: One that others use too; a new one with the sandbox's usual credentials if not given.
            clock: Moved by waiting.
            total_timeout: Seconds after which a request is given up.
        """
        self.world = _fresh_world() if world is None else world
        self._clock = clock
        self._total_timeout = timedelta(seconds=total_timeout)
        self._began, self._world_began = clock.now, self._world_now()
        self._exchanges: dict[UUID, _Exchange] = {}
        self._idle: list[tuple[int, datetime]] = []
        self._connections = 0
        self._refuses_until: datetime | None = None
        self._loop = _ClockLoop(clock)
        self._finalize = weakref.finalize(self, _end, self._loop)

    @property
    def in_flight(self) -> int:
        """How many requests were sent and not yet collected."""
        return len(self._exchanges)

    def send(self, tag: UUID, request: Request) -> None:
        """Take one request; returns at once. Raises before anything is sent, or not at all."""
        if tag in self._exchanges:
            raise AlreadyInFlight(tag)
        require_safe_address(request.url)
        _require_plain_headers(request)

        self._progress()
        self._exchanges[tag] = self._begin(tag, request, sent_at=self._clock.now)

    def flush(self) -> None:
        """Have leave what was taken."""
        self._progress()

    def collect(self, within: float) -> Sequence[tuple[UUID, Answer | NoAnswer]]:
        """Return what has ended; with nothing there, let up to `within` seconds pass on the clock for the first."""
        give_up_at = self._clock.now + (max(timedelta(seconds=within), _TICK) if within > 0 else timedelta(0))
        self._progress()
        while not (ended := self._take_ended()) and self._exchanges and self._clock.now < give_up_at:
            until = max(min(give_up_at, self._next_moment()), self._clock.now + _TICK)
            self._clock.advance(until - self._clock.now)
            self._progress()

        return ended

    def settle(self) -> None:
        """Let the sandbox do what was due on the clock by now: it also works for clients that have given up."""
        self._progress()

    def refuse_connections(self, seconds: float | None = None) -> None:
        """Refuse connections for so many seconds on the clock, or until told to accept them."""
        self._refuses_until = (
            datetime.max.replace(tzinfo=self._clock.now.tzinfo)
            if seconds is None
            else self._clock.now + timedelta(seconds=seconds)
        )
        self._idle.clear()

    def accept_connections(self) -> None:
        """Accept connections again."""
        self._refuses_until = None

    def close(self) -> None:
        """Close every connection; what is in flight is given up."""
        self._exchanges.clear()
        self._idle.clear()
        self._finalize()

    # sending

    def _begin(self, tag: UUID, request: Request, *, sent_at: datetime, has_been_sent: bool = False) -> _Exchange:
        """Put a request on a connection: a kept one where a silent repeat would be harmless."""
        kept = self._take_kept() if request.repeatable else None
        if kept is None and self._refuses():
            refused = NoAnswer(
                sent=has_been_sent,
                code="reset" if has_been_sent else "connect_failed",
                message="Could not connect to server",
            )
            over = _Over(at=self._clock.now, result=refused)
            return _Exchange(tag=tag, request=request, sent_at=sent_at, over=over)
        if kept is None:
            self._connections += 1
        connection = self._connections if kept is None else kept
        arriving = _arriving(request, connection=connection, is_first=kept is None)

        return _Exchange(
            tag=tag,
            request=request,
            sent_at=sent_at,
            connection=connection,
            is_reused=kept is not None,
            has_been_sent=has_been_sent,
            task=self._loop.create_task(self.world.respond(arriving)),
        )

    def _take_kept(self) -> int | None:
        """Take a kept connection; libcurl uses none that was idle for so long that the server may have closed it."""
        oldest = self._clock.now - timedelta(seconds=IDLE_SECONDS)
        self._idle = [(number, since) for number, since in self._idle if since >= oldest]

        return self._idle.pop()[0] if self._idle else None

    def _refuses(self) -> bool:
        return self._refuses_until is not None and self._clock.now < self._refuses_until

    # time

    def _progress(self) -> None:
        """Let the sandbox work at this moment of the clock, and see what that means for each exchange."""
        self._align()
        self._loop.settle()
        while moved := [each for each in self._exchanges.values() if self._moves(each)]:
            for each in moved:
                self._move(each)
            self._loop.settle()

    def _align(self) -> None:
        """Bring the sandbox's time up with the clock. It never goes back, and runs on a little in real time."""
        wanted = self._world_began + (self._clock.now - self._began)
        behind = wanted - self._world_now()
        if behind > timedelta(0):
            self.world.advance(behind.total_seconds())

    def _world_now(self) -> datetime:
        return datetime.fromisoformat(self.world.health()["now"])

    def _moves(self, exchange: _Exchange) -> bool:
        """Whether an exchange has come to its answer, or to the moment at which it is sent again unasked."""
        if exchange.over is None:
            return exchange.task is not None and exchange.task.done()

        return exchange.over.result is None and exchange.over.at <= self._clock.now

    def _move(self, exchange: _Exchange) -> None:
        if exchange.over is None and exchange.task is not None:
            exchange.over = self._foresee(exchange, exchange.task.result())
        else:
            self._exchanges[exchange.tag] = self._begin(
                exchange.tag, exchange.request, sent_at=exchange.sent_at, has_been_sent=True
            )

    def _next_moment(self) -> datetime:
        """When the next thing happens, as far as it is known: an end, a time limit, or something in the sandbox."""
        ends = [each.over.at if each.over else self._deadline(each) for each in self._exchanges.values()]
        in_sandbox = self._loop.next_moment()

        return min(ends if in_sandbox is None else [*ends, in_sandbox])

    def _deadline(self, exchange: _Exchange) -> datetime:
        return exchange.sent_at + self._total_timeout

    # ending

    def _foresee(self, exchange: _Exchange, delivery: wire.Delivery) -> _Over:
        """Say when and how an exchange ends, now that it is known how its answer is delivered."""
        deadline = self._deadline(exchange)
        begins_at = deadline
        if delivery.hold_seconds is not None:
            begins_at = self._clock.now + timedelta(seconds=delivery.hold_seconds)
        whole_at = begins_at + timedelta(seconds=delivery.drip_seconds)
        if delivery.answer is None and begins_at < deadline:
            return _Over(at=begins_at, result=self._without_answer(exchange, delivery))
        if delivery.answer is None or begins_at >= deadline:
            return _Over(at=deadline, result=_too_late(self._total_timeout))
        if whole_at >= deadline:
            share = (deadline - begins_at) / (whole_at - begins_at)
            return _Over(at=deadline, result=_broken_off(delivery, share=share) or _too_late(self._total_timeout))

        return _Over(
            at=whole_at,
            result=replace(
                _answer(delivery.answer, delivery, is_complete=not delivery.missing_bytes),
                was_repeated=exchange.has_been_sent,
            ),
            is_kept=delivery.ending is wire.Ending.KEEP and exchange.request.repeatable,
        )

    def _without_answer(self, exchange: _Exchange, delivery: wire.Delivery) -> NoAnswer | None:
        """What a connection that closed without a byte means: on a kept one, libcurl asks again."""
        if exchange.is_reused:
            return None
        if delivery.ending is wire.Ending.RESET:
            return NoAnswer(sent=True, code="reset", message="Recv failure: Connection reset by peer")

        return NoAnswer(sent=True, code="no_answer", message="Empty reply from server")

    def _take_ended(self) -> list[tuple[UUID, Answer | NoAnswer]]:
        now = self._clock.now
        for each in self._exchanges.values():
            if each.over is None and self._deadline(each) <= now:
                each.over = _Over(at=self._deadline(each), result=_too_late(self._total_timeout))
        ended = [
            (each.over.at, each.tag, each.over.result, each.connection if each.over.is_kept else None)
            for each in self._exchanges.values()
            if each.over is not None and each.over.result is not None and each.over.at <= now
        ]
        for at, tag, _, kept in ended:
            del self._exchanges[tag]
            if kept is not None and not self._refuses():
                self._idle.append((kept, at))

        return [(tag, result) for _, tag, result, _ in sorted(ended, key=lambda one: one[0])]


class _ClockLoop(asyncio.SelectorEventLoop):
    """An event loop that goes by a clock which is set by hand, and so never waits."""

    def __init__(self, clock: ManualClock) -> None:
        self._by = clock
        self._since = clock.now
        self._timers: list[float] = []
        super().__init__()

    def time(self) -> float:
        """The time of the clock, in seconds since this loop was made."""
        return (self._by.now - self._since).total_seconds()

    def call_at(
        self, when: float, callback: Callable[[*_Arguments], object], *args: *_Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Plan a call, and remember when it is due."""
        heapq.heappush(self._timers, when)

        return super().call_at(when, callback, *args, context=context)

    def next_moment(self) -> datetime | None:
        """When the next planned call is due; None when there is none."""
        while self._timers and self._timers[0] <= self.time():
            heapq.heappop(self._timers)

        return self._since + timedelta(seconds=self._timers[0]) if self._timers else None

    def settle(self) -> None:
        """Run whatever can run at this moment of the clock."""
        self.run_until_complete(_breathe())


def _fresh_world() -> World:
    password = "sandbox"  # noqa: S105  # the stand-in's own, no secret

    return World(username="sandbox", password=password, create_orders=None, replay_errors=True)


async def _breathe() -> None:
    """Let the others run: a timer wakes a future in the first turn, the future its task in the next."""
    for _ in range(3):
        await asyncio.sleep(0)


def _end(loop: _ClockLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.settle()
    loop.close()


def _require_plain_headers(request: Request) -> None:
    for name, value in (*request.headers.items(), ("Authorization", request.authorization)):
        if not (name + value).isascii() or not (name + value).isprintable():
            raise BrokenHeader(name)


def _arriving(request: Request, *, connection: int, is_first: bool) -> wire.Request:
    """The request as the sandbox's server would hand it to the sandbox."""
    parts = urlsplit(request.url)
    body = request.body or b""
    is_too_large = len(body) > MOST_BODY_BYTES

    return wire.Request(
        method=request.method,
        path=parts.path,
        query=parts.query,
        headers=(("Host", parts.netloc), *request.headers.items(), ("Authorization", request.authorization)),
        body=b"" if is_too_large else body,
        is_too_large=is_too_large,
        connection=connection,
        is_first_on_connection=is_first,
    )


def _answer(answer: wire.Answer, delivery: wire.Delivery, *, is_complete: bool) -> Answer:
    return Answer(
        status=answer.status, headers=_headers(_head(answer, delivery)), body=answer.body, complete=is_complete
    )


def _head(answer: wire.Answer, delivery: wire.Delivery) -> list[str]:
    """The lines in front of a body, as the sandbox's server writes them."""
    lines = [f"HTTP/1.1 {answer.status} ", *(f"{name}: {value}" for name, value in answer.headers)]
    if answer.status != 204:  # noqa: PLR2004  # no content, no length
        lines.append(f"Content-Length: {len(answer.body) + delivery.missing_bytes}")
    if delivery.ending is not wire.Ending.KEEP:
        lines.append("Connection: close")

    return lines


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(": ")
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value

    return headers


def _broken_off(delivery: wire.Delivery, *, share: float) -> Answer | None:
    """What has come in of a slow answer when the time is up; None when that is less than its first line."""
    answer = delivery.answer
    assert answer is not None  # noqa: S101  # only an answer can be slow
    if answer.body:
        partial = replace(answer, body=_first_pieces(answer.body, share))
        return Answer(
            status=answer.status, headers=_headers(_head(answer, delivery)), body=partial.body, complete=False
        )
    text = "".join(f"{line}\r\n" for line in _head(answer, delivery)).encode("latin-1")
    lines = _first_pieces(text, share).decode("latin-1").split("\r\n")[:-1]
    if not lines:
        return None

    return Answer(status=answer.status, headers=_headers(lines), body=b"", complete=False)


def _first_pieces(whole: bytes, share: float) -> bytes:
    size = ceil(len(whole) / _PIECES)
    pieces = ceil(len(whole) / size)

    return whole[: size * int(pieces * share)]


def _too_late(total_timeout: timedelta) -> NoAnswer:
    message = f"Operation timed out after {total_timeout.total_seconds() * 1000:.0f} milliseconds"

    return NoAnswer(sent=True, code="no_answer", message=message)


# --- a broker ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What was handed to the broker. `due_at` is when a worker may have it: at once, or after its countdown."""

    task: Literal["execute", "escalate"]
    ids: tuple[UUID, ...]
    label: str
    countdown: float | None
    due_at: datetime


class RecordingPublisher:
    """`ports.Publisher` that keeps messages instead of sending them.

    Attributes:
        sent: Every message that was handed over, oldest first.
        waiting: Those that were not delivered yet; lose, double or reorder them as a broker might.
        is_away: Set it, and the broker is away: nothing is taken.
    """

    def __init__(self, *, clock: ManualClock, held: int = 1_000) -> None:
        """Keep messages.

        Args:
            clock: Says which countdowns are over.
            held: How many messages with a countdown may wait at once.
        """
        self.sent: list[Message] = []
        self.waiting: list[Message] = []
        self.is_away = False
        self._clock = clock
        self._held = held

    def reserve(self) -> bool:
        """Take one place among the single messages of this second; False: leave this command to dispatch."""
        return not self.is_away

    def may_hold(self) -> bool:
        """Whether one more message with a countdown may be handed to the broker now."""
        held = sum(each.countdown is not None and each.due_at > self._clock.now for each in self.sent)

        return not self.is_away and held < self._held

    def execute(self, ids: Sequence[UUID], *, label: str, countdown: float | None = None) -> bool:
        """Ask a worker to execute commands, after `countdown` seconds if given; False when it was not handed over."""
        return self._take("execute", tuple(ids), label, countdown)

    def escalate(self, ticket_id: UUID, *, label: str) -> bool:
        """Ask a worker to tell a ticket to its desk; False when it was not handed over."""
        return self._take("escalate", (ticket_id,), label, None)

    def deliver(self) -> list[Message]:
        """Take the messages whose countdown is over, as a worker would get them."""
        now = self._clock.now
        due = sorted((each for each in self.waiting if each.due_at <= now), key=lambda each: each.due_at)
        self.waiting = [each for each in self.waiting if each.due_at > now]

        return due

    def _take(
        self, task: Literal["execute", "escalate"], ids: tuple[UUID, ...], label: str, countdown: float | None
    ) -> bool:
        if self.is_away:
            return False
        due_at = self._clock.now + timedelta(seconds=countdown or 0.0)
        message = Message(task=task, ids=ids, label=label, countdown=countdown, due_at=due_at)
        self.sent.append(message)
        self.waiting.append(message)

        return True


# --- a desk ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One telling that reached the desk."""

    verb: Literal["open", "append", "close"]
    external_ref: str
    case_file: CaseFile


@dataclass(slots=True, kw_only=True)
class RecordingDesk:
    """`ports.TicketDesk` that keeps what it is told.

    Attributes:
        told: Every telling, repeats included, oldest first.
        is_unavailable: Set it, and the desk takes nothing.
    """

    name: str = "recording"
    told: list[Told] = field(default_factory=list)
    is_unavailable: bool = False

    def open(self, case_file: CaseFile) -> str:
        """Open a ticket; return the desk's own reference to it."""
        external_ref = f"{self.name}:{case_file.ticket_id}"
        self._take("open", external_ref, case_file)

        return external_ref

    def append(self, external_ref: str, case_file: CaseFile) -> None:
        """Add further commands to an open ticket."""
        self._take("append", external_ref, case_file)

    def close(self, external_ref: str, case_file: CaseFile) -> None:
        """Say that every command of a ticket has been decided."""
        self._take("close", external_ref, case_file)

    def _take(self, verb: Literal["open", "append", "close"], external_ref: str, case_file: CaseFile) -> None:
        if self.is_unavailable:
            raise DeskUnavailable("the recording desk was told to be unavailable. Set is_unavailable to False")
        self.told.append(Told(verb=verb, external_ref=external_ref, case_file=case_file))
