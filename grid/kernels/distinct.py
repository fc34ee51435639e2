"""Distinct values: exact lists of 64-bit hashes, then a sketch. Blocks are those of `grid.kernels.lists`.

Ever: a list of hashes to 256, then HyperLogLog with 4,096 one-byte registers (Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog",
2007; 1.04/sqrt(4096) = 1.6 %). In a window: pairs (hash, hop) to 4,096, then adaptive sampling of hashes (Flajolet, "On adaptive
sampling", 1990; about 1.2/sqrt(pairs kept), 2 %).
"""

import numpy as np

from grid.kernels.compiling import allocating, inlined, kernel
from grid.kernels.hashing import seeded
from grid.kernels.lists import CLASS_WORDS, allocate, block_count, release
from grid.kernels.marks import TOUCHED

U = np.uint64
EXACT_MAX = 256
REGISTERS = 4096
SKETCH_WORDS = REGISTERS // 8
PAIRS_MAX = 4096
PAIRS_CAPACITY_MAX = 8192
SKETCHED = REGISTERS + 1  # a block's count when it is a sketch: more than a list ever has


@inlined
def _sketch_add(octets, at, h):
    """One hash into HyperLogLog registers that start at word `at`."""
    register = np.int64(h & U(REGISTERS - 1))
    rest = h >> U(12)
    rank = np.uint8(1)
    while rank < 53 and rest & U(1) == 0:
        rest >>= U(1)
        rank += np.uint8(1)
    if octets[at * 8 + register] < rank:
        octets[at * 8 + register] = rank


@inlined
def _distinct_one(arena, octets, heads, control, free, slot, h):
    h = seeded(h, U(0x5851F42D4C957F2D))
    at = np.int64(heads[slot]) * 2
    if at == 0:
        at = allocate(arena, control, free, 2)
        heads[slot] = at // 2
    count = block_count(arena, at)
    if count == SKETCHED:
        _sketch_add(octets, at + 1, h)
        return
    for k in range(count):
        if arena[at + 1 + k] == h:
            return
    if count < EXACT_MAX and 1 + count < CLASS_WORDS[np.int64(arena[at] & U(0xFF))]:
        arena[at + 1 + count] = h
        arena[at] += U(256)
        return
    words = 2 + count if count < EXACT_MAX else 1 + SKETCH_WORDS
    new = allocate(arena, control, free, words)
    if count < EXACT_MAX:
        for k in range(count):
            arena[new + 1 + k] = arena[at + 1 + k]
        arena[new + 1 + count] = h
        arena[new] |= U(count + 1) << U(8)
    else:
        for k in range(count):
            _sketch_add(octets, new + 1, arena[at + 1 + k])
        _sketch_add(octets, new + 1, h)
        arena[new] |= U(SKETCHED) << U(8)
    release(arena, control, free, at)
    heads[slot] = new // 2


@kernel
def distinct_add(arena, octets, heads, control, free, dirty, slots, rows, hashes):
    """Enter hashes uint64[n] of the rows' values. octets: the arena seen as uint8."""
    for k in range(rows.size):
        i = rows[k]
        _distinct_one(arena, octets, heads, control, free, slots[i], hashes[i])
        dirty[slots[i] >> 12] = TOUCHED


@inlined
def _sketch_estimate(octets, at):
    """HyperLogLog's estimate with linear counting below 2.5 registers."""
    total = 0.0
    zeros = 0
    for r in range(REGISTERS):
        rank = octets[at * 8 + r]
        total += np.exp2(-np.float64(rank))
        zeros += rank == 0
    estimate = 0.7213 / (1.0 + 1.079 / REGISTERS) * REGISTERS * REGISTERS / total
    if estimate <= 2.5 * REGISTERS and zeros > 0:
        return REGISTERS * np.log(REGISTERS / zeros)
    return estimate


@kernel
def distinct_read(arena, octets, heads, slots, out, approximate):
    """How many distinct values: out float64[n]; approximate bool[n]: from a sketch."""
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        out[i], approximate[i] = 0.0, False
        if at != 0:
            count = block_count(arena, at)
            if count == SKETCHED:
                out[i], approximate[i] = np.floor(_sketch_estimate(octets, at + 1) + 0.5), True
            else:
                out[i] = count


@allocating
def blocks_pack(arena, heads, slots, header_words):
    """(words int64[n] with 0 for none, uint64[m]): blocks as they are, without their size class, for a page on disk.

    header_words 0: a distinct list or sketch; 3: pairs (their own header follows word 0).
    """
    sizes = np.zeros(slots.size, dtype=np.int64)
    total = 0
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        if at != 0:
            count = block_count(arena, at)
            if header_words == 0:
                sizes[i] = 1 + (SKETCH_WORDS if count == SKETCHED else count)
            else:
                sizes[i] = 1 + header_words + 2 * count
            total += sizes[i]
    out = np.empty(total, dtype=np.uint64)
    m = 0
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        for w in range(sizes[i]):
            out[m] = arena[at + w]
            m += 1
        if sizes[i] > 0:
            out[m - sizes[i]] = U(block_count(arena, at))
    return sizes, out


