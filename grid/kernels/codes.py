"""Dictionary codes of past events: which of a segment's words one file needs."""

import numpy as np

from grid.kernels.compiling import kernel


@kernel
def compact_codes(codes, is_valid, place):
    """(new codes int32[n], words used int32[m]): codes renumbered in order of first use, so that only used words must be kept.

    codes int32[n] into a dictionary; is_valid bool[n]: others get code 0
    place int32[words]: all -1; all -1 again afterwards
    """
    out = np.zeros(codes.size, dtype=np.int32)
    used = np.empty(min(codes.size, place.size), dtype=np.int32)
    count = 0
    for i in range(codes.size):
        if is_valid[i]:
            code = codes[i]
            if place[code] < 0:
                place[code] = count
                used[count] = code
                count += 1
            out[i] = place[code]
    for k in range(count):
        place[used[k]] = -1
    return out, used[:count]
