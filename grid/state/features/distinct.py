"""distinct and window_distinct: hashes in lists, then sketches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grid.catalog import Catalog, Feature
from grid.kernels.distinct import blocks_load, blocks_pack, distinct_add, distinct_read, pairs_add, pairs_read
from grid.kernels.lists import list_clear
from grid.state.features.base import FeatureColumns, ListArena, Reading, SharedState, Slots, page_slots
from grid.state.memory import PAGE_ROWS
from grid.state.rows import RowNumbers, Rows, hop_at


class DistinctColumns(FeatureColumns):
    """Different values ever: exact to 256, then HyperLogLog."""

    header_words = 0

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._lists = ListArena(shared.space)

    def hashes(self, rows: Rows) -> NDArray[np.uint64]:
        """uint64[rows]: a hash of each row's value."""
        return rows.columns[(str(self.feature.property_name), self.property_type)].hashes()

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        lists = self._lists
        distinct_add(lists.words, lists.octets, lists.heads, lists.control, lists.free, self.dirty, rows.slots, picked, self.hashes(rows))

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        values, approximate = np.empty(slots.size), np.empty(slots.size, dtype=bool)
        distinct_read(self._lists.words, self._lists.octets, self._lists.heads, slots, values, approximate)
        return Reading(values, approximate=bool(approximate.any()))

    def clear(self, slots: Slots) -> None:
        list_clear(self._lists.words, self._lists.heads, self._lists.control, self._lists.free, self.dirty, slots)

    def dump_page(self, page: int) -> bytes:
        sizes, words = blocks_pack(self._lists.words, self._lists.heads, page_slots(page), self.header_words)
        return sizes.astype(np.uint32).tobytes() + words.tobytes() if words.size else b""

    def load_page(self, page: int, blob: bytes) -> None:
        sizes = np.frombuffer(blob, dtype=np.uint32, count=PAGE_ROWS).astype(np.int64)
        words = np.frombuffer(blob, dtype=np.uint64, offset=PAGE_ROWS * 4).copy()
        blocks_load(self._lists.words, self._lists.heads, self._lists.control, self._lists.free, page_slots(page), sizes, words)

    @property
    def nbytes(self) -> int:
        return self._lists.nbytes


class WindowDistinctColumns(DistinctColumns):
    """Different values in a window: pairs of value and hop, exact to 4,096, then sampled."""

    header_words = 3

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        lists, hops = self._lists, rows.hops(self.feature.hop_ms)
        pairs_add(lists.words, lists.heads, lists.control, lists.free, self.dirty, rows.slots, picked, self.hashes(rows), hops, self.feature.hops)

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        hop = hop_at(as_of_ms, self.feature.hop_ms, self.shared.timezone)
        values, approximate, held = np.empty(slots.size), np.empty(slots.size, dtype=bool), np.empty(slots.size, dtype=bool)
        pairs_read(self._lists.words, self._lists.heads, slots, hop, self.feature.hops, values, approximate, held)
        return self.is_held(Reading(values, held, approximate=bool(approximate.any())))
