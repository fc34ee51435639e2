"""Past events: their order in history files."""

import numpy as np

from grid.kernels.compiling import allocating

_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS
# Runs of one user's events up to here are sorted by insertion: they come nearly sorted.
_INSERTION_MAX = 32


@allocating
def _by_digit(keys, shift, order, out):
    """One pass of a stable radix sort: `out` is `order` by 11 bits of keys[order]."""
    counts = np.zeros(_DIGITS + 1, dtype=np.int64)
    for i in range(order.size):
        counts[((keys[order[i]] >> shift) & (_DIGITS - 1)) + 1] += 1
    for digit in range(_DIGITS):
        counts[digit + 1] += counts[digit]
    for i in range(order.size):
        digit = (keys[order[i]] >> shift) & (_DIGITS - 1)
        out[counts[digit]] = order[i]
        counts[digit] += 1


@allocating
def _sort_run(order, first, last, times):
    """Sort order[first:last] by time, stably."""
    if last - first <= _INSERTION_MAX:
        for i in range(first + 1, last):
            row = order[i]
            j = i - 1
            while j >= first and times[order[j]] > times[row]:
                order[j + 1] = order[j]
                j -= 1
            order[j + 1] = row
        return
    for i in range(first + 1, last):
        if times[order[i - 1]] > times[order[i]]:
            run = order[first:last].copy()
            of_run = times[run]
            by_time = np.argsort(of_run, kind="mergesort")
            for k in range(run.size):
                order[first + k] = run[by_time[k]]
            return


@allocating
def order_by_user(users, times):
    """int32[n]: rows by (user, time), rows of equal keys in their order. users, times int64[n]; users >= 0. O(n) when times nearly ascend."""
    n = users.size
    order = np.arange(n).astype(np.int32)
    spare = np.empty(n, dtype=np.int32)
    highest = np.int64(0)
    for i in range(n):
        highest |= users[i]
    shift = 0
    while highest >> shift != 0:
        if (highest >> shift) & (_DIGITS - 1):
            _by_digit(users, shift, order, spare)
            order, spare = spare, order
        shift += _DIGIT_BITS
    first = 0
    for i in range(1, n + 1):
        if i == n or users[order[i]] != users[order[first]]:
            _sort_run(order, first, i, times)
            first = i
    return order


@allocating
def order_by_partition(partitions):
    """(int32[n] rows by partition, in their order within each; int64[65536] ends of the partitions' runs). partitions uint16[n]."""
    ends = np.zeros(1 << 16, dtype=np.int64)
    for i in range(partitions.size):
        ends[partitions[i]] += 1
    places = np.empty(1 << 16, dtype=np.int64)
    total = np.int64(0)
    for p in range(1 << 16):
        places[p] = total
        total += ends[p]
        ends[p] = total
    order = np.empty(partitions.size, dtype=np.int32)
    for i in range(partitions.size):
        p = partitions[i]
        order[places[p]] = i
        places[p] += 1
    return order, ends
