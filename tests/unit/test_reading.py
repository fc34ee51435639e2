"""Fields read together are what each reads by itself, and what is sent of them is what protobuf would have sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from profilegrid.columns import Strings
from profilegrid.results import Part, Table
from profilegrid.v1 import profiles_pb2

from actors.services import convert
from grid.flat import flat_fields
from grid.reading import field_names, read_profiles
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, Shard

HOUR = 3_600_000


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    shard = Shard(tmp_path, EVERY_KIND)
    rng = np.random.default_rng(3)
    rows = [
        (f"u{rng.integers(40)}", "ef"[rng.integers(2)], NOW_MS - int(rng.integers(0, 400)) * HOUR, {"n": float(rng.integers(-3, 4)) / 2}, None)
        for _ in range(300)
    ]
    shard.track(rows, 1)
    yield shard
    shard.close()


@pytest.mark.parametrize("hours", [0, 1, 30, -300])
def test_flat_fields_read_as_each_by_itself(shard: Shard, hours: int) -> None:
    names, as_of = field_names(shard.engine), NOW_MS + hours * HOUR
    slots = shard.find([f"u{n}" for n in range(40)])
    assert (slots >= 0).sum() > 30
    slots = np.maximum(slots, 0)
    flat = flat_fields(shard.engine, names)
    assert flat is not None
    together = flat.read(slots, as_of)
    assert {"count", "sum", "sum_int", "first_time", "last_time", "decayed_count", "window_count", "days_active"} <= set(flat.names)
    for name in flat.names:
        reading = together.reading(name)
        alone = shard.engine.features[name].columns.read(slots, as_of)
        known = np.ones(slots.size, dtype=bool) if alone.known is None else alone.known
        assert (known == (True if reading.known is None else reading.known)).all(), name
        assert (np.where(known, alone.values, 0) == reading.values).all(), name
        assert reading.is_held == alone.is_held, name
        assert reading.values.dtype == (np.float64 if shard.engine.catalog.result_types[name] == "float" else np.int64), name


def test_flat_fields_are_looked_up_anew_when_a_column_is_another(shard: Shard) -> None:
    engine = shard.engine
    before = flat_fields(engine, ["count"])
    assert before is flat_fields(engine, ["count"])
    engine.reset_feature("count")
    assert flat_fields(engine, ["count", "sum"]) is None  # one is incomplete: each is read by itself
    engine.features["count"].is_complete = True
    after = flat_fields(engine, ["count"])
    assert after is not before
    assert after is not None
    slots = shard.find(["u1", "u2", "u3"])
    assert after.read(slots, NOW_MS).reading("count").values.tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 70_000])
def test_a_field_is_written_as_protobuf_writes_it(size: int) -> None:
    payload = b"x" * size
    assert profiles_pb2.ResultColumn.FromString(convert.wire_field(5, payload)).values == payload
    if size:
        assert profiles_pb2.ResultColumn(values=payload).SerializeToString() == convert.wire_field(5, payload)


def test_profiles_are_sent_with_all_that_belongs_to_them(shard: Shard) -> None:
    slots = shard.find(["u1", "nobody", "u2"])
    profiles = read_profiles(shard.engine, slots, ["count", "last_time", "decayed_count", "distinct"], NOW_MS - 500 * HOUR)
    sent = convert.profile_columns(profiles, shard.engine.catalog)
    assert list(sent.exists) == [1, 0, 1]
    assert [column.name for column in sent.columns] == ["count", "last_time", "decayed_count", "distinct"]
    assert [column.type for column in sent.columns] == ["int", "timestamp", "float", "int"]
    assert all(column.is_feature for column in sent.columns)
    assert list(sent.columns[1].known) == [1, 0, 1]
    assert sent.as_of_ms == NOW_MS - 500 * HOUR
    assert "AS_OF_EARLY" in sent.warnings[0]


@pytest.mark.parametrize("users", [0, 1, 3, 40])
@pytest.mark.parametrize("hours", [0, -300])
def test_what_is_sent_of_fields_is_what_each_reads(shard: Shard, users: int, hours: int) -> None:
    names, slots, as_of = field_names(shard.engine), shard.find([f"u{n}" for n in range(users)]), NOW_MS + hours * HOUR
    profiles = read_profiles(shard.engine, slots, None, as_of)
    sent = convert.profile_columns(profiles, shard.engine.catalog)
    assert [column.name for column in sent.columns] == names
    assert profiles.flat is not None
    for column in sent.columns:
        if column.name in profiles.columns:  # lists are put together without protobuf: the same message all the same
            assert column == convert.result_column(column.name, profiles.columns[column.name], shard.engine.catalog), column.name
            continue
        reading = profiles.reading(column.name)
        assert column.type == shard.engine.catalog.result_types[column.name]
        assert column.is_feature == (column.name in shard.engine.features)
        assert column.values == reading.values.tobytes(), column.name
        assert column.known == (b"" if reading.known is None else reading.known.tobytes()), column.name


def test_of_an_incomplete_feature_only_that_is_told(shard: Shard) -> None:
    slots, as_of = shard.find([f"u{n}" for n in range(40)]), NOW_MS - 300 * HOUR
    shard.engine.features["window_count"].is_complete = False
    profiles = read_profiles(shard.engine, slots, ["window_count"], as_of)
    assert [warning.split(":")[0] for warning in profiles.warnings if "window_count" in warning] == ["FEATURE_BACKFILLING"]
    known = profiles.reading("window_count").known
    assert known is not None
    assert not known.any()
    shard.engine.features["window_count"].is_complete = True
    assert any("WINDOW_NOT_HELD: window_count " in warning for warning in read_profiles(shard.engine, slots, ["window_count"], as_of).warnings)


def test_a_table_of_several_shards_answers_is_that_of_one(tmp_path: Path) -> None:
    rng, users = np.random.default_rng(4), [f"u{n}" for n in range(60)]
    shard = Shard(tmp_path / "several", EVERY_KIND)
    for number in range(40):
        properties = {"n": float(rng.integers(9)), "i": int(rng.integers(9)), "c": f"c{rng.integers(4)}", "k": f"k{rng.integers(6)}"}
        shard.track([(user, "e", NOW_MS - number, properties, None) for user in rng.choice(users[:50], 5, replace=False)], number + 1)
    sets = [{"a"}, {"b", "a"}, set[str]()]
    updates = [{"vip": bool(n % 2), "age": n, "city": f"city-{n % 3}", "hobbies": sets[n % 3]} for n in range(40)]
    shard.set(users[:40], [dict(list(update.items())[: n % 5]) for n, update in enumerate(updates)], 1)

    def part(rows: NDArray[np.int64]) -> Part:
        profiles = read_profiles(shard.engine, shard.find([users[row] for row in rows]), None, NOW_MS)
        return Part(rows, convert.profile_columns(profiles, shard.engine.catalog))

    whole = Table(Strings.of(users), [part(np.arange(60))]).to_arrow()
    assert {str(kind) for kind in whole.schema.types} >= {"bool", "double", "int64", "string", "timestamp[ms, tz=UTC]", "list<item: string>"}
    assert any(str(kind).startswith("map") for kind in whole.schema.types)
    assert any("struct" in str(kind) for kind in whole.schema.types)
    for owners in (rng.integers(0, 3, 60), np.arange(60) // 59, np.arange(60) % 2):
        parts = [part(np.flatnonzero(owners == owner)) for owner in np.unique(owners)]
        assert Table(Strings.of(users), parts).to_arrow().to_pylist() == whole.to_pylist()
    shard.close()
