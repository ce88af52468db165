from __future__ import annotations

import subprocess
import sys

import pytest

LINT_IMPORTS = "import importlinter.cli; importlinter.cli.lint_imports_command()"


@pytest.mark.slow
def test_imports_point_inwards(root):
    """A core that knows no queue, database or network is what lets each of them be replaced and tested alone."""
    done = subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS, "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )

    broken = done.returncode
    assert 0 == broken, done.stdout + done.stderr
