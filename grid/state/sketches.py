"""The sketch of a column of eight-byte values: what scans read in place of them where it decides (grid/kernels/sketches.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grid.kernels.sketches import FLOAT, INT, UINT, keep_known, narrow_sketched, narrow_sketched_scaled
from grid.state.memory import Space, reserve

_KINDS = {"u": UINT, "i": INT, "f": FLOAT}


class Sketch:
    """Made page by page as scans come, one byte a row then; a column that is never scanned has none."""

    def __init__(self, dirty: NDArray[np.uint8], space: Space) -> None:
        """`dirty` uint8[pages]: the marks of the column's pages."""
        pages = space.pages_max
        # Whatever changes values says so here (grid/kernels/marks.py).
        self.marks = dirty, reserve(np.uint8, pages), reserve(np.uint16, pages), reserve(np.uint8, space.slots_max)
        least, second = reserve(np.uint64, pages), reserve(np.uint64, pages)
        shifts, parts, tops = reserve(np.uint8, pages), reserve(np.uint32, pages), reserve(np.uint8, pages)
        self._of_pages = self.marks, least, second, shifts, parts, tops, reserve(np.uint16, pages)

    def narrow(
        self, mask: NDArray[np.uint64], spans: NDArray[np.int64], values: NDArray[Any], low: Any, high: Any,
        known: NDArray[np.uint8] | None, factors: NDArray[np.float64] | None,
    ) -> None:  # fmt: skip
        """Clear the mask, as grid/kernels/scans.py has it, where low <= value <= high is not true; of values times factors float64[pages] where there
        are such."""
        if known is not None:
            keep_known(mask, spans, known)
        if factors is not None:
            narrow_sketched_scaled(mask, spans, values, factors, low, high, *self._of_pages)
        else:
            bounds = np.array([low, high], dtype=values.dtype).view(np.uint64)
            narrow_sketched(mask, spans, values.view(np.uint64), _KINDS[values.dtype.kind], bounds, *self._of_pages)
