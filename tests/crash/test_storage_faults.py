"""Damaged, missing and full disks: a clear error that names the place, never a wrong answer, and the documented repair works."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from grid import failpoints
from grid.errors import DataFolderForeign, GridError, StorageError, WriteFailed
from grid.storage.log import read_segment
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, Shard
from tests.points import Points, flip

USERS = [f"user-{number}" for number in range(120)]


def fill(shard: Shard, first: int, last: int) -> None:
    for number in range(first, last):
        shard.track([(user, "e", NOW_MS, {"n": 1.0, "c": f"c{number % 5}", "k": f"k{number}"}, None) for user in USERS], number)


def expected(number: int) -> int:
    return number - 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with history, closed segments, a checkpoint, and a log behind it: 30 batches."""
    folder = tmp_path_factory.mktemp("whole") / "shard"
    shard = Shard(folder, EVERY_KIND, keep_log=False)
    fill(shard, 1, 16)
    shard.store.log.roll()
    shard.store.write_history()
    shard.store.checkpoint_all()
    shard.store.checkpoints.compact()
    fill(shard, 16, 31)
    shard.close()
    return folder


def right_or_refused(shard: Shard) -> tuple[int, int]:
    """(users that read right, users whose partition is stopped). Raises when one reads wrong."""
    right = stopped = 0
    for user in USERS:
        partition = int(shard.frame_partition(user))
        if partition in shard.engine.stopped:
            stopped += 1
            continue
        profile = shard.get([user])[0]
        assert profile["count"] == 30, (user, profile["count"])
        assert sum(profile["count_by"].values()) == 30
        right += 1
    return right, stopped


def test_a_flipped_bit_anywhere_stops_what_it_touched_with_its_place_and_repair_serves_the_rest(whole: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    seen = {"right": 0, "stopped": 0, "refused": 0}
    for round_ in range(60):
        folder = tmp_path / f"flip-{round_}"
        shutil.copytree(whole, folder)
        files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size and path.name not in ("OWNER", "LOCK", "LOG", "IDENTITY")]
        victim = rng.choice([path for path in files if not path.name.startswith("OPTIONS") and "rocksdict" not in path.name])
        flip(victim, rng)
        try:
            shard = Shard(folder)
        except StorageError as error:
            assert str(folder) in str(error) or "dictionary" in str(error), error
            seen["refused"] += 1
            continue
        _, stopped = right_or_refused(shard)
        seen["stopped" if stopped else "right"] += 1
        for why in shard.engine.stopped.values():
            assert "page" in why or "manifest" in why or "offset" in why, why
        was_stopped = bool(shard.engine.stopped)
        shard.close()
        if was_stopped:
            repaired(folder)
        shutil.rmtree(folder)
    print(seen)
    assert seen["stopped"] + seen["refused"] > 0


def repaired(folder: Path) -> None:
    """As `repair --accept-loss`: everything serves again, nobody has more than was acknowledged, and a restart finds no damage."""
    shard = Shard(folder, accept_loss=True)
    assert shard.recovery.lost
    assert not shard.engine.stopped
    shard.store.settle_loss()
    assert all(profile["count"] <= 30 for profile in shard.get(USERS))
    fill(shard, 40, 41)
    shard.crash()
    assert not shard.engine.stopped
    assert not shard.recovery.lost
    shard.engine.check()
    shard.close()


