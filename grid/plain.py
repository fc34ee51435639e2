"""Frames about which nothing needs a closer look, as nearly all are: told by two kernels. What is not plain here is judged check by check
(`Frame.check`, `grid.verdict`), with the same outcome for what is; errors and refusals are worded there. Of a few rows those checks cost ten times as
much as their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grid.catalog import Catalog
from grid.frame import ROWS_MAX, Column, Frame
from grid.group import Judged
from grid.kernels.frames import are_plain, enter_plain
from grid.kernels.ids import know_words
from grid.state.dictionary import Dictionary
from grid.state.rows import TEXT_TYPES, PropertyColumn, Rows
from grid.verdict import ID_BYTES_MAX, WORD_BYTES_MAX, times_taken

if TYPE_CHECKING:
    from grid.engine import Engine

SHAPES_MAX = 256
# The wire's types that each declared type takes without a closer look than whether numbers are finite.
_TAKEN = {"int": ("int",), "float": ("int", "float"), "bool": ("bool",)} | dict.fromkeys(TEXT_TYPES, ("text",))
ShapeKey = tuple[Any, ...]


@dataclass(slots=True)
class Plain:
    """What was told of a plain frame under a catalog: all of its rows, decoded, and the least and greatest of their times (ms)."""

    catalog: Catalog
    rows: Rows
    first_ms: int
    last_ms: int


@dataclass(slots=True)
class Shape:
    """Frames with the same event names and columns: codes int64[names] of the events, the declared type of each column and where its words are."""

    codes: NDArray[np.int64]
    only: int  # the code, where there is one name
    columns: list[tuple[str, Dictionary | None]]


class PlainFrames:
    """Tells plain frames, under one catalog."""

    def __init__(self, engine: Engine, coded: dict[tuple[str, str], str]) -> None:
        self._engine, self._catalog, self._coded = engine, engine.catalog, coded
        self._shapes: dict[ShapeKey, Shape | None] = {}

    def told(self, frame: Frame) -> Plain | None:
        """None: the frame needs a closer look. Changes nothing."""
        rows = frame.rows
        if frame.kind != "events" or frame.event_ids is not None or len(frame.producer) != 16 or not 0 < rows <= ROWS_MAX:
            return None
        if not (frame.partitions.size == frame.block_rows.size == frame.epochs.size > 0 and frame.times.size == frame.events.size == rows):
            return None
        shape, batches = self._shape(frame), self._engine.producers.batches_of(frame.producer)
        if shape is None or batches is None:
            return None
        hashes, partitions, bounds = np.empty(rows, dtype=np.uint64), np.empty(rows, dtype=np.uint16), np.empty(2, dtype=np.int64)
        if not are_plain(
            frame.partitions, frame.block_rows, frame.epochs, self._engine.epochs, *batches, np.uint64(frame.batch), frame.ids.data, frame.ids.ends,
            ID_BYTES_MAX, frame.events, shape.codes, frame.times, hashes, partitions, bounds,
        ):  # fmt: skip
            return None
        found: dict[tuple[str, str], PropertyColumn] = {}
        everywhere = np.empty(rows, dtype=bool)
        everywhere.fill(True)
        for column, (type_, dictionary) in zip(frame.columns, shape.columns, strict=True):
            converted = _converted(column, type_, dictionary, everywhere)
            if converted is None:
                return None
            found[column.name, type_] = converted
        frame.take_hashes(hashes, partitions)
        events = shape.codes[frame.events].astype(np.uint16)
        return Plain(self._catalog, Rows(frame.times, events, found, self._catalog.timezone, only=shape.only), int(bounds[0]), int(bounds[1]))

    def entered(self, frame: Frame, plain: Plain) -> Judged | None:
        """The verdict of a frame that was plain when it was admitted, its batch marked and its positions reserved; None: it is plain no more."""
        engine = self._engine
        earliest, latest = times_taken(self._catalog, engine.received_ms)
        if plain.catalog is not self._catalog or plain.first_ms < earliest or plain.last_ms > latest:
            return None
        if any(state.columns.full for state in engine.features.values()):
            return None
        batches, positions = engine.producers.batches_of(frame.producer), np.empty(frame.partitions.size, dtype=np.uint64)
        if batches is None or not enter_plain(frame.partitions, engine.reserved, *batches, np.uint64(frame.batch), positions):
            return None
        engine.producers.heard(frame.producer, engine.received_ms, frame.producer_started_ms)
        return Judged.plain(frame, positions, plain.rows)

    def _shape(self, frame: Frame) -> Shape | None:
        key = (*frame.event_names, *((column.name, column.type, column.presence is None) for column in frame.columns))
        if key not in self._shapes:
            if len(self._shapes) >= SHAPES_MAX:
                self._shapes.clear()
            self._shapes[key] = self._made(frame)
        return self._shapes[key]

    def _made(self, frame: Frame) -> Shape | None:
        catalog, columns = self._catalog, list[tuple[str, Dictionary | None]]()
        if not frame.event_names or any(name not in catalog.event_codes for name in frame.event_names):
            return None
        if len({column.name for column in frame.columns}) < len(frame.columns):
            return None
        for column in frame.columns:
            types = {catalog.events[name].get(column.name, "") for name in frame.event_names}
            type_ = types.pop()
            if types or column.presence is not None or column.type not in _TAKEN.get(type_, ()):
                return None
            key = self._coded.get((column.name, type_))
            if type_ in TEXT_TYPES and key is None:
                return None
            columns.append((type_, None if key is None else self._engine.dictionaries[key]))
        codes = [catalog.event_codes[name] for name in frame.event_names]
        return Shape(np.array(codes, dtype=np.int64), codes[0] if len(codes) == 1 else -1, columns)


def _converted(column: Column, type_: str, dictionary: Dictionary | None, everywhere: NDArray[np.bool_]) -> PropertyColumn | None:
    """A column that has a value in all rows, as its declared type; None: it needs a closer look."""
    values, words = column.values, column.words
    if values.size != everywhere.size:
        return None
    if dictionary is not None:
        if words is None or words.data.size > WORD_BYTES_MAX:
            return None
        codes = np.empty(len(words), dtype=np.int64)
        if not know_words(values, words.data, words.ends, *dictionary.index, codes):
            return None
        return PropertyColumn(type_, everywhere, values.astype(np.int64), words, {id(dictionary): codes})
    if values.dtype == np.float64 and not np.isfinite(values).all():
        return None
    return PropertyColumn(type_, everywhere, values.astype(np.float64) if type_ == "float" else values)
