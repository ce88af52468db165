from __future__ import annotations

import json
import socket
import time

import pytest

from worker.wiring import Services

#: A commit takes its time on a busy machine; hanging on a broker takes far longer.
SECONDS_WITH_A_BROKER_AWAY = 15


@pytest.fixture
def environment(environment, database_url):
    """All of it on both databases: which row a conflict is about is found by what the database says."""
    return environment | {"POST_PURCHASE_DATABASE__URL": database_url}


def test_every_line_is_stored_and_named(run_json, file, capture):
    """A script that enqueues goes on with the ids."""
    lines = file(capture(reference="r-1"), "", capture(kind="refund", reference="r-2"), "   ", capture(reference="r-3"))

    rows = run_json("enqueue", lines)

    assert [1, 3, 5] == [row["line"] for row in rows]
    assert ["capture", "refund", "capture"] == [row["kind"] for row in rows]
    assert [True] * 3 == [row["was_stored"] for row in rows]
    assert {"line", "id", "kind", "account", "order_id", "idempotency_key", "state", "was_stored"} == set(rows[0])
    assert {row["id"] for row in rows} == {command["id"] for command in run_json("list")}


def test_commands_keep_the_order_of_their_lines(run_json, file, capture):
    """A refund that overtook its capture would be refused by the provider."""
    lines = [capture(reference=f"r-{number}", order_id=f"o-{number % 7}") for number in range(500)]

    run_json("enqueue", file(*lines))

    listed = run_json("list", "--limit", 500)
    assert [line["reference"] for line in lines] == [command["reference"] for command in reversed(listed)]


def test_stdin_is_a_file_as_well(run_json, capture, count):
    """Programs write lines; a detour over a file leaves personal data lying about."""
    (row,) = run_json("enqueue", "-", stdin=json.dumps(capture()))

    assert "order-1" == row["order_id"]
    assert 1 == count()


def test_a_line_may_end_as_windows_ends_it(run_json, file, capture):
    """Files come from everywhere."""
    assert 2 == len(run_json("enqueue", file(json.dumps(capture()) + "\r", json.dumps(capture()) + "\r")))


def test_nothing_to_store_is_no_mistake_and_is_said(run, file):
    """A nightly job has quiet nights; an export that failed looks like one, and should be seen in its log."""
    done = run("enqueue", file("", "  "), "--json")

    assert (0, "[]\n") == (done.code, done.out)
    assert "holds no command" in done.err


def test_the_same_file_again_stores_nothing_twice(run_json, file, capture, count):
    """After a crash nobody knows whether the file went through; enqueuing it again must be safe."""
    lines = file(capture(reference="r-1"), capture(reference="r-2"))
    first = run_json("enqueue", lines)

    second = run_json("enqueue", lines)

    assert [row["id"] for row in first] == [row["id"] for row in second]
    assert [False, False] == [row["was_stored"] for row in second]
    assert 2 == count()


def test_a_line_twice_in_a_file_is_one_command(run_json, file, capture, count):
    """The same reference is the same intention, however often it is written down."""
    rows = run_json("enqueue", file(capture(reference="r-1"), capture(reference="r-1")))

    assert [True, False] == [row["was_stored"] for row in rows]
    assert 1 == len({row["id"] for row in rows})
    assert 1 == count()


def test_people_see_lines_and_a_sum(run, file, capture):
    """Off a terminal a table is lines with tabs: `cut` and spreadsheets read it."""
    done = run("enqueue", file(capture(reference="r-1"), capture(reference="r-1")))

    heading, first, second = done.out.splitlines()
    assert ["line", "id", "kind", "account", "order", "idempotency key", "state", "new"] == heading.split("\t")
    assert ["capture", "klarna-eu", "order-1"] == first.split("\t")[2:5]
    assert ["yes", "no"] == [line.split("\t")[-1] for line in (first, second)]
    assert "post-purchase: 1 stored, 1 known already" in done.err


# --- conflicts ---------------------------------------------------------------------------------------------


def test_a_conflict_with_what_is_stored_is_named_with_its_line(run, run_json, file, capture, count):
    """The same reference with another amount: one of the two is wrong, and a person must say which."""
    (first,) = run_json("enqueue", file(capture(reference="r-1")))
    lines = file(capture(reference="new"), capture(reference="r-1", amount=999))

    done = run("enqueue", lines)

    assert (2, "", 2) == (done.code, done.out, done.err.count("\n"))
    assert "line 2: A command with this idempotency key is stored already, with another payload: " in done.err
    assert f"command {first['id']} differs in captured_amount" in done.err
    assert 1 == count()


