from __future__ import annotations

import os
import stat
import sys

import pytest

from worker.cli import flower
from worker.cli.edge import BadInput


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "flower"


@pytest.fixture
def become(monkeypatch, tmp_path):
    """What this process would become: its arguments, and the environment at that moment."""
    seen = []
    monkeypatch.setattr(os, "execv", lambda _program, arguments: seen.append((arguments, dict(os.environ))))
    monkeypatch.chdir(tmp_path)

    return seen


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    """The environment of a developer, which may name a password, left as it was."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop(flower.BASIC_AUTH, None)

    return os.environ


def test_a_password_is_made_once_and_kept_from_others(folder):
    """Flower without a password shows every order to whoever reaches the port."""
    made = flower.basic_auth(folder)

    user, _, password = made.partition(":")
    file = folder / "password"
    assert made == flower.basic_auth(folder)
    assert ("operator", f"{password}\n", 0o600) == (user, file.read_text(), stat.S_IMODE(file.stat().st_mode))
    assert len(password) >= 20
    assert [file] == list(folder.iterdir())


def test_a_new_password_is_shown_on_a_terminal_once(folder, monkeypatch, capsys):
    """Whoever starts it for the first time must get in; later the screen may be somebody else's."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    password = flower.basic_auth(folder).partition(":")[2]
    first = capsys.readouterr().out
    flower.basic_auth(folder)

    assert password in first
    assert "" == capsys.readouterr().out


def test_a_password_is_never_written_into_a_log(folder, capsys):
    """What is not a terminal is kept and copied."""
    password = flower.basic_auth(folder).partition(":")[2]

    shown = capsys.readouterr().out
    assert password not in shown
    assert f"{folder}/password" in shown


def test_a_password_that_others_can_read_is_refused(folder):
    """It is no longer a secret, and the fix is one command."""
    flower.basic_auth(folder)
    (folder / "password").chmod(0o644)

    with pytest.raises(BadInput, match="chmod 600"):
        flower.basic_auth(folder)


@pytest.mark.parametrize("kept", ["", "a,b:c", "pass word", "pässword"])
def test_a_file_that_holds_no_password_is_refused(folder, kept):
    """An empty password would be a door that only looks closed; a comma would make two users of one."""
    flower.basic_auth(folder)
    (folder / "password").write_text(kept, encoding="utf-8")

    with pytest.raises(BadInput, match="delete it"):
        flower.basic_auth(folder)


def test_the_environment_says_who_may_look(folder, environ):
    """Containers get their secrets there, and leave no file; the folder is for what Flower has seen."""
    environ[flower.BASIC_AUTH] = "night:s3cret:x,day:other"

    assert "night:s3cret:x,day:other" == flower.basic_auth(folder)
    assert [] == list(folder.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """Flower would start without it, log a traceback every ten seconds, and keep nothing."""
    (tmp_path / "taken").write_text("a file\n", encoding="utf-8")

    with pytest.raises(BadInput, match="cannot be made"):
        flower.basic_auth(tmp_path / "taken" / "flower")


@pytest.mark.parametrize("given", ["", "nobody", ":s3cret", "night:", "night:s3cret,", "night:s3 cret", "nïght:s3cret"])
def test_users_that_flower_would_misread_are_refused_without_being_shown(folder, environ, given):
    """An empty value must not mean that everybody may look."""
    environ[flower.BASIC_AUTH] = given

    with pytest.raises(BadInput) as refused:
        flower.basic_auth(folder)

    assert given == "" or given not in str(refused.value)


def test_flower_gets_the_password_where_no_other_user_sees_it(run, become, folder):
    """Every user of a machine may list the arguments of every process."""
    done = run("flower", "--folder", folder)

    [(arguments, environment)] = become
    password = (folder / "password").read_text().strip()
    assert 0 == done.code, done.err
    assert f"operator:{password}" == environment[flower.BASIC_AUTH]
    assert password not in " ".join(arguments)


def test_flower_listens_to_this_machine_only_unless_told(run, become, folder):
    """It names orders; a port that is open to a network is a decision of its own."""
    run("flower", "--folder", folder)
    run("flower", "--folder", folder, "--address", "10.0.0.7", "--port", 5556)

    assert [{"--address=127.0.0.1", "--port=5555"}, {"--address=10.0.0.7", "--port=5556"}] == [
        {each for each in arguments if each.startswith(("--address", "--port"))} for arguments, _ in become
    ]


def test_flower_gets_the_profile_and_the_settings_before_the_command(run, become, folder):
    """It has to look at the broker that was named, under its prefix."""
    run("--profile", "sandbox", "--set", "broker.key_prefix=other:", "flower", "--folder", folder)

    [(_, environment)] = become
    assert ("sandbox", "other:") == (
        environment["POST_PURCHASE_PROFILE"],
        environment["POST_PURCHASE_BROKER__KEY_PREFIX"],
    )


def test_settings_that_cannot_be_used_are_told_before_flower_starts(run, become, folder):
    """Celery would show them as a traceback of an import."""
    done = run("--set", "broker.url=nonsense", "flower", "--folder", folder)

    assert (2, []) == (done.code, become)
    assert "broker.url" in done.err


def test_without_flower_the_way_to_it_is_said(run, become, folder, monkeypatch):
    """It is an extra, and Celery only says that there is no such command."""
    monkeypatch.setattr(flower, "find_spec", lambda _name: None)

    done = run("flower", "--folder", folder)

    assert (2, []) == (done.code, become)
    assert "pip install 'post-purchase-worker[flower]'" in done.err
