"""Ids to ordinals and slots: one open-addressing table per partition, all in one arena, so that a mixed group is one call.

An entry is `hash >> 32 << 32 | ordinal + 1`; 0 is free, low half all ones is a tombstone. Position and fingerprint both come
from the upper half of the seeded hash, so that a table grows without reading the ids. The position is that half times the table's size,
over 2^32 (Lemire, "Fast random integer generation in an interval", 2019): any size will do, and a table that grows is read and written in order.
"""

import numpy as np

from grid.kernels.compiling import AHEAD, allocating, inlined, kernel, prefetch
from grid.kernels.hashing import hash_bytes, seeded
from grid.kernels.marks import TOUCHED

U = np.uint64
_LOW = U(0xFFFFFFFF)
_TOMBSTONE = U(0xFFFFFFFF)


@inlined
def _equal(a, a_start, b, b_start, n):
    for k in range(n):  # noqa: SIM110 - numba compiles the loop
        if a[a_start + k] != b[b_start + k]:
            return False
    return True


@inlined
def _place(h, size):
    return np.int64(h * U(size) >> U(32))


@inlined
def _next(j, size):
    return j + 1 if j + 1 < size else np.int64(0)


@kernel
def are_ends(ends, nbytes):
    """Whether offsets rise and end within so many bytes."""
    before = np.int64(0)
    for end in ends:
        if end < before:
            return False
        before = np.int64(end)
    return before <= nbytes


@kernel
def check_texts(data, ends):
    """0: `ends` ascend within the data, and each text starts with a character; 1: they do not; 2: one starts inside a character."""
    if not are_ends(ends, data.size):
        return 1
    start = np.int64(0)
    for i in range(ends.size):
        end = np.int64(ends[i])
        if start < end and data[start] & 0xC0 == 0x80:
            return 2
        start = end
    return 0


@inlined
def _is_at(slot, data, start, n, heap, id_refs):
    """Whether an id of n bytes is the one at a slot; -1 is none."""
    if slot < 0:
        return False
    ref = id_refs[slot]
    return np.int64(ref & U(0xFFFF)) == n and _equal(data, start, heap, np.int64(ref >> U(16)), n)


@inlined
def _alike(h, j, p, table, base, sizes):
    """The place, from j on, of an entry of partition p whose fingerprint is h, the upper half of a seeded hash; -1 for none."""
    while True:
        entry = table[base[p] + j]
        if entry == 0:
            return np.int64(-1)
        if entry >> U(32) == h and entry & _LOW != _TOMBSTONE:
            return j
        j = _next(j, sizes[p])


@inlined
def _slot_at(j, p, table, base, page_table):
    """The slot that the entry at a place tells; -1 of none."""
    if j < 0:
        return np.int64(-1)
    o = np.int64(table[base[p] + j] & _LOW) - 1
    return np.int64(page_table[p, o >> 12]) * 4096 + (o & 4095)


@inlined
def _find(data, start, n, h, p, table, base, sizes, page_table, heap, id_refs):
    """The slot of an id of n bytes in partition p, -1 for an unknown one; h: the upper half of its seeded hash."""
    j = _alike(h, _place(h, sizes[p]), p, table, base, sizes)
    while j >= 0:
        slot = _slot_at(j, p, table, base, page_table)
        if _is_at(slot, data, start, n, heap, id_refs):
            return slot
        j = _alike(h, _next(j, sizes[p]), p, table, base, sizes)
    return np.int64(-1)


