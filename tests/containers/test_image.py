from __future__ import annotations

import json

import pytest

#: What compiles or installs: good for whoever has broken in, and for nobody else.
BUILD_TOOLS = ("cc", "gcc", "git", "hatchling", "make", "pip")


#: What the worker and Flower need, with the libraries that wheels bring along; an image that grows past it has taken in
#: something else.
MOST_ADDED_BYTES = 130_000_000

#: Prints the version of Python as JSON.
VERSION = "import json, sys; print(json.dumps(sys.version_info[:3]))"

BILL = "/opt/post-purchase/share/post-purchase/sbom.cdx.json"


@pytest.fixture(scope="module")
def bill(run_image):
    """The components of the image's own bill of materials."""
    return json.loads(run_image("cat", BILL).stdout)["components"]


@pytest.mark.short
def test_the_image_runs_as_nobody_special(image_facts, run_image):
    """A process that breaks out of its container should be nobody on the host."""
    assert "10001:10001" == image_facts["User"]
    assert "10001\n" == run_image("id", "--user").stdout


def test_the_image_works_without_a_file_system_to_write_to_and_without_a_network(run_image):
    """What nobody can write to, nobody can plant anything in."""
    done = run_image("post-purchase", "--version")

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("post-purchase ")


def test_the_image_carries_its_profiles_and_migrations(run_image):
    """It has no checkout beside it, and without these nothing starts."""
    shown = "from worker.resources import migrations_dir, settings_dir; print(migrations_dir(), settings_dir())"

    done = run_image("python", "-c", shown)

    assert 0 == done.returncode, done.stderr
    assert all("/site-packages/worker/_" in folder for folder in done.stdout.split())


def test_the_image_tells_how_it_is_stopped_and_whether_it_is_well(image_facts):
    """An orchestrator that guesses would kill calls in flight, or keep a worker that hears nothing."""
    assert "SIGTERM" == image_facts["StopSignal"]
    assert "inspect ping" in image_facts["Healthcheck"]["Test"][-1]


def test_the_process_itself_gets_the_signals(image_facts):
    """A shell in front would swallow the signal that begins the graceful stop."""
    assert not image_facts.get("Entrypoint")
    assert ["celery", "--app", "worker", "worker"] == image_facts["Cmd"][:4]


def test_the_bill_of_materials_names_every_package_with_its_version(run_image, bill):
    """When a hole is found in a package somewhere, the first question is where that version runs."""
    ask = "import importlib.metadata as m; print(*(f'{each.name}=={each.version}' for each in m.distributions()))"
    installed = run_image("python", "-c", ask).stdout.split()

    named = [f"{each['name']}=={each['version']}" for each in bill if "pkg:deb/" not in each["bom-ref"]]

    assert installed
    assert [] == sorted(set(installed) - set(named))


def test_the_bill_of_materials_names_what_is_below_python_too(run_image, bill):
    """Most holes are in the system's libraries, and the base image brings those."""
    installed = run_image("dpkg-query", "--show", "--showformat=${Package}==${Version} ").stdout.split()
    below = {"cpython=={}.{}.{}".format(*json.loads(run_image("python", "-c", VERSION).stdout)), *installed}

    named = {f"{each['name']}=={each['version']}" for each in bill}

    assert below <= named


def test_the_image_is_small(added_bytes):
    """Each node that runs it has to fetch it, at a moment when workers are short."""
    assert added_bytes < MOST_ADDED_BYTES


@pytest.mark.parametrize("tool", BUILD_TOOLS)
def test_the_image_has_no_build_tools(run_image, tool):
    """What is needed to build is left behind in the stage that builds."""
    done = run_image("sh", "-c", f"command -v {tool}")

    assert "" == done.stdout


def test_the_image_holds_no_secret_and_no_setting(image_facts):
    """Layers and environment of an image are read by everybody who may pull it."""
    names = {entry.partition("=")[0] for entry in image_facts["Env"]}

    assert not [name for name in names if name.startswith(("POST_PURCHASE_", "FLOWER_"))]
