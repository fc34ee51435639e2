"""decayed_count and decayed_sum: one float64 a user in forward-decay form, a landmark a page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grid.catalog import Catalog, Feature
from grid.kernels.decay import advance_landmarks, decayed_add, decayed_read
from grid.kernels.flat import DECAYED
from grid.kernels.folds import DECAYED as DECAYED_SUMS
from grid.kernels.marks import TOUCHED
from grid.kernels.scans import page_factors
from grid.state.features.base import FixedColumns, Flat, Foldable, Reading, Scannable, SharedState, Slots, addresses
from grid.state.memory import PAGE_ROWS, reserve
from grid.state.rows import RowNumbers, Rows
from grid.state.sketches import Sketch


class Landmarks:
    """The landmark of each page: the time that its sums are seen from. It moves by whole half-lives, which scales sums exactly."""

    def __init__(self, pages_max: int, half_life_ms: float) -> None:
        self.half_life = half_life_ms
        self.times: NDArray[np.float64] = reserve(np.float64, pages_max)
        self.is_set: NDArray[np.uint8] = reserve(np.uint8, pages_max)
        self._shifts: NDArray[np.float64] = reserve(np.float64, pages_max)

    def advance(self, rows: Rows, picked: RowNumbers) -> list[tuple[int, float]]:
        """Make every picked row's time reachable. Returns (page, factor) for sums that must be scaled."""
        if not advance_landmarks(self.times, self.is_set, self._shifts, rows.slots, picked, rows.times, self.half_life):
            return []
        pages = np.unique(rows.slots[picked] >> 12)
        moved = []
        for page in pages[self._shifts[pages] > 0].tolist():  # rare: once per 400 half-lives a page
            shift = float(self._shifts[page])
            self.times[page] += shift * self.half_life
            self._shifts[page] = 0
            moved.append((page, float(np.exp2(-shift))))
        return moved

    def dump(self, page: int) -> bytes:
        """16 bytes: the landmark and whether it is set."""
        return np.array([self.times[page], self.is_set[page]], dtype=np.float64).tobytes()

    def load(self, page: int, blob: bytes) -> None:
        """Inverse of `dump`."""
        time, is_set = np.frombuffer(blob, dtype=np.float64, count=2)
        self.times[page], self.is_set[page] = time, is_set

    def forget(self, page: int) -> None:
        """As before the first event."""
        self.times[page] = self.is_set[page] = 0


class DecayedColumns(FixedColumns):
    """Weights that halve every half-life."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._sums = self.column("sum", np.float64)
        self._sketch = Sketch(self.dirty, shared.space)
        self._landmarks = Landmarks(shared.space.pages_max, feature.half_life_ms)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        for page, factor in self._landmarks.advance(rows, picked):
            self._sums[page * PAGE_ROWS : (page + 1) * PAGE_ROWS] *= factor
            self.dirty[page] = TOUCHED
        marks, landmarks = self._sketch.marks, self._landmarks
        decayed_add(self._sums, landmarks.times, marks, rows.slots, picked, rows.times, self.weights(rows), landmarks.half_life)

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        values = decayed_read(self._sums, self._landmarks.times, slots, float(as_of_ms), self._landmarks.half_life)
        return Reading(values)

    def scannable(self) -> Scannable:
        return Scannable(self._sums, factors_at=self._factors, sketch=self._sketch)

    def flat(self, *, is_whole: bool) -> Flat:
        return Flat((DECAYED, *addresses(self._sums, self._landmarks.times)), self._landmarks.half_life)

    def foldable(self) -> Foldable:
        landmarks = self._landmarks
        return Foldable((DECAYED_SUMS, *addresses(self._sums, *self._sketch.marks, landmarks.times, landmarks.is_set)), landmarks.half_life)

    def _factors(self, pages: NDArray[np.int64], as_of_ms: int) -> NDArray[np.float64] | None:
        factors = page_factors(self._landmarks.times, pages, float(as_of_ms), self._landmarks.half_life)
        return factors if np.isfinite(factors).all() else None  # as_of lies ages before the landmark: 0 · inf

    def drop_page(self, page: int) -> None:
        super().drop_page(page)
        self._landmarks.forget(page)

    def dump_page(self, page: int) -> bytes:
        blob = super().dump_page(page)
        return self._landmarks.dump(page) + blob if blob or self._landmarks.is_set[page] else b""

    def load_page(self, page: int, blob: bytes) -> None:
        self._landmarks.load(page, blob)
        if len(blob) > 16:
            super().load_page(page, blob[16:])