@inlined
def _candidates(first, last, hashes, partitions, seed, table, base, sizes, page_table, heap, id_refs, out):
    """out[first:last]: where each id is found unless another has its fingerprint; -1 for none. Table, references and bytes of all of them are on their way
    before the first is waited for."""
    for i in range(first, last):
        p = np.int64(partitions[i])
        prefetch(table, base[p] + _place(seeded(hashes[i], seed) >> U(32), sizes[p]))
    for i in range(first, last):
        p = np.int64(partitions[i])
        h, out[i] = seeded(hashes[i], seed) >> U(32), -1
        if sizes[p] > 0:
            out[i] = _slot_at(_alike(h, _place(h, sizes[p]), p, table, base, sizes), p, table, base, page_table)
        if out[i] >= 0:
            prefetch(id_refs, out[i])
    for i in range(first, last):
        if out[i] >= 0:
            prefetch(heap, np.int64(id_refs[out[i]] >> U(16)))


@kernel
def find_ids(data, ends, hashes, partitions, seed, table, base, sizes, page_table, heap, id_refs, out):
    """Slots of known ids, -1 for unknown ones.

    data uint8, ends uint32[n]: the ids; hashes uint64[n] their xxh3_64; partitions uint16[n]
    table uint64 arena, base, sizes int64[P] (0: the partition has no table here)
    page_table int32[P, pages]; heap uint8; id_refs uint64[slots] = offset << 16 | length; out int64[n], written
    """
    start = np.int64(0)
    for i in range(ends.size):
        if i % AHEAD == 0:
            _candidates(i, min(i + AHEAD, ends.size), hashes, partitions, seed, table, base, sizes, page_table, heap, id_refs, out)
        end = np.int64(ends[i])
        if out[i] >= 0 and not _is_at(out[i], data, start, end - start, heap, id_refs):
            out[i] = _find(data, start, end - start, seeded(hashes[i], seed) >> U(32), np.int64(partitions[i]), table, base, sizes, page_table, heap, id_refs)
        start = end


@kernel
def locate_ids(data, ends, epochs, seed, table, base, sizes, page_table, heap, id_refs, hashes, partitions, out):
    """As `find_ids`, hashes and partitions told (written) here: of a few ids the calls would cost more. Returns whether all of their partitions are
    owned: epochs uint64[P] are not 0."""
    start, are_owned = 0, True
    for i in range(ends.size):
        end = np.int64(ends[i])
        hashes[i] = hash_bytes(data, start, min(end - start, 1024))
        partitions[i] = hashes[i] % U(epochs.size)
        are_owned = are_owned and epochs[partitions[i]] != 0
        start = end
    find_ids(data, ends, hashes, partitions, seed, table, base, sizes, page_table, heap, id_refs, out)
    return are_owned


@inlined
def _have_room(users, sizes, partitions):
    """Whether each partition's table could take all of these rows at a load of 4/5, if every one were a new user of it."""
    fits = True
    for i in range(partitions.size):
        fits &= (users[partitions[i]] + partitions.size) * 5 <= sizes[partitions[i]] * 4
    return fits


@inlined
def next_page(control, free_pages):
    """A page that is nobody's; control and free_pages as in `resolve_ids`."""
    control[3] += 1
    if control[2] > 0:
        control[2] -= 1
        return free_pages[control[2]]
    control[1] += 1
    return control[1] - 1


