from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import pytest

DATA_FOLDERS = ("migrations", "settings")

SHOW_RESOURCES = """
import json
from worker.resources import migrations_dir, settings_dir
print(json.dumps({"migrations": str(migrations_dir()), "settings": str(settings_dir())}))
"""


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def python(code, *, cwd, path):
    """Run code in a fresh interpreter that finds `path` before anything installed."""
    search = os.pathsep.join(str(folder) for folder in path)
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_owns_one_name(wheel):
    """A second name on a host's path could hide the host's own package."""
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.split("/")[0] for name in names}

    assert {"worker", "post_purchase_worker-0.1.0.dist-info"} == tops


def test_the_wheel_is_typed(wheel):
    """Without the marker, a host's type checker sees nothing of the public face."""
    assert "worker/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_carries_the_licence_and_the_command(wheel):
    """A wheel without its licence may not be passed on, and one without the command cannot be operated."""
    archive = zipfile.ZipFile(wheel)
    info = "post_purchase_worker-0.1.0.dist-info"

    commands = archive.read(f"{info}/entry_points.txt").decode()

    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "post-purchase = worker.cli:main" in commands
    assert "[pytest11]\npost_purchase = worker.testing.plugin" in commands


@pytest.mark.parametrize("folder", DATA_FOLDERS)
def test_the_wheel_carries_the_data_folder_as_the_checkout_has_it(installed, root, folder):
    """A profile or a migration left out would be noticed only by whoever installs the wheel."""
    expected = files_below(root / folder)

    shipped = files_below(installed / "worker" / f"_{folder}")

    assert expected
    assert expected == shipped


@pytest.mark.parametrize("folder", DATA_FOLDERS)
def test_data_folders_are_not_packages(root, folder):
    """A host project may own this name, and the first package on the path would win."""
    assert [] == list((root / folder).rglob("__init__.py"))


def test_an_installed_wheel_finds_its_own_data(installed, tmp_path):
    """An installed worker has no checkout beside it."""
    found = json.loads(python(SHOW_RESOURCES, cwd=tmp_path, path=[installed]))

    assert {folder: str(installed / "worker" / f"_{folder}") for folder in DATA_FOLDERS} == found


def test_a_checkout_finds_its_own_data(root, tmp_path):
    """An editable install must read the files that are being edited, not a copy."""
    found = json.loads(python(SHOW_RESOURCES, cwd=tmp_path, path=[root]))

    assert {folder: str(root / folder) for folder in DATA_FOLDERS} == found


def test_a_host_keeps_its_own_settings_migrations_and_tests(installed, tmp_path):
    """These are the most usual names there are; a worker that took one of them could not be installed beside it."""
    for name in (*DATA_FOLDERS, "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'host'\n")
    code = "import migrations, settings, tests, worker; print(migrations.OWNER, settings.OWNER, tests.OWNER)"

    owners = python(code + "\n" + SHOW_RESOURCES, cwd=tmp_path, path=[tmp_path, installed]).splitlines()

    assert "host host host" == owners[0]
    assert {str(installed / "worker" / f"_{folder}") for folder in DATA_FOLDERS} == set(json.loads(owners[1]).values())


def test_a_wheel_without_its_data_never_reads_the_folders_of_its_neighbours(installed, tmp_path):
    """Running a host's migrations because ours are missing would be worse than stopping."""
    (tmp_path / "site").mkdir()
    for source in (installed / "worker").rglob("*.py"):
        if not {"_migrations", "_settings"} & set(source.parts):
            target = tmp_path / "site" / source.relative_to(installed)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "site" / "migrations").mkdir()
    (tmp_path / "site" / "migrations" / "env.py").write_text("raise SystemExit('the host was run')\n")
    code = (
        "from worker.resources import ResourcesMissing, migrations_dir\n"
        "try:\n    migrations_dir()\nexcept ResourcesMissing as missing:\n    print(missing)"
    )

    said = python(code, cwd=tmp_path / "site", path=[tmp_path / "site"])

    assert "pip install --force-reinstall post-purchase-worker" in said
