"""Column sketches: a byte a row that decides most comparisons without the row's eight.

Source: Hentschel, Kester, Idreos, "Column Sketches: A Scan Accelerator for Rapid and Robust Predicate Evaluation", SIGMOD 2018. Theirs has one map a
column; here each page of 4,096 rows has its own, made again once the page has not changed from one scan to the next:

    code 0   the least value of the page         code 1   the next      (what most rows have in common, often: no event, one event)
    code c   2 + a 252nd of the keys from the next to the greatest      (keys keep the order of values)
    code 255 the row has changed since, or was given out since          (marks.py)

A row whose code is that of a bound, or 255, is compared by its value. NaN's keys lie beyond those of the infinities, so that bounds, which are no NaN,
leave it out. A page with many rows of code 255 is made anew.
Measured: 0.06 ns a row where 0.5 were taken, and an eighth of the memory's traffic. Made anew for each change, as they were, sketches cost a count beside
a stream of single events more than all else: 15 µs for each page that one row had changed in.
"""

import numpy as np

from grid.kernels.bits import first_of, ones_of, packed, within
from grid.kernels.compiling import allocating, inlined, kernel, prefetch
from grid.kernels.marks import MADE, NEVER, OPEN, OPEN_MAX, STALE, UNSAVED, UNSEEN
from grid.kernels.scans import drop, words_of

# How the eight bytes of a value are read.
UINT, INT, FLOAT = 0, 1, 2
# The greatest code that a value has; how many rows of code 255 a page keeps its sketch with.
_CODE_MAX, _OPEN_KEPT = 254, 64
# Of 64 rows so many are compared one by one, 10 ns each; all of them together take 40 ns.
_SINGLE_MAX = 4
_TOP_BIT, _PART_MAX = np.uint64(1 << 63), np.uint64(1 << 40)
_ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)
_MINUS_ZERO = np.uint64(0x7FFFFFFFFFFFFFFF)
_INFINITY = np.uint64(0x7FF0000000000000)
# Products of a factor within these and a value that is not between ±2e-200 are off by less than 1e-12 of themselves.
_FACTOR_MIN, _FACTOR_MAX, _TINY, _OFF = 1e-90, 1e90, 1e-200, 1e-12


@inlined
def _key(word, kind):
    """uint64 that orders values of a kind as their comparison does; −0.0 has that of 0.0."""
    # Without branches on the word: loops over it use the vector unit.
    flips, top = _ALL_BITS if kind == 2 else np.uint64(0), np.uint64(0) if kind == 0 else _TOP_BIT
    key = word ^ ((np.uint64(np.int64(word) >> 63) & flips) | top)
    return key + (np.uint64(key == _MINUS_ZERO) & flips)


@inlined
def _code(key, following, shift, factor):
    """The code of a key above `following`; 1: it lies at or below, all codes from 2 on are greater. At most 300: no row has it."""
    if key <= following:
        return np.int64(1)
    return np.int64(2) + np.int64(min((min((key - following) >> shift, _PART_MAX) * factor) >> np.uint64(16), np.uint64(298)))


