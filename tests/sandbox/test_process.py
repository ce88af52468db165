import json
import signal
import subprocess
import sys
import threading

import pytest

from worker.sandbox import SandboxControl, SandboxError, serve


@pytest.fixture
def start():
    """A sandbox in a process of its own, with its two addresses."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.sandbox", "--port=0", "--control-port=0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        words = process.stdout.readline().split()
        return (process, words[1], SandboxControl(words[3])) if words else (process, None, None)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_sandbox_process_serves_until_it_is_told_to_stop(start, new_shop, stop):
    """A supervisor stops it like any other process, and what hangs does not hold it up."""
    process, base_url, control = start("--create-orders=700")
    shop = new_shop(base_url)

    captured = shop.capture("any-id", 700)
    control.fault("hang")
    shop.begin("GET", "/elsewhere")
    effects = control.effects()
    process.send_signal(stop)

    assert (201, 0) == (captured.status, process.wait(timeout=10))
    assert [700] == [effect["amount"] for effect in effects]
    assert "" == process.stderr.read()


def test_a_sandbox_process_begins_with_the_orders_of_a_file(start, tmp_path):
    """A demonstration needs its orders before the first command arrives."""
    orders = [{"order_id": "a", "amount": 100}, {"order_id": "b", "currency": "SEK", "status": "CAPTURED"}]
    path = tmp_path / "orders.jsonl"
    path.write_text("\n\n".join(json.dumps(order) for order in orders) + "\n")

    _, _, control = start(f"--orders-file={path}")

    assert [100, "CAPTURED"] == [control.order("a")["order_amount"], control.order("b")["status"]]
    assert [] == control.effects()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'{"amount": 1}\n{"amount": "x"}\n', "line 2: amount cannot be 'x'"),
        (b'{"order_id": "a"}\n{\n', "line 2: "),
        (b"[]", "line 1: an order must be a JSON object"),
        (b'{"order_id": "\xff"}', "line 1: "),
    ],
)
def test_a_wrong_line_of_the_orders_file_is_named(tmp_path, text, sentence):
    """With a thousand lines, the number is half of the fix."""
    path = tmp_path / "orders.jsonl"
    path.write_bytes(text)

    with pytest.raises(SandboxError, match="line") as caught:
        serve(orders_file=path)

    assert f"{path} {sentence}" in str(caught.value)


def test_a_missing_orders_file_is_named(tmp_path):
    """The path is the fix."""
    with pytest.raises(SandboxError, match=r"cannot read the orders file .*nowhere\.jsonl"):
        serve(orders_file=tmp_path / "nowhere.jsonl")


def test_serve_tells_when_both_ports_accept_connections():
    """Whoever starts it must know when to begin, and where."""
    heard = []

    def ready(base_url, control_url):
        heard.append(SandboxControl(control_url).health()["base_url"] == base_url)
        signal.raise_signal(signal.SIGTERM)

    def ask_elsewhere(base_url, control_url):
        # `ready` runs on the loop that serves, so the question has to come from another thread.
        threading.Thread(target=ready, args=(base_url, control_url)).start()

    serve(port=0, control_port=0, ready=ask_elsewhere)

    assert [True] == heard


def test_the_package_imports_nothing_else_of_worker():
    """Sharing code with the adapter would mean sharing its mistakes; only the empty face of the package is above it."""
    program = (
        "import sys, types; face = types.ModuleType('worker'); face.__path__ = ['worker'];"
        "sys.modules['worker'] = face; import worker.sandbox;"
        "print(*(name for name in sys.modules if name.startswith('worker.')))"
    )

    seen = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split()

    assert {True} == {name.startswith("worker.sandbox") for name in seen}
