"""Columns of an answer in protobuf's wire format. Of a few users, protobuf's objects and numpy's calls would cost more than reading them."""

import numpy as np

from grid.kernels.compiling import allocating, inlined


@inlined
def _varint_size(value):
    size = 1
    while value > 127:
        value >>= 7
        size += 1
    return size


@inlined
def _put_varint(out, at, value):
    while value > 127:
        out[at] = value & 127 | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@inlined
def _put(out, at, number, octets):
    """A field of bytes; where it ends."""
    at = _put_varint(out, _put_varint(out, at, number << 3 | 2), octets.size)
    for j in range(octets.size):
        out[at + j] = octets[j]
    return at + octets.size


@allocating
def keyed_column(counts, codes, values, place, heap, ends, numbers):
    """uint8: what a ResultColumn has of lists, its words as far as they are used and numbered in order of first use.

    counts int64[n] entries of each user, codes uint32[m] and values float64[m] of all; heap uint8, ends int64: the words that codes number
    place int32[words]: all -1; all -1 again afterwards; numbers int64[5] of the fields list_ends, keys, values, dictionary_data, dictionary_ends
    """
    list_ends, keys, used = np.empty(counts.size, dtype=np.uint32), np.empty(codes.size, dtype=np.uint32), np.empty(codes.size, dtype=np.int64)
    entries = words = nbytes = 0
    for i in range(counts.size):
        entries += counts[i]
        list_ends[i] = entries
    for m in range(codes.size):
        code = np.int64(codes[m])
        if place[code] < 0:
            place[code], used[words] = words, code
            words += 1
            nbytes += ends[code] - (ends[code - 1] if code else 0)
        keys[m] = place[code]
    data, word_ends, at = np.empty(nbytes, dtype=np.uint8), np.empty(words, dtype=np.uint32), 0
    for k in range(words):
        code = used[k]
        place[code] = -1
        for j in range(ends[code - 1] if code else 0, ends[code]):
            data[at] = heap[j]
            at += 1
        word_ends[k] = at
    sizes = (4 * counts.size, 4 * codes.size, 8 * codes.size, nbytes, 4 * words)
    total = 0
    for f in range(5):
        total += _varint_size(numbers[f] << 3) + _varint_size(sizes[f]) + sizes[f]
    out, at = np.empty(total, dtype=np.uint8), 0
    at = _put(out, at, numbers[0], list_ends.view(np.uint8))
    at = _put(out, at, numbers[1], keys.view(np.uint8))
    at = _put(out, at, numbers[2], values.view(np.uint8))
    at = _put(out, at, numbers[3], data)
    _put(out, at, numbers[4], word_ends.view(np.uint8))
    return out
