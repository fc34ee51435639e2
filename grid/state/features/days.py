"""days_active: one bit a day for the newest days of a user, and whether a given day was one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grid.catalog import Catalog, Feature
from grid.kernels.flat import DAYS
from grid.kernels.folds import DAY_BITS
from grid.kernels.windows import days_add, days_read
from grid.state.days import DAY_MS
from grid.state.features.base import FixedColumns, Flat, Foldable, Reading, SharedState, Slots, addresses
from grid.state.rows import RowNumbers, Rows, hop_at


class DaysColumns(FixedColumns):
    """Bits of days; day d at bit d mod window."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._days = feature.hops
        self._words = -(-self._days // 64)
        self._newest = self.column("newest", np.int32)
        self._lost = self.column("lost", np.int32)
        self._bits = self.column("bits", np.uint64, self._words)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        days = rows.hops(DAY_MS)
        days_add(self._newest, self._lost, self._bits, self.dirty, rows.slots, picked, days, self._days, self._words)

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        return self._count(slots, as_of_ms, self._days)

    def flat(self, *, is_whole: bool) -> Flat:
        return Flat((DAYS, *addresses(self._newest, self._lost, self._bits), self._days, self._words), hop_ms=DAY_MS)

    def foldable(self) -> Foldable:
        where = addresses(self.dirty, self._newest, self._lost, self._bits)
        return Foldable((DAY_BITS, *where, self._days, self._words), hop_ms=DAY_MS)

    def active_on(self, slots: Slots, day_ms: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
        """(active, known) bool[n]: whether users had an event on the local day of a time."""
        reading = self._count(slots, day_ms, 1)
        return reading.values > 0, reading.known

    def _count(self, slots: Slots, as_of_ms: int, span: int) -> Reading:
        day = hop_at(as_of_ms, DAY_MS, self.shared.timezone)
        values, held = np.empty(slots.size), np.empty(slots.size, dtype=bool)
        days_read(self._newest, self._lost, self._bits, slots, day, self._days, self._words, span, values, held)
        return self.is_held(Reading(values, held))