@kernel
def blocks_load(arena, heads, control, free, slots, sizes, words):
    """Inverse of `blocks_pack`, into slots that have no blocks."""
    m = 0
    for i in range(slots.size):
        if sizes[i] > 0:
            at = allocate(arena, control, free, sizes[i])
            arena[at] |= words[m] << U(8)
            for w in range(1, sizes[i]):
                arena[at + w] = words[m + w]
            heads[slots[i]] = at // 2
            m += sizes[i]


# --- pairs: word 1 newest hop + 2^62, word 2 newest lost hop + 2^62, word 3 sampling depth, then (hash, hop + 2^62) pairs --------------

_BIAS = np.int64(1 << 62)


@inlined
def _passes(h, depth):
    return depth == 0 or h >> U(64 - depth) == 0


@inlined
def _drop_pairs(arena, at, oldest, depth):
    """Remove pairs before hop `oldest` (the newest removed one becomes lost) and those the sampling depth leaves out."""
    count = block_count(arena, at)
    kept = 0
    for k in range(count):
        h, hop = arena[at + 4 + 2 * k], np.int64(arena[at + 5 + 2 * k])
        if hop < oldest:
            arena[at + 2] = max(arena[at + 2], U(hop))
        elif _passes(h, depth):
            arena[at + 4 + 2 * kept] = h
            arena[at + 5 + 2 * kept] = U(hop)
            kept += 1
    arena[at] = (arena[at] & U(0xFF)) | (U(kept) << U(8))
    return kept


@inlined
def _pair_one(arena, heads, control, free, slot, h, hop, hops):
    h = seeded(h, U(0x5851F42D4C957F2D))
    hop += _BIAS
    at = np.int64(heads[slot]) * 2
    if at == 0:
        at = allocate(arena, control, free, 6)
        heads[slot] = at // 2
        arena[at + 1] = U(hop)
    newest = np.int64(arena[at + 1])
    if hop <= newest - hops:
        arena[at + 2] = max(arena[at + 2], U(hop))
        return
    if hop > newest:
        arena[at + 1] = U(hop)
        _drop_pairs(arena, at, hop - hops + 1, np.int64(arena[at + 3]))
    if not _passes(h, np.int64(arena[at + 3])):
        return
    count = block_count(arena, at)
    for k in range(count):
        if arena[at + 4 + 2 * k] == h and np.int64(arena[at + 5 + 2 * k]) == hop:
            return
    while count >= PAIRS_MAX:
        arena[at + 3] += U(1)
        count = _drop_pairs(arena, at, np.int64(arena[at + 1]) - hops + 1, np.int64(arena[at + 3]))
        if not _passes(h, np.int64(arena[at + 3])):
            return
    if 6 + 2 * count > CLASS_WORDS[np.int64(arena[at] & U(0xFF))]:
        new = allocate(arena, control, free, 6 + 2 * count)
        arena[new] |= U(count) << U(8)
        for w in range(1, 4 + 2 * count):
            arena[new + w] = arena[at + w]
        release(arena, control, free, at)
        heads[slot] = new // 2
        at = new
    arena[at + 4 + 2 * count] = h
    arena[at + 5 + 2 * count] = U(hop)
    arena[at] = (arena[at] & U(0xFF)) | (U(count + 1) << U(8))


@kernel
def pairs_add(arena, heads, control, free, dirty, slots, rows, hashes, hop_of, hops):
    """Enter (hash, hop) of rows: hashes uint64[n], hop_of int64[n]."""
    for k in range(rows.size):
        i = rows[k]
        _pair_one(arena, heads, control, free, slots[i], hashes[i], hop_of[i], hops)
        dirty[slots[i] >> 12] = TOUCHED


@allocating
def pairs_read(arena, heads, slots, hop, hops, out, approximate, held):
    """Distinct hashes among hops (hop − hops, hop]: out float64[n]; approximate: sampled; held False where hops are lost."""
    last = hop + _BIAS
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        out[i], approximate[i], held[i] = 0.0, False, True
        if at != 0:
            count = block_count(arena, at)
            found = np.empty(count, dtype=np.uint64)
            n = 0
            for k in range(count):
                pair_hop = np.int64(arena[at + 5 + 2 * k])
                if last - hops < pair_hop <= last:
                    found[n] = arena[at + 4 + 2 * k]
                    n += 1
            found = np.sort(found[:n])
            distinct = 0
            for k in range(n):
                distinct += k == 0 or found[k] != found[k - 1]
            depth = np.int64(arena[at + 3])
            out[i] = distinct * np.exp2(np.float64(depth))
            approximate[i] = depth > 0
            held[i] = np.int64(arena[at + 2]) <= last - hops
