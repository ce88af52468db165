from __future__ import annotations

import gzip
import json
import stat
from datetime import timedelta
from uuid import UUID

import pytest

from tests.service.stage import ACCOUNT, Died, Interrupted, die
from worker.domain.errors import CommandClosed, CommandPruned, IdempotencyConflict
from worker.domain.klarna_commands import Capture
from worker.domain.state import State
from worker.ports import ArchiveUnavailable
from worker.service import inspect
from worker.service.operate import Operator
from worker.service.prune import Pruner
from worker.store.archive import FileArchive
from worker.testing.stand_ins import RecordingPublisher

#: Ids carry the real clock, and a test's clock must be ahead of it in any year in which the test is run.
LONG_AFTER = 36_500 * 86_400
RETENTION = timedelta(days=30)


def pruner(stage, *, limit=100, archive=None, store=None):
    return Pruner(store=store or stage.store, retention=RETENTION, limit=limit, archive=archive)


def nonzero(counts):
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def ended():
    """A capture that was carried out long ago, under the reference `parcel-1`."""

    def carry_out(stage, **fields):
        order_id = stage.order()
        command_id = stage.capture(order_id, **{"reference": "parcel-1", **fields})
        stage.execute(command_id)
        stage.advance(LONG_AFTER)
        return command_id, order_id

    return carry_out


@pytest.fixture
def cancelled():
    """A capture that an operator took back long ago."""

    def cancel(stage):
        order_id = stage.order()
        command_id = stage.capture(order_id, reference="parcel-1")
        operator(stage).cancel(command_id)
        stage.advance(LONG_AFTER)
        return command_id, order_id

    return cancel


def operator(stage):
    return Operator(
        store=stage.store,
        publisher=RecordingPublisher(clock=stage.clock),
        accounts=stage.accounts,
        kinds={},
        unkeyed=(),
        by="operator",
        why="customer kept the goods",
    )


def lines(folder):
    files = sorted(folder.rglob("*.jsonl.gz"))

    return [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]


def test_what_ended_before_the_retention_is_removed(each_stage, ended):
    """A table that only grows is slower and dearer each year."""
    old, _ = ended(each_stage)
    young = each_stage.capture()
    each_stage.execute(young)

    counts = pruner(each_stage).run_once()

    assert {"commands": 1} == nonzero(counts)
    with each_stage.store.begin() as transaction:
        assert transaction.find(old) is None
    assert State.SUCCEEDED is each_stage.command(young).state


def test_the_same_command_again_is_the_pruned_one(each_stage, ended):
    """A shop's own queue delivers a message after years; the customer must not pay twice."""
    command_id, order_id = ended(each_stage)
    pruner(each_stage).run_once()
    effects = len(each_stage.effects())

    again = each_stage.capture(order_id, reference="parcel-1")
    each_stage.execute(again)

    assert command_id == again
    assert effects == len(each_stage.effects())


def test_another_payload_under_the_key_of_a_pruned_command_is_a_conflict(each_stage, ended):
    """Which fields differ is forgotten; that something does is not."""
    command_id, order_id = ended(each_stage)
    pruner(each_stage).run_once()

    with pytest.raises(IdempotencyConflict, match=f"command {command_id} is succeeded and was pruned") as raised:
        each_stage.capture(order_id, reference="parcel-1", amount=999)

    assert () == raised.value.fields


def test_the_key_of_a_pruned_command_that_was_cancelled_stays_closed(each_stage, cancelled):
    """It was taken back for good, by somebody with a reason."""
    command_id, order_id = cancelled(each_stage)
    pruner(each_stage).run_once()

    with pytest.raises(CommandClosed, match="is cancelled") as raised:
        each_stage.capture(order_id, reference="parcel-1")

    assert command_id == raised.value.command_id


def test_a_refused_call_leaves_nothing_of_itself(each_stage, cancelled):
    """All of a call is stored or none, where one of its keys is of a pruned command too."""
    _, order_id = cancelled(each_stage)
    pruner(each_stage).run_once()
    closed = Capture(account=ACCOUNT, order_id=order_id, amount=1000, reference="parcel-1")
    other = Capture(account=ACCOUNT, order_id=each_stage.order(), amount=1000)

    with pytest.raises(CommandClosed):
        each_stage.enqueue_many([other, closed])

    assert [] == each_stage.commands()


@pytest.mark.parametrize("named_by", ["id", "idempotency_key"])
def test_show_tells_how_a_pruned_command_ended(stage, ended, named_by):
    """A customer asks, and the answer is not that there never was such a payment."""
    command_id, _ = ended(stage)
    key = stage.command(command_id).idempotency_key
    named = command_id if named_by == "id" else UUID(key)
    pruner(stage).run_once()

    with (
        stage.store.begin() as transaction,
        pytest.raises(CommandPruned, match="is succeeded since 2026-11-22") as told,
    ):
        inspect.show(transaction, named, accounts=stage.accounts, fallback=stage.accounts[ACCOUNT].policy)

    assert (str(command_id), key) == (told.value.command_id, told.value.idempotency_key)


