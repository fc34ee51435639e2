"""`by` features: per user a list of (key code, value) in the feature's arena."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grid.catalog import Catalog, Feature
from grid.kernels.decay import ageing, decayed_entries, forward_weights
from grid.kernels.folds import KEYED, KEYED_DECAYED
from grid.kernels.lists import keyed_add, keyed_best, keyed_cells, keyed_find, keyed_has, keyed_items, keyed_load, keyed_scale, list_clear, list_counts
from grid.kernels.windows import keyed_ring_add, keyed_ring_read
from grid.state.dictionary import Dictionary
from grid.state.features.base import ONE, FeatureColumns, Foldable, ListArena, Reading, SharedState, Slots, Turn, addresses, page_slots, recoded_lists
from grid.state.features.decayed import Landmarks
from grid.state.memory import PAGE_ROWS
from grid.state.rows import RowNumbers, Rows, hop_at

_NO_LANDMARKS = np.zeros(0, dtype=np.float64)


class KeyedColumns(FeatureColumns):
    """count or sum by key: one float64 beside each key."""

    width = 1

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._lists = ListArena(shared.space)
        self._keys_max = 1 << 62
        # Invariant: slots that have at least `_keys_max` keys are in here; few, if any.
        self.full: set[int] = set()

    def limit_keys(self, keys_max: int) -> None:
        """How many keys a user may have; looks for those who have as many already when that changes."""
        if keys_max != self._keys_max:
            self._keys_max = keys_max
            self.full.clear()
            self.find_full(np.flatnonzero(self._lists.heads).astype(np.int64) if self.nbytes else np.empty(0, dtype=np.int64))

    def find_full(self, slots: Slots) -> None:
        """Note those of some users that have as many keys as they may."""
        counts = list_counts(self._lists.words, self._lists.heads, slots)
        if counts.size and int(counts.max()) >= self._keys_max:
            self.full.update(slots[counts >= self._keys_max].tolist())

    def beyond(self, slots: Slots, rows: Rows, picked: RowNumbers) -> RowNumbers:
        """Those of the picked rows that would give a full user one more key. `slots` int64[rows], -1 unknown."""
        here = picked[np.isin(slots[picked], np.fromiter(self.full, dtype=np.int64))]
        if here.size == 0:
            return here
        column = rows.columns[(str(self.feature.by), self.by_type)]
        assert column.words is not None
        codes = self.dictionary.find_all(column.words)[column.values[here]]  # not `row_keys`: new words have no code yet
        lists = self._lists
        has = keyed_has(lists.words, lists.keys, lists.heads, slots[here], np.maximum(codes, 0).astype(np.uint32), self.width)
        return here[(codes < 0) | ~has]

    @property
    def dictionary(self) -> Dictionary:
        """Names of the keys."""
        return self.shared.dictionaries[str(self.feature.by)]

    def row_keys(self, rows: Rows) -> NDArray[np.uint32]:
        """uint32[rows]: the code of each row's key."""
        return rows.columns[(str(self.feature.by), self.by_type)].codes(self.dictionary)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        weights = self.weights(rows)
        self._add(rows, picked, weights[picked] if weights is not ONE else ONE)

    def _add(self, rows: Rows, picked: RowNumbers, weights: NDArray[np.float64]) -> None:
        lists = self._lists
        keyed_add(
            lists.words, lists.keys, lists.floats, lists.heads, lists.control, lists.free, self.dirty,
            rows.slots, picked, self.row_keys(rows), weights,
        )  # fmt: skip
        self.find_full(rows.slots[picked])

    def foldable(self) -> Foldable | None:
        lists = self._lists
        return Foldable((KEYED, *addresses(self.dirty, lists.words, lists.heads, lists.control, lists.free), self._keys_max))

    def _items(self, slots: Slots) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float64]]:
        counts, keys, words = keyed_items(self._lists.words, self._lists.keys, self._lists.heads, slots, self.width)
        return np.maximum(counts, 0), keys, words.view(np.float64)

    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        counts, keys, values = self._items(slots)
        values, counts, keys, is_held = self._at(slots, counts, keys, values, as_of_ms)
        return Reading(values, None, counts, keys, self.dictionary, is_held=is_held)

    def _at(
        self, slots: Slots, counts: NDArray[np.int64], keys: NDArray[np.uint32], values: NDArray[np.float64], as_of_ms: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint32], bool]:
        """Values at a time, the counts and keys of those that are left, and whether all is still held."""
        return values, counts, keys, True

    def best(self, slots: Slots, as_of_ms: int, top: int) -> Reading:
        """As `read`, of each user only the `top` entries, by value descending, then key ascending."""
        return self._best(slots, top, _NO_LANDMARKS, 0.0, 0.0)

    def _best(self, slots: Slots, top: int, landmarks: NDArray[np.float64], as_of_ms: float, half_life_ms: float) -> Reading:
        lists, dictionary = self._lists, self.dictionary
        found = keyed_best(lists.words, lists.keys, lists.floats, lists.heads, slots, top, *dictionary.heap, landmarks, as_of_ms, half_life_ms)
        counts, keys, values = found
        return Reading(values, None, counts, keys, dictionary)

    def value_of(self, slots: Slots, key: str, as_of_ms: int) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """(value, known) of one key: 0 where it is absent; known None: everywhere."""
        code = self.dictionary.find(key)
        if code.size == 0:
            return np.zeros(slots.size), None
        cells = keyed_find(self._lists.words, self._lists.keys, self._lists.heads, slots, np.uint32(code[0]), self.width)
        return self._cells_at(slots, cells, as_of_ms)

    def _cells_at(self, slots: Slots, cells: NDArray[np.int64], as_of_ms: int) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        return np.where(cells > 0, self._lists.floats[cells], 0.0), None

    def clear(self, slots: Slots) -> None:
        list_clear(self._lists.words, self._lists.heads, self._lists.control, self._lists.free, self.dirty, slots)
        self.full.difference_update(slots.tolist())

    def dump_page(self, page: int) -> bytes:
        lists = self._lists
        counts, keys, values = keyed_items(lists.words, lists.keys, lists.heads, page_slots(page), self.width)
        if keys.size == 0:
            return b""
        return counts.astype(np.int32).tobytes() + keys.tobytes() + values.tobytes()

    def load_page(self, page: int, blob: bytes) -> None:
        counts = np.frombuffer(blob, dtype=np.int32, count=PAGE_ROWS).astype(np.int64)
        n = int(np.maximum(counts, 0).sum())
        keys = np.frombuffer(blob, dtype=np.uint32, count=n, offset=PAGE_ROWS * 4).copy()
        values = np.frombuffer(blob[PAGE_ROWS * 4 + 4 * n :], dtype=np.uint64).copy()
        lists = self._lists
        keyed_load(lists.words, lists.keys, lists.heads, lists.control, lists.free, page_slots(page), counts, keys, values, self.width)
        self.find_full(page_slots(page)[counts > 0])

    @property
    def dictionary_key(self) -> str | None:
        return self.feature.by

    def recoded(self, blob: bytes, turn: Turn) -> bytes:
        return recoded_lists(blob, turn)

    @property
    def nbytes(self) -> int:
        return self._lists.nbytes

    @property
    def row_bytes(self) -> int:
        return 3 * (8 * self.width + 4) + 24


