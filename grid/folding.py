"""A group's rows folded into all features at once (grid/kernels/folds.py)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grid.kernels.folds import MORE, ROWS_FROM, ROWS_TO, VALUES, VALUES_SIZE, WIDTH, address, fold_rows
from grid.state.features.base import ONE
from grid.state.features.keyed import KeyedColumns
from grid.state.rows import NO_ROWS, RowNumbers, Rows

if TYPE_CHECKING:
    from grid.engine import Engine


@dataclass(slots=True)
class Fed:
    """The features that some rows may feed: which (0 or 1), and what each needs beside times."""

    which: NDArray[np.int64]
    weighted: list[int]
    keyed: list[tuple[int, KeyedColumns]]
    hops: list[tuple[int, int]]


class FoldPlan:
    """Where the columns of an engine's features lie and which rows feed them. Good for as long as those are the engine's."""

    def __init__(self, engine: Engine) -> None:
        found = [(state, state.columns.foldable()) for state in engine.features.values()]
        together = [(state, foldable) for state, foldable in found if foldable is not None]
        self._alone = [(state.columns, state.picker) for state, foldable in found if foldable is None]
        self._columns = [state.columns for state, _ in together]
        self._pickers = [state.picker for state, _ in together]
        self._hop_ms = [foldable.hop_ms for _, foldable in together]
        self._filtered = [f for f, picker in enumerate(self._pickers) if picker.has_where]
        self._fed: dict[tuple[Any, ...], Fed] = {}
        self._fields = np.zeros((len(together), WIDTH), dtype=np.int64)
        self._half_lives = np.array([foldable.half_life for _, foldable in together])
        self._is_full = np.zeros(len(together), dtype=bool)
        for f, (_, foldable) in enumerate(together):
            self._fields[f, : len(foldable.words)] = foldable.words
        self._fields[:, VALUES], self._fields[:, VALUES_SIZE] = address(ONE), 1

    def fold(self, rows: Rows) -> None:
        """Fold rows that were decoded under the engine's catalog into all of its features."""
        fields = self._fields
        picked, fed = self._pick(rows)
        lie: list[NDArray[Any]] = []  # what the kernel is given by address must not go meanwhile

        def given(array: NDArray[Any]) -> int:
            lie.append(array if array.flags.c_contiguous and array.flags.aligned else array.copy())
            return int(address(lie[-1]))

        for f in fed.weighted:
            fields[f, VALUES], fields[f, VALUES_SIZE] = given(self._columns[f].weights(rows)), rows.size
        for f, keyed in fed.keyed:
            fields[f, MORE] = given(keyed.row_keys(rows))
        for f, hop_ms in fed.hops:
            fields[f, MORE] = given(rows.hops(hop_ms))
        times, at, last = given(rows.times), 0, len(self._columns)
        while (at := fold_rows(fields, self._half_lives, at, rows.slots, times, picked, self._is_full)) < last:
            self._columns[at].fold(rows, self._picked(at, picked))
            at += 1
        if np.count_nonzero(self._is_full):
            for f, keyed in fed.keyed:
                if self._is_full[f]:
                    keyed.find_full(rows.slots[self._picked(f, picked)])
            self._is_full[:] = False
        for columns, picker in self._alone:
            alone = picker.pick(rows)
            if alone.size:
                columns.fold(rows, alone)

    def _picked(self, f: int, picked: RowNumbers) -> RowNumbers:
        return picked[self._fields[f, ROWS_FROM] : self._fields[f, ROWS_TO]]

    def _pick(self, rows: Rows) -> tuple[RowNumbers, Fed]:
        """(the rows that features pick, one after another; which features are fed). Where those of each lie is entered."""
        if rows.only < 0:
            picks = [picker.pick(rows) for picker in self._pickers]
            return self._laid(range(len(picks)), [NO_ROWS, *picks]), self._fed_by([picked.size > 0 for picked in picks])
        # Each feature is fed by all rows, or by none; only a `where` looks at each.
        key = (rows.only, *rows.columns)
        fed = self._fed.get(key)
        if fed is None:
            fed = self._fed[key] = self._fed_by([picker.may_pick(rows) for picker in self._pickers])
        self._fields[:, ROWS_FROM] = 0
        np.multiply(fed.which, rows.size, out=self._fields[:, ROWS_TO])
        if not self._filtered:
            return rows.everything, fed
        return self._laid(self._filtered, [rows.everything, *(self._pickers[f].pick(rows) for f in self._filtered)]), fed

    def _laid(self, features: Iterable[int], picks: list[RowNumbers]) -> RowNumbers:
        """Picks one after another; where those of features, the ones behind the first, begin and end is entered."""
        at = picks[0].size
        for f, picked in zip(features, picks[1:], strict=True):
            self._fields[f, ROWS_FROM], self._fields[f, ROWS_TO] = at, at + picked.size
            at += picked.size
        return np.concatenate(picks)

    def _fed_by(self, which: list[bool]) -> Fed:
        fed = [f for f, is_fed in enumerate(which) if is_fed]
        columns = self._columns
        return Fed(
            np.array(which, dtype=np.int64),
            [f for f in fed if columns[f].feature.property_name is not None],
            [(f, keyed) for f in fed if isinstance(keyed := columns[f], KeyedColumns)],
            [(f, self._hop_ms[f]) for f in fed if self._hop_ms[f]],
        )
