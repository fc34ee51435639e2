"""Rings of hops: a ring holds the newest W hops of one user's own events; hop h lies at h mod W.

`lost` is the newest hop that had an event and is no longer held: a window that reaches back to it cannot be told any more.
"""

import numpy as np

from grid.kernels.bits import ones_of
from grid.kernels.compiling import AHEAD, allocating, inlined, kernel, prefetch
from grid.kernels.marks import TOUCHED

NEVER = np.int64(-(2**63) + 1)
_HOP_BIAS = np.int64(1 << 40)


@inlined
def _advance(newest, lost, values, at, hops, hop, ring):
    """Make room for `hop`. Returns the index of its cell, or -1 when the hop lies before the ring."""
    if newest[ring] == NEVER:
        newest[ring] = hop
    elif hop > newest[ring]:
        first = max(newest[ring] + 1, hop - hops + 1)
        if hop - newest[ring] >= hops:
            for c in range(hops):
                if not np.isnan(values[at + c]):
                    # The newest hop of the ring always had an event, and all of the ring goes.
                    lost[ring] = max(lost[ring], newest[ring])
                    values[at + c] = np.nan
        else:
            for h in range(first, hop + 1):
                cell = at + h % hops
                if not np.isnan(values[cell]):
                    lost[ring] = max(lost[ring], h - hops)
                    values[cell] = np.nan
        newest[ring] = hop
    elif hop <= newest[ring] - hops:
        lost[ring] = max(lost[ring], hop)
        return np.int64(-1)
    return at + hop % hops


@inlined
def _fold(values, cell, value, mode):
    """mode 0: add, 1: min, 2: max; NaN is an empty hop."""
    old = values[cell]
    if np.isnan(old):
        values[cell] = value
    elif mode == 0:
        values[cell] = old + value
    elif mode == 1:
        values[cell] = min(old, value)
    else:
        values[cell] = max(old, value)


@inlined
def ask_for_ring(newest, lost, values, ring, hops):
    """Ask for what is kept of a ring."""
    prefetch(newest, ring)
    prefetch(lost, ring)
    prefetch(values, ring * hops)


@kernel
def ring_add(ring_of, newest, lost, values, free_rings, control, dirty, slots, rows, hop_of, weights, hops, mode):
    """Fold rows into rings of floats; a slot's first event takes a ring.

    ring_of uint32[slots], 0: none; newest, lost int64[rings]; values float32 or float64[rings * hops], NaN where empty
    control int64[2]: next fresh ring (from 1), free rings; free_rings int64 stack; hop_of int64[n]
    weights float64[n], or [1] for all alike. The caller guarantees room for rows.size rings.
    """
    for k in range(rows.size):
        i = rows[k]
        slot = slots[i]
        if k + 2 * AHEAD < rows.size:
            prefetch(ring_of, np.int64(slots[rows[k + 2 * AHEAD]]))
        if k + AHEAD < rows.size:
            ask_for_ring(newest, lost, values, np.int64(ring_of[slots[rows[k + AHEAD]]]), hops)
        ring = np.int64(ring_of[slot])
        if ring == 0:
            if control[1] > 0:
                control[1] -= 1
                ring = free_rings[control[1]]
            else:
                ring = control[0]
                control[0] += 1
            ring_of[slot] = ring
            newest[ring] = NEVER
            lost[ring] = NEVER
            for c in range(hops):
                values[ring * hops + c] = np.nan
        cell = _advance(newest, lost, values, ring * hops, hops, hop_of[i], ring)
        if cell >= 0:
            _fold(values, cell, weights[i] if weights.size > 1 else weights[0], mode)
        dirty[slot >> 12] = TOUCHED


@inlined
def window_at(newest, lost, values, at, hops, hop, mode, ring):
    """(value, held): the fold over hops (hop − hops, hop]; NaN where no event; held False where a hop is lost."""
    result = np.nan
    if newest[ring] == NEVER:
        return result, True
    held = lost[ring] <= hop - hops
    low = max(hop, newest[ring]) - hops + 1
    for h in range(low, min(hop, newest[ring]) + 1):
        value = np.float64(values[at + h % hops])
        if not np.isnan(value):
            if np.isnan(result):
                result = value
            elif mode == 0:
                result += value
            elif mode == 1:
                result = min(result, value)
            else:
                result = max(result, value)
    return result, held


@kernel
def ring_read(ring_of, newest, lost, values, slots, hop, hops, mode, out, held):
    """Windows that end in `hop`, for slots. out float64[n]: NaN where no event; held bool[n]: False where hops are lost."""
    for i in range(-AHEAD, slots.size):
        if i + AHEAD < slots.size:
            ask_for_ring(newest, lost, values, np.int64(ring_of[slots[i + AHEAD]]), hops)
        if i < 0:
            continue
        ring = np.int64(ring_of[slots[i]])
        if ring == 0:
            out[i], held[i] = np.nan, True
        else:
            out[i], held[i] = window_at(newest, lost, values, ring * hops, hops, hop, mode, ring)


