"""xxh3_64 (seed 0) of short byte strings, and a finaliser that a table seeds.

Source: Collet, xxHash 0.8, "XXH3 specification". Only inputs of at most 1,024 bytes; longer ones are the caller's to refuse.
"""

import numpy as np

from grid.kernels.compiling import allocating, inlined

U = np.uint64
_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
        "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
).copy()
_P32_1, _P32_2, _P32_3 = U(0x9E3779B1), U(0x85EBCA77), U(0xC2B2AE3D)
_P1, _P2, _P3 = U(0x9E3779B185EBCA87), U(0xC2B2AE3D27D4EB4F), U(0x165667B19E3779F9)
_P4, _P5 = U(0x85EBCA77C2B2AE63), U(0x27D4EB2F165667C5)
_MX1, _MX2 = U(0x165667919E3779F9), U(0x9FB21C651E98DF25)
_LOW = U(0xFFFFFFFF)


@inlined
def _read64(data, at):
    value = U(0)
    for k in range(8):
        value |= U(data[at + k]) << U(8 * k)
    return value


@inlined
def _read32(data, at):
    return U(data[at]) | U(data[at + 1]) << U(8) | U(data[at + 2]) << U(16) | U(data[at + 3]) << U(24)


@inlined
def _fold(a, b):
    """High and low half of the 128-bit product, xored."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> U(32), b & _LOW, b >> U(32)
    low, mid_1, mid_2, high = a_low * b_low, a_high * b_low, a_low * b_high, a_high * b_high
    cross = (low >> U(32)) + (mid_1 & _LOW) + mid_2
    return ((mid_1 >> U(32)) + (cross >> U(32)) + high) ^ ((cross << U(32)) | (low & _LOW))


@inlined
def _avalanche(h):
    h ^= h >> U(37)
    h *= _MX1
    return h ^ (h >> U(32))


@inlined
def _avalanche64(h):
    h ^= h >> U(33)
    h *= _P2
    h ^= h >> U(29)
    h *= _P3
    return h ^ (h >> U(32))


@inlined
def _swap(x):
    result = U(0)
    for _ in range(8):
        result = (result << U(8)) | (x & U(0xFF))
        x >>= U(8)
    return result


@inlined
def _mix16(data, at, secret):
    return _fold(_read64(data, at) ^ _read64(_SECRET, secret), _read64(data, at + 8) ^ _read64(_SECRET, secret + 8))


@inlined
def _hash_to_16(data, start, n):
    if n > 8:
        low = _read64(data, start) ^ (_read64(_SECRET, 24) ^ _read64(_SECRET, 32))
        high = _read64(data, start + n - 8) ^ (_read64(_SECRET, 40) ^ _read64(_SECRET, 48))
        return _avalanche(U(n) + _swap(low) + high + _fold(low, high))
    if n >= 4:
        h = _read32(data, start + n - 4) + (_read32(data, start) << U(32))
        h ^= _read64(_SECRET, 8) ^ _read64(_SECRET, 16)
        h ^= ((h << U(49)) | (h >> U(15))) ^ ((h << U(24)) | (h >> U(40)))
        h *= _MX2
        h ^= (h >> U(35)) + U(n)
        h *= _MX2
        return h ^ (h >> U(28))
    if n > 0:
        first, middle, last = U(data[start]), U(data[start + (n >> 1)]), U(data[start + n - 1])
        combined = (first << U(16)) | (middle << U(24)) | last | (U(n) << U(8))
        return _avalanche64(combined ^ (_read32(_SECRET, 0) ^ _read32(_SECRET, 4)))
    return _avalanche64(_read64(_SECRET, 56) ^ _read64(_SECRET, 64))


@inlined
def _hash_to_240(data, start, n):
    acc = U(n) * _P1
    if n <= 128:
        if n > 32:
            if n > 64:
                if n > 96:
                    acc += _mix16(data, start + 48, 96) + _mix16(data, start + n - 64, 112)
                acc += _mix16(data, start + 32, 64) + _mix16(data, start + n - 48, 80)
            acc += _mix16(data, start + 16, 32) + _mix16(data, start + n - 32, 48)
        acc += _mix16(data, start, 0) + _mix16(data, start + n - 16, 16)
        return _avalanche(acc)
    for i in range(8):
        acc += _mix16(data, start + 16 * i, 16 * i)
    acc = _avalanche(acc)
    for i in range(8, n // 16):
        acc += _mix16(data, start + 16 * i, 16 * (i - 8) + 3)
    return _avalanche(acc + _mix16(data, start + n - 16, 119))


@inlined
def _accumulate(acc, data, at, secret):
    for i in range(8):
        value = _read64(data, at + 8 * i)
        key = value ^ _read64(_SECRET, secret + 8 * i)
        acc[i ^ 1] += value
        acc[i] += (key & _LOW) * (key >> U(32))


@allocating
def _hash_long(data, start, n):
    acc = np.array([_P32_3, _P1, _P2, _P3, _P4, _P32_2, _P5, _P32_1], dtype=np.uint64)
    for i in range((n - 1) // 64):
        _accumulate(acc, data, start + 64 * i, 8 * i)
    _accumulate(acc, data, start + n - 64, 121)
    result = U(n) * _P1
    for i in range(4):
        result += _fold(acc[2 * i] ^ _read64(_SECRET, 11 + 16 * i), acc[2 * i + 1] ^ _read64(_SECRET, 19 + 16 * i))
    return _avalanche(result)


@inlined
def hash_bytes(data, start, n):
    """uint64: xxh3_64 of data[start:start + n], n <= 1024."""
    if n <= 16:
        return _hash_to_16(data, start, n)
    if n <= 240:
        return _hash_to_240(data, start, n)
    return _hash_long(data, start, n)


@inlined
def seeded(h, seed):
    """A table's own hash of a hash: who does not know `seed` cannot aim at one bucket (splitmix64's finaliser)."""
    h ^= seed
    h = (h ^ (h >> U(30))) * U(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> U(27))) * U(0x94D049BB133111EB)
    return h ^ (h >> U(31))


@allocating
def hash_strings(data, ends):
    """uint64[n]: xxh3_64 of each string; strings longer than 1,024 bytes hash by their first 1,024.

    data  uint8[bytes]; ends  uint32[n], ascending, the last <= data.size (the caller checked)
    """
    out = np.empty(ends.size, dtype=np.uint64)
    start = 0
    for i in range(ends.size):
        end = np.int64(ends[i])
        out[i] = hash_bytes(data, start, min(end - start, 1024))
        start = end
    return out


@allocating
def hash_numbers(values):
    """uint64[n]: a hash of each float64 by value; -0.0 equals 0.0."""
    out = np.empty(values.size, dtype=np.uint64)
    bits = (values + 0.0).view(np.uint64)
    for i in range(values.size):
        out[i] = seeded(bits[i], _P5)
    return out