@kernel
def resolve_ids(
    data, ends, hashes, partitions, seed, table, base, sizes, page_table, users, page_owner, free_pages, control, heap, id_refs, dirty, out, is_sure
):
    """Slots of ids; unseen ids get the next ordinal of their partition. False, and nothing was done: a table may be fuller than 4/5 if all were new.

    As `find_ids`; ends int64[n]. The caller guarantees heap space and pages; is_sure: and room in the tables.
    users int64[P]: next ordinal; page_owner int64[pages]: partition << 32 | page number; free_pages int64 stack
    control int64[4]: heap bytes used, next fresh page, free pages, page changes; dirty uint8[pages]: set where an id was added
    """
    if not is_sure and not _have_room(users, sizes, partitions):
        return False
    start = np.int64(0)
    for i in range(ends.size):
        if i % AHEAD == 0:
            _candidates(i, min(i + AHEAD, ends.size), hashes, partitions, seed, table, base, sizes, page_table, heap, id_refs, out)
        n = ends[i] - start
        if not _is_at(out[i], data, start, n, heap, id_refs):
            p = np.int64(partitions[i])
            h = seeded(hashes[i], seed) >> U(32)
            slot = _find(data, start, n, h, p, table, base, sizes, page_table, heap, id_refs)
            if slot < 0:
                o = users[p]
                users[p] = o + 1
                if o & 4095 == 0:
                    page = next_page(control, free_pages)
                    page_table[p, o >> 12] = page
                    page_owner[page] = (p << 32) | (o >> 12)
                slot = np.int64(page_table[p, o >> 12]) * 4096 + (o & 4095)
                at = control[0]
                for k in range(n):
                    heap[at + k] = data[start + k]
                control[0] = at + n
                id_refs[slot] = (U(at) << U(16)) | U(n)
                j = _place(h, sizes[p])
                while table[base[p] + j] != 0:
                    j = _next(j, sizes[p])
                table[base[p] + j] = (h << U(32)) | U(o + 1)
                dirty[slot >> 12] = TOUCHED
            out[i] = slot
        start = ends[i]
    return True


@kernel
def place_ids(data, lengths, hashes, seed, table, base, size, first_ordinal, first_slot, control, heap, id_refs):
    """Enter a page of known ids at their ordinals, first_ordinal and up. Length 0: an erased user, whose ordinal stays taken."""
    start = 0
    for i in range(lengths.size):
        if i + AHEAD < lengths.size:
            prefetch(table, base + _place(seeded(hashes[i + AHEAD], seed) >> U(32), size))
        n = np.int64(lengths[i])
        if n == 0:
            continue
        at = control[0]
        for k in range(n):
            heap[at + k] = data[start + k]
        control[0] = at + n
        start += n
        id_refs[first_slot + i] = (U(at) << U(16)) | U(n)
        h = seeded(hashes[i], seed) >> U(32)
        j = _place(h, size)
        while table[base + j] != 0:
            j = _next(j, size)
        table[base + j] = (h << U(32)) | U(first_ordinal + i + 1)


@kernel
def forget_id(h, ordinal, seed, table, base, size):
    """Replace the entry of (hash, ordinal) in one partition's table by a tombstone; nothing when it is not there."""
    h = seeded(h, seed) >> U(32)
    j = _place(h, size)
    while True:
        entry = table[base + j]
        if entry == 0:
            return
        if entry == (h << U(32)) | U(ordinal + 1):
            table[base + j] = (h << U(32)) | _TOMBSTONE
            return
        j = _next(j, size)


@kernel
def rehash(table, old_base, old_size, new_base, new_size):
    """Move a partition's entries into a larger, zeroed table. O(old_size)."""
    for k in range(old_size):
        entry = table[old_base + k]
        if entry != 0 and entry & _LOW != _TOMBSTONE:
            j = _place(entry >> U(32), new_size)
            while table[new_base + j] != 0:
                j = _next(j, new_size)
            table[new_base + j] = entry


@allocating
def pack_strings(refs, heap):
    """(lengths uint16[n], bytes): the strings that refs (offset << 16 | length) point at, one after another."""
    lengths = np.empty(refs.size, dtype=np.uint16)
    total = 0
    for i in range(refs.size):
        lengths[i] = refs[i] & U(0xFFFF)
        total += np.int64(lengths[i])
    out = np.empty(total, dtype=np.uint8)
    at = 0
    for i in range(refs.size):
        start = np.int64(refs[i] >> U(16))
        for k in range(np.int64(lengths[i])):
            out[at] = heap[start + k]
            at += 1
    return lengths, out


@kernel
def zero_strings(refs, heap):
    """Zero the strings that refs (offset << 16 | length) point at."""
    for i in range(refs.size):
        start = np.int64(refs[i] >> U(16))
        for k in range(np.int64(refs[i] & U(0xFFFF))):
            heap[start + k] = 0


