"""Scenario 4 of `limits`: the provider is down for six hours, commands keep coming, and then it is back.

Decides how time is scaled, in which ways the provider is down one after another, and what is counted in tickets, rungs
and sends. Scaled are the times that a command lives by: the ladder, the key window, the patience with 429. Not scaled
are quotas, which are a provider's per second of real time, and what must fit real processes: the timeouts of a call,
leases, the ticks of upkeep and the waits between probes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select

from worker import Command
from worker.domain.state import State
from worker.store.schema import command, pause, reading, ticket, ticket_command

from .machinery import NotInTime, wait_until
from .rig import (
    CAPTURE,
    MANAGEMENT,
    PARTNERS,
    QUOTAS,
    Report,
    Rig,
    Traffic,
    commands,
    in_percent,
    in_seconds,
    share,
    within as count_within,
)
from .stub import ERROR, HANGS, REFUSED

_HOURS_DOWN = 6

_PROCESSES = 4

#: Commands come in, while the provider is down, so many times a real second.
_ARRIVALS = 4

#: What is left of a backlog at its end is not enough for a whole second, nor spread evenly over the partners.
_TAIL = 0.05

_AS_SAID: Mapping[str, str] = {REFUSED: "refuses connections", HANGS: "hangs", ERROR: "answers 503"}

#: What must be 0, and how it is told.
_NOUGHT: Mapping[str, str] = {
    "tickets_of_what_succeeded": "open tickets of commands that succeeded",
    "neither_done_nor_in_a_ticket": "commands are neither done nor in a ticket",
    "doubled": "carried out twice",
}

#: Of each quota while the backlog leaves; less than in a steady run, for it begins slowly.
_LEAST_USED = 0.9

#: A backlog of fewer seconds than this at the full quota is gone before all accounts are at full speed.
_LONG_ENOUGH = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One outage.

    Attributes:
        hour: How many real seconds stand for an hour.
        before: How many real seconds the provider works first.
        at_first: Commands that are stored before; the others come in while it is down.
        in_all: All commands.
        ways: How the provider is down, one after another, for equal parts of the time.
    """

    hour: float
    before: float
    at_first: int
    in_all: int
    ways: Sequence[str]

    def scaled(self, seconds: float) -> float:
        """Return the real seconds that stand for seconds of an outage."""
        return seconds * self.hour / 3_600

    @property
    def settings(self) -> str:
        """The further settings of a profile."""
        ladder = ", ".join(f"{self.scaled(each):.4f}" for each in (5, 300, 18_000))

        return (
            f"\n[retry]\nladder_seconds = [{ladder}]\nkey_window_seconds = {self.scaled(86_400):g}\n"
            "key_margin_seconds = 7.5\n"
            f"throttle_patience_seconds = {self.scaled(3_600):g}\n"
            "\n[http]\nconnect_timeout_seconds = 1\ntotal_timeout_seconds = 2\n"
            "\n[lease]\nseconds = 7\nreserve_seconds = 2\n"
            "\n[read_back]\npause_seconds = 2.5\n"
            "\n[breaker]\nprobe_seconds = 0.5\nprobe_cap_seconds = 2\ninterval_seconds = 0.5\n"
            "\n[dispatch]\nrepublish_seconds = 2\n"
            "\n[sweep]\ninterval_seconds = 1\n"
        )


FULL = tuple(
    Outage(hour=10, before=4, at_first=4_000, in_all=10_000, ways=ways)
    for ways in ((HANGS, ERROR, REFUSED), (ERROR, REFUSED, HANGS), (REFUSED, HANGS, ERROR))
)
SHORT = (Outage(hour=2, before=2, at_first=1_500, in_all=3_000, ways=(HANGS, ERROR, REFUSED)),)


