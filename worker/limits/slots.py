"""The arithmetic of buckets: which slots are free, when the rest may come back, and how long a 429 keeps all still.

Decides everything about a bucket from its state, the moment and an order; pure, and the same as `redis.lua`, to which a
test holds it equal. Leaves to `database` and `local` where states are kept and which clock tells the moment.

*Cells.* Time is cut into cells of 20 ms. A bucket of `r` slots a second has room for `r/50` in each, fractions
carried on, and remembers how many of a cell are taken: for the second behind, of which the snapshot tells, and for
the second ahead, of which slots are handed out. Unlike the one moment that a token bucket or GCRA remembers, cells
take reservations out of order: an account that spreads 50 slots over a second leaves all the others between them
to the accounts that share its acquiring partner. No stretch of n cells ever holds more than r·n/50 slots, rounded
up, and a second touches 51 cells at most; so with r at most Q/1.02 no window of one second holds more than Q. There
is no burst but a cell's worth, 2 % of the rate, and a new or idle bucket begins with that. Behind it, one that was
idle for a second lets nothing through for a moment: who begins after a stop has intents to write and connections to
open first, and would send in one go all that had its slot meanwhile.

*Two levels.* A slot is taken in the cells of both buckets or of neither. Because a cell in which the account has
room may be full at its acquiring partner's, what an account could not use there carries on to the next: as much as two
cells hold, which is 4 % of a second's worth, or one slot. What is taken of every second around is counted then, so that
no window of a second holds more all the same.

*Come back.* What finds no slot within reach is told when to come back and takes nothing: one moment after another along
a tail that grows at the rate of the bucket, so that neither the end of an outage nor a long queue wakes a herd. The
moments lie half a reach before the slots that will be free, because who comes back looks that far ahead.

*First.* While kinds that go first were asked for within the last seconds, the others take at most the rest of each cell
that the headroom leaves.

*Fair.* An account that has had more than its part of what was taken at its acquiring partner's sees only half as far
ahead. What it then leaves over is there for those that had less; if nobody wants it, it comes within reach a moment
later.

Moments are whole milliseconds of the clock that all who share the bucket go by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..domain.quota import Learned, back_off, quota_in_force

#: A bucket as it is kept: what is in JSON.
State = dict[str, Any]
#: What is asked of buckets, and what comes of it.
Order = Mapping[str, Any]
Reply = dict[str, Any]

CELL_MS = 20
CELLS_A_SECOND = 1_000 // CELL_MS

#: An account counts as one of those that share an acquiring partner for so long after it asked, or was to come back.
_ACTIVE_MS = 2_000

#: So long after the last kind that goes first, the others may have all.
_FIRST_MS = 5_000

#: So many come back for each slot that comes free. Some find that it does not suit both levels, or that a newcomer has
#: it, and are sent back to the end; a slot that nobody came for is lost.
_EAGER = 1.1

#: How fast those come back to a bucket that has no rate, after it kept still.
_PACE = 50.0

#: When to come back to a bucket that lets nothing through: a quota of 0 is looked at again after a minute.
_CLOSED_MS = 60_000

#: A 429 to what was sent so soon after a stillness, and twice as long as that could have been, may be one in a row with
#: it. It is, if as many 429s came since that stillness began as are this part of the slots handed out since: a busy
#: machine sends a few of a thousand late, whatever the quota, and if those made a row, each stillness would call for a
#: longer one.
_IN_A_ROW_MS = 250
_OFTEN = 0.05

#: In so many cells after a second in which nobody used it, a bucket gives the slots of one, to whoever comes first.
_OPENS_CELLS = 5

#: Sums of fractions are a hair off; a whole number must not become the next one.
_HAIR = 1e-6

#: So many cells' worth of an account's unused room carries on where its acquiring partner has a say.
_CARRIED_CELLS = 2

#: Room of a bucket that has no rate: more than anybody asks for.
_BOUNDLESS = 1_000_000_000


def carry_out(order: Order, states: Sequence[State], *, now: int) -> Reply:
    """Do what is asked: change the states in place, and answer."""
    for state in states:
        _bring_up(state, now)
    match order["do"]:
        case "reserve":
            return _reserve(order, states, now)
        case "release":
            return _release(order, states)
        case "observe":
            return _observe(order, states, now)
        case "throttled":
            return _throttled(order, states, now)
        case _:
            return _look(order, states, now)


def _bring_up(state: State, now: int) -> None:
    """Make a new state complete, and drop the cells that are more than a second old."""
    cell = now // CELL_MS
    if "at" in state and state["at"] > cell:
        # The clock went back by more than a second: another server has taken over. What was learned still holds.
        kept = {"learned": state["learned"], "learned_at": now} if "learned" in state else {}
        state.clear()
        state.update(kept)
    state.setdefault("at", cell - CELLS_A_SECOND)
    state.setdefault("anchor", cell)
    for name in ("used", "low"):
        state.setdefault(name, [])
    for name in ("until", "tail", "first_at", "row", "window", "throttled", "handed_out", "refused", "opens"):
        state.setdefault(name, 0)
    state.setdefault("members", {})
    gone = cell - CELLS_A_SECOND - state["at"]
    if gone > 0:
        state["used"] = state["used"][gone:]
        state["low"] = state["low"][gone:]
        state["at"] += gone


def _in_force(bucket: Mapping[str, float], state: State, *, now: int, keep: int) -> float:
    """The quota that counts now; -1: nothing bounds it."""
    learned = None
    if "learned" in state:
        learned = Learned(quota=state["learned"], age_seconds=(now - state["learned_at"]) / 1_000)
    quota = quota_in_force(
        _known(bucket["quota"]), learned, keep_seconds=keep / 1_000, ceiling=_known(bucket["ceiling"])
    )

    return -1.0 if quota is None else float(quota)


def _known(number: float) -> float | None:
    return None if number < 0 else number


def _capacity(index: int, a_cell: float) -> int:
    """How many slots the `index`th cell has when a cell has `a_cell` of them, fractions carried on."""
    return math.ceil((index + 1) * a_cell - _HAIR) - math.ceil(index * a_cell - _HAIR)


def _taken(state: State, name: str, cell: int) -> int:
    index = cell - state["at"]
    counts: list[int] = state[name]

    return counts[index] if 0 <= index < len(counts) else 0


def _take(state: State, name: str, cell: int, count: int) -> None:
    index = cell - state["at"]
    counts: list[int] = state[name]
    if index >= 0:
        counts.extend([0] * (index + 1 - len(counts)))
        counts[index] = max(0, counts[index] + count)


def _anchor(state: State, a_cell: float, cell: int) -> None:
    """Let an idle bucket begin anew with this cell, so that nobody waits for the beat of a rate that nobody uses."""
    last = state["at"] + len(state["used"]) - 1
    while last >= state["at"] and _taken(state, "used", last) == 0:
        last -= 1
    if a_cell > 0 and cell - last - 1 >= math.ceil(1 / a_cell - _HAIR):
        if last < state["at"]:
            state["opens"] = cell + _OPENS_CELLS
            # As if its one cell's worth were taken last: whenever it is, the beat goes on behind it.
            state["anchor"] = state["opens"] - 1
        elif cell >= state["opens"]:
            state["anchor"] = cell


@dataclass(slots=True, kw_only=True)
class _Level:
    """A bucket as one want meets it, cell by cell. Quota and rate are -1 where nothing bounds it.

    Attributes:
        depth: How many unused slots carry on to the next cell.
        credit: How many are free of the cell that was looked at last, those carried on included.
        needed: Cell → how many have to carry on behind it, because they are taken already.
    """

    state: State
    quota: float
    rate: float
    headroom: float
    depth: int = 0
    credit: int = 0
    needed: dict[int, int] = field(default_factory=dict)

    @property
    def a_cell(self) -> float:
        return self.rate / CELLS_A_SECOND

    @property
    def opening(self) -> range:
        """The cells after a quiet second that have one cell's worth together."""
        opens: int = self.state["opens"]

        return range(opens - _OPENS_CELLS, opens)

    def capacity(self, cell: int) -> int:
        if cell in self.opening:
            return _capacity(0, self.a_cell) if cell == self.opening.start else 0

        return _capacity(cell - self.state["anchor"], self.a_cell)

    def _share_of(self, cell: int) -> int:
        """How many of a cell's slots are not kept: of the slots and not of the time, or a slow rate would lose most."""
        index: int = cell - self.state["anchor"]
        before, after = (math.ceil(each * self.a_cell - _HAIR) for each in (index, index + 1))
        part: float = 1 - self.headroom

        return math.ceil(after * part - _HAIR) - math.ceil(before * part - _HAIR)

    def begin(self, cell: int) -> None:
        """Let unused slots carry on, and see what is left of those before `cell`."""
        state = self.state
        self.depth = max(1, int(_CARRIED_CELLS * self.a_cell))
        anchor = self.opening.start if state["anchor"] in self.opening else state["anchor"]
        for earlier in range(max(state["at"], anchor), cell):
            self.look(earlier)
        need = 0
        for later in range(state["at"] + len(state["used"]) - 1, cell, -1):
            need = min(self.depth, max(0, need + _taken(state, "used", later) - self.capacity(later)))
            self.needed[later - 1] = need

    def look(self, cell: int) -> None:
        """Go on to a cell."""
        carried = min(max(self.credit, 0), self.depth)
        self.credit = carried + self.capacity(cell) - _taken(self.state, "used", cell)

    def room(self, cell: int) -> int:
        """Say how many slots are free of a cell; cells are asked for one after another."""
        self.look(cell)
        room = self.credit - self.needed.get(cell, 0)
        if self.depth:
            room = min(room, max(1, math.floor(self.quota)) - _window(self.state, cell))
        if cell in self.opening:
            left = self.capacity(self.opening.start) - sum(_taken(self.state, "used", each) for each in self.opening)
            # Where slots carry on, what the opening has may be taken in later cells already.
            return min(room, left) if self.depth else left
        if self.headroom > 0:
            room = min(room, self._share_of(cell) - _taken(self.state, "low", cell))

        return room


