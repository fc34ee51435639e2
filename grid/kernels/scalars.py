"""Counts, sums, extrema, first and last. In all of them `rows` (int64) picks the rows that feed the feature; `slots`, `times`
and `values` are of the whole group. `marks` (marks.py) are set for every slot that changes. Slots are trusted."""

import numpy as np

from grid.kernels.compiling import AHEAD, kernel, prefetch
from grid.kernels.marks import TOUCHED, touch


@kernel
def count_add(counts, marks, slots, rows):
    """counts int64[slots] += 1 per row."""
    for k in range(rows.size):
        slot = slots[rows[k]]
        counts[slot] += 1
        touch(marks, slot)


@kernel
def sum_add(sums, marks, slots, rows, values):
    """sums float64[slots] += values[row]."""
    for k in range(rows.size):
        i = rows[k]
        slot = slots[i]
        sums[slot] += values[i]
        touch(marks, slot)


@kernel
def raise_to(column, marks, slots, rows, encoded):
    """column uint64[slots] = max(column, encoded[row]): every extremum is a maximum of an order-preserving encoding, 0 is none."""
    for k in range(rows.size):
        i = rows[k]
        slot = slots[i]
        if k + AHEAD < rows.size:
            prefetch(column, np.int64(slots[rows[k + AHEAD]]))
        if encoded[i] > column[slot]:
            column[slot] = encoded[i]
            touch(marks, slot)


@kernel
def keep_first_or_last(keys, kept, dirty, slots, rows, encoded, values, wins_ties):
    """The value beside the greatest encoded time.

    keys uint64[slots], kept uint64[slots]: mutated together; encoded uint64[n] times (complemented for `first`)
    values uint64[n]; wins_ties: a row of an equal time replaces what is kept; dirty uint8[pages]
    """
    for k in range(rows.size):
        i = rows[k]
        slot = slots[i]
        if encoded[i] > keys[slot] or (wins_ties and encoded[i] == keys[slot]):
            keys[slot] = encoded[i]
            kept[slot] = values[i]
            dirty[slot >> 12] = TOUCHED


@kernel
def newest_per_page(newest, slots, times):
    """newest int64[pages] = max(newest, time of each row): how late an `as_of` must be to see all of a page."""
    for i in range(slots.size):
        page = slots[i] >> 12
        if times[i] > newest[page]:
            newest[page] = times[i]


def encode_number(values: np.ndarray) -> np.ndarray:
    """uint64: order-preserving code of finite float64 values, never 0 (that code is a NaN's)."""
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.int64)
    return (bits ^ ((bits >> 63) | np.int64(-(2**63)))).view(np.uint64)


def decode_number(codes: np.ndarray) -> np.ndarray:
    """Inverse of `encode_number`; 0 gives NaN."""
    signed = codes.view(np.int64)
    return (signed ^ (~(signed >> 63) | np.int64(-(2**63)))).view(np.float64)


TIME_BIAS = np.int64(1 << 62)


def encode_time(times_ms: np.ndarray) -> np.ndarray:
    """uint64: order-preserving code of times within ±2^61 ms, never 0."""
    return (np.asarray(times_ms, dtype=np.int64) + TIME_BIAS).view(np.uint64)


def decode_time(codes: np.ndarray) -> np.ndarray:
    """Inverse of `encode_time`."""
    return codes.view(np.int64) - TIME_BIAS
