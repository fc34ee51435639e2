"""Hostile bytes into every decoder: a typed error, or the right answer; the state as it was; never a crash, never a long wait.

FUZZ_EXAMPLES multiplies the examples (`make torture` does).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from profilegrid.columns import attributes_batch, events_batch
from profilegrid.routes import Map, frame_of, partitions_of
from profilegrid.v1 import events_pb2
from profilegrid_rules import RuleError, compile_rule
from pyroaring import BitMap, BitMap64

from actors.coordinator import PageToken, rule_hash
from actors.services import convert
from grid.catalog import load_catalog
from grid.errors import BitmapInvalid, CatalogInvalid, FieldInvalid, FrameInvalid, GridError
from grid.loading import Load
from grid.state.bitmaps import intersection, merge_partitions, parse_handles
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, Shard, pages_of

TIMES = int(os.environ.get("FUZZ_EXAMPLES", "1"))
SETTINGS = settings(max_examples=300 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    shard = Shard(tmp_path_factory.mktemp("fuzz"), EVERY_KIND)
    shard.track([(f"user-{n}", "e", NOW_MS, {"n": 1.0, "c": "x"}, None) for n in range(20)], 1)
    yield shard
    shard.close()


def wire_frame(shard: Shard, number: int, *, is_events: bool) -> events_pb2.Frame:
    """A frame as a client sends it."""
    users = [f"user-{n}" for n in range(12)]
    if is_events:
        batch = events_batch([(user, "ef"[n % 2], NOW_MS - n, {"n": n / 2, "c": f"c{n % 3}"}, f"id-{number}-{n}") for n, user in enumerate(users)])
    else:
        batch = attributes_batch(users, [{"city": f"c{n % 3}", "hobbies": {"a", "b"}, "age": n, "note": "hello"} for n in range(12)])
    map_ = Map(0, shard.engine.catalog.version, np.zeros(PARTITIONS, dtype=np.uint16), shard.engine.epochs, {})
    partitions = partitions_of(batch.ids, PARTITIONS)
    order = np.argsort(partitions, kind="stable")
    frame = frame_of(batch, order, partitions[order], map_)
    frame.producer_id, frame.batch_number = b"f" * 16, number
    return frame


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, cut out, repeated or put in."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        if not data:
            break
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del data[at : at + rng.randint(1, 16)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 4:
                del data[at:]
    return bytes(data)


def twist(frame: events_pb2.Frame, rng: random.Random) -> None:
    """One field that does not fit the others: offsets that fall, lengths that are huge, arrays of another size, invalid UTF-8."""
    target: Any = frame
    if frame.columns and rng.random() < 0.6:
        target = rng.choice(list(frame.columns))
    names = [field.name for field, _ in target.ListFields()]
    name = rng.choice(names)
    value = getattr(target, name)
    if isinstance(value, bytes):
        words = np.frombuffer(value[: len(value) // 4 * 4], dtype=np.uint32).copy()
        match rng.randrange(6):
            case 0:
                setattr(target, name, value[: rng.randrange(len(value) + 1)])
            case 1:
                setattr(target, name, value + rng.randbytes(rng.randint(1, 64)))
            case 2 if words.size:
                words[rng.randrange(words.size)] = rng.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 20])
                setattr(target, name, words.tobytes() + value[len(value) // 4 * 4 :])
            case 3:
                setattr(target, name, bytes(reversed(value)))
            case 4:
                setattr(target, name, rng.randbytes(len(value)))
            case _:
                setattr(target, name, b"")
    elif isinstance(value, int):
        setattr(target, name, rng.choice([0, 1, 2, 3, 250, 1 << 31 if name == "batch_number" else 4]))
    elif isinstance(value, str):
        setattr(target, name, rng.choice(["", "n", "c", "no such", "x" * 5000]))


@SETTINGS
@given(st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_a_frame_that_contradicts_itself_is_refused_and_changes_nothing(shard: Shard, seed: int, is_events: bool, is_raw: bool) -> None:
    rng = random.Random(seed)
    number = int(shard.engine.positions.max()) + 10
    frame = wire_frame(shard, number, is_events=is_events)
    if is_raw:
        try:
            frame = events_pb2.Frame.FromString(mutated(frame.SerializeToString(), rng))
        except DecodeError:
            return
    else:
        for _ in range(rng.randint(1, 3)):
            twist(frame, rng)
    before = pages_of(shard.engine, shard.store)
    started = time.monotonic()
    try:
        reply = shard.commit([convert.frame(frame)])[0]
    except GridError:
        assert pages_of(shard.engine, shard.store) == before
    else:  # it still made sense
        assert reply.accepted + reply.duplicates + len(reply.rejections) >= 0
    shard.engine.check()
    assert time.monotonic() - started < 5


WORDS = st.sampled_from(
    [
        "city",
        "=",
        "'a'",
        "AND",
        "OR",
        "NOT",
        "(",
        ")",
        "IN",
        "BETWEEN",
        ",",
        "age",
        "3",
        "4.5",
        "-",
        "+",
        "*",
        "/",
        ">",
        "<",
        ">=",
        "<=",
        "!=",
        "NULL",
        "IS",
        "LIKE",
        "'%'",
        "CASE",
        "WHEN",
        "THEN",
        "ELSE",
        "END",
        "count_by",
        "[",
        "]",
        "now",
        "has",
        "hobbies",
        "interest",
        "TIMESTAMP",
        "'2024-01-01'",
        "INTERVAL",
        "'3'",
        "MINUTE",
        "coalesce",
        "abs",
        "least",
        "length",
        "lower",
        "year",
        ";",
        "--",
        "/*",
        "*/",
        '"',
        "`",
        "$",
        "?",
        "::",
        "SELECT",
        "FROM",
        "UNION",
        "1e999",
        "0x10",
        "é",
        "上海",
        "\x00",
    ]
)


@SETTINGS
@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map(" ".join)))
def test_a_rule_compiles_or_says_what_is_wrong(shard: Shard, text: str) -> None:
    catalog = shard.engine.catalog
    started = time.monotonic()
    try:
        compile_rule(text, catalog.rule_schema, catalog.zone)
    except RuleError as error:
        assert str(error)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "text",
    [
        "(" * 3000 + "age > 1" + ")" * 3000, "NOT " * 5000 + "vip", "age > 1" + " OR age > 1" * 20_000, "age > " + "-" * 5000 + "1",
        "city = '" + "x" * 100_000 + "'", "age IN (" + ",".join(["1"] * 50_000) + ")", "CASE WHEN " * 500 + "vip", "coalesce(" * 2000 + "age",
        "a" * 1_000_000, "count_by[" * 1000, "'" * 9999, "age > 1 /*" + "*" * 100_000,
    ],
)  # fmt: skip
def test_a_rule_that_is_huge_or_deep_is_refused_at_once(shard: Shard, text: str) -> None:
    started = time.monotonic()
    with pytest.raises(RuleError):
        compile_rule(text, shard.engine.catalog.rule_schema, shard.engine.catalog.zone)
    assert time.monotonic() - started < 3


NAMES = st.sampled_from(
    ["grid", "timezone", "limits", "dedupe", "events", "attributes", "features", "history_retention", "e", "n", "count", "by", "window", "hop", "top", "where"]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from(["e", "e.n", "1h", "5m", "UTC", "float", "key", "category"])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(NAMES, st.text(max_size=6)), inner, max_size=5)), max_leaves=25
)


@SETTINGS
@given(st.one_of(st.text(max_size=300), st.dictionaries(NAMES, TREES, max_size=6)))
def test_a_catalog_loads_or_lists_its_faults(source: Any) -> None:
    try:
        load_catalog(source, 1)
    except CatalogInvalid as error:
        assert error.problems


def test_a_catalog_of_nested_aliases_does_not_eat_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.monotonic()
    with pytest.raises(CatalogInvalid):
        load_catalog("\n".join(lines) + "\nevents: *a11\n", 1)
    assert time.monotonic() - started < 5


@SETTINGS
@given(st.one_of(st.text(max_size=200), st.integers(0, 1 << 32)))
def test_a_page_token_is_ours_or_refused(seed: Any) -> None:
    good = PageToken(rule_hash("age > 1"), NOW_MS, 17).encode()
    text = seed if isinstance(seed, str) else mutated(good.encode(), random.Random(seed)).decode("latin-1")
    try:
        token = PageToken.decode(text, "age > 1")
    except FieldInvalid:
        return
    assert token == PageToken(rule_hash("age > 1"), NOW_MS, 17)


def handles(rng: np.random.Generator) -> bytes:
    """A client's bitmap: arrays, bitsets, runs, over a few partitions."""
    made = BitMap64()
    for partition in rng.choice(8, rng.integers(1, 4), replace=False).tolist():
        base = partition << 32
        made |= BitMap64((base + rng.integers(0, 200_000, rng.integers(0, 3000))).tolist())
        if rng.random() < 0.5:
            first = int(rng.integers(0, 150_000))
            made |= BitMap64(range(base + first, base + first + int(rng.integers(1, 30_000))))
        if rng.random() < 0.4:
            made |= BitMap64((base + rng.integers(0, 65_536, 9000)).tolist())
    if rng.random() < 0.5:
        made.run_optimize()
    return made.serialize()


