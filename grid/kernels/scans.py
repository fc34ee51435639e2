"""Clauses over whole pages: compare a column with constants and narrow a mask.

In all of them spans int64[3, n] tells of n pages: their numbers, how many rows of each were given out (from its first), and where in mask, uint8, those
begin: a multiple of 64. The mask is 1 for rows that are still in. 64 rows that are all out are skipped.
Columns of eight bytes are scanned by their sketches (sketches.py). Measured: 0.4-0.6 ns a row, the pace of the memory (18 GB/s a core), so a clause
costs what its column weighs. A list of the rows that are left was slower down to 1 % of them: 8 ns a row, waiting for memory.
"""

import numpy as np

from grid.kernels.compiling import inlined, kernel


@inlined
def _is_out(words, at):
    """Whether the 64 rows from word `at` of a mask are all out."""
    return (words[at] | words[at + 1] | words[at + 2] | words[at + 3] | words[at + 4] | words[at + 5] | words[at + 6] | words[at + 7]) == 0


@inlined
def blocks_of(rows):
    """How many times 64 rows have them all."""
    return (rows + 63) >> 6


@kernel
def narrow_to_known_range(mask, spans, column, known, low, high):
    """Keep rows that are known (uint8) and within the range."""
    words = mask.view(np.uint64)
    for p in range(spans.shape[1]):
        for b in range(blocks_of(spans[1, p])):
            first, at = spans[0, p] * 4096 + b * 64, spans[2, p] + b * 64
            if _is_out(words, at >> 3):
                continue
            values, there, kept = column[first : first + 64], known[first : first + 64], mask[at : at + 64]
            for j in range(64):
                kept[j] &= there[j] & np.uint8((values[j] >= low) & (values[j] <= high))


@kernel
def narrow_to_codes(mask, spans, column, wanted):
    """Keep rows whose code is one of a few."""
    words = mask.view(np.uint64)
    hit = np.empty(64, dtype=np.uint8)
    for p in range(spans.shape[1]):
        for b in range(blocks_of(spans[1, p])):
            first, at = spans[0, p] * 4096 + b * 64, spans[2, p] + b * 64
            if _is_out(words, at >> 3):
                continue
            codes, kept = column[first : first + 64], mask[at : at + 64]
            hit[:] = 0
            for w in range(wanted.size):
                code = wanted[w]
                for j in range(64):
                    hit[j] |= np.uint8(codes[j] == code)
            for j in range(64):
                kept[j] &= hit[j]


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
    """Fill the last row of spans, page behind page. Returns how long the mask is."""
    at = 0
    for p in range(spans.shape[1]):
        spans[2, p] = at
        at += blocks_of(spans[1, p]) * 64
    return at


@kernel
def admit_rows(mask, spans):
    """Set mask to 1 for ordinals that were given out, to 0 for what is missing to 64 behind them."""
    mask[:] = 1
    for p in range(spans.shape[1]):
        end = spans[2, p] + blocks_of(spans[1, p]) * 64
        mask[spans[2, p] + spans[1, p] : end] = 0


@kernel
def count_rows(mask, owners, spans, partitions):
    """int64[partitions]: rows that are in, of each owner's pages.

    Eight rows to a word; 128 words are added before their bytes, none above 128 then, are: ten times as fast as row by row.
    """
    out = np.zeros(partitions, dtype=np.int64)
    words = mask.view(np.uint64)
    odd, pairs = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)
    for p in range(owners.size):
        start = spans[2, p] >> 3
        end = start + blocks_of(spans[1, p]) * 8
        for first in range(start, end, 128):
            total = np.uint64(0)
            for word in words[first : min(first + 128, end)]:
                total += word
            sums = (total & odd) + ((total >> np.uint64(8)) & odd)
            out[owners[p]] += np.int64((sums * pairs) >> np.uint64(48))
    return out


@kernel
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


@kernel
def rows_in(mask, spans):
    """(int64[m] slots, int64[m] places in the mask) of the rows that are in, in order."""
    count = 0
    for word in mask:
        count += word
    slots, places = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    n = 0
    for p in range(spans.shape[1]):
        for j in range(spans[1, p]):
            if mask[spans[2, p] + j]:
                slots[n], places[n] = spans[0, p] * 4096 + j, spans[2, p] + j
                n += 1
    return slots, places
