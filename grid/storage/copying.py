"""A partition's changed pages as of one moment, copied page by page while applies go on.

    a quiet moment: pages are marked --> copied one by one between other turns, or before a commit touches them --> a dump

Invariant: a page of the copy is as it was at the moment, because whoever changes rows calls `before` first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from grid.kernels.marks import UNSAVED
from grid.state.users import Slots
from grid.storage.checkpoints import PartitionDump


class PartitionCopy:
    """Collects a dump. `waiting` is page -> (its number in the partition, columns to copy by key)."""

    def __init__(self, dump: PartitionDump, waiting: dict[int, tuple[int, list[tuple[str, Any]]]]) -> None:
        self.dump = dump
        self._waiting = waiting
        self._marked = [(columns, page) for page, (_, changed) in waiting.items() for _, columns in changed]
        self._is_marked = np.zeros(max(waiting, default=0) + 1, dtype=bool)
        self._is_marked[list(waiting)] = True

    @property
    def pages(self) -> int:
        """How many pages are yet to be copied."""
        return len(self._waiting)

    def before(self, slots: Slots) -> None:
        """Copy the marked pages of slots whose rows are about to change."""
        if not self._waiting:
            return
        pages = slots >> 12
        pages = pages[pages < self._is_marked.size]
        for page in np.unique(pages[self._is_marked[pages]]).tolist():
            self._copy(page)

    def copy_next(self) -> bool:
        """Copy one page that nobody asked for yet; False when all are copied."""
        if not self._waiting:
            return False
        self._copy(next(iter(self._waiting)))
        return True

    def abandon(self) -> None:
        """The dump will not be written: what it marked is dirty again."""
        self._waiting.clear()
        for columns, page in self._marked:
            columns.dirty[page] |= UNSAVED

    def _copy(self, page: int) -> None:
        number, columns = self._waiting.pop(page)
        self._is_marked[page] = False
        for key, column in columns:
            self.dump.pages[key, number] = column.dump_page(page)
