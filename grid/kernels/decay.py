"""Forward decay: `v = Σ wᵢ·2^((tᵢ − L)/half_life)` with a landmark L per page; the value at t is `v·2^((L − t)/half_life)`.

Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009.
"""

import numpy as np

from grid.kernels.compiling import AHEAD, allocating, inlined, kernel, prefetch
from grid.kernels.marks import touch

HALF_LIVES_MAX = 400.0  # float64 holds 1,023 doublings: room for 2^600 of weight above the landmark


@inlined
def _landmark_shift(landmark, time, half_life):
    """Half-lives by which a landmark must move so that `time` is within reach; 0 when it need not."""
    age = (time - landmark) / half_life
    return np.floor(age) if age > HALF_LIVES_MAX else 0.0


@inlined
def _is_begun(landmarks, has_landmark, page, time, half_life):
    """Whether a page has a landmark already; else its first event's time gives it one."""
    if has_landmark[page] != 0:
        return True
    has_landmark[page] = 1
    landmarks[page] = np.floor(time / half_life) * half_life
    return False


@kernel
def advance_landmarks(landmarks, has_landmark, shifts, slots, rows, times, half_life):
    """Give each page touched a landmark, and say which must move.

    landmarks float64[pages] ms, has_landmark uint8[pages]: set at a page's first event
    shifts float64[pages]: raised to the half-lives that the page's sums must be scaled down by (the caller scales, moves, zeroes)
    Returns how many pages must move.
    """
    moved = 0
    for k in range(rows.size):
        i = rows[k]
        page = slots[i] >> 12
        if _is_begun(landmarks, has_landmark, page, times[i], half_life):
            shift = _landmark_shift(landmarks[page], times[i], half_life)
            if shift > shifts[page]:
                moved += shifts[page] == 0.0
                shifts[page] = shift
    return moved


@kernel
def are_within_reach(landmarks, has_landmark, slots, rows, times, half_life):
    """As `advance_landmarks`, where no landmark must move; False: one must, nothing is said of the others."""
    for k in range(rows.size):
        i = rows[k]
        page = slots[i] >> 12
        if _is_begun(landmarks, has_landmark, page, times[i], half_life) and _landmark_shift(landmarks[page], times[i], half_life) > 0.0:
            return False
    return True


@kernel
def decayed_add(sums, landmarks, marks, slots, rows, times, weights, half_life):
    """sums float64[slots] += weight · 2^((time − landmark)/half_life). weights float64[n], or float64[1] for all rows alike."""
    for k in range(rows.size):
        i = rows[k]
        slot = slots[i]
        if k + AHEAD < rows.size:
            prefetch(sums, np.int64(slots[rows[k + AHEAD]]))
        weight = weights[i] if weights.size > 1 else weights[0]
        sums[slot] += weight * np.exp2((times[i] - landmarks[slot >> 12]) / half_life)
        touch(marks, slot)


@allocating
def forward_weights(landmarks, slots, rows, times, weights, half_life):
    """float64[rows.size]: each row's weight seen from its page's landmark, for keyed sums."""
    out = np.empty(rows.size, dtype=np.float64)
    for k in range(rows.size):
        i = rows[k]
        weight = weights[i] if weights.size > 1 else weights[0]
        out[k] = weight * np.exp2((times[i] - landmarks[slots[i] >> 12]) / half_life)
    return out


@allocating
def ageing(landmarks, slots, as_of, half_life):
    """float64[n]: what turns a sum at each slot into its value at `as_of` (ms)."""
    out = np.empty(slots.size, dtype=np.float64)
    for i in range(slots.size):
        out[i] = np.exp2((landmarks[slots[i] >> 12] - as_of) / half_life)
    return out


@allocating
def decayed_read(sums, landmarks, slots, as_of, half_life):
    """float64[n]: values at `as_of` (ms). 0 where nothing was counted, though as_of may lie ages before the landmark (0 · inf)."""
    out = np.zeros(slots.size, dtype=np.float64)
    for i in range(slots.size):
        total = sums[slots[i]]
        if total != 0.0:
            out[i] = total * np.exp2((landmarks[slots[i] >> 12] - as_of) / half_life)
    return out


@allocating
def decayed_entries(values, counts, landmarks, slots, as_of, half_life):
    """float64[m]: entries of the lists of slots (counts int64[n] each, one after another) at `as_of`."""
    out = np.zeros(values.size, dtype=np.float64)
    m = 0
    for i in range(slots.size):
        factor = np.exp2((landmarks[slots[i] >> 12] - as_of) / half_life)
        for _ in range(counts[i]):
            if values[m] != 0.0:
                out[m] = values[m] * factor
            m += 1
    return out