def play(rig: Rig, outage: Outage, report: Report) -> None:
    """Let the provider work, fail and come back; add what came of it to the report."""
    quotas = {category: shared for category, (_, shared) in QUOTAS["production"].items()}
    captures = outage.in_all * quotas[CAPTURE] // sum(quotas.values())
    made = commands({CAPTURE: captures, MANAGEMENT: outage.in_all - captures})
    rig.prepare(environment="production", processes=_PROCESSES, made=made[: outage.at_first], settings=outage.settings)
    time.sleep(outage.before)
    marks = []
    before = rig.cpu()["workers"]
    coming = made[outage.at_first :]
    for number, way in enumerate(outage.ways):
        marks.append((rig.stub.ask("set", down=way)["at"], _AS_SAID[way]))
        part = slice(number * len(coming) // len(outage.ways), (number + 1) * len(coming) // len(outage.ways))
        _come_in(rig, coming[part], within=_HOURS_DOWN * outage.hour / len(outage.ways))
        rig.analyze()
    idle = rig.cpu()["workers"] - before
    standing = rig.unfinished()
    back = rig.stub.ask("set", down="")["at"]
    marks.append((back, "back"))
    left = 0
    try:
        wait_until(lambda: rig.unfinished() == 0, within=120, every=0.2, what="the end of all commands")
    except NotInTime:
        left = rig.unfinished()
    load_average = os.getloadavg()[0]
    with _connected(rig) as connection:
        found = _found(connection)
    traffic = rig.traffic()
    ended = rig.finish()
    down = marks[0][0] - traffic.began
    report.add(
        {
            "scenario": "outage",
            "processes": _PROCESSES,
            "ways": [_AS_SAID[way] for way in outage.ways],
            "down_seconds": round(back - marks[0][0], 1),
            "hour_seconds": outage.hour,
            "commands": len(made),
            "waiting_when_back": standing,
            "not_ended": left,
            "ended": {state: ended[state] for state in ended if state not in {"claims", "sends"}},
            "sends": ended["sends"],
            **found,
            **drained(traffic, back - traffic.began, quotas),
            "arrived_while_down": sum(len(moments) for moments in traffic.unanswered.values()),
            "reads_while_down": count_within(sorted(traffic.reads), down, back - traffic.began),
            "cores_while_down": round(idle / (back - marks[0][0]), 3),
            "effects": traffic.effects,
            "replayed": traffic.repeated,
            "doubled": traffic.doubled,
            "load_average": round(load_average, 1),
        }
    )
    if "outage" not in report.charts:
        report.keep_chart(
            "outage",
            f"The provider is down for {_HOURS_DOWN} hours of {outage.hour:g} s, {_PROCESSES} worker processes",
            traffic=traffic,
            environment="production",
            ends=max(moments[-1] for moments in traffic.admitted.values()) + 1,
            marks=[(at - traffic.began, what) for at, what in marks],
        )


def _come_in(rig: Rig, made: Sequence[Command], *, within: float) -> None:
    """Store commands evenly over so many seconds, as a shop does that does not know."""
    slices = max(1, round(within * _ARRIVALS))
    began = time.monotonic()
    for number in range(slices):
        rig.store(made[number * len(made) // slices : (number + 1) * len(made) // slices])
        time.sleep(max(0.0, began + (number + 1) * within / slices - time.monotonic()))


def _connected(rig: Rig) -> Connection:
    assert rig.services is not None  # noqa: S101  # it was prepared before
    return rig.services.store.engine.connect()


def _found(connection: Connection) -> dict[str, Any]:
    """Count what people would see: tickets, and what became of their commands; and what the outage cost."""
    tickets = connection.execute(
        select(ticket.c.reason, ticket.c.state, func.count()).group_by(ticket.c.reason, ticket.c.state)
    )
    open_links = select(ticket_command.c.command_id).where(ticket_command.c.closed_at.is_(None))
    has_ticket = command.c.id.in_(open_links)
    is_done = command.c.state == State.SUCCEEDED
    linked = select(func.count()).select_from(ticket_command.join(command, command.c.id == ticket_command.c.command_id))
    rungs = connection.execute(select(command.c.failures, func.count()).group_by(command.c.failures))
    pauses = connection.execute(select(func.count(), func.coalesce(func.sum(pause.c.probes), 0))).one()

    return {
        "tickets": {f"{reason}, {state}": int(count) for reason, state, count in tickets},
        "tickets_of_what_succeeded": _count(connection, select(func.count()).where(has_ticket, is_done)),
        "tickets_closed_by_themselves": _count(
            connection, linked.where(is_done, ticket_command.c.closed_at.is_not(None))
        ),
        "neither_done_nor_in_a_ticket": _count(connection, select(func.count()).where(~is_done, ~has_ticket)),
        "commands_by_rungs": {str(failures): int(count) for failures, count in sorted(map(tuple, rungs))},
        "readings": _count(connection, select(func.count()).select_from(reading)),
        "pauses": int(pauses[0]),
        "probes": int(pauses[1]),
    }


def _count(connection: Connection, statement: Select[tuple[int]]) -> int:
    return int(connection.scalar(statement) or 0)


def drained(traffic: Traffic, back: float, quotas: Mapping[str, int]) -> dict[str, Any]:
    """Say how the backlog left: how soon, how fast, and never faster than the quota."""
    after = {category: [at for at in traffic.moments(category)[0] if at > back] for category in quotas}
    refused = sum(at > back for category in quotas for at in traffic.moments(category)[1])
    sent = sum(map(len, after.values()))
    again = _again(traffic, back)

    return {
        "categories": {category: _drain(traffic, category, back, max(again, default=back)) for category in quotas},
        "throttled": share(refused, sent + refused),
        "sends_again_after_seconds": round(min(again) - back, 1) if again else None,
        "all_send_again_after_seconds": round(max(again) - back, 1) if again else None,
        "drained_after_seconds": round(max(max(each) for each in after.values() if each) - back, 1) if sent else None,
        "at_full_quota_seconds": round(max(len(after[category]) / quota for category, quota in quotas.items()), 1),
    }


def _again(traffic: Traffic, back: float) -> list[float]:
    """For each account, its first send after the outage."""
    first: dict[str, float] = {}
    for (_, account), moments in traffic.admitted.items():
        found = min((at for at in moments if at > back), default=None)
        if found is not None:
            first[account] = min(found, first.get(account, found))

    return list(first.values())


def _drain(traffic: Traffic, category: str, back: float, again: float) -> dict[str, Any]:
    """Say how one quota was used, from `again`, when all accounts were sending, to the tail of the backlog."""
    own, quota = QUOTAS["production"][category]
    sent = [at for at in traffic.moments(category)[0] if at > back]
    full = [at for at in sent[: round(len(sent) * (1 - _TAIL))] if at >= again]

    return {
        "quota": quota,
        "sent_after": len(sent),
        "used": share(len(full) - 1, quota * (full[-1] - full[0])) if len(full) > 1 else 0.0,
        "most_in_a_second": traffic.most_in_a_second(category, after=back),
        "partner_quota": own,
        "most_in_a_second_of_a_partner": max(traffic.most_in_a_second(category, who, after=back) for who in PARTNERS),
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Write outages as tables."""
    hour = rows[0]["hour_seconds"]
    lines = [
        f"## The provider is down for {_HOURS_DOWN} hours of {hour:g} s, and then back",
        "",
        (
            "| the provider | commands | left when it is back | ended | succeeded | tickets "
            "| of what succeeded | neither done nor in a ticket | done twice | answered again under the key | load |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        tickets = "; ".join(f"{count} {what}" for what, count in row["tickets"].items()) or "0"
        lines.append(
            f"| {', '.join(row['ways'])} | {row['commands']} | {row['waiting_when_back']} "
            f"| {row['commands'] - row['not_ended']} | {row['ended'].get('succeeded', 0)} | {tickets} "
            f"| {row['tickets_of_what_succeeded']} | {row['neither_done_nor_in_a_ticket']} | {row['doubled']} "
            f"| {row['replayed']} | {row['load_average']} |"
        )
    lines += [
        "",
        (
            "| the provider | rungs lost: 0 / 1 / 2 / 3 / 4 | sends | arrived while it was down | pauses | probes "
            "| cores of the workers meanwhile |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        rungs = " / ".join(str(row["commands_by_rungs"].get(str(number), 0)) for number in range(5))
        lines.append(
            f"| {', '.join(row['ways'])} | {rungs} | {row['sends']} | {row['arrived_while_down']} | {row['pauses']} "
            f"| {row['probes']} | {row['cores_while_down']:.2f} |"
        )
    lines += [
        "",
        (
            "| the provider | sends again after | for all accounts | drained after | at the full quota | captures used "
            "| management used "
            "| 429 | most in a second, captures | management | most of a partner, captures | management |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        capture, management = row["categories"][CAPTURE], row["categories"][MANAGEMENT]
        lines.append(
            f"| {', '.join(row['ways'])} | {in_seconds(row['sends_again_after_seconds'])} "
            f"| {in_seconds(row['all_send_again_after_seconds'])} "
            f"| {in_seconds(row['drained_after_seconds'])} | {in_seconds(row['at_full_quota_seconds'])} "
            f"| {in_percent(capture['used'])} | {in_percent(management['used'])} | {in_percent(row['throttled'])} "
            f"| {capture['most_in_a_second']} of {capture['quota']} "
            f"| {management['most_in_a_second']} of {management['quota']} "
            f"| {capture['most_in_a_second_of_a_partner']} of {capture['partner_quota']} "
            f"| {management['most_in_a_second_of_a_partner']} of {management['partner_quota']} |"
        )

    return lines


def missed(row: Mapping[str, Any]) -> list[str]:
    """Name what is not as it should be after an outage."""
    found = []
    tickets = sum(row["tickets"].values())
    if tickets > len(PARTNERS):
        found.append(f"{tickets} tickets, more than one an account")
    for name, said in _NOUGHT.items():
        if row[name]:
            found.append(f"{row[name]} {said}")
    for category, each in row["categories"].items():
        if row["at_full_quota_seconds"] >= _LONG_ENOUGH and each["used"] < _LEAST_USED:
            found.append(f"{in_percent(each['used'])} of {category} used while draining")

    return found