def test_show_finds_a_command_by_its_key(stage):
    """The key is what stands in the provider's portal and in the shop's logs."""
    command_id = stage.capture()
    key = UUID(stage.command(command_id).idempotency_key)

    with stage.store.begin() as transaction:
        shown = inspect.show(transaction, key, accounts=stage.accounts, fallback=stage.accounts[ACCOUNT].policy)

    assert str(command_id) == shown["id"]


def test_no_verb_takes_a_pruned_command(stage, ended):
    """There is nothing left to act on, and the operator learns why."""
    command_id, _ = ended(stage)
    pruner(stage).run_once()

    with pytest.raises(CommandPruned):
        operator(stage).cancel(command_id)


def test_each_run_removes_a_bounded_number(stage):
    """A transaction of a million rows would hold up everybody."""
    for _ in range(5):
        stage.execute(stage.capture())
    stage.advance(LONG_AFTER)
    prune = pruner(stage, limit=2)

    removed = [prune.run_once()["commands"] for _ in range(4)]

    assert [2, 2, 1, 0] == removed


def test_what_has_to_stay_is_passed_over_and_looked_at_again(stage, ended):
    """What could not go in one pass goes in a later one."""
    stays = stage.unreadable(reference="ack")
    stage.world.fault("status", status=403, code="NOT_ALLOWED")
    stage.execute(stays)
    gone, _ = ended(stage)
    prune = pruner(stage, limit=1)
    before = [prune.run_once()["commands"] for _ in range(3)]

    operator(stage).resolve(stays)
    after = [prune.run_once() for _ in range(2)]

    assert [1, 0, 0] == before
    assert {"commands": 1, "tickets": 1} == nonzero(sum(after, start=type(after[0])()))
    assert gone != stays


def test_a_preview_changes_nothing(stage, ended):
    """It is what somebody looks at before they dare."""
    command_id, _ = ended(stage)

    found = [each for batch in pruner(stage, limit=1).preview() for each in batch]

    assert [(command_id, ACCOUNT, State.SUCCEEDED)] == [(each.id, each.account, each.state) for each in found]
    assert State.SUCCEEDED is stage.command(command_id).state
    with stage.store.begin() as transaction:
        assert transaction.find_pruned(command_id) is None


def test_nothing_to_prune_is_said_in_zeros(stage):
    """Upkeep asks every few seconds, for ever."""
    assert {"commands": 0, "tickets": 0, "left": 0, "waiting": 0} == pruner(stage).run_once()


def test_a_command_is_in_the_archive_before_it_is_gone(each_stage, ended, tmp_path):
    """What was paid, when and on whose order must be known for as long as the law asks."""
    command_id, order_id = ended(each_stage)

    pruner(each_stage, archive=FileArchive(tmp_path / "archive")).run_once()

    (line,) = lines(tmp_path)
    assert (str(command_id), order_id, "succeeded", 1) == (
        *(line["id"], line["order_id"], line["state"], len(line["outcomes"])),
    )
    assert 1000 == json.loads(line["payload"])["captured_amount"]


def test_nobody_but_the_worker_reads_the_archive(stage, ended, tmp_path):
    """It holds payloads, which may be somebody's address."""
    ended(stage)

    pruner(stage, archive=FileArchive(tmp_path / "archive")).run_once()

    (file,) = (tmp_path / "archive").rglob("*.jsonl.gz")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert [0o600, 0o700, 0o700] == modes


def test_a_crash_between_archive_and_removal_leaves_the_row(each_stage, ended, tmp_path):
    """The archive then has a line twice, which its reader tells by the id; the database has lost nothing."""
    command_id, _ = ended(each_stage)
    archive = FileArchive(tmp_path)
    with pytest.raises(Died):
        pruner(each_stage, archive=Interrupted(archive, after="keep", then=die)).run_once()
    left = each_stage.command(command_id)

    counts = pruner(each_stage, archive=archive).run_once()

    assert (command_id, 1) == (left.id, counts["commands"])
    assert [str(command_id)] * 2 == [line["id"] for line in lines(tmp_path)]


def test_a_crash_after_the_key_is_kept_leaves_a_command_like_any_other(each_stage, ended):
    """Its key is in the narrow table already; the row is still the truth."""
    command_id, order_id = ended(each_stage)
    with pytest.raises(Died):
        pruner(each_stage, store=Interrupted(each_stage.store, after="begin", then=die)).run_once()
    again = each_stage.capture(order_id, reference="parcel-1")

    counts = pruner(each_stage).run_once()

    assert command_id == again
    assert 1 == counts["commands"]


def test_an_archive_that_cannot_be_written_keeps_the_rows(stage, ended, tmp_path):
    """A full disk must not cost the books."""
    command_id, _ = ended(stage)
    (tmp_path / "archive").write_text("a file where a folder should be")

    with pytest.raises(ArchiveUnavailable, match="archive"):
        pruner(stage, archive=FileArchive(tmp_path / "archive")).run_once()

    assert State.SUCCEEDED is stage.command(command_id).state


def test_half_a_file_is_never_taken_for_the_archive(stage, ended, tmp_path, monkeypatch):
    """The power may go in the middle of a write."""
    command_id, _ = ended(stage)

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ArchiveUnavailable, match="No space left on device"):
        pruner(stage, archive=FileArchive(tmp_path)).run_once()
    monkeypatch.undo()

    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]
    assert State.SUCCEEDED is stage.command(command_id).state