@kernel
def keyed_ring_add(arena, floats, cells, hop_of, weights, rows, hops):
    """Add into rings inside keyed lists: `cells` int64[rows.size] are word offsets of (newest, lost, hops values).

    A fresh value is all zero words; word 0 then is 0, which no live ring has: hops are stored with 2^40 added.
    """
    for k in range(rows.size):
        at = cells[k]
        i = rows[k]
        ring = arena[at : at + 2].view(np.int64)
        if arena[at] == 0:
            ring[0] = NEVER
            ring[1] = NEVER
            for c in range(hops):
                floats[at + 2 + c] = np.nan
        cell = _advance(ring[0:1], ring[1:2], floats, at + 2, hops, hop_of[i] + _HOP_BIAS, 0)
        if cell >= 0:
            _fold(floats, cell, weights[i] if weights.size > 1 else weights[0], 0)


@allocating
def keyed_ring_read(values, hop, hops):
    """(float64[n], held bool[n]): windows of n rings laid side by side in float64[n * (hops + 2)], as lists keep them."""
    n = values.size // (hops + 2)
    out = np.empty(n, dtype=np.float64)
    held = np.empty(n, dtype=np.bool_)
    words = values.view(np.int64)
    for i in range(n):
        at = i * (hops + 2)
        if words[at] == 0:
            out[i], held[i] = np.nan, True
        else:
            out[i], held[i] = window_at(words[at : at + 1], words[at + 1 : at + 2], values, at + 2, hops, hop + _HOP_BIAS, 0, 0)
    return out, held


@kernel
def days_add(newest, lost, bits, dirty, slots, rows, day_of, days, words):
    """Set day bits. newest, lost int32[slots]: day + 2^20, 0 none; bits uint64[slots * words]: day d at bit d mod days."""
    for k in range(rows.size):
        i = rows[k]
        slot = slots[i]
        if k + AHEAD < rows.size:
            later = np.int64(slots[rows[k + AHEAD]])
            prefetch(newest, later)
            prefetch(bits, later * words)
        day = np.int32(day_of[i] + 1048576)
        at = np.int64(slot) * words
        dirty[slot >> 12] = TOUCHED
        if newest[slot] == 0:
            newest[slot] = day
        elif day > newest[slot]:
            for d in range(max(np.int64(newest[slot]) + 1, np.int64(day) - days + 1), np.int64(day) + 1):
                cell = d % days
                if bits[at + (cell >> 6)] >> np.uint64(cell & 63) & np.uint64(1):
                    # The cell's old day: the last one before d with the same place that was held.
                    lost[slot] = max(lost[slot], np.int32(newest[slot] - (newest[slot] - cell) % days))
                    bits[at + (cell >> 6)] &= ~(np.uint64(1) << np.uint64(cell & 63))
            newest[slot] = day
        elif day <= newest[slot] - days:
            lost[slot] = max(lost[slot], day)
            continue
        cell = np.int64(day) % days
        bits[at + (cell >> 6)] |= np.uint64(1) << np.uint64(cell & 63)


@inlined
def _ones(bits, at, first, last):
    """Bits that are set from `first` to `last`, of the words from `at` on."""
    count = np.int64(0)
    for word in range(first >> 6, (last >> 6) + 1):
        held = bits[at + word]
        if word == first >> 6:
            held = held >> np.uint64(first & 63) << np.uint64(first & 63)
        if word == last >> 6:
            held = held << np.uint64(63 - (last & 63))
        count += ones_of(held)
    return count


@inlined
def days_at(newest, lost, bits, slot, day, days, words, span):
    """(how many of the days (day − span, day] are set, held False where one is lost)."""
    last, at, count = day + 1048576, np.int64(slot) * words, 0
    if newest[slot] != 0:
        low = max(max(last, np.int64(newest[slot])) - days + 1, last - span + 1)
        high = min(last, np.int64(newest[slot]))
        if low <= high and low % days <= high % days:
            count = _ones(bits, at, low % days, high % days)
        elif low <= high:
            count = _ones(bits, at, low % days, days - 1) + _ones(bits, at, np.int64(0), high % days)
    return count, lost[slot] <= last - span


@kernel
def days_read(newest, lost, bits, slots, day, days, words, span, out, held):
    """As `days_at`, for slots. out float64[n], held bool[n]."""
    for i in range(slots.size):
        out[i], held[i] = days_at(newest, lost, bits, slots[i], day, days, words, span)
