"""Plain frames are told by two kernels, and folded by one: the outcome is that of every check by itself and every feature by itself."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from profilegrid.columns import events_batch

from grid.errors import GridError
from grid.frame import Frame
from grid.state.dictionary import Strings
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, Shard, pages_of

CATALOG = {**EVERY_KIND, "attributes": {}, "limits": {"keys_per_user": 3, "lateness": "31d"}}
SHAPES: list[dict[str, Any]] = [
    {},
    {"c": st.sampled_from(["x", "y"])},
    {"n": st.floats(-5, 5) | st.sampled_from([float("inf")]), "c": st.sampled_from(["x", "y", "z", "鞋"])},
    {"n": st.integers(-5, 5), "c": st.just("x")},
    {"n": st.floats(-5, 5), "i": st.integers(-5, 5), "c": st.just("y"), "k": st.sampled_from(["k1", "k2", "k3", "k4"]), "b": st.booleans()},
    {"n": st.text("x", max_size=1)},
    {"nobody": st.just(1)},
]
USUAL: dict[str, Any] = {"n": st.floats(-5, 5), "i": st.integers(-5, 5), "c": st.sampled_from(["x", "y"]), "k": st.just("k1"), "b": st.booleans()}
KNOWN = ["ann", "bob", "carl", "dora", "d" * 40]
USERS = st.sampled_from(KNOWN) | st.sampled_from(["ann", "卡尔", "", "e" * 257])
# 720 half-lives apart, so that landmarks move; some too late, some from tomorrow.
TIMES = st.integers(NOW_MS - 30 * 86_400_000, NOW_MS) | st.sampled_from([NOW_MS - 40 * 86_400_000, NOW_MS + 86_400_000])


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Any], int, int, str]:
    """(rows, the producer, how far its batch number is behind the newest, what is wrong with the frame). Half of them as most clients send them."""
    if draw(st.booleans()):
        event, shape = draw(st.sampled_from([("e", USUAL), ("e", {"c": USUAL["c"]}), ("f", {"n": USUAL["n"], "c": USUAL["c"]})]))
        usual = st.tuples(st.sampled_from(KNOWN), st.just(event), st.integers(NOW_MS - 30 * 86_400_000, NOW_MS), st.fixed_dictionaries(shape), st.none())
        return draw(st.lists(usual, min_size=1, max_size=8)), draw(st.integers(0, 1)), draw(st.sampled_from([0, 0, 0, 0, 1])), ""
    events = draw(st.sampled_from([["e"], ["e"], ["f"], ["e", "f"], ["e", "nothing"]]))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=1) | st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        shape = draw(st.sampled_from(shapes))
        rows.append((draw(USERS), draw(st.sampled_from(events)), draw(TIMES), {name: draw(values) for name, values in shape.items()}, None))
    faults = ["", "", "", "", "epoch", "partition", "directory", "event", "ends", "words", "rows", "owner"]
    return rows, draw(st.integers(0, 1)), draw(st.sampled_from([0, 0, 0, 1, 3])), draw(st.sampled_from(faults))


def spoil(frame: Frame, fault: str) -> None:
    """Make one thing of a frame wrong, as a broken or hostile client would."""
    match fault:
        case "epoch":
            frame.epochs = frame.epochs + np.uint64(1)
        case "owner":
            frame.epochs = np.zeros_like(frame.epochs)
        case "partition":
            frame.partitions = (frame.partitions + np.uint16(1)) % np.uint16(PARTITIONS + 1)
        case "directory":
            frame.partitions = frame.partitions[::-1].copy()
        case "event":
            frame.events = frame.events + np.uint16(1)
        case "ends":
            frame.ids = Strings(frame.ids.data, frame.ids.ends + np.uint32(1))
        case "words":
            for column in frame.columns:
                column.values = column.values + column.values.dtype.type(1)
        case "rows":
            frame.times = frame.times[1:]


def outcome(shard: Shard, frame: Frame) -> tuple[Any, ...]:
    """What becomes of a frame: the error, or its verdict."""
    try:
        shard.engine.admit(frame)
    except GridError as error:
        return type(error).__name__, str(error)
    group = shard.engine.prepare([frame], NOW_MS)
    if group.has_news:
        shard.store.append(group, is_durable=False)
    shard.engine.apply(group)
    (judged,) = group.judged
    columns = [judged.fresh, judged.accepted, judged.duplicate, judged.positions]
    words = [(added.key, added.first_code, added.words.to_list()) for added in group.reserved]
    return *(column.tolist() for column in columns), words, judged.rejections, shard.engine.reply(judged)


def state(shard: Shard) -> tuple[Any, ...]:
    """All that a shard knows."""
    engine = shard.engine
    producers = [engine.producers.dump(partition) for partition in range(PARTITIONS)]
    full = [sorted(state.columns.full) for state in engine.features.values()]
    return pages_of(engine, shard.store), engine.positions.tolist(), engine.reserved.tolist(), producers, full, engine.users.page_newest_ms[:8].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(batches(), min_size=1, max_size=8))
def test_what_becomes_of_a_frame_does_not_depend_on_whether_it_was_told_to_be_plain(sent: list[tuple[list[Any], int, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        quick, thorough = (Shard(Path(folder) / name, CATALOG) for name in ("quick", "thorough"))
        look_closer(thorough)
        first = events_batch([("ann", "e", NOW_MS, {"n": 1.0, "i": 1, "c": "x", "k": "k1", "b": True}, None), ("bob", "f", NOW_MS, {"n": 1.0, "c": "y"}, None)])
        for shard, producer in itertools.product((quick, thorough), (0, 1)):
            outcome(shard, shard.frame(first, bytes([producer]) * 16, 1))
        numbers = [1, 1]
        for rows, producer, behind, fault in sent:
            numbers[producer] += behind == 0
            for_both = []
            for shard in (quick, thorough):
                frame = shard.frame(events_batch(rows), bytes([producer]) * 16, max(numbers[producer] - behind, 1))
                spoil(frame, fault)
                for_both.append(outcome(shard, frame))
            assert for_both[0] == for_both[1]
        assert state(quick) == state(thorough)
        before = pages_of(quick.engine, quick.store)
        quick.crash()
        assert pages_of(quick.engine, quick.store) == before, "a replay, which judges and folds in its own way, comes to something else"
        for shard in (quick, thorough):
            shard.close()


def look_closer(shard: Shard) -> None:
    """Take every frame for one that is not plain, and fold a feature at a time."""
    engine = shard.engine
    engine._plain.told = lambda frame: None  # type: ignore[method-assign]
    engine._fold_all = lambda rows: engine.fold(rows, engine.catalog.version, engine.features.values())  # type: ignore[method-assign]


def test_usual_frames_are_plain_from_the_second_on(tmp_path: Path) -> None:
    shard = Shard(tmp_path, CATALOG)
    batch = events_batch([(user, "e", NOW_MS, {"n": 1.5, "c": "x"}, None) for user in ("ann", "bob", "carl")])
    shard.commit([shard.frame(batch, b"p" * 16, 1)])
    second = shard.frame(batch, b"p" * 16, 2)
    shard.engine.admit(second)
    assert second.plain is not None
    shard.close()


def test_a_frame_that_was_admitted_twice_counts_once(tmp_path: Path) -> None:
    shard = Shard(tmp_path, CATALOG)
    batch = events_batch([("ann", "e", NOW_MS, {"c": "x"}, None)])
    shard.commit([shard.frame(batch, b"p" * 16, 1)])
    frames = [shard.frame(batch, b"p" * 16, 2) for _ in range(2)]
    for frame in frames:
        shard.engine.admit(frame)
    for frame in frames:
        shard.engine.apply(shard.engine.prepare([frame], NOW_MS))
    assert shard.get(["ann"])[0]["count"] == 2
    shard.close()


def test_frames_of_one_group_are_folded_as_if_each_came_alone(tmp_path: Path) -> None:
    rows = [[(f"u{user}", "e", NOW_MS + user, {"n": 1.0, "c": "xy"[user % 2]}, None) for user in range(first, first + 5)] for first in (0, 2, 4)]
    together, apart = (Shard(tmp_path / name, CATALOG) for name in ("together", "apart"))
    for shard in (together, apart):
        shard.track(rows[0], 1)
    frames = [together.frame(events_batch(part), b"p" * 16, number) for number, part in enumerate(rows, start=2)]
    together.commit(frames)
    for number, part in enumerate(rows, start=2):
        apart.track(part, number)
    assert pages_of(together.engine, together.store) == pages_of(apart.engine, apart.store)
    for shard in (together, apart):
        shard.close()


def test_a_frame_waits_for_a_closer_look_where_the_catalog_changed_since(tmp_path: Path) -> None:
    shard = Shard(tmp_path, CATALOG)
    batch = events_batch([("ann", "e", NOW_MS, {"c": "x"}, None)])
    shard.commit([shard.frame(batch, b"p" * 16, 1)])
    frame = shard.frame(batch, b"p" * 16, 2)
    shard.engine.admit(frame)
    shard.apply_catalog({**CATALOG, "events": {"f": {"c": "category"}}, "features": {"fs": {"count": "f"}}})
    (judged,) = shard.engine.prepare([frame], NOW_MS).judged
    assert [rejection.reason for rejection in judged.rejections] == ["UNKNOWN_EVENT"]
    shard.close()


def test_nobody_writes_to_a_partition_that_is_not_owned_by_saying_so(tmp_path: Path) -> None:
    shard = Shard(tmp_path, CATALOG, owned=(0, 1, 2))
    user = shard.user_of(3)
    frame = shard.frame(events_batch([(user, "e", NOW_MS, {}, None)]), b"p" * 16, 1)
    assert frame.epochs.tolist() == [0]
    outcome_ = outcome(shard, frame)
    assert outcome_[0] == "PartitionMoved"
    shard.close()
