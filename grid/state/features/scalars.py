"""count, sum, min, max, first_time, last_time, first, last: one or two fixed columns each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import TextVector, Vector

from grid.catalog import Catalog, Feature
from grid.kernels.flat import COPY, ROUND, TIME
from grid.kernels.folds import COUNTS, SUMS, TIMES
from grid.kernels.marks import TOUCHED
from grid.kernels.scalars import count_add, decode_number, decode_time, encode_number, encode_time, keep_first_or_last, raise_to, sum_add
from grid.state.features.base import FixedColumns, Flat, Foldable, Reading, Scannable, SharedState, Slots, Turn, addresses
from grid.state.memory import PAGE_ROWS
from grid.state.rows import TEXT_TYPES, RowNumbers, Rows
from grid.state.sketches import Sketch


class CountColumns(FixedColumns):
    """How many events: int64."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._counts = self.column("count", np.int64)
        self._sketch = Sketch(self.dirty, shared.space)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        if rows.weights is None:
            count_add(self._counts, self._sketch.marks, rows.slots, picked)
        else:
            np.add.at(self._counts, rows.slots[picked], rows.weights[picked].astype(np.int64))
            self.dirty[rows.slots[picked] >> 12] = TOUCHED

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        return Reading(self._counts[slots])

    def scannable(self) -> Scannable:
        return Scannable(self._counts, sketch=self._sketch)

    def flat(self, *, is_whole: bool) -> Flat:
        return Flat((COPY, *addresses(self._counts)))

    def foldable(self) -> Foldable:
        return Foldable((COUNTS, *addresses(self._counts, *self._sketch.marks)))


class SumColumns(FixedColumns):
    """Sum of a property: float64, whole numbers exact to 2^53."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._sums = self.column("sum", np.float64)
        self._sketch = Sketch(self.dirty, shared.space)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        sum_add(self._sums, self._sketch.marks, rows.slots, picked, self.weights(rows))

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        return Reading(self._sums[slots])

    def scannable(self) -> Scannable:
        return Scannable(self._sums, sketch=self._sketch)

    def flat(self, *, is_whole: bool) -> Flat:
        return Flat((ROUND if is_whole else COPY, *addresses(self._sums)))

    def foldable(self) -> Foldable:
        return Foldable((SUMS, *addresses(self._sums, *self._sketch.marks)))


class ExtremeColumns(FixedColumns):
    """min or max: the greatest order-preserving code (complemented for min), 0 is none."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._codes = self.column("code", np.uint64)
        self._sketch = Sketch(self.dirty, shared.space)  # of which nothing is made: rules do not scan it
        self._is_min = feature.kind == "min"

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        codes = encode_number(self.weights(rows))
        raise_to(self._codes, self._sketch.marks, rows.slots, picked, ~codes if self._is_min else codes)

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        codes = self._codes[slots]
        return Reading(decode_number(~codes if self._is_min else codes), codes != 0)


class TimeColumns(FixedColumns):
    """first_time or last_time."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._codes = self.column("time", np.uint64)
        self._is_first = feature.kind == "first_time"
        self._sketch = Sketch(self.dirty, shared.space)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        codes = encode_time(rows.times)
        raise_to(self._codes, self._sketch.marks, rows.slots, picked, ~codes if self._is_first else codes)

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        codes = self._codes[slots]
        return Reading(decode_time(~codes if self._is_first else codes), codes != 0)

    def scannable(self) -> Scannable:
        return Scannable(self._codes, is_time=True, is_reversed=self._is_first, sketch=self._sketch)

    def flat(self, *, is_whole: bool) -> Flat:
        return Flat((TIME, *addresses(self._codes), int(self._is_first)))

    def foldable(self) -> Foldable:
        return Foldable((TIMES, *addresses(self._codes, *self._sketch.marks), int(self._is_first)))


class FirstLastColumns(FixedColumns):
    """The value beside the earliest or latest time. Of equal times `last` takes the later in the log, `first` the earlier."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._times = self.column("time", np.uint64)
        self._values = self.column("value", np.uint64)
        self._is_first = feature.kind == "first"

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        codes = encode_time(rows.times)
        column = rows.columns[(str(self.feature.property_name), self.property_type)]
        # The past is folded after the present during a backfill: ties then go the other way.
        wins_ties = self._is_first if rows.is_past else not self._is_first
        keep_first_or_last(
            self._times, self._values, self.dirty, rows.slots, picked,
            ~codes if self._is_first else codes, self._bits(column.values, column), wins_ties,
        )  # fmt: skip

    @property
    def dictionary_key(self) -> str | None:
        return self.feature.property_name if self.property_type in TEXT_TYPES else None

    def recoded(self, blob: bytes, turn: Turn) -> bytes:
        times, values = np.frombuffer(blob, dtype=np.uint64).reshape(2, PAGE_ROWS)
        known = times != 0
        turned = np.zeros(PAGE_ROWS, dtype=np.uint64)
        turned[known] = turn(values[known].astype(np.int64)).astype(np.uint64)
        return times.tobytes() + turned.tobytes()

    def _bits(self, values: NDArray[Any], column: Any) -> NDArray[np.uint64]:
        if self.property_type in TEXT_TYPES:
            return column.codes(self.shared.dictionaries[str(self.feature.property_name)]).astype(np.uint64)  # type: ignore[no-any-return]
        if self.property_type == "float":
            return np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
        return values.astype(np.int64).view(np.uint64)

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        known = self._times[slots] != 0
        bits = self._values[slots]
        if self.property_type in TEXT_TYPES:
            return Reading(bits.astype(np.int64), known, dictionary=self.shared.dictionaries[str(self.feature.property_name)])
        if self.property_type == "float":
            return Reading(bits.view(np.float64), known)
        values = bits.view(np.int64)
        return Reading(values.astype(np.uint8) if self.property_type == "bool" else values, known)

    def vector(self, slots: Slots, as_of_ms: int) -> tuple[Vector, Reading]:
        reading = self.read(slots, as_of_ms)
        if reading.dictionary is not None:
            return TextVector(reading.values, reading.dictionary, reading.known), reading  # type: ignore[return-value]
        return Vector(reading.values, reading.known), reading
