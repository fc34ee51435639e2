"""Per-user lists in one arena of 64-bit words: keyed values, sets, hashes, text.

A block is `word 0 = size class | count << 8`, then (keyed lists) keys uint32, then the values. `heads` uint32[slots] is the block's
offset / 2, 0 for none. Up to 64 keys lie packed; above that the keys are an open-addressing table with load <= 3/4.

Keyed blocks of at most 64 keys below 2^16, as nearly all are, are narrow: `word 0 = size class | NARROW | count << 8 | first three keys`
of 16 bits each, then the other keys, four a word, then the values. Three keys with a float64 each are 32 bytes instead of 48.
"""

import numpy as np

from grid.kernels.compiling import AHEAD, allocating, inlined, kernel, prefetch
from grid.kernels.marks import TOUCHED

U = np.uint64
PACKED_MAX = 64
EMPTY = np.uint32(0xFFFFFFFF)
CLASSES = 64
NARROW, NARROW_KEYS = U(0x80), np.uint32(1 << 16)
_CLASS_BITS = U(0x7F)
# Sizes of blocks in words: even, each at most half as large again as the one before.
CLASS_WORDS = np.array([2, 4] + [words << k for k in range(31) for words in (6, 8)], dtype=np.int64)


@inlined
def _class_for(words):
    c = 0
    while CLASS_WORDS[c] < words:
        c += 1
    return c


@inlined
def allocate(arena, control, free, words):
    """Word offset of a zeroed block of at least `words`. control int64[2]: next fresh word, words in use; free int64[CLASSES]."""
    c = _class_for(words)
    size = CLASS_WORDS[c]
    if free[c] != 0:
        at = free[c]
        free[c] = np.int64(arena[at])
        arena[at : at + size] = U(0)
    else:
        at = control[0]
        control[0] += size
    control[1] += size
    arena[at] = U(c)
    return at


@inlined
def release(arena, control, free, at):
    """Give a block back; its words are zeroed, so that nothing erased stays readable."""
    c = np.int64(arena[at] & _CLASS_BITS)
    size = CLASS_WORDS[c]
    arena[at : at + size] = U(0)
    arena[at] = U(free[c])
    free[c] = at
    control[1] -= size


@inlined
def block_count(arena, at):
    return np.int64(arena[at] >> U(8))


@inlined
def _is_narrow(arena, at):
    return arena[at] & NARROW != 0


@inlined
def key_count(arena, at):
    """Keys in a keyed block."""
    return np.int64(arena[at] >> U(8) & U(0xFF)) if _is_narrow(arena, at) else block_count(arena, at)


@inlined
def _key_words(count, is_narrow):
    """Words that so many packed keys take beside the header."""
    return count // 4 if is_narrow else (count + 1) // 2


