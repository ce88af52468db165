from __future__ import annotations

import pytest

#: What compiles or installs: good for whoever has broken in, and for nobody else.
BUILD_TOOLS = ("cc", "gcc", "git", "hatchling", "make", "pip")


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


@pytest.mark.parametrize("tool", BUILD_TOOLS)
def test_the_image_has_no_build_tools(run_image, tool):
    """What is needed to build is left behind in the stage that builds."""
    done = run_image("sh", "-c", f"command -v {tool}")

    assert "" == done.stdout


def test_the_image_holds_no_secret_and_no_setting(image_facts):
    """Layers and environment of an image are read by everybody who may pull it."""
    names = {entry.partition("=")[0] for entry in image_facts["Env"]}

    assert not [name for name in names if name.startswith(("POST_PURCHASE_", "FLOWER_"))]
