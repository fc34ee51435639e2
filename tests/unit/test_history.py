"""History files: every accepted event of living users, once, readable by any Arrow tool; damage and crashes are noticed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from grid.errors import HistoryCorrupt
from grid.storage import history as history_module
from grid.storage.history import DAY_MS, MERGE_FILES
from grid.storage.past import frame_of_past
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, Shard, past_rows

USERS = [f"user-{number}" for number in range(40)]


@pytest.fixture(autouse=True, params=[500, 2])
def drafts_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment's frames all at once, and in pieces."""
    monkeypatch.setattr("grid.storage.store.DRAFTS_MAX", request.param)


def made(shard: Shard) -> list[dict[str, Any]]:
    """Everything logged so far brought into history, as rows."""
    shard.store.log.roll()
    shard.store.write_history()
    return past_rows(shard)


def tracked(shard: Shard, number: int, users: list[str] = USERS, **properties: Any) -> None:
    shard.track([(user, "e", NOW_MS + number, {"n": 1.5, "k": f"k{number}", **properties}, None) for user in users], number)


def test_history_has_every_accepted_event_once_with_its_time_and_properties(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    shard.track([("ann", "e", NOW_MS, {"n": 1.5, "i": 2**53 + 1, "c": "鞋", "b": True}, "id-1"), ("ann", "f", NOW_MS - 5, {}, None)], 1)
    shard.track([("bob", "e", NOW_MS, {"n": float("nan")}, None), ("bob", "e", NOW_MS, {"k": "x"}, None)], 2)
    shard.track([("ann", "e", NOW_MS, {"n": 1.5}, "id-1")], 1)  # a retry
    rows = {(row["user"], row["@event"], row["@time"].timestamp() * 1000): row for row in made(shard)}
    assert set(rows) == {("ann", "e", NOW_MS), ("ann", "f", NOW_MS - 5), ("bob", "e", NOW_MS)}
    assert sum(file.rows for file in shard.store.history.files) == 3
    ann = rows["ann", "e", NOW_MS]
    assert (ann["n"], ann["i"], ann["c"], ann["b"], ann["@event_id"]) == (1.5, 2**53 + 1, "鞋", True, "id-1")
    assert rows["bob", "e", NOW_MS]["k"] == "x"
    shard.close()


def test_a_file_is_sorted_by_user_and_time_and_plain_arrow_reads_it(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in (3, 1, 2):
        tracked(shard, number)
    made(shard)
    for file in shard.store.history.files:
        with pa.OSFile(str(tmp_path / "history" / file.name)) as source:
            table = pa.ipc.open_file(source).read_all()
        keys = list(zip(table["@ordinal"].to_pylist(), table["@time"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        assert (file.rows, file.first_position, file.last_position) == (
            table.num_rows,
            min(table["@position"].to_pylist()),
            max(table["@position"].to_pylist()),
        )
    shard.close()


def test_a_file_keeps_only_the_words_it_uses(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    shard.track([(user, "e", NOW_MS, {"k": f"word of {user}"}, None) for user in USERS], 1)
    made(shard)
    for file in shard.store.history.files:
        column = shard.store.history.read(file)["k"].combine_chunks()
        words = column.chunk(0).dictionary if isinstance(column, pa.ChunkedArray) else column.dictionary
        assert len(words) == file.rows
    shard.close()


def test_a_property_whose_type_changed_has_a_column_for_each_type(tmp_path: Path) -> None:
    small = {"events": {"e": {"n": "float"}}, "features": {"count": {"count": "e"}}}
    shard = Shard(tmp_path, small)
    shard.track([("ann", "e", NOW_MS, {"n": 1.5}, None)], 1)
    shard.apply_catalog({**small, "events": {"e": {"n": "category"}}})
    shard.track([("ann", "e", NOW_MS, {"n": "many"}, None)], 2)
    rows = made(shard)
    assert sorted(str(row["n"]) + "/" + str(row.get("n:category")) for row in rows) == ["1.5/None", "None/many"]
    (file,) = shard.store.history.files
    assert sorted((column.name, column.type) for column in frame_of_past(shard.store.history.read(file)).columns) == [("n", "float"), ("n", "text")]
    shard.close()


def test_merging_joins_small_neighbours_of_a_day_and_changes_no_row(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in range(1, MERGE_FILES + 1):
        tracked(shard, number, USERS[: number + 10])
        made(shard)
    before = Counter((row["user"], row["@time"], row["@position"], row["k"]) for row in past_rows(shard))
    files = Counter(file.partition for file in shard.store.history.files)
    assert max(files.values()) == MERGE_FILES
    while shard.store.history.merge():
        pass
    merged = {partition: 1 if count == MERGE_FILES else count for partition, count in files.items()}
    assert Counter(file.partition for file in shard.store.history.files) == merged
    assert Counter((row["user"], row["@time"], row["@position"], row["k"]) for row in past_rows(shard)) == before
    assert {path.name for path in (tmp_path / "history").iterdir()} == {file.name for file in shard.store.history.files}
    shard.crash()
    assert Counter((row["user"], row["@time"], row["@position"], row["k"]) for row in past_rows(shard)) == before
    shard.close()


def test_files_of_different_days_stay_apart(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in range(1, MERGE_FILES + 1):
        shard.track([("ann", "e", NOW_MS, {}, None)], number, now_ms=NOW_MS + (number // 5) * DAY_MS)
        made(shard)
    assert shard.store.history.merge() == 0
    shard.close()


def test_retention_drops_the_oldest_files_by_age_and_by_size_and_remembers_how_far_history_goes(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in range(1, 5):
        shard.track([("ann", "e", NOW_MS, {}, None)], number, now_ms=NOW_MS + number * DAY_MS)
        made(shard)
    history = shard.store.history
    assert history.drop_old(NOW_MS, 1 << 40) == 0
    assert history.drop_old(NOW_MS + 2 * DAY_MS, 1 << 40) == 1
    assert history.dropped_ms == NOW_MS + DAY_MS
    assert history.drop_old(0, history.files[-1].nbytes) == 2
    shard.crash()
    assert [file.received_ms for file in shard.store.history.files] == [NOW_MS + 4 * DAY_MS]
    assert shard.store.history.dropped_ms == NOW_MS + 3 * DAY_MS
    shard.close()


def test_an_erased_user_is_left_out_and_one_of_the_same_id_later_is_another(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    shard.delete(["user-3"], 1)
    tracked(shard, 2, ["user-3"])
    rows = [row for row in made(shard) if row["user"] == "user-3"]
    assert [row["k"] for row in rows] == ["k2"]
    assert sum(file.rows for file in shard.store.history.files) == len(USERS)
    shard.close()


def test_files_made_before_an_erasure_are_rewritten_without_the_user(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    made(shard)
    handle = int(shard.engine.users.handles_of(shard.find(["user-3"]))[0])
    history = shard.store.history
    assert history.forget({handle >> 32: np.array([handle & 0xFFFFFFFF], dtype=np.uint32)}) == 1
    assert "user-3" not in {row["user"] for row in past_rows(shard)}
    assert history.rows == len(USERS) - 1
    assert history.forget({handle >> 32: np.array([handle & 0xFFFFFFFF], dtype=np.uint32)}) == 0
    shard.close()


def test_erasures_outlive_crashes_and_checkpoints_until_they_are_done(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    shard.delete(["user-1", "user-2", "nobody"], 1)
    shard.store.checkpoint_all()
    shard.crash()
    assert len(shard.engine.erasures.pending) == 3
    assert sorted(erasure.ordinal < 0 for erasure in shard.engine.erasures.pending) == [False, False, True]
    positions = shard.engine.positions.copy()
    shard.store.checkpoints.put_erased(positions.tobytes())
    shard.engine.erasures.finish(positions)
    shard.delete(["user-4"], 2)
    shard.crash()
    assert len(shard.engine.erasures.pending) == 1
    shard.close()


def test_a_crash_between_a_file_and_the_list_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    shard.store.log.roll()

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(history_module.History, "_commit", crash)
    with pytest.raises(KeyboardInterrupt):
        shard.store.write_history()
    monkeypatch.undo()
    assert list((tmp_path / "history").iterdir())
    shard.crash()
    assert not list((tmp_path / "history").iterdir())
    assert len(made(shard)) == len(USERS)
    shard.close()


def test_a_damaged_or_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    made(shard)
    first, second = shard.store.history.files[:2]
    path = tmp_path / "history" / first.name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    (tmp_path / "history" / second.name).unlink()
    for file in (first, second):
        with pytest.raises(HistoryCorrupt, match=file.name):
            shard.store.history.read(file)
    shard.close()


def test_a_damaged_log_record_is_named_and_the_rest_of_its_segment_is_history(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in (1, 2, 3):
        tracked(shard, number)
    shard.store.log.roll()
    segment, _ = shard.store.log.closed()[0]
    raw = bytearray(segment.read_bytes())
    raw[raw.rfind(b"k2") + 1] ^= 0x40
    segment.write_bytes(raw)
    assert {row["k"] for row in made(shard)} == {"k1", "k3"}
    assert segment.name in shard.store.history.damaged[0]
    shard.close()
