from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def honcho(tmp_path, sqlite_url, broker, sandbox, settings_for):
    """The processes of the Procfile, started as its users start them; Flower's port and their log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shutil.copy(ROOT / "Procfile", tmp_path)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        **settings_for(sqlite_url, broker.url, sandbox.base_url),
        "PATH": beside,
        "PYTHONPATH": str(ROOT),
        "FLOWER_PORT": str(port),
        "FLOWER_UNAUTHENTICATED_API": "true",
    }
    log = tmp_path / "honcho.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "honcho", "start", "worker", "flower"],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        yield port, log
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.mark.slow
def test_honcho_starts_what_the_procfile_names(honcho, until):
    """One process that ends takes the others with it, so a slip in one line is a shop without a worker."""
    port, log = honcho

    def workers():
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as flower:
            try:
                flower.request("GET", "/api/workers?refresh=true")
                return b"celery@" in flower.getresponse().read()
            except (OSError, HTTPException):
                return False

    until(workers, tell=log.read_text)