@allocating
def gather_strings(data, ends, rows):
    """(bytes, starts int64[n], ends int64[n]): the strings at `rows`, copied together."""
    total = 0
    for k in range(rows.size):
        i = rows[k]
        total += np.int64(ends[i]) - (np.int64(ends[i - 1]) if i > 0 else 0)
    out = np.empty(total, dtype=np.uint8)
    out_ends = np.empty(rows.size, dtype=np.uint32)
    at = 0
    for k in range(rows.size):
        i = rows[k]
        start = np.int64(ends[i - 1]) if i > 0 else 0
        for b in range(start, np.int64(ends[i])):
            out[at] = data[b]
            at += 1
        out_ends[k] = at
    return out, out_ends


@inlined
def _word_code(data, start, end, h, table, heap, word_ends, word_hashes):
    """The code of the word data[start:end] of hash h, -1 for an unknown one."""
    mask = table.size - 1
    j = np.int64(h >> U(20)) & mask
    while table[j] != 0:
        code = np.int64(table[j]) - 1
        if word_hashes[code] == h:
            begin = word_ends[code - 1] if code > 0 else 0
            if word_ends[code] - begin == end - start and _equal(data, start, heap, begin, end - start):
                return code
        j = (j + 1) & mask
    return np.int64(-1)


@allocating
def find_words(data, ends, hashes, table, heap, word_ends, word_hashes):
    """int64[n]: codes of words in a dictionary, -1 for unknown. table int32[2^k]: code + 1, 0 free."""
    out = np.empty(ends.size, dtype=np.int64)
    start = np.int64(0)
    for i in range(ends.size):
        end = np.int64(ends[i])
        out[i] = _word_code(data, start, end, hashes[i], table, heap, word_ends, word_hashes)
        start = end
    return out


@kernel
def know_words(values, data, ends, table, heap, word_ends, word_hashes, codes):
    """Whether a dictionary has all words that values number. Fills codes int64[words].

    values uint32[n]; data uint8, ends uint32[words]: not checked yet; the rest as in `find_words`
    """
    start = np.int64(0)
    for i in range(ends.size):
        end = np.int64(ends[i])
        if end < start or end > data.size:
            return False
        codes[i] = _word_code(data, start, end, hash_bytes(data, start, min(end - start, 1024)), table, heap, word_ends, word_hashes)
        if codes[i] < 0:
            return False
        start = end
    highest = np.int64(-1)
    for k in range(values.size):
        highest = max(highest, np.int64(values[k]))
    return highest < ends.size


@kernel
def index_words(table, word_hashes, first, last):
    """Enter codes first..last-1 into a dictionary's table, which has room."""
    mask = table.size - 1
    for code in range(first, last):
        if word_hashes[code] == 0:  # a code that was skipped
            continue
        j = np.int64(word_hashes[code] >> U(20)) & mask
        while table[j] != 0:
            j = (j + 1) & mask
        table[j] = code + 1


@allocating
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


@kernel
def remember(table, hashes, rows, out):
    """Enter hashes[rows] into an open-addressing set uint64[2^k] with room; out bool[n] becomes True where it was there."""
    mask = table.size - 1
    added = 0
    for k in range(rows.size):
        h = hashes[rows[k]]
        j = np.int64(h >> U(17)) & mask
        while table[j] != 0 and table[j] != h:
            j = (j + 1) & mask
        if table[j] == h:
            out[rows[k]] = True
        else:
            table[j] = h
            added += 1
    return added


@kernel
def is_remembered(table, hashes, out):
    """out bool[n] becomes True where a hash is in the set."""
    mask = table.size - 1
    for i in range(hashes.size):
        j = np.int64(hashes[i] >> U(17)) & mask
        while table[j] != 0 and table[j] != hashes[i]:
            j = (j + 1) & mask
        if table[j] == hashes[i]:
            out[i] = True