class KeyedDecayedColumns(KeyedColumns):
    """decayed_count or decayed_sum by key; landmarks as in the plain kind."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self._landmarks = Landmarks(shared.space.pages_max, feature.half_life_ms)

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        lists = self._lists
        for page, factor in self._landmarks.advance(rows, picked):
            keyed_scale(lists.words, lists.keys, lists.floats, lists.heads, page * PAGE_ROWS, factor)
        marks = self._landmarks
        self._add(rows, picked, forward_weights(marks.times, rows.slots, picked, rows.times, self.weights(rows), marks.half_life))

    def foldable(self) -> Foldable:
        lists, marks = self._lists, self._landmarks
        where = addresses(self.dirty, lists.words, lists.heads, lists.control, lists.free)
        return Foldable((KEYED_DECAYED, *where, self._keys_max, *addresses(marks.times, marks.is_set)), marks.half_life)

    def _at(
        self, slots: Slots, counts: NDArray[np.int64], keys: NDArray[np.uint32], values: NDArray[np.float64], as_of_ms: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint32], bool]:
        marks = self._landmarks
        return decayed_entries(values, counts, marks.times, slots, float(as_of_ms), marks.half_life), counts, keys, True

    def best(self, slots: Slots, as_of_ms: int, top: int) -> Reading:
        return self._best(slots, top, self._landmarks.times, float(as_of_ms), self._landmarks.half_life)

    def _cells_at(self, slots: Slots, cells: NDArray[np.int64], as_of_ms: int) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        sums, known = super()._cells_at(slots, cells, as_of_ms)
        with np.errstate(over="ignore", invalid="ignore"):
            aged = sums * ageing(self._landmarks.times, slots, float(as_of_ms), self._landmarks.half_life)
        return np.where(sums == 0, 0.0, aged), known

    def dump_page(self, page: int) -> bytes:
        blob = super().dump_page(page)
        return self._landmarks.dump(page) + blob if blob or self._landmarks.is_set[page] else b""

    def load_page(self, page: int, blob: bytes) -> None:
        self._landmarks.load(page, blob)
        if len(blob) > 16:
            super().load_page(page, blob[16:])

    def drop_page(self, page: int) -> None:
        super().drop_page(page)
        self._landmarks.forget(page)

    def recoded(self, blob: bytes, turn: Turn) -> bytes:
        return blob[:16] + (super().recoded(blob[16:], turn) if len(blob) > 16 else b"")


class KeyedWindowColumns(KeyedColumns):
    """window_count or window_sum by key: a ring beside each key, of that key's own events."""

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        super().__init__(catalog, feature, shared)
        self.width = feature.hops + 2

    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        lists = self._lists
        cells = keyed_cells(lists.words, lists.keys, lists.heads, lists.control, lists.free, self.dirty, rows.slots, picked, self.row_keys(rows), self.width)
        keyed_ring_add(lists.words, lists.floats, cells, rows.hops(self.feature.hop_ms), self.weights(rows), picked, self.feature.hops)
        self.find_full(rows.slots[picked])

    def foldable(self) -> Foldable | None:
        return None

    def best(self, slots: Slots, as_of_ms: int, top: int) -> Reading:
        reading = self.read(slots, as_of_ms)
        assert reading.counts is not None and reading.keys is not None
        reading.counts, reading.keys, reading.values = self.dictionary.best(reading.counts, reading.keys, reading.values, top)
        return reading

    def _hop(self, as_of_ms: int) -> int:
        return hop_at(as_of_ms, self.feature.hop_ms, self.shared.timezone)

    def _at(
        self, slots: Slots, counts: NDArray[np.int64], keys: NDArray[np.uint32], values: NDArray[np.float64], as_of_ms: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint32], bool]:
        windows, held = keyed_ring_read(values, self._hop(as_of_ms), self.feature.hops)
        here = ~np.isnan(windows) & held  # a key whose window is not held any more is left out, and the reading says so
        owners = np.repeat(np.arange(slots.size), counts)
        left = np.bincount(owners[here], minlength=slots.size).astype(np.int64)
        return windows[here], left, keys[here], bool(held.all())

    def _cells_at(self, slots: Slots, cells: NDArray[np.int64], as_of_ms: int) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        found = np.flatnonzero(cells)
        rings = self._lists.floats[(cells[found, None] + np.arange(self.width)).ravel()]
        windows, held = keyed_ring_read(rings, self._hop(as_of_ms), self.feature.hops)
        values, known = np.zeros(slots.size), np.ones(slots.size, dtype=bool)
        values[found], known[found] = np.nan_to_num(windows), held
        return values, known