def test_a_conflict_within_the_file_names_both_lines(run, file, capture, count):
    """The reader looks at the file, so the other line helps him more than an id that was never stored."""
    lines = file(capture(reference="r-1"), capture(reference="r-2"), capture(reference="r-1", amount=999))

    done = run("enqueue", lines)

    assert 2 == done.code
    assert "line 3: repeats the reference of line 1, but differs from it in captured_amount" in done.err
    assert 0 == count()


def test_every_conflict_is_listed_however_large_the_file(run, run_json, file, capture, count):
    """Lines are stored in batches; the number must be that of the file and not that of the batch."""
    run_json("enqueue", file(*(capture(reference=f"known-{number}") for number in range(3))))
    lines = [capture(reference=f"r-{number}") for number in range(1300)]
    lines[450] = capture(reference="known-0", amount=1)
    lines[451] = capture(reference="known-1", amount=1)
    lines[1299] = capture(reference="r-7", amount=1)

    done = run("enqueue", file(*lines))

    assert 2 == done.code
    assert ["451", "452", "1300"] == [
        line.split(" line ")[1].split(":")[0] for line in done.err.splitlines() if " stored already" in line
    ] + [line.split(" line ")[1].split(":")[0] for line in done.err.splitlines() if " line 8," in line]
    assert 3 == count()


def test_a_reference_whose_command_was_rejected_is_named_with_its_line(run, rejected, file, capture, count):
    """Enqueuing it again cannot help; what should happen now needs a reference of its own."""
    rejected(reference="r-1")

    done = run("enqueue", file(capture(reference="new"), capture(reference="r-1")))

    assert 2 == done.code
    assert "line 2: The command with this idempotency key has ended without effect" in done.err
    assert 1 == count()


def test_a_file_full_of_conflicts_is_given_up(run, run_json, file, capture, monkeypatch):
    """It is the wrong file; naming the first of them says so as well."""
    monkeypatch.setattr("worker.cli.enqueue._MOST_REFUSALS", 10)
    run_json("enqueue", file(*(capture(reference=f"r-{number}") for number in range(900))))

    done = run("enqueue", file(*(capture(reference=f"r-{number}", amount=1) for number in range(900))))

    assert 2 == done.code
    assert 400 == done.err.count(" line ")


# --- the database and the broker ---------------------------------------------------------------------------


def test_a_crash_in_the_middle_stores_nothing(run, file, capture, count, monkeypatch):
    """One transaction holds the file; its batches are an affair of this program."""
    batches = []
    original = Services.enqueue

    def enqueue(self, connection, commands):
        batches.append(len(commands))
        if len(batches) == 3:
            raise MemoryError
        return original(self, connection, commands)

    monkeypatch.setattr(Services, "enqueue", enqueue)

    with pytest.raises(MemoryError):
        run("enqueue", file(*(capture(reference=f"r-{number}") for number in range(1000))))
    monkeypatch.undo()

    assert [400, 400, 200] == batches
    assert 0 == count()


def test_a_broker_that_refuses_does_not_fail_the_enqueue(run, file, capture, count):
    """The row is the truth; dispatch hands it out once the broker is back."""
    began = time.monotonic()

    done = run("enqueue", file(capture(reference="r-1"), capture(reference="r-2")), BROKER__URL="redis://127.0.0.1:1/0")

    assert 0 == done.code
    assert SECONDS_WITH_A_BROKER_AWAY > time.monotonic() - began
    assert 2 == count()


def test_a_broker_that_swallows_everything_does_not_hang_the_enqueue(run, file, capture, count):
    """A firewall that drops packets is the outage that hangs careless programs for ever."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        url = f"redis://127.0.0.1:{hole.getsockname()[1]}/0"
        began = time.monotonic()

        done = run("enqueue", file(capture(reference="r-1"), capture(reference="r-2")), BROKER__URL=url)

    assert 0 == done.code
    assert SECONDS_WITH_A_BROKER_AWAY > time.monotonic() - began
    assert 2 == count()
