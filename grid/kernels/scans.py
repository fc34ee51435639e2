"""Clauses over whole pages: compare a column with constants and narrow a mask.

In all of them mask uint8[len(pages) * 4096] is 1 for rows that are still in; pages int64[n]. 64 rows that are all out are skipped.
Columns of eight bytes are scanned by their sketches (sketches.py). Measured: 0.4-0.6 ns a row, the pace of the memory (18 GB/s a core), so a clause
costs what its column weighs. A list of the rows that are left was slower down to 1 % of them: 8 ns a row, waiting for memory.
"""

import numpy as np

from grid.kernels.compiling import inlined, kernel


@inlined
def _is_out(words, at):
    """Whether the 64 rows from word `at` of a mask are all out."""
    return (words[at] | words[at + 1] | words[at + 2] | words[at + 3] | words[at + 4] | words[at + 5] | words[at + 6] | words[at + 7]) == 0


@kernel
def narrow_to_known_range(mask, pages, column, known, low, high):
    """Keep rows that are known (uint8) and within the range."""
    words = mask.view(np.uint64)
    for p in range(pages.size):
        for b in range(p * 64, p * 64 + 64):
            if _is_out(words, b * 8):
                continue
            first = pages[p] * 4096 + (b & 63) * 64
            values, there, kept = column[first : first + 64], known[first : first + 64], mask[b * 64 : b * 64 + 64]
            for j in range(64):
                kept[j] &= there[j] & np.uint8((values[j] >= low) & (values[j] <= high))


@kernel
def narrow_to_codes(mask, pages, column, wanted):
    """Keep rows whose code is one of a few."""
    words = mask.view(np.uint64)
    hit = np.empty(64, dtype=np.uint8)
    for p in range(pages.size):
        for b in range(p * 64, p * 64 + 64):
            if _is_out(words, b * 8):
                continue
            first = pages[p] * 4096 + (b & 63) * 64
            codes, kept = column[first : first + 64], mask[b * 64 : b * 64 + 64]
            hit[:] = 0
            for w in range(wanted.size):
                code = wanted[w]
                for j in range(64):
                    hit[j] |= np.uint8(codes[j] == code)
            for j in range(64):
                kept[j] &= hit[j]


@kernel
def pages_of(page_table, partitions, users, pages, owners):
    """Fill pages and owners int64[n] with the pages of partitions, end to end, and which of `partitions` each is of.

    users int64[partitions]: ordinals given out.
    """
    at = 0
    for i in range(partitions.size):
        for n in range((users[i] + 4095) >> 12):
            pages[at], owners[at] = page_table[partitions[i], n], i
            at += 1


@kernel
def admit_rows(mask, owners, users):
    """Set mask to 1 for ordinals that were given out, to 0 behind them. Pages of one owner come in ordinal order."""
    left = users.copy()
    for p in range(owners.size):
        rows = min(left[owners[p]], 4096)
        mask[p * 4096 : p * 4096 + rows] = 1
        mask[p * 4096 + rows : p * 4096 + 4096] = 0
        left[owners[p]] -= rows


@kernel
def count_rows(mask, owners, partitions):
    """int64[partitions]: rows that are in, of each owner's pages.

    Eight rows to a word; 128 words are added before their bytes, none above 128 then, are: ten times as fast as row by row.
    """
    out = np.zeros(partitions, dtype=np.int64)
    words = mask.view(np.uint64)
    odd, pairs = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)
    for p in range(owners.size):
        for first in range(p * 512, p * 512 + 512, 128):
            total = np.uint64(0)
            for word in words[first : first + 128]:
                total += word
            sums = (total & odd) + ((total >> np.uint64(8)) & odd)
            out[owners[p]] += np.int64((sums * pairs) >> np.uint64(48))
    return out


@kernel
def page_factors(landmarks, pages, as_of, half_life):
    """float64[n]: what turns a page's sums into values at `as_of` (ms)."""
    out = np.empty(pages.size, dtype=np.float64)
    for p in range(pages.size):
        out[p] = np.exp2((landmarks[pages[p]] - as_of) / half_life)
    return out


@kernel
def rows_in(mask, pages):
    """(int64[m] slots, int64[m] row numbers) of the rows that are in, in order."""
    count = 0
    for i in range(mask.size):
        count += mask[i]
    slots, rows = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    at = 0
    for p in range(pages.size):
        for j in range(p * 4096, p * 4096 + 4096):
            if mask[j]:
                slots[at], rows[at] = pages[p] * 4096 + (j & 4095), j
                at += 1
    return slots, rows