@inlined
def _make(words, kind, codes, page, rows, least, second, shifts, factors, tops):
    """Sketch a page's first rows."""
    here, made = words[page * 4096 : page * 4096 + rows], codes[page * 4096 : page * 4096 + rows]
    first, last = _ALL_BITS, np.uint64(0)
    for word in here:
        key = _key(word, kind)
        first, last = min(first, key), max(last, key)
    following = last
    for word in here:
        key = _key(word, kind)
        following = min(following, key if key > first else _ALL_BITS)
    shift = np.uint64(0)
    while (last - following) >> shift > np.uint64(0xFFFF):
        shift += np.uint64(1)
    factor = min(np.uint64(1 << 16), np.uint64(252 << 16) // max((last - following) >> shift, np.uint64(1)))
    for j in range(rows):
        key = _key(here[j], kind)
        part = ((max(key, following) - following) >> shift) * factor >> np.uint64(16)
        made[j] = (part + np.uint64(2)) * np.uint64(key > following) + np.uint64((key == following) & (key != first))
    least[page], second[page], shifts[page], factors[page] = first, following, np.uint8(shift), np.uint32(factor)
    tops[page] = 0 if last == first else _code(last, following, shift, factor)


@inlined
def _has_sketch(words, kind, marks, page, rows, least, second, shifts, factors, tops, made_of):
    """Whether a page's sketch holds; makes it where the page has been left alone since it was last looked at."""
    dirty, states, opened, codes = marks
    if dirty[page] & UNSEEN:
        dirty[page] &= UNSAVED
        states[page] = STALE
    elif states[page] == NEVER:
        states[page] = STALE
    elif states[page] == STALE:
        _make(words, kind, codes, page, rows, least, second, shifts, factors, tops)
        states[page], made_of[page], opened[page] = MADE, rows, 0
    elif made_of[page] < rows:
        codes[page * 4096 + made_of[page] : page * 4096 + rows] = OPEN
        opened[page] = min(opened[page] + rows - made_of[page], OPEN_MAX)
        made_of[page] = rows
    if opened[page] > _OPEN_KEPT:
        states[page], opened[page] = STALE, 0
    return states[page] == MADE


@inlined
def _is_empty(kept):
    """Whether none of a page's rows is left."""
    left = np.uint64(0)
    for word in kept:
        left |= word
    return left == 0


@inlined
def _limits(lows, highs, following, shift, factor):
    """(first and last code that are in for sure, first and last that may be), of codes from 2 on. A value is in at lows[1] or above and out below
    lows[0], in at highs[0] or below and out above highs[1]: keys."""
    first_in, first_open = max(2, _code(lows[1], following, shift, factor) + 1), max(2, _code(lows[0], following, shift, factor))
    last_in, last_open = _code(highs[0], following, shift, factor) - 1, _code(highs[1], following, shift, factor)
    if first_in > _CODE_MAX or last_in < first_in:
        first_in, last_in = _CODE_MAX, 2
    if first_open > _CODE_MAX or last_open < first_open:
        first_open, last_open = _CODE_MAX, 2
    return np.uint8(first_in), np.uint8(min(last_in, _CODE_MAX)), np.uint8(first_open), np.uint8(min(last_open, _CODE_MAX))


@inlined
def _narrow_by_codes(kept, codes, words, page, zero, one, limits, doubtful, crowded):
    """Put out the rows of a page whose codes say so; codes 0 and 1 are in as told. Fills doubtful int64[256] with rows that are still in and whose value
    must tell, crowded int64[64] with words that have many such; returns how many of both."""
    first_in, last_in, first_open, last_open = limits
    count, crowds = 0, 0
    for w in range(kept.size):
        at = page * 4096 + w * 64
        sure = within(codes, at, first_in, last_in)
        if zero:
            sure |= within(codes, at, np.uint8(0), np.uint8(0))
        if one:
            sure |= within(codes, at, np.uint8(1), np.uint8(1))
        opened = ((within(codes, at, first_open, last_open) & ~sure) | within(codes, at, OPEN, OPEN)) & kept[w]
        kept[w] &= sure | opened
        if ones_of(opened) > _SINGLE_MAX:
            crowded[crowds] = w
            crowds += 1
            continue
        while opened:
            doubtful[count] = w * 64 + first_of(opened)
            prefetch(words, page * 4096 + doubtful[count])
            count += 1
            opened &= opened - np.uint64(1)
    return count, crowds


@inlined
def _compared(values, w, kind, low, high, hits):
    """uint64: of a page's values, as their bytes, which of 64 have keys within low and high. hits uint8[64]: room to work in."""
    for j in range(64):
        key = _key(values[w * 64 + j], kind)
        hits[j] = (key >= low) & (key <= high)
    return packed(hits, 0)


@inlined
def _compared_scaled(values, w, factor, low, high, hits):
    """As `_compared`, of values times a factor."""
    for j in range(64):
        value = values[w * 64 + j] * factor
        hits[j] = (value >= low) & (value <= high)
    return packed(hits, 0)


@inlined
def _decided(kept, zero, one, limits, top):
    """Whether a page is all in, or all out (then it is cleared), by what it has codes of."""
    first_in, last_in, first_open, last_open = limits
    if zero and (one or top < 1) and (top < 2 or (first_in == 2 and last_in >= top)):
        return True
    if not zero and (not one or top < 1) and (top < 2 or ((first_in > last_in or first_in > top) and (first_open > last_open or first_open > top))):
        kept[:] = 0
        return True
    return False


@allocating
def narrow_sketched(mask, spans, words, kind, bounds, marks, least, second, shifts, parts, tops, made_of):
    """Keep rows with bounds[0] <= value <= bounds[1] (uint64[2], as their bytes are).

    words uint64[slots]: the column's bytes; marks of the column; least, second uint64[pages]: keys; of what becomes a code shifts uint8[pages] and parts
    uint32[pages]; tops (the greatest code) uint8[pages]; made_of uint16[pages]: how many rows
    """
    hits, (_, _, opened, codes) = np.empty(64, dtype=np.uint8), marks
    doubtful, crowded = np.empty(64 * _SINGLE_MAX, dtype=np.int64), np.empty(64, dtype=np.int64)
    low, high = _key(bounds[0], kind), _key(bounds[1], kind)
    for p in range(spans.shape[1]):
        page, rows = spans[0, p], spans[1, p]
        kept = mask[spans[2, p] : spans[2, p] + words_of(rows)]
        if _is_empty(kept):
            continue
        values = words[page * 4096 : page * 4096 + 4096]
        if not _has_sketch(words, kind, marks, page, rows, least, second, shifts, parts, tops, made_of):
            for w in range(kept.size):
                kept[w] &= _compared(values, w, kind, low, high, hits)
            continue
        zero, one = low <= least[page] <= high, low <= second[page] <= high
        limits = _limits((low, low), (high, high), second[page], np.uint64(shifts[page]), np.uint64(parts[page]))
        if opened[page] == 0 and _decided(kept, zero, one, limits, tops[page]):
            continue
        count, crowds = _narrow_by_codes(kept, codes, words, page, zero, one, limits, doubtful, crowded)
        for k in range(count):
            if not low <= _key(values[doubtful[k]], kind) <= high:
                drop(kept, doubtful[k])
        for k in range(crowds):
            kept[crowded[k]] &= _compared(values, crowded[k], kind, low, high, hits)


@inlined
def _band(bound, factor, pair, words):
    """(below this a value times the factor is below the bound, from this on it is not): keys. `pair` float64[2], `words` its bytes: room to work in."""
    if np.isinf(bound):
        key = _INFINITY | _TOP_BIT if bound > 0 else ~(_INFINITY | _TOP_BIT)
        return key, key
    at = bound / factor
    off = 2 * _TINY if abs(at) < _TINY else abs(at) * _OFF
    pair[0], pair[1] = at - off, at + off
    return _key(words[0], 2), _key(words[1], 2)


@inlined
def _word_of(key):
    """The float64, as its bytes, that has a key."""
    return key ^ (_TOP_BIT if key >> np.uint64(63) else _ALL_BITS)


@allocating
def narrow_sketched_scaled(mask, spans, column, factors, low, high, marks, least, second, shifts, parts, tops, made_of):
    """As `narrow_sketched`, of low <= column[row] · factor of its page <= high; factors float64[n], finite."""
    words, hits, (_, _, opened, codes) = column.view(np.uint64), np.empty(64, dtype=np.uint8), marks
    doubtful, crowded, pair = np.empty(64 * _SINGLE_MAX, dtype=np.int64), np.empty(64, dtype=np.int64), np.empty(2, dtype=np.float64)
    pair_words = pair.view(np.uint64)
    for p in range(spans.shape[1]):
        page, rows, factor = spans[0, p], spans[1, p], factors[p]
        kept = mask[spans[2, p] : spans[2, p] + words_of(rows)]
        if _is_empty(kept):
            continue
        values = column[page * 4096 : page * 4096 + 4096]
        has_sketch = _has_sketch(words, 2, marks, page, rows, least, second, shifts, parts, tops, made_of)
        if not has_sketch or not _FACTOR_MIN < factor < _FACTOR_MAX:
            for w in range(kept.size):
                kept[w] &= _compared_scaled(values, w, factor, low, high, hits)
            continue
        pair_words[0], pair_words[1] = _word_of(least[page]), _word_of(second[page])
        zero, one = low <= pair[0] * factor <= high, low <= pair[1] * factor <= high
        lows, highs = _band(low, factor, pair, pair_words), _band(high, factor, pair, pair_words)
        limits = _limits(lows, highs, second[page], np.uint64(shifts[page]), np.uint64(parts[page]))
        if opened[page] == 0 and _decided(kept, zero, one, limits, tops[page]):
            continue
        count, crowds = _narrow_by_codes(kept, codes, words, page, zero, one, limits, doubtful, crowded)
        for k in range(count):
            if not low <= values[doubtful[k]] * factor <= high:
                drop(kept, doubtful[k])
        for k in range(crowds):
            kept[crowded[k]] &= _compared_scaled(values, crowded[k], factor, low, high, hits)


@kernel
def keep_known(mask, spans, known):
    """Keep rows that are known (uint8, 0 or 1)."""
    for p in range(spans.shape[1]):
        for w in range(words_of(spans[1, p])):
            mask[spans[2, p] + w] &= packed(known, spans[0, p] * 4096 + w * 64)
