"""Marks of a column's pages: who must look at them again. Whatever changes a value sets both.

UNSAVED  it changed since the last checkpoint          UNSEEN  it changed since the last scan

Of a page whose sketch is made (sketches.py) single rows are marked instead of UNSEEN: their code says to look at the value. A page of which few rows
change between two scans, as most do under a stream of events, keeps its sketch so.
"""

import numpy as np

from grid.kernels.compiling import inlined

UNSAVED, UNSEEN, TOUCHED = np.uint8(1), np.uint8(2), np.uint8(3)
# Of a page's sketch: never looked at, changed before it was last looked at, made.
NEVER, STALE, MADE = np.uint8(0), np.uint8(1), np.uint8(2)
# The code of a row whose value must tell, and of how many rows of a page at most.
OPEN, OPEN_MAX = np.uint8(255), 256


@inlined
def touch(marks, slot):
    """The value of a slot changes. marks: dirty uint8[pages], states uint8[pages], opened uint16[pages], codes uint8[slots] of the column."""
    dirty, states, opened, codes = marks
    page = slot >> 12
    if states[page] != MADE:
        dirty[page] = TOUCHED
        return
    dirty[page] |= UNSAVED
    if codes[slot] != OPEN:
        codes[slot] = OPEN
        opened[page] += 1
        if opened[page] > OPEN_MAX:
            dirty[page], states[page] = TOUCHED, STALE
