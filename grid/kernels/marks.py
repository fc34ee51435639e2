"""Marks of a column's page: who must look at it again. Whatever changes a value sets both.

UNSAVED  it changed since the last checkpoint          UNSEEN  it changed since the last scan
"""

import numpy as np

UNSAVED, UNSEEN, TOUCHED = np.uint8(1), np.uint8(2), np.uint8(3)
