"""Profiles' fields that are one number a user, all of them in one call: of a few users the calls for each field would cost more than the reading.

A field is a row of int64: what it is, then where its columns lie and what else reading it needs. The columns are reserved once (grid/state/memory.py),
so that their addresses last.
"""

import numpy as np
from numba import carray

from grid.kernels.compiling import AHEAD, allocating, inlined, kernel, pointer, prefetch
from grid.kernels.scalars import TIME_BIAS
from grid.kernels.windows import ask_for_ring, days_at, window_at

# (kind, …): COPY and ROUND words; TIME words, 1: complemented; DECAYED sums, landmarks; WINDOW ring_of, newest, lost, values, bytes of one, hops, mode,
# 1: NULL without events, 1: round, hop; DAYS newest, lost, bits, days, words of bits, day
COPY, ROUND, TIME, DECAYED, WINDOW, DAYS = 0, 1, 2, 3, 4, 5
WIDTH = 12
HAS_NULLS, NOT_HELD = np.uint8(1), np.uint8(2)


@inlined
def _rounded(value):
    return np.int64(np.rint(value))


@allocating
def _ask_for(field, slots):
    """All that a field's values begin with is on its way before the first is waited for."""
    words, halves = carray(pointer(field[1]), 1 << 40, np.uint64), carray(pointer(field[1]), 1 << 40, np.uint32)
    lost, bits = carray(pointer(field[2]), 1 << 40, np.int32), carray(pointer(field[3]), 1 << 40, np.uint64)
    for i in range(slots.size):
        if field[0] <= DECAYED:
            prefetch(words, slots[i])
        else:
            prefetch(halves, slots[i])
        if field[0] == DAYS:
            prefetch(lost, slots[i])
            prefetch(bits, slots[i] * field[5])


@allocating
def _read_windows(field, slots, out, floats, known):
    """A WINDOW field of all slots, into its row of each. Returns what is said of it."""
    ring_of = carray(pointer(field[1]), 1 << 40, np.uint32)
    newest, lost = carray(pointer(field[2]), 1 << 40, np.int64), carray(pointer(field[3]), 1 << 40, np.int64)
    narrow, wide = carray(pointer(field[4]), 1 << 40, np.float32), carray(pointer(field[4]), 1 << 40, np.float64)
    hops, mode, hop = field[6], field[7], field[10]
    said, n = np.uint8(0), slots.size
    for i in range(-AHEAD, n):
        if i + AHEAD < n:
            ask_for_ring(newest, lost, narrow, np.int64(ring_of[slots[i + AHEAD]]), hops * field[5] // 4)
        if i < 0:
            continue
        ring = np.int64(ring_of[slots[i]])
        value, is_held = np.nan, True
        if ring != 0 and field[5] == 4:
            value, is_held = window_at(newest, lost, narrow, ring * hops, hops, hop, mode, ring)
        elif ring != 0:
            value, is_held = window_at(newest, lost, wide, ring * hops, hops, hop, mode, ring)
        is_known = is_held and not (field[8] and np.isnan(value))
        if np.isnan(value) or not is_known:
            value = 0.0
        if field[9]:
            out[i] = _rounded(value)
        else:
            floats[i] = value
        known[i] = is_known
        said |= (np.uint8(0) if is_known else HAS_NULLS) | (np.uint8(0) if is_held else NOT_HELD)
    return said


@allocating
def _read_days(field, slots, out, known):
    """As `_read_windows`, of a DAYS field."""
    newest, lost = carray(pointer(field[1]), 1 << 40, np.int32), carray(pointer(field[2]), 1 << 40, np.int32)
    bits = carray(pointer(field[3]), 1 << 40, np.uint64)
    said = np.uint8(0)
    for i in range(slots.size):
        count, is_held = days_at(newest, lost, bits, slots[i], field[6], field[4], field[5], field[4])
        out[i], known[i] = count if is_held else 0, is_held
        said |= np.uint8(0) if is_held else HAS_NULLS | NOT_HELD
    return said


@allocating
def read_flat(fields, half_lives, slots, as_of, out, known, said):
    """Values of slots at `as_of` (ms), 0 where NULL.

    fields int64[k, WIDTH], half_lives float64[k]; slots int64[n]; out int64[k, n]: whole numbers and times, or the bytes of float64
    known bool[k, n]; said uint8[k]: HAS_NULLS | NOT_HELD (some window reaches back to hops that are no longer held)
    """
    n = slots.size
    floats = out.view(np.float64)
    for f in range(fields.shape[0]):
        _ask_for(fields[f], slots)
    for f in range(fields.shape[0]):
        field, kind = fields[f], fields[f, 0]
        said[f] = 0
        if kind <= DECAYED:
            words = carray(pointer(field[1]), 1 << 40, np.uint64)
            if kind == COPY:
                for i in range(n):
                    out[f, i], known[f, i] = np.int64(words[slots[i]]), True
            elif kind == TIME:
                for i in range(n):
                    code = words[slots[i]]
                    is_known = code != 0
                    value = np.int64(~code if field[2] else code) - TIME_BIAS
                    out[f, i], known[f, i] = value if is_known else 0, is_known
                    said[f] |= np.uint8(0) if is_known else HAS_NULLS
            else:
                sums = carray(pointer(field[1]), 1 << 40, np.float64)
                if kind == ROUND:
                    for i in range(n):
                        out[f, i], known[f, i] = _rounded(sums[slots[i]]), True
                else:
                    landmarks = carray(pointer(field[2]), 1 << 40, np.float64)
                    for i in range(n):
                        total = sums[slots[i]]
                        if total != 0.0:
                            total *= np.exp2((landmarks[slots[i] >> 12] - as_of) / half_lives[f])
                        floats[f, i], known[f, i] = total, True
        elif kind == WINDOW:
            said[f] = _read_windows(field, slots, out[f], floats[f], known[f])
        else:
            said[f] = _read_days(field, slots, out[f], known[f])


@kernel
def weave(heads, ends, values, known, out):
    """Fill out uint8[…] with, of each field, what stands before its values, uint8[n] `known` where something stands behind that too, and its values.

    heads uint8[h]; ends int64[2k]: where each of two pieces of a field ends; values int64[k, n], known bool[k, n]: as `read_flat` fills them
    """
    at, first, words, flags = 0, 0, values.view(np.uint8), known.view(np.uint8)
    for f in range(values.shape[0]):
        for piece in range(2):
            last = ends[2 * f + piece]
            if piece == 1 and last > first:
                for j in range(flags.shape[1]):
                    out[at + j] = flags[f, j]
                at += flags.shape[1]
            for j in range(first, last):
                out[at + j - first] = heads[j]
            at += last - first
            first = last
        for j in range(words.shape[1]):
            out[at + j] = words[f, j]
        at += words.shape[1]


@kernel
def present(slots, id_refs, page_newest_ms, safe, exists):
    """The newest event time (ms) of the pages of users that exist, 0 for none. Fills safe int64[n]: their slots, 0 for others, and exists bool[n]."""
    newest = np.int64(0)
    for i in range(slots.size):
        slot = max(slots[i], 0)
        exists[i] = slots[i] >= 0 and id_refs[slot] != 0
        safe[i] = slot if exists[i] else 0
        if exists[i]:
            newest = max(newest, page_newest_ms[slot >> 12])
    return newest