@pytest.fixture(scope="module")
def superseded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose SST has what a later checkpoint replaced, beside words, refused rows and erased users that count: 30 batches."""
    folder = tmp_path_factory.mktemp("superseded") / "shard"
    shard = Shard(folder, EVERY_KIND)
    fill(shard, 1, 16)
    shard.store.checkpoints.put_dead_letters([(number.to_bytes(22, "big"), b"letter" * 20) for number in range(500)], 15)
    shard.store.checkpoints.note_erased([(NOW_MS + number, number) for number in range(500)])
    shard.store.checkpoint_all()
    shard.store.checkpoints.compact()
    fill(shard, 16, 31)
    shard.store.checkpoint_all()
    shard.close()
    return folder


def compaction_meets_damage(folder: Path) -> bool:
    """Whether RocksDB takes no write any more since it has looked at everything."""
    shard = Shard(folder)
    try:
        shard.store.checkpoints.compact()
    except WriteFailed as error:
        assert "Corruption" in str(error)
        with pytest.raises(WriteFailed):
            shard.store.checkpoint_all()
        return True
    finally:
        shard.close()
    return False


def test_damage_that_a_compaction_meets_stays_behind_when_the_database_is_made_anew(superseded: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    seen = {"sound": 0, "refused": 0, "right": 0, "letters": 0, "stopped": 0}
    for round_ in range(60):
        folder = tmp_path / f"flip-{round_}"
        shutil.copytree(superseded, folder)
        flip(rng.choice(sorted(folder.rglob("*.sst"))), rng)
        try:
            if not compaction_meets_damage(folder):
                seen["sound"] += 1  # a footer, say, that nobody reads
                continue
            shard = Shard(folder)
        except StorageError:
            seen["refused"] += 1
            continue
        assert (folder / "rocks.damaged").exists() == bool(shard.store.left_out)
        stopped = {why for why in shard.engine.stopped.values() if "page" in why or "manifest" in why}
        assert len(stopped) == len(shard.engine.stopped) <= len(shard.store.left_out)
        seen["stopped" if stopped else "letters" if shard.store.left_out else "right"] += 1
        assert sum(right_or_refused(shard)) == len(USERS)
        letters, erased = shard.store.checkpoints.all_letters(), shard.store.checkpoints.noted_erased()
        assert len(erased) == 500 or any("who was erased" in text for text in shard.store.left_out)
        assert len(letters) == 500 or any("refused rows" in text for text in shard.store.left_out)
        shard.close()
        assert not compaction_meets_damage(folder)
        if stopped:
            repaired(folder)
        shutil.rmtree(folder)
    print(seen)
    assert seen["right"] and seen["stopped"] + seen["letters"]


@pytest.mark.parametrize("point", ["renew.copied", "renew.aside"])
def test_a_crash_while_the_database_is_made_anew_leaves_the_old_or_the_new(superseded: Path, tmp_path: Path, points: Points, point: str) -> None:
    folder = tmp_path / "shard"
    shutil.copytree(superseded, folder)
    (folder / "DAMAGED").write_text("Corruption: block checksum mismatch")
    points.arm(point, "eio")
    with pytest.raises(OSError, match="Input/output error"):
        Shard(folder)
    shard = Shard(folder)
    assert right_or_refused(shard) == (len(USERS), 0)
    assert not (folder / "DAMAGED").exists()
    shard.close()


def test_a_missing_file_is_told_by_name_and_never_read_as_less(whole: Path, tmp_path: Path) -> None:
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.suffix in (".sst", ".log", ".arrow") or path.name in ("CURRENT",)]
    assert {name.suffix for name in names} >= {".sst", ".log", ".arrow"}
    for number, name in enumerate(names):
        folder = tmp_path / f"missing-{number}"
        shutil.copytree(whole, folder)
        (folder / name).unlink()
        try:
            shard = Shard(folder)
        except GridError as error:
            assert str(folder) in str(error), error
        else:
            _, stopped = right_or_refused(shard)
            if name.suffix == ".log" and name.parent.name == "log" and not stopped:
                assert name.stem == "0000000000000001"  # a segment that history and checkpoint cover may go
            shard.close()
        shutil.rmtree(folder)


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Points:
    points = Points(tmp_path / "failpoints")
    monkeypatch.setattr(failpoints, "_folder", points.folder)
    return points


@pytest.mark.parametrize("action", ["eio", "enospc"])
@pytest.mark.parametrize("point", ["log.before_write", "log.written", "log.fsynced"])
def test_after_a_failed_write_nothing_follows_and_what_was_acknowledged_is_there(tmp_path: Path, points: Points, point: str, action: str) -> None:
    shard = Shard(tmp_path / "shard", EVERY_KIND)
    fill(shard, 1, 4)
    points.arm(point, action)
    with pytest.raises(WriteFailed, match=r"\d{16}\.log.*outcome is unknown"):
        fill(shard, 4, 5)
        shard.store.log.sync()
    with pytest.raises(WriteFailed):  # never retried
        fill(shard, 5, 6)
    shard.crash()
    counts = {profile["count"] for profile in shard.get(USERS)}
    assert counts in ({3}, {4})  # wholly there, or wholly absent
    assert point != "log.before_write" or counts == {3}
    shard.track([(user, "e", NOW_MS, {}, None) for user in USERS], 4)  # the retry
    assert {profile["count"] for profile in shard.get(USERS)} == {4}
    shard.close()


@pytest.mark.parametrize("action", ["eio", "enospc"])
@pytest.mark.parametrize("point", ["checkpoint.shard_put", "checkpoint.pages_put", "checkpoint.staged", "checkpoint.installed"])
def test_a_checkpoint_that_fails_leaves_the_one_before_or_is_whole(tmp_path: Path, points: Points, point: str, action: str) -> None:
    shard = Shard(tmp_path / "shard", EVERY_KIND)
    fill(shard, 1, 4)
    shard.store.checkpoint_all()
    fill(shard, 4, 8)
    points.arm(point, action)
    with pytest.raises((WriteFailed, OSError)):
        shard.store.checkpoint_all()
    for _ in range(2):
        shard.crash()
        assert {profile["count"] for profile in shard.get(USERS)} == {7}
        shard.store.checkpoint_all()
    shard.close()


def test_a_compaction_without_room_loses_nothing(tmp_path: Path, points: Points) -> None:
    shard = Shard(tmp_path / "shard", EVERY_KIND)
    fill(shard, 1, 4)
    shard.store.checkpoint_all()
    points.arm("compact.before", "enospc")
    with pytest.raises(OSError, match="No space left"):
        shard.store.checkpoints.compact()
    shard.crash()
    assert {profile["count"] for profile in shard.get(USERS)} == {3}
    shard.close()


def test_a_disk_that_fills_up_refuses_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this machine does not let us mount a small tmpfs")
    try:
        shard = Shard(mount / "shard", EVERY_KIND)
        acknowledged = 0
        with pytest.raises((WriteFailed, OSError)):
            for number in range(1, 4000):
                fill(shard, number, number + 1)
                acknowledged = number
                if number % 40 == 0:
                    shard.store.checkpoint_all()
        assert acknowledged > 3
        shard.close()
        with contextlib.suppress(DataFolderForeign):  # RocksDB needs room to open: it says so
            Shard(mount / "shard").close()
        subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], check=True)  # the operator makes room
        shard = Shard(mount / "shard")
        assert {profile["count"] for profile in shard.get(USERS)} <= {acknowledged, acknowledged + 1}
        shard.close()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)


def test_failpoints_are_off_unless_asked_for() -> None:
    assert failpoints._folder is None or "PROFILEGRID_FAILPOINTS" in os.environ
    failpoints.failpoint("log.written")


def damaged_before_history(folder: Path) -> Shard:
    """A shard whose checkpoint has everything; of the records that history still lacks one is damaged, in its body."""
    shard = Shard(folder, EVERY_KIND, keep_log=False)
    fill(shard, 1, 6)
    shard.store.log.roll()
    fill(shard, 6, 7)
    shard.store.checkpoint_all()
    shard.close()
    segment = sorted((folder / "log").glob("*.log"))[0]
    victim = [record for record in read_segment(segment) if record.header["kind"] == "group"][2]
    assert victim.body is not None
    raw = segment.read_bytes()
    at = raw.index(bytes(victim.body)) + len(victim.body) // 2
    segment.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    return Shard(folder, keep_log=False)


def test_what_a_damaged_record_had_for_history_is_missed_by_no_one_silently(tmp_path: Path) -> None:
    shard = damaged_before_history(tmp_path / "shard")
    assert (right_or_refused_of(shard, 6), shard.store.history.dropped_ms) == (len(USERS), 0), "profiles have it from the checkpoint"
    shard.store.write_history()
    assert shard.store.history.dropped_ms == NOW_MS, "a feature that is backfilled from now on is complete since then only"
    assert shard.store.history.rows == 4 * len(USERS)
    shard.close()


def right_or_refused_of(shard: Shard, count: int) -> int:
    return sum(shard.get([user])[0]["count"] == count for user in USERS)


def test_partitions_that_are_noted_as_damaged_stop_where_there_are_copies_until_they_come_anew(tmp_path: Path) -> None:
    shard = damaged_before_history(tmp_path / "shard")
    ((segment, last),) = shard.store.unwritten_history()
    drafts = list(shard.store.drafts(segment))
    touched = shard.store.touched_by_lost(last)
    assert drafts and touched == set(range(PARTITIONS))
    shard.store.held.forget(3, shard.store.log.next_sequence)
    assert shard.store.touched_by_lost(last) == {0, 1, 2}, "what is to come anew is not asked for again"
    shard.store.held.void[3] = 0
    shard.store.note_damage({1, 2}, "a record is damaged")
    shard.crash()
    assert shard.engine.stopped == {}, "the only copy is served all the same"
    shard.close()
    shard = Shard(tmp_path / "shard", keep_log=False, copied=(1,))
    assert shard.engine.stopped == {1: "a record is damaged"}
    shard.engine.copied[1], shard.engine.epochs[1] = False, 0
    shard.store.discard([1], anew=[1])
    shard.close()
    shard = Shard(tmp_path / "shard", keep_log=False, copied=(1,))
    assert shard.engine.stopped.get(1) != "a record is damaged", "what was noted went with what it was about"
    shard.close()


def test_words_of_a_checkpoint_that_failed_are_kept_by_the_next(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "shard", EVERY_KIND)
    fill(shard, 1, 3)

    class Full:
        """The database, on a disk that is full."""

        def __setitem__(self, key: bytes, value: bytes) -> None:
            raise Exception("IO error: No space left on device")  # as rocksdict does

        def __getattr__(self, name: str) -> object:
            return getattr(whole, name)

    whole, shard.store.checkpoints._db = shard.store.checkpoints._db, Full()
    with pytest.raises(WriteFailed, match="No space left"):
        shard.store.checkpoint_all()
    shard.store.checkpoints._db = whole
    shard.store.checkpoint_all()
    shard.crash()
    for user in USERS[:5]:
        assert shard.get([user])[0]["count_by"] == {"c1": 1, "c2": 1}
    shard.close()
