"""Frames of a few rows say what the frames of the same rows as columns say, whoever cuts them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from profilegrid.columns import EventRow, events_batch
from profilegrid.few import ROWS_MAX, cut, kinds_of
from profilegrid.routes import Map, Parcel, partitions_of, split
from profilegrid.v1 import events_pb2 as pb

from actors.services import convert
from grid.frame import Column, Frame

PARTITIONS = 8
MAP = Map(3, 7, np.array([2, 0, 1, 0, 2, 1, 0, 0], dtype=np.uint16), np.arange(11, 19, dtype=np.uint64), {})
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.one_of(TEXTS, st.integers(-(2**65), 2**65), st.floats(allow_nan=False), st.booleans(), st.none())
TIMES = st.integers(-(2**63), 2**63 - 1)


@st.composite
def rows(draw: st.DrawFn) -> list[EventRow]:
    """Events that are mostly alike, as they mostly are."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True))
    kinds = {name: draw(st.sampled_from([TEXTS, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(), VALUES])) for name in names}
    found: list[EventRow] = []
    for _ in range(draw(st.integers(1, 12))):
        properties: dict[str, Any] | None = {name: draw(kind) for name, kind in kinds.items() if draw(st.integers(0, 30))}
        event_id = draw(TEXTS) if not draw(st.integers(0, 30)) else None
        found.append((draw(TEXTS), draw(st.sampled_from(["view", "buy"])), draw(TIMES), properties or None, event_id))
    return found


def said(parcels: list[Parcel]) -> dict[int, list[Any]]:
    """What each shard is told, row by row."""
    return {parcel.shard: [parcel.rows.tolist(), parcel.frame.catalog_version, *rows_of(convert.frame(stamped(parcel)))] for parcel in parcels}


def stamped(parcel: Parcel) -> Any:
    parcel.frame.producer_id, parcel.frame.batch_number = b"p" * 16, 1
    return parcel.frame


def rows_of(frame: Frame) -> list[Any]:
    frame.check(PARTITIONS)
    columns = {(column.name, column.type): values_of(column) for column in frame.columns}
    event_ids = frame.event_ids.to_list() if frame.event_ids is not None else None
    directory = [frame.partitions.tolist(), frame.block_rows.tolist(), frame.epochs.tolist()]
    return [directory, frame.ids.to_list(), frame.times.tolist(), [frame.event_names[code] for code in frame.events.tolist()], columns, event_ids]


def values_of(column: Column) -> list[Any]:
    values = column.values.tolist()
    if column.words is not None:
        words = column.words.to_list()
        values = [words[code] if words else None for code in values]
    there = column.presence.tolist() if column.presence is not None else [1] * len(values)
    return [value if here else None for value, here in zip(values, there, strict=True)]


def as_columns(events: list[EventRow], left: Any) -> list[Parcel]:
    batch = events_batch(events)
    return split(batch, partitions_of(batch.ids, PARTITIONS), left, MAP)


@given(rows())
def test_a_frame_of_rows_says_what_one_of_columns_says(events: list[EventRow]) -> None:
    everything, kinds = np.arange(len(events)), kinds_of(events)
    if kinds is not None:
        assert said(cut(events, kinds, everything, MAP)) == said(as_columns(events, everything))


@given(rows(), st.data())
def test_rows_that_are_sent_again_are_those_of_the_blocks_before(events: list[EventRow], data: st.DataObject) -> None:
    kinds = kinds_of(events)
    if kinds is not None:
        lost = data.draw(st.sampled_from(cut(events, kinds, np.arange(len(events)), MAP)))
        again = said(cut(events, kinds, np.sort(lost.rows), MAP))
        assert [rows_of(convert.frame(stamped(lost)))] == [again[lost.shard][2:]]


def test_many_rows_long_texts_and_rows_that_differ_go_as_columns() -> None:
    alike = [(f"u{n}", "view", n, {"a": "x", "n": n}, None) for n in range(ROWS_MAX)]
    assert kinds_of(alike) == {"a": pb.COLUMN_TYPE_TEXT, "n": pb.COLUMN_TYPE_INT}
    for events in (
        [*alike, alike[0]], [("u", "view", 1, {"a": "x" * (1 << 17)}, None)], [*alike[:3], ("u", "view", 1, None, None)], [("u", "view", 1, {"n": 1 << 63}, None)],
        [("u", "view", 1, {"n": 1}, "id")], [("u", "view", 1, {"n": 1}, None), ("u", "view", 1, {"n": 1.0}, None)], [("u", "view", 1, {"n": None}, None)],
    ):  # fmt: skip
        assert kinds_of(events) is None
