"""Clauses over whole pages: compare a column with constants and narrow a mask.

In all of them spans int64[3, n] tells of n pages: their numbers, how many rows of each were given out (from its first), and where in mask, uint64, those
begin. A bit of the mask is 1 for a row that is still in, 64 rows a word; rows that are all out are skipped.
Columns of eight bytes are scanned by their sketches (sketches.py). Measured: 0.4-0.6 ns a row, the pace of the memory (18 GB/s a core), so a clause
costs what its column weighs. A list of the rows that are left was slower down to 1 % of them: 8 ns a row, waiting for memory. With a byte a row in the
mask, as it was, a clause that sketches decide took 0.22 ns a row; by bits 0.06.
"""

import numpy as np

from grid.kernels.bits import first_of, ones_of, packed
from grid.kernels.compiling import allocating, inlined, kernel

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@inlined
def words_of(rows):
    """How many words have them all."""
    return (rows + 63) >> 6


@inlined
def drop(mask, place):
    """Put one row out."""
    mask[place >> 6] &= ~(np.uint64(1) << np.uint64(place & 63))


@allocating
def narrow_to_known_range(mask, spans, column, known, low, high):
    """Keep rows that are known (uint8) and within the range."""
    hit = np.empty(64, dtype=np.uint8)
    for p in range(spans.shape[1]):
        for w in range(words_of(spans[1, p])):
            first, at = spans[0, p] * 4096 + w * 64, spans[2, p] + w
            if mask[at] == 0:
                continue
            values, there = column[first : first + 64], known[first : first + 64]
            for j in range(64):
                hit[j] = there[j] & np.uint8((values[j] >= low) & (values[j] <= high))
            mask[at] &= packed(hit, 0)


@allocating
def narrow_to_codes(mask, spans, column, wanted):
    """Keep rows whose code is one of a few."""
    hit = np.empty(64, dtype=np.uint8)
    for p in range(spans.shape[1]):
        for w in range(words_of(spans[1, p])):
            first, at = spans[0, p] * 4096 + w * 64, spans[2, p] + w
            if mask[at] == 0:
                continue
            codes = column[first : first + 64]
            hit[:] = 0
            for code in wanted:
                for j in range(64):
                    hit[j] |= np.uint8(codes[j] == code)
            mask[at] &= packed(hit, 0)


@kernel
def pages_of(page_table, partitions, users, pages, owners, rows):
    """Fill pages, owners and rows int64[n] with the pages of partitions, end to end, which of `partitions` each is of, and how many ordinals it has.

    users int64[partitions]: ordinals given out.
    """
    at = 0
    for i in range(partitions.size):
        for n in range((users[i] + 4095) >> 12):
            pages[at], owners[at], rows[at] = page_table[partitions[i], n], i, min(users[i] - (n << 12), 4096)
            at += 1


@kernel
def lay_out(spans):
    """Fill the last row of spans, page behind page. Returns how many words the mask has."""
    at = 0
    for p in range(spans.shape[1]):
        spans[2, p] = at
        at += words_of(spans[1, p])
    return at


@kernel
def admit_rows(mask, spans):
    """Set mask to 1 for ordinals that were given out, to 0 for what is missing to 64 behind them."""
    for p in range(spans.shape[1]):
        rows, at = spans[1, p], spans[2, p]
        mask[at : at + (rows >> 6)] = _ALL
        if rows & 63:
            mask[at + (rows >> 6)] = _ALL >> np.uint64(64 - (rows & 63))


@allocating
def count_rows(mask, owners, spans, partitions):
    """int64[partitions]: rows that are in, of each owner's pages."""
    out = np.zeros(partitions, dtype=np.int64)
    for p in range(owners.size):
        count = 0
        for word in mask[spans[2, p] : spans[2, p] + words_of(spans[1, p])]:
            count += ones_of(word)
        out[owners[p]] += count
    return out


@allocating
def page_factors(landmarks, pages, as_of, half_life):
    """float64[n]: what turns a page's sums into values at `as_of` (ms)."""
    out = np.empty(pages.size, dtype=np.float64)
    before, factor = np.nan, 0.0
    for p in range(pages.size):
        if landmarks[pages[p]] != before:  # most pages share one
            before = landmarks[pages[p]]
            factor = np.exp2((before - as_of) / half_life)
        out[p] = factor
    return out


@allocating
def rows_in(mask, spans):
    """(int64[m] slots, int64[m] places in the mask) of the rows that are in, in order."""
    count = 0
    for word in mask:
        count += ones_of(word)
    slots, places = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    n = 0
    for p in range(spans.shape[1]):
        for w in range(words_of(spans[1, p])):
            word = mask[spans[2, p] + w]
            while word:
                j = w * 64 + first_of(word)
                slots[n], places[n] = spans[0, p] * 4096 + j, spans[2, p] * 64 + j
                n += 1
                word &= word - np.uint64(1)
    return slots, places


@kernel
def put_out(mask, places):
    """Set the mask to 0 for rows at places int64[n] that `rows_in` gave."""
    for place in places:
        drop(mask, place)
