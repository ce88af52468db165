from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from base64 import b64encode
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def honcho(tmp_path, sqlite_url, broker, sandbox, settings_for):
    """The processes of the Procfile, started as their users do; Flower's port, its password's file and their log."""
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
    }
    environment.pop("FLOWER_BASIC_AUTH", None)
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
        yield port, tmp_path / "var" / "flower" / "password", log
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.mark.slow
def test_honcho_starts_what_the_procfile_names(honcho, until):
    """One process that ends takes the others with it, so a slip in one line is a shop without a worker."""
    port, file, log = honcho

    def workers():
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as flower:
            try:
                credentials = b64encode(f"operator:{file.read_text().strip()}".encode()).decode()
                flower.request("GET", "/api/workers?refresh=true", headers={"Authorization": f"Basic {credentials}"})
                return b"celery@" in flower.getresponse().read()
            except (OSError, HTTPException):
                return False

    until(workers, tell=log.read_text)


@pytest.mark.slow
def test_flower_of_the_procfile_asks_for_a_password_that_no_log_shows(honcho, until):
    """It shows orders, and what supervises processes keeps all that they print."""
    port, file, log = honcho

    def status():
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as flower:
            try:
                flower.request("GET", "/api/workers")
                return flower.getresponse().status
            except (OSError, HTTPException):
                return None

    assert 401 == until(status, tell=log.read_text)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert file.read_text().strip() not in log.read_text()
