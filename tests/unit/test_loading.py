"""Users loaded in bulk read as the file says, come back from the checkpoint, and go on as users that came by events."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from grid.errors import LoadRefused
from grid.loading import Load
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, Shard

MINUTE, DAY = 60_000, 86_400_000


def when(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


VALUES: dict[str, Any] = {
    "city": pa.array(["Rome", None]),
    "hobbies": pa.array([["camping", "chess"], []], pa.list_(pa.string())),
    "age": pa.array([40, None]),
    "vip": pa.array([True, None]),
    "born": pa.array([when(0), None]),
    "money": pa.array([2.5, None]),
    "note": pa.array(["hello", None]),
    "code": pa.array(["x-1", None]),
    "count": pa.array([7, None]),
    "sum": pa.array([1.5, None]),
    "min": pa.array([-3.0, None]),
    "max": pa.array([9.0, None]),
    "decayed_count": pa.array([4.25, None]),
    "decayed_sum": pa.array([-2.0, None]),
    "window_count": pa.array([[(when(NOW_MS - 2 * MINUTE), 3.0), (when(NOW_MS - 50 * MINUTE), 2.0), (when(NOW_MS - 90 * MINUTE), 8.0)], None],
                             pa.map_(pa.timestamp("ms", tz="UTC"), pa.float64())),
    "window_sum": pa.array([6.0, None]),
    "window_max": pa.array([5.0, None]),
    "window_distinct": pa.array([["a", "b", "a"], None]),
    "distinct": pa.array([["a", "b", "a", "c"], None]),
    "first": pa.array(["k0", None]),
    "last": pa.array([{"time": when(NOW_MS - DAY), "value": "shoes"}, None]),
    "last_int": pa.array([12, None]),
    "first_bool": pa.array([True, None]),
    "first_time": pa.array([when(NOW_MS - 9 * DAY), None]),
    "last_time": pa.array([when(NOW_MS - DAY), None]),
    "days_active": pa.array([[when(NOW_MS), when(NOW_MS - DAY), when(NOW_MS - DAY - 1)], None]),
    "count_by": pa.array([[("shoes", 3), ("hats", 1)], None], pa.map_(pa.string(), pa.int64())),
    "decayed_by": pa.array([[("shoes", 0.5)], None], pa.map_(pa.string(), pa.float64())),
    "window_by": pa.array([[{"key": "shoes", "time": when(NOW_MS), "value": 2.0}, {"key": "hats", "time": when(NOW_MS - 90 * MINUTE), "value": 9.0}], None]),
    "top_by": pa.array([[("a", 1.0), ("b", 5.0), ("c", 2.0), ("d", 4.0)], None], pa.map_(pa.string(), pa.float64())),
}  # fmt: skip
EXPECTED: dict[str, Any] = {
    "city": "Rome", "hobbies": {"camping", "chess"}, "age": 40, "vip": True, "born": 0, "money": 2.5, "note": "hello", "code": "x-1",
    "count": 7, "sum": 1.5, "min": -3.0, "max": 9.0, "decayed_count": pytest.approx(4.25, rel=1e-9), "decayed_sum": pytest.approx(-2.0, rel=1e-9), "window_count": 5, "window_sum": 6.0,
    "window_max": 5.0, "window_distinct": 2, "distinct": 3, "first": "k0", "last": "shoes", "last_int": 12, "first_bool": True,
    "first_time": NOW_MS - 9 * DAY, "last_time": NOW_MS - DAY, "days_active": 2, "count_by": {"shoes": 3, "hats": 1},
    "decayed_by": {"shoes": pytest.approx(0.5, rel=1e-9)}, "window_by": [{"key": "shoes", "value": 2}],
    "top_by": [{"key": "b", "value": 5}, {"key": "d", "value": 4}, {"key": "c", "value": 2}],
}  # fmt: skip


def loaded(shard: Shard, table: pa.Table) -> Load:
    load = Load(shard.engine, NOW_MS)
    load.add(table)
    return load


def test_every_shape_of_column_reads_as_the_file_says_also_after_a_restart(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    load = loaded(shard, pa.table({"user_id": ["full", "empty"], **VALUES}))
    shard.store.write_load("load-1", load.rows, NOW_MS)
    for _ in range(2):
        full, empty = shard.get(["full", "empty"])
        assert {name: full[name] for name in EXPECTED} == EXPECTED
        assert empty.exists
        assert empty["city"] is None
        assert empty["count"] == 0
        assert empty["hobbies"] == set()
        assert empty["last"] is None
        shard.crash()
    assert shard.recovery.users == 2
    assert shard.store.checkpoints.loads() == {"load-1": 2}
    shard.engine.check()
    shard.track([("full", "e", NOW_MS, {"c": "shoes", "n": 1.0}, None)], 1)
    assert shard.get(["full"])[0]["count"] == 8
    assert shard.get(["full"])[0]["count_by"] == {"shoes": 4, "hats": 1}
    shard.close()


def test_users_of_many_tables_are_all_there(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    load = Load(shard.engine, NOW_MS)
    for first in range(0, 20_000, 5_000):
        numbers = range(first, first + 5_000)
        load.add(pa.table({"user_id": pa.array(numbers), "count": pa.array(numbers), "city": pa.array([f"city-{n % 300}" for n in numbers])}))
    shard.store.write_load("many", load.rows, NOW_MS)
    shard.crash()
    for number in (0, 4_999, 5_000, 19_999):
        profile = shard.get([str(number)])[0]
        assert (profile["count"], profile["city"]) == (number, f"city-{number % 300}")
    assert shard.recovery.users == 20_000
    shard.close()


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"user_id": ["a", "b", "a"]}, "row 2: user_id: got 'a', expected each user once"),
        ({"user_id": ["a", None, "c"]}, "row 1: user_id: got '', expected 1 to 256 bytes"),
        ({"user_id": ["a", "b", "x" * 257]}, "row 2: user_id"),
        ({"user_id": ["a"], "colour": ["red"]}, "colour: got a column of that name, expected an attribute or feature of the catalog"),
        ({"name": ["a"]}, "user_id: got columns name, expected a column of user ids"),
        ({"user_id": [1.5]}, "user_id: got type double, expected text or whole numbers"),
        ({"user_id": ["a", "b"], "money": [1.0, float("nan")]}, "row 1: money: got np.float64(nan), expected a finite number"),
        ({"user_id": ["a"], "age": ["forty"]}, "age"),
        ({"user_id": ["a"], "count_by": [3]}, "count_by: got type int64, expected a map of key to number"),
        ({"user_id": ["a"], "window_by": [[{"key": "x", "colour": 1}]]}, "window_by: got fields"),
    ],
)
def test_a_wrong_row_is_refused_by_row_column_and_value_and_nothing_is_left(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    with pytest.raises(LoadRefused, match="^" + re.escape(says)):
        loaded(shard, pa.table(columns))
    shard.engine.forget_users()
    assert not shard.get(["a"])[0].exists
    assert shard.engine.users.total == 0
    shard.close()


def test_a_load_that_was_never_committed_leaves_nothing(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    loaded(shard, pa.table({"user_id": ["a"], "count_by": pa.array([[("new-word", 1)]], pa.map_(pa.string(), pa.int64()))}))
    shard.crash()
    assert shard.engine.users.total == 0
    assert shard.store.checkpoints.loads() == {}
    loaded(shard, pa.table({"user_id": ["a"], "count": [1]}))
    shard.engine.forget_users()
    shard.track([("b", "e", NOW_MS, {"c": "hats"}, None)], 1)
    shard.crash()
    assert shard.get(["b"])[0]["count_by"] == {"hats": 1}
    shard.close()


def test_features_added_after_a_load_say_since_when_they_are_complete(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    load = loaded(shard, pa.table({"user_id": ["a"], "count": [3]}))
    shard.store.write_load("load", load.rows, NOW_MS)
    shard.crash()
    assert shard.store.history.dropped_ms == NOW_MS
    shard.close()