def _reserve(order: Order, states: Sequence[State], now: int) -> Reply:
    quotas = [
        _in_force(bucket, state, now=now, keep=order["keep"])
        for bucket, state in zip(order["buckets"], states, strict=True)
    ]
    wants = []
    for want in order["wants"]:
        levels = [_meet(order, want, states[index], quotas[index], now) for index in want["buckets"]]
        wants.append(_slots(order, want, levels, now))

    return {"wants": wants, "quotas": quotas}


def _meet(order: Order, want: Order, state: State, quota: float, now: int) -> _Level:
    if want["first"]:
        state["first_at"] = now
    is_second = not want["first"] and now - state["first_at"] < _FIRST_MS
    rate = quota * order["use"] if quota >= 0 else -1.0
    _anchor(state, rate / CELLS_A_SECOND, now // CELL_MS)

    return _Level(state=state, quota=quota, rate=rate, headroom=order["headroom"] if is_second else 0.0)


def _slots(order: Order, want: Order, levels: Sequence[_Level], now: int) -> Reply:
    near, count, own = order["near"], want["count"], levels[0].state
    start = max(now, *(level.state["until"] for level in levels))
    cell, last = start // CELL_MS, (now + near) // CELL_MS
    share_ends, share = _share(want, levels, near, now)
    if len(levels) > 1 and levels[0].rate >= 0 and cell <= last:
        levels[0].begin(cell)
    had = sum(own["used"])
    slots: list[float] = []
    cells: list[int] = []
    is_crowded = False
    while len(slots) < count and cell <= last:
        if cell > share_ends and had >= share:
            is_crowded = True
            break
        free, tightest = _free(levels, cell)
        is_crowded = is_crowded or (tightest == 1 and free <= 0)
        taken = max(0, min(free, count - len(slots)))
        before = _taken(levels[max(tightest, 0)].state, "used", cell)
        for number in range(taken):
            at = (cell + (before + number) / (before + free)) * CELL_MS if tightest >= 0 else 0.0
            slots.append(max(at, start) - now)
            cells.append(cell)
        if taken > 0:
            had += taken
            for level in levels:
                level.credit -= taken
            _take_all([level.state for level in levels], cell, taken, goes_first=want["first"])
        cell += 1
    later = _later(order, want, levels, start=start, missing=count - len(slots), crowded=is_crowded, now=now)

    return {"slots": slots, "cells": cells, "later": later, "queue": max(0, own["tail"] - now)}


def _take_all(states: Sequence[State], cell: int, count: int, *, goes_first: bool) -> None:
    for state in states:
        state["handed_out"] += count
        _take(state, "used", cell, count)
        if not goes_first:
            _take(state, "low", cell, count)


def _free(levels: Sequence[_Level], cell: int) -> tuple[int, int]:
    """How many slots of a cell are free at all levels, and which level leaves the fewest; -1: none bounds it."""
    free, tightest = _BOUNDLESS, -1
    for number, level in enumerate(levels):
        if level.rate >= 0:
            room = level.room(cell)
            if room < free:
                free, tightest = room, number

    return free, tightest


def _window(state: State, cell: int) -> int:
    """How many slots are taken in the fullest second that touches a cell: others may have taken later ones."""
    counts: list[int] = state["used"]
    ends = cell + 1 - state["at"]
    fullest = held = sum(counts[max(0, ends - 1 - CELLS_A_SECOND) : ends])
    for entering in range(ends, min(ends + CELLS_A_SECOND, len(counts))):
        leaving = entering - CELLS_A_SECOND - 1
        held += counts[entering] - (counts[leaving] if leaving >= 0 else 0)
        fullest = max(fullest, held)

    return fullest


def _share(want: Order, levels: Sequence[_Level], near: int, now: int) -> tuple[int, float]:
    """The last cell that an account sees which has had its share, and how many slots that share is."""
    far = (now + near) // CELL_MS
    if len(levels) == 1 or levels[1].rate < 0:
        return far, 0.0
    members: dict[str, list[int]] = levels[1].state["members"]
    for who in [who for who, (active_until, _) in members.items() if active_until <= now]:
        del members[who]
    limited = members.get(want["who"], [0, 0])[1]
    members[want["who"]] = [max(now + _ACTIVE_MS, members.get(want["who"], [0, 0])[0]), limited]
    if len(members) == 1:
        return far, 0.0

    return (now + near // 2) // CELL_MS, sum(levels[1].state["used"]) / len(members)


def _later(
    order: Order,
    want: Order,
    levels: Sequence[_Level],
    *,
    start: int,
    missing: int,
    crowded: bool,
    now: int,
) -> list[float]:
    """When those come back that found no slot: one behind the other, at the rate at which slots will come free."""
    if missing == 0:
        return []
    own, rate = levels[0].state, levels[0].rate
    members: dict[str, list[int]] = levels[-1].state["members"]
    if len(levels) > 1 and crowded:
        members[want["who"]][1] = now + _ACTIVE_MS
        rivals = sum(1 for _, limited_until in members.values() if limited_until > now)
        shared = levels[1].rate / rivals
        rate = shared if rate < 0 else min(rate, shared)
    if rate == 0:
        return [_CLOSED_MS * (1 + order["chance"])] * missing
    between = 1_000 / (rate * _EAGER if rate > 0 else _PACE)
    lead = order["near"] // 2
    tail = max(own["tail"], start + (lead if start > now else order["near"]))
    later = [tail + between * (number + order["chance"]) - lead - now for number in range(missing)]
    own["tail"] = math.ceil(tail + between * missing)
    if want["who"] in members:
        members[want["who"]][0] = math.ceil(now + later[-1]) + _ACTIVE_MS

    return later


def _release(order: Order, states: Sequence[State]) -> Reply:
    for cell in order["cells"]:
        _take_all(states, cell, -1, goes_first=order["first"])

    return {"done": True}


def _observe(order: Order, states: Sequence[State], now: int) -> Reply:
    quotas = []
    for bucket, state, told in zip(order["buckets"], states, order["told"], strict=True):
        before = _in_force(bucket, state, now=now, keep=order["keep"])
        if told == bucket["quota"]:
            state.pop("learned", None)
            state.pop("learned_at", None)
        else:
            state["learned"], state["learned_at"] = told, now
        after = _in_force(bucket, state, now=now, keep=order["keep"])
        if before > 0 and after > 0 and state["tail"] > now:
            state["tail"] = math.ceil(now + (state["tail"] - now) * before / after)
        quotas.append(after)

    return {"quotas": quotas}


def _throttled(order: Order, states: Sequence[State], now: int) -> Reply:
    """Keep buckets still; a 429 to what was sent before the last stillness ended is told nothing new by it.

    In a row are those of which the next one was sent soon after a stillness, while the 429s that came since it began
    are many beside the slots handed out since, less those given back: a stray one in the midst of answers that were
    let through begins anew.
    """
    waits = []
    sent = now - order["age"]
    for state in states:
        if sent >= state["until"]:
            is_soon = sent - state["until"] < 2 * state["window"] + _IN_A_ROW_MS
            is_in_a_row = is_soon and state["refused"] >= _OFTEN * state["handed_out"]
            state["row"] = state["row"] + 1 if is_in_a_row else 1
            state["handed_out"] = state["refused"] = 0
            wait = partial(back_off, state["row"], base=order["base"], cap=order["cap"])
            state["window"] = wait(chance=1.0)
            state["until"] = math.ceil(now + wait(chance=order["chance"]))
        state["refused"] += 1
        state["throttled"] += 1
        waits.append(max(0, state["until"] - now))

    return {"waits": waits}


def _look(order: Order, states: Sequence[State], now: int) -> Reply:
    looks = []
    for bucket, state in zip(order["buckets"], states, strict=True):
        past = now // CELL_MS - state["at"]
        looks.append(
            {
                "quota": _in_force(bucket, state, now=now, keep=order["keep"]),
                "learned": state.get("learned", -1),
                "age": now - state["learned_at"] if "learned_at" in state else 0,
                "used": sum(state["used"][:past]),
                "ahead": sum(state["used"][past:]),
                "still": max(0, state["until"] - now),
                "throttled": state["throttled"],
                "queue": max(0, state["tail"] - now),
            }
        )

    return {"looks": looks}
