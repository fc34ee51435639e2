"""window_count, window_sum, window_min, window_max: a ring of hops for users that have events."""

from __future__ import annotations

import numpy as np

from grid.catalog import Catalog, Feature
from grid.kernels.flat import WINDOW
from grid.kernels.folds import RINGS
from grid.kernels.marks import TOUCHED
from grid.kernels.windows import ring_add, ring_read
from grid.state.features.base import FeatureColumns, Flat, Foldable, Reading, SharedState, Slots, addresses
from grid.state.memory import PAGE_ROWS, reserve
from grid.state.rows import RowNumbers, Rows, hop_at

_MODES = {"window_count": 0, "window_sum": 0, "window_min": 1, "window_max": 2}


class WindowColumns(FeatureColumns):
    """Rings of float64 (float32 for counts: exact to 16.7 M events a hop), taken at a user's first event."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        slots = shared.space.slots_max
        self._hops, self._mode = feature.hops, _MODES[feature.kind]
        self._null = feature.spec.null
        self._ring_of = reserve(np.uint32, slots)
        self._newest = reserve(np.int64, slots)
        self._lost = reserve(np.int64, slots)
        self._values = reserve(np.float32 if feature.kind == "window_count" else np.float64, slots * self._hops)
        self._free_rings = reserve(np.int64, slots)
        # Invariant: ring 0 is nobody's; control is (next fresh ring, free rings).
        self._control = np.array([1, 0], dtype=np.int64)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        ring_add(
            self._ring_of, self._newest, self._lost, self._values, self._free_rings, self._control, self.dirty,
            rows.slots, picked, rows.hops(self.feature.hop_ms), self.weights(rows), self._hops, self._mode,
        )  # fmt: skip

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        hop = hop_at(as_of_ms, self.feature.hop_ms, self.shared.timezone)
        values, held = np.empty(slots.size), np.empty(slots.size, dtype=bool)
        ring_read(self._ring_of, self._newest, self._lost, self._values, slots, hop, self._hops, self._mode, values, held)
        is_empty = np.isnan(values)
        reading = Reading(np.where(is_empty, 0.0, values), held & ~is_empty if self._null else held)
        reading.is_held = bool(held.all())
        return reading

    def flat(self, *, is_whole: bool) -> Flat:
        where = addresses(self._ring_of, self._newest, self._lost, self._values)
        words = WINDOW, *where, self._values.itemsize, self._hops, self._mode, int(self._null), int(is_whole)
        return Flat(words, hop_ms=self.feature.hop_ms)

    def foldable(self) -> Foldable:
        where = addresses(self.dirty, self._ring_of, self._newest, self._lost, self._values, self._free_rings, self._control)
        return Foldable((RINGS, *where, self._values.itemsize, self._hops, self._mode), hop_ms=self.feature.hop_ms)

    def clear(self, slots: Slots) -> None:
        rings = self._ring_of[slots]
        rings = rings[rings != 0].astype(np.int64)
        self._values.reshape(-1, self._hops)[rings] = 0
        free = int(self._control[1])
        self._free_rings[free : free + rings.size] = rings
        self._control[1] += rings.size
        self._ring_of[slots] = 0
        self.dirty[slots >> 12] = TOUCHED

    def dump_page(self, page: int) -> bytes:
        rings = self._ring_of[page * PAGE_ROWS : (page + 1) * PAGE_ROWS].astype(np.int64)
        has = rings != 0
        if not has.any():
            return b""
        rings = rings[has]
        values = self._values.reshape(-1, self._hops)[rings]
        parts = (np.packbits(has, bitorder="little"), self._newest[rings], self._lost[rings], values)
        return b"".join(part.tobytes() for part in parts)

    def load_page(self, page: int, blob: bytes) -> None:
        has = np.unpackbits(np.frombuffer(blob, dtype=np.uint8, count=PAGE_ROWS // 8), bitorder="little").astype(bool)
        n = int(has.sum())
        first, free = int(self._control[0]), int(self._control[1])
        again = self._free_rings[max(free - n, 0) : free].astype(np.int64)
        self._control += [n - again.size, -again.size]
        rings = np.concatenate([again, np.arange(first, first + n - again.size)])
        self._ring_of[page * PAGE_ROWS + np.flatnonzero(has)] = rings
        at = PAGE_ROWS // 8
        self._newest[rings] = np.frombuffer(blob, dtype=np.int64, count=n, offset=at)
        self._lost[rings] = np.frombuffer(blob, dtype=np.int64, count=n, offset=at + 8 * n)
        values = np.frombuffer(blob, dtype=self._values.dtype, offset=at + 16 * n)
        self._values.reshape(-1, self._hops)[rings] = values.reshape(n, self._hops)

    @property
    def nbytes(self) -> int:
        rings = int(self._control[0] - self._control[1])
        return rings * (16 + self._hops * self._values.itemsize)

    @property
    def row_bytes(self) -> int:
        return 20 + self._hops * self._values.itemsize
