"""A group's rows into the columns of many features in one call: of a few rows the calls for each feature would cost more than the folding.

A feature is a row of int64, as in `grid.kernels.flat`: what it is, where its columns lie, and, from ROWS_FROM on, what of this group feeds it. Each
is folded by the kernel that folds it alone.
"""

import numpy as np
from numba import carray

from grid.kernels.compiling import allocating, kernel, pointer
from grid.kernels.decay import are_within_reach, decayed_add, forward_weights
from grid.kernels.lists import key_count, keyed_add
from grid.kernels.scalars import TIME_BIAS, count_add, raise_to, sum_add
from grid.kernels.windows import days_add, ring_add

# (kind, values, dirty, states, opened, codes, …), the marks of one value a user: COUNTS; SUMS; TIMES 1: complemented; DECAYED landmarks, is_set
# (kind, dirty, …): RINGS ring_of, newest, lost, values, free_rings, control, bytes of a value, hops, mode; DAY_BITS newest, lost, bits, days, words of
# bits; KEYED and KEYED_DECAYED words, heads, control, free, most keys of a user, landmarks, is_set
COUNTS, SUMS, TIMES, DECAYED, RINGS, DAY_BITS, KEYED, KEYED_DECAYED = 0, 1, 2, 3, 4, 5, 6, 7
# Of this group: rows picks[ROWS_FROM:ROWS_TO], float64 VALUES[VALUES_SIZE] of the property or [1.0], MORE int64[n] hops or uint32[n] keys of the rows
ROWS_FROM, ROWS_TO, VALUES, VALUES_SIZE, MORE = 12, 13, 14, 15, 16
WIDTH = 17
_MANY = 1 << 40


@kernel
def address(array):
    """Where an array lies: numpy takes 3.5 µs to say so."""
    return array.ctypes.data


@allocating
def _marks_of(field):
    return (
        carray(pointer(field[2]), _MANY, np.uint8),
        carray(pointer(field[3]), _MANY, np.uint8),
        carray(pointer(field[4]), _MANY, np.uint16),
        carray(pointer(field[5]), _MANY, np.uint8),
    )


@allocating
def _raise_times(field, slots, rows, times):
    codes = (times + TIME_BIAS).view(np.uint64)
    raise_to(carray(pointer(field[1]), _MANY, np.uint64), _marks_of(field), slots, rows, ~codes if field[6] else codes)


@allocating
def _add_to_rings(field, dirty, slots, rows, weights):
    ring_of, control = carray(pointer(field[2]), _MANY, np.uint32), carray(pointer(field[7]), 2, np.int64)
    newest, lost, free_rings = (
        carray(pointer(field[3]), _MANY, np.int64),
        carray(pointer(field[4]), _MANY, np.int64),
        carray(pointer(field[6]), _MANY, np.int64),
    )
    hop_of, hops, mode = carray(pointer(field[MORE]), slots.size, np.int64), field[9], field[10]
    if field[8] == 4:
        values = carray(pointer(field[5]), _MANY, np.float32)
        ring_add(ring_of, newest, lost, values, free_rings, control, dirty, slots, rows, hop_of, weights, hops, mode)
    else:
        wide = carray(pointer(field[5]), _MANY, np.float64)
        ring_add(ring_of, newest, lost, wide, free_rings, control, dirty, slots, rows, hop_of, weights, hops, mode)


@allocating
def _add_days(field, dirty, slots, rows):
    newest, lost = carray(pointer(field[2]), _MANY, np.int32), carray(pointer(field[3]), _MANY, np.int32)
    bits, day_of = carray(pointer(field[4]), _MANY, np.uint64), carray(pointer(field[MORE]), slots.size, np.int64)
    days_add(newest, lost, bits, dirty, slots, rows, day_of, field[5], field[6])


@allocating
def _add_keyed(field, dirty, slots, rows, weights):
    """Whether some user has as many keys as it may. weights float64[rows.size], or [1] for all alike."""
    words, keys, floats = carray(pointer(field[2]), _MANY, np.uint64), carray(pointer(field[2]), _MANY, np.uint32), carray(pointer(field[2]), _MANY, np.float64)
    heads, control, free = carray(pointer(field[3]), _MANY, np.uint32), carray(pointer(field[4]), 2, np.int64), carray(pointer(field[5]), 64, np.int64)
    row_keys = carray(pointer(field[MORE]), slots.size, np.uint32)
    keyed_add(words, keys, floats, heads, control, free, dirty, slots, rows, row_keys, weights)
    is_full = False
    for k in range(rows.size):
        is_full = is_full or key_count(words, np.int64(heads[slots[rows[k]]]) * 2) >= field[6]
    return is_full


@allocating
def _picked(weights, rows):
    """float64[rows.size] of float64[n]; [1] stays."""
    return weights if weights.size == 1 else weights[rows]


@allocating
def fold_rows(fields, half_lives, first, slots, times_at, picks, is_full):
    """Fold rows into the features `first` and behind. Returns the number of all of them, or of one that was left: a landmark of its must move first.

    fields int64[k, WIDTH], half_lives float64[k]; slots int64[n]; times_at: where times int64[n] lie; picks int64[m]
    is_full bool[k]: becomes True where some user has as many keys as it may
    """
    times = carray(pointer(times_at), slots.size, np.int64)
    for f in range(first, fields.shape[0]):
        field, kind = fields[f], fields[f, 0]
        rows = picks[field[ROWS_FROM] : field[ROWS_TO]]
        if rows.size == 0:
            continue
        dirty = carray(pointer(field[1]), _MANY, np.uint8)
        weights = carray(pointer(field[VALUES]), field[VALUES_SIZE], np.float64)
        if kind == COUNTS:
            count_add(carray(pointer(field[1]), _MANY, np.int64), _marks_of(field), slots, rows)
        elif kind == SUMS:
            sum_add(carray(pointer(field[1]), _MANY, np.float64), _marks_of(field), slots, rows, weights)
        elif kind == TIMES:
            _raise_times(field, slots, rows, times)
        elif kind == RINGS:
            _add_to_rings(field, dirty, slots, rows, weights)
        elif kind == DAY_BITS:
            _add_days(field, dirty, slots, rows)
        elif kind == KEYED:
            is_full[f] = _add_keyed(field, dirty, slots, rows, _picked(weights, rows))
        else:
            at = 6 if kind == DECAYED else 7
            landmarks, is_set = carray(pointer(field[at]), _MANY, np.float64), carray(pointer(field[at + 1]), _MANY, np.uint8)
            if not are_within_reach(landmarks, is_set, slots, rows, times, half_lives[f]):
                return f
            if kind == DECAYED:
                sums = carray(pointer(field[1]), _MANY, np.float64)
                decayed_add(sums, landmarks, _marks_of(field), slots, rows, times, weights, half_lives[f])
            else:
                is_full[f] = _add_keyed(field, dirty, slots, rows, forward_weights(landmarks, slots, rows, times, weights, half_lives[f]))
    return fields.shape[0]
