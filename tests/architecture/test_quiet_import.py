from __future__ import annotations

import json
import subprocess
import sys

#: Importing is work for the processor alone; twice what it takes on a slow machine, and far below what a person minds.
CPU_SECONDS = 2.0

#: Runs in an interpreter of its own. Everything Python does to the outside world passes its audit hooks.
WATCHED_IMPORT = """
import json, logging, os, sys, threading, time

seen = []
REACHING_OUT = ("socket.connect", "socket.bind", "socket.getaddrinfo", "sqlite3.connect", "subprocess.", "os.fork")

def watch(event, arguments):
    if event.startswith(REACHING_OUT):
        seen.append(f"{event} {arguments!r}")
    elif event == "open":
        path, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(f"write {path}")
    elif event in ("os.mkdir", "os.remove", "os.rename"):
        seen.append(f"{event} {arguments!r}")

class Recorder(logging.Handler):
    def emit(self, record):
        seen.append(f"log {record.getMessage()}")

recorder = Recorder()
logging.getLogger().addHandler(recorder)
logging.getLogger().setLevel(logging.DEBUG)
sys.addaudithook(watch)
began = time.process_time()

import worker

worker.Capture

print(json.dumps({
    "seen": seen,
    "cpu_seconds": time.process_time() - began,
    "threads": threading.active_count(),
    "handlers": [repr(handler) for handler in logging.getLogger().handlers if handler is not recorder],
}))
"""


def test_importing_the_package_does_nothing_to_the_world(root):
    """A host imports `worker` in every process of its web server, long before anything is configured."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED_IMPORT], cwd=root, env={}, capture_output=True, text=True, check=False
    )

    assert (0, "") == (done.returncode, done.stderr)
    report = json.loads(done.stdout)
    assert [] == report["seen"]
    assert [] == report["handlers"]
    assert 1 == report["threads"]
    assert report["cpu_seconds"] < CPU_SECONDS