def test_ten_thousand_damaged_bitmaps_end_in_an_error_or_the_right_set() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng, noise = np.random.default_rng(seed), random.Random(seed)
    taken = 0
    for round_ in range(100):
        good = handles(rng)
        assert {p: len(BitMap.deserialize(blob)) for p, blob in parse_handles(good, 8).items()} == counts(good)
        for _ in range(100):
            blob = mutated(good, noise)
            try:
                parts = parse_handles(blob, 8)
            except BitmapInvalid:
                continue
            taken += 1
            # What passes is whole: pyroaring reads it, each row once, ascending, and writes the same set again.
            for part in parts.values():
                rows = np.array(BitMap.deserialize(part).to_array())
                assert (np.diff(rows) > 0).all(), (seed, round_)
            assert counts(blob) == {p: len(BitMap.deserialize(part)) for p, part in parts.items()}, (seed, round_)
            assert BitMap64.deserialize(merge_partitions(parts)) == BitMap64.deserialize(blob), (seed, round_)
    assert taken < 5_000


def counts(blob: bytes) -> dict[int, int]:
    found: dict[int, int] = {}
    for handle in BitMap64.deserialize(blob):
        found[handle >> 32] = found.get(handle >> 32, 0) + 1
    return found


def test_a_bitmap_from_outside_cuts_an_audience_exactly() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        ours, theirs = (set(rng.integers(0, 100_000, 5000).tolist()) for _ in range(2))
        blob = merge_partitions({2: BitMap(ours).serialize()})
        assert set(BitMap.deserialize(intersection(BitMap(theirs).serialize(), parse_handles(blob, 8)[2]))) == ours & theirs


@SETTINGS
@given(st.integers(0, 1 << 32))
@example(92452)  # a column's name that is no UTF-8
def test_a_damaged_table_of_users_is_refused(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    from actors.loading import BulkLoad  # its decoding, without a server

    rng = random.Random(seed)
    sink = pa.BufferOutputStream()
    table = pa.table({"user_id": [f"u{n}" for n in range(50)], "age": list(range(50)), "city": [f"c{n % 3}" for n in range(50)]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    load = BulkLoad.__new__(BulkLoad)
    engine = Shard.__new__(Shard)
    folder: Path = tmp_path_factory.mktemp("load")
    engine.__init__(folder, EVERY_KIND)  # type: ignore[misc]
    load._load = Load(engine.engine, NOW_MS)
    try:
        load._add(mutated(sink.getvalue().to_pybytes(), rng))
    except FrameInvalid:
        engine.engine.forget_users()
        assert engine.engine.users.total == 0
    engine.close()