@inlined
def key_capacity(arena, at, width):
    """Keys that a block has room for; above PACKED_MAX a power of two."""
    words = CLASS_WORDS[np.int64(arena[at] & _CLASS_BITS)]
    if _is_narrow(arena, at):
        # The most keys c with 1 + c // 4 + c * width <= words.
        return min((4 * (words - 1) + 3) // (1 + 4 * width), PACKED_MAX)
    capacity = 2 * (words - 1) // (1 + 2 * width)
    if capacity > PACKED_MAX:
        size = 1
        while size * 2 <= capacity:
            size *= 2
        return max(size, PACKED_MAX)
    return capacity


@inlined
def _value_at(arena, at, capacity, index, width):
    return at + 1 + _key_words(capacity, _is_narrow(arena, at)) + index * width


@inlined
def _key(arena, keys, at, index):
    if _is_narrow(arena, at):
        return np.uint32(arena[at + (index + 1 >> 2)] >> U(16 * (index + 1 & 3)) & U(0xFFFF))
    return keys[(at + 1) * 2 + index]


@inlined
def _find(arena, keys, at, capacity, count, key):
    """Index of the key, or -1 - (index where it would go), or -1 - capacity when the block is full or cannot hold the key."""
    if _is_narrow(arena, at):
        for index in range(count):
            if _key(arena, keys, at, index) == key:
                return index
        return -1 - (count if key < NARROW_KEYS else capacity)
    base = (at + 1) * 2
    if capacity <= PACKED_MAX:
        for index in range(count):
            if keys[base + index] == key:
                return index
        return -1 - count
    mask = capacity - 1
    index = np.int64((U(key) * U(0x9E3779B97F4A7C15)) >> U(40)) & mask
    while keys[base + index] != EMPTY:
        if keys[base + index] == key:
            return index
        index = (index + 1) & mask
    if count >= capacity - capacity // 4:
        return -1 - capacity
    return -1 - index


@inlined
def _clear_keys(keys, at, capacity):
    if capacity > PACKED_MAX:
        for index in range(capacity):
            keys[(at + 1) * 2 + index] = EMPTY


@inlined
def _put(arena, keys, at, capacity, key, width):
    """Enter a key that is not there into a block that has room. Returns the word of its value."""
    count = key_count(arena, at)
    index = -1 - _find(arena, keys, at, capacity, count, key)
    if _is_narrow(arena, at):
        arena[at + (index + 1 >> 2)] |= U(key) << U(16 * (index + 1 & 3))  # free places are zero
        arena[at] += U(1 << 8)
    else:
        keys[(at + 1) * 2 + index] = key
        arena[at] = (arena[at] & U(0xFF)) | (U(count + 1) << U(8))
    return _value_at(arena, at, capacity, index, width)


@inlined
def _grown(arena, keys, control, free, old, width, key):
    """A copy of block `old` (0: none yet) with room for one more key, `key`; the old one is released."""
    count = key_count(arena, old) if old != 0 else 0
    is_narrow = count + 1 <= PACKED_MAX and key < NARROW_KEYS and (old == 0 or _is_narrow(arena, old))
    if count + 1 <= PACKED_MAX:
        words = 1 + _key_words(count + 1, is_narrow) + width * (count + 1)
    else:
        size = 128
        while size - size // 4 < count + 1:
            size *= 2
        words = 1 + size // 2 + width * size
    at = allocate(arena, control, free, words)
    if is_narrow:
        arena[at] |= NARROW
    capacity = key_capacity(arena, at, width)
    if not is_narrow:
        _clear_keys(keys, at, capacity)
    if old != 0:
        old_capacity = key_capacity(arena, old, width)
        for index in range(count if old_capacity <= PACKED_MAX else old_capacity):
            moved = _key(arena, keys, old, index)
            if old_capacity <= PACKED_MAX or moved != EMPTY:
                to = _put(arena, keys, at, capacity, moved, width)
                source = _value_at(arena, old, old_capacity, index, width)
                for w in range(width):
                    arena[to + w] = arena[source + w]
        release(arena, control, free, old)
    return at


@allocating
def keyed_cells(arena, keys, heads, control, free, dirty, slots, rows, row_keys, width):
    """int64[rows.size]: the word where each row's (slot, key) has its value, made zero when new.

    keys: the arena seen as uint32; row_keys uint32[n] (of the group's rows); width: words of a value.
    Offsets hold until the next call that grows a block of the same slot, so callers fold one row at a time or use
    `keyed_add`. The caller guarantees arena room.
    """
    out = np.empty(rows.size, dtype=np.int64)
    for k in range(rows.size):
        i = rows[k]
        out[k] = _cell(arena, keys, heads, control, free, slots[i], row_keys[i], width)
        dirty[slots[i] >> 12] = TOUCHED
    # A later row may have moved an earlier row's block: look all of them up again, now that nothing grows.
    for k in range(rows.size):
        i = rows[k]
        out[k] = _cell(arena, keys, heads, control, free, slots[i], row_keys[i], width)
    return out


@inlined
def _cell(arena, keys, heads, control, free, slot, key, width):
    at = np.int64(heads[slot]) * 2
    if at != 0:
        capacity = key_capacity(arena, at, width)
        index = _find(arena, keys, at, capacity, key_count(arena, at), key)
        if index >= 0:
            return _value_at(arena, at, capacity, index, width)
        if -1 - index < capacity:
            return _put(arena, keys, at, capacity, key, width)
    at = _grown(arena, keys, control, free, at, width, key)
    heads[slot] = at // 2
    return _put(arena, keys, at, key_capacity(arena, at, width), key, width)


@inlined
def _ask_for(arena, heads, later, latest):
    """Ask for the list of a slot, whose head was asked for before, and for the head of another."""
    prefetch(heads, np.int64(latest))
    at = np.int64(heads[later]) * 2
    prefetch(arena, at)
    prefetch(arena, at + 8)


@inlined
def _ask_for_all(arena, heads, slots):
    """Ask for the lists of some slots, each as soon as its head is here."""
    for i in range(-AHEAD if slots.size else 0, slots.size):
        _ask_for(arena, heads, slots[max(i, 0)], slots[min(i + AHEAD, slots.size - 1)])


@kernel
def keyed_add(arena, keys, floats, heads, control, free, dirty, slots, rows, row_keys, weights):
    """Add weights float64[rows.size] (or [1] for all alike) to the float64 beside each row's key."""
    for k in range(rows.size):
        i = rows[k]
        slot = slots[i]
        if k + 2 * AHEAD < rows.size:
            _ask_for(arena, heads, slots[rows[k + AHEAD]], slots[rows[k + 2 * AHEAD]])
        at = _cell(arena, keys, heads, control, free, slot, row_keys[i], 1)
        floats[at] += weights[k] if weights.size > 1 else weights[0]
        dirty[slot >> 12] = TOUCHED


@kernel
def keyed_scale(arena, keys, floats, heads, first_slot, factor):
    """Multiply every value of a page's keyed sums."""
    for slot in range(first_slot, first_slot + 4096):
        at = np.int64(heads[slot]) * 2
        if at != 0:
            capacity = key_capacity(arena, at, 1)
            for index in range(key_count(arena, at) if capacity <= PACKED_MAX else capacity):
                if capacity <= PACKED_MAX or keys[(at + 1) * 2 + index] != EMPTY:
                    floats[_value_at(arena, at, capacity, index, 1)] *= factor


@inlined
def _is_before(a, b, heap, ends):
    """Whether word a comes before word b: UTF-8 bytes compare as code points do."""
    a_at = ends[a - 1] if a > 0 else 0
    b_at = ends[b - 1] if b > 0 else 0
    a_n, b_n = ends[a] - a_at, ends[b] - b_at
    for k in range(min(a_n, b_n)):
        if heap[a_at + k] != heap[b_at + k]:
            return heap[a_at + k] < heap[b_at + k]
    return a_n < b_n


@inlined
def _ranked(keys, values, at, kept, top, key, value, heap, ends):
    """Put an entry among the `kept` best from `at` on, by value descending, ties by word ascending. Returns how many there are now."""
    j = kept
    while j > 0:
        before = at + j - 1
        if values[before] > value or (values[before] == value and _is_before(keys[before], key, heap, ends)):
            break
        j -= 1
    if j >= top:
        return kept
    for m in range(min(kept, top - 1), j, -1):
        keys[at + m], values[at + m] = keys[at + m - 1], values[at + m - 1]
    keys[at + j], values[at + j] = key, value
    return min(kept + 1, top)


@allocating
def best_entries(counts, keys, values, top, heap, ends):
    """(counts int64[n], keys uint32[m], values float64[m]): of each list its `top` greatest, ties by word ascending.

    counts int64[n] entries of each list, keys and values one after another; heap uint8, ends int64: the words that keys number
    """
    total = 0
    for i in range(counts.size):
        total += min(counts[i], top)
    out_counts = np.empty(counts.size, dtype=np.int64)
    out_keys = np.empty(total, dtype=np.uint32)
    out_values = np.empty(total, dtype=np.float64)
    at = 0
    source = 0
    for i in range(counts.size):
        kept = 0
        for k in range(source, source + counts[i]):
            kept = _ranked(out_keys, out_values, at, kept, top, keys[k], values[k], heap, ends)
        out_counts[i] = kept
        source += counts[i]
        at += kept
    return out_counts, out_keys, out_values


@allocating
def keyed_best(arena, keys, floats, heads, slots, top, heap, ends, landmarks, as_of, half_life):
    """As `best_entries`, of the lists of slots as they lie, one float64 beside each key; aged to `as_of` (ms) where half_life (ms) is not 0."""
    _ask_for_all(arena, heads, slots)
    total = 0
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        total += min(key_count(arena, at), top) if at != 0 else 0
    out_counts = np.zeros(slots.size, dtype=np.int64)
    out_keys = np.empty(total, dtype=np.uint32)
    out_values = np.empty(total, dtype=np.float64)
    first, seen_from, factor = 0, np.nan, 1.0
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        if at == 0:
            continue
        if half_life != 0.0 and landmarks[slots[i] >> 12] != seen_from:  # most pages share one
            seen_from = landmarks[slots[i] >> 12]
            factor = np.exp2((seen_from - as_of) / half_life)
        capacity, kept, last = key_capacity(arena, at, 1), 0, first + top - 1
        values_at = _value_at(arena, at, capacity, 0, 1)
        for index in range(key_count(arena, at) if capacity <= PACKED_MAX else capacity):
            value = floats[values_at + index]
            value = value * factor if value != 0.0 else 0.0
            if kept == top and value < out_values[last]:
                continue
            key = _key(arena, keys, at, index)
            if capacity <= PACKED_MAX or key != EMPTY:
                kept = _ranked(out_keys, out_values, first, kept, top, key, value, heap, ends)
        out_counts[i] = kept
        first += kept
    return out_counts, out_keys, out_values


@allocating
def keyed_find(arena, keys, heads, slots, key, width):
    """int64[n]: the word of each slot's value under `key`, 0 where absent."""
    out = np.zeros(slots.size, dtype=np.int64)
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        if at != 0:
            capacity = key_capacity(arena, at, width)
            index = _find(arena, keys, at, capacity, key_count(arena, at), key)
            if index >= 0:
                out[i] = _value_at(arena, at, capacity, index, width)
    return out


@allocating
def keyed_has(arena, keys, heads, slots, wanted, width):
    """bool[n]: whether slot i's list has the key wanted[i] (uint32)."""
    out = np.zeros(slots.size, dtype=np.bool_)
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        if at != 0:
            out[i] = _find(arena, keys, at, key_capacity(arena, at, width), key_count(arena, at), wanted[i]) >= 0
    return out


@allocating
def list_counts(arena, heads, slots):
    """int64[n]: keys of each slot's keyed list, -1 where there is none."""
    out = np.empty(slots.size, dtype=np.int64)
    _ask_for_all(arena, heads, slots)
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        out[i] = key_count(arena, at) if at != 0 else -1
    return out


@allocating
def keyed_items(arena, keys, heads, slots, width):
    """(counts int64[n] with -1 for none, keys uint32[m], values uint64[m * width]): all lists, one after another."""
    counts = list_counts(arena, heads, slots)
    total = 0
    for i in range(slots.size):
        total += max(counts[i], 0)
    out_keys = np.empty(total, dtype=np.uint32)
    out_values = np.empty(total * width, dtype=np.uint64)
    m = 0
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        if at != 0:
            capacity = key_capacity(arena, at, width)
            for index in range(counts[i] if capacity <= PACKED_MAX else capacity):
                key = _key(arena, keys, at, index)
                if capacity <= PACKED_MAX or key != EMPTY:
                    out_keys[m] = key
                    value = _value_at(arena, at, capacity, index, width)
                    for w in range(width):
                        out_values[m * width + w] = arena[value + w]
                    m += 1
    return counts, out_keys, out_values


@inlined
def _empty_list(arena, control, free):
    at = allocate(arena, control, free, 2)
    arena[at] |= NARROW
    return at


@inlined
def _packed(arena, keys, control, free, block_keys, width):
    """A block of just these keys, at most 64, each once: half the time of adding them one by one."""
    count = block_keys.size
    is_narrow = True
    for index in range(count):
        is_narrow = is_narrow and block_keys[index] < NARROW_KEYS
    at = allocate(arena, control, free, 1 + _key_words(count, is_narrow) + width * count)
    arena[at] |= U(count) << U(8)
    if is_narrow:
        arena[at] |= NARROW
        for index in range(count):
            arena[at + (index + 1 >> 2)] |= U(block_keys[index]) << U(16 * (index + 1 & 3))
    else:
        for index in range(count):
            keys[(at + 1) * 2 + index] = block_keys[index]
    return at


@kernel
def keyed_load(arena, keys, heads, control, free, slots, counts, in_keys, in_values, width):
    """Inverse of `keyed_items`, into slots that have no lists. counts -1: none; 0: an empty list."""
    m = 0
    for i in range(slots.size):
        if counts[i] >= 0:
            if counts[i] == 0:
                heads[slots[i]] = _empty_list(arena, control, free) // 2
            elif counts[i] <= PACKED_MAX:
                at = _packed(arena, keys, control, free, in_keys[m : m + counts[i]], width)
                heads[slots[i]] = at // 2
                value = _value_at(arena, at, key_capacity(arena, at, width), 0, width)
                for w in range(counts[i] * width):
                    arena[value + w] = in_values[m * width + w]
                m += counts[i]
            else:
                for _ in range(counts[i]):
                    cell = _cell(arena, keys, heads, control, free, slots[i], in_keys[m], width)
                    for w in range(width):
                        arena[cell + w] = in_values[m * width + w]
                    m += 1


@kernel
def list_clear(arena, heads, control, free, dirty, slots):
    """Release the lists of slots."""
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        if at != 0:
            release(arena, control, free, at)
            heads[slots[i]] = 0
            dirty[slots[i] >> 12] = TOUCHED


@allocating
def set_contains(arena, keys, heads, slots, wanted, is_all):
    """bool[n]: whether each slot's set holds any (or all) of wanted uint32[k]."""
    out = np.zeros(slots.size, dtype=np.bool_)
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        if at == 0:
            continue
        capacity = key_capacity(arena, at, 0)
        count = key_count(arena, at)
        out[i] = is_all
        for k in range(wanted.size):
            found = _find(arena, keys, at, capacity, count, wanted[k]) >= 0
            if found != is_all:
                out[i] = found
                break
    return out


@kernel
def set_put(arena, keys, heads, control, free, dirty, slots, starts, ends, codes):
    """Replace the sets of slots by codes[starts:ends], repeats dropped. An empty set is a list without keys, not none."""
    for i in range(slots.size):
        slot = slots[i]
        old = np.int64(heads[slot]) * 2
        if old != 0:
            release(arena, control, free, old)
        heads[slot] = _empty_list(arena, control, free) // 2
        for k in range(starts[i], ends[i]):
            _cell(arena, keys, heads, control, free, slot, codes[k], 0)
        dirty[slot >> 12] = TOUCHED


@kernel
def bytes_put(arena, octets, heads, control, free, dirty, slots, data, starts, ends):
    """Replace the text of slots by data[starts:ends]. octets: the arena seen as uint8. Count is the length in bytes."""
    for i in range(slots.size):
        slot = slots[i]
        old = np.int64(heads[slot]) * 2
        if old != 0:
            release(arena, control, free, old)
        n = ends[i] - starts[i]
        at = allocate(arena, control, free, 1 + (n + 7) // 8)
        arena[at] = (arena[at] & U(0xFF)) | (U(n) << U(8))
        for b in range(n):
            octets[(at + 1) * 8 + b] = data[starts[i] + b]
        heads[slot] = at // 2
        dirty[slot >> 12] = TOUCHED


@allocating
def bytes_get(arena, octets, heads, slots):
    """(lengths int64[n] with -1 for none, bytes): the text of slots."""
    lengths = np.empty(slots.size, dtype=np.int64)
    total = 0
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        lengths[i] = block_count(arena, at) if at != 0 else -1
        total += max(lengths[i], 0)
    out = np.empty(total, dtype=np.uint8)
    m = 0
    for i in range(slots.size):
        at = np.int64(heads[slots[i]]) * 2
        for b in range(max(lengths[i], 0)):
            out[m] = octets[(at + 1) * 8 + b]
            m += 1
    return lengths, out
