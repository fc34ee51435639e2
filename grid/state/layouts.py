"""What queries work in, and how they go over the pages of some partitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grid.kernels.scans import lay_out, pages_of
from grid.state.memory import PAGE_ROWS
from grid.state.users import Users

_LAYOUTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """The pages of some partitions as scans go over them; not to be changed.

    page_changes  what Users had of it then
    given         int64[partitions]: how many ordinals each has given out
    owners        int64[pages]: of which partition, by its number among those asked for; those of one are in ordinal order
    spans         int64[3, pages]: where the rows are (grid/kernels/scans.py)
    mask_words    how long their mask is
    """

    page_changes: int
    given: NDArray[np.int64]
    owners: NDArray[np.int64]
    spans: NDArray[np.int64]
    mask_words: int


class Workspace:
    """What queries work in, one turn after another. Memory that is new costs a page fault each 4 KiB, a third of a count over a million users."""

    def __init__(self) -> None:
        self._mask = np.empty(0, dtype=np.uint64)
        self._layouts: dict[bytes, Layout] = {}

    def mask(self, words: int) -> NDArray[np.uint64]:
        """uint64[words] of anything."""
        if self._mask.size < words:
            self._mask = np.empty(words, dtype=np.uint64)
        return self._mask[:words]

    def layout(self, users: Users, partitions: NDArray[np.int64]) -> Layout:
        """The pages of partitions now; made again only where they have other pages or rows than last time."""
        key, given = partitions.tobytes(), users.next_ordinal[partitions]
        known = self._layouts.get(key)
        if known is None or known.page_changes != users.page_changes or (known.given != given).any():
            if len(self._layouts) >= _LAYOUTS_MAX:
                self._layouts.clear()
            known = self._layouts[key] = laid_out(users, partitions, given)
        return known


def laid_out(users: Users, partitions: NDArray[np.int64], given: NDArray[np.int64]) -> Layout:
    """The first `given` ordinals of partitions."""
    count = int(((given + PAGE_ROWS - 1) // PAGE_ROWS).sum())
    spans, owners = np.empty((3, count), dtype=np.int64), np.empty(count, dtype=np.int64)
    pages_of(users.page_table, partitions, given, spans[0], owners, spans[1])
    order = order_of(spans[0], owners)
    if order is not None:
        spans[:2], owners = spans[:2, order], owners[order]
    return Layout(users.page_changes, given, owners, spans, int(lay_out(spans)))


def order_of(pages: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The order in which pages lie in memory, where partitions that were filled together take turns: a tenth less than one partition after another.

    None where a partition took over a page that another had given back: its own must stay in the order of their ordinals.
    """
    is_rising = (np.diff(pages)[np.diff(owners) == 0] > 0).all()
    return np.argsort(pages, kind="stable") if is_rising else None
