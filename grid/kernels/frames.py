"""What is asked of every frame, in one pass each: of a small frame ten numpy calls for it would cost more than its rows."""

import numpy as np

from grid.kernels.compiling import kernel


@kernel
def directory_fault(partitions, block_rows, rows):
    """0: partitions ascend and their blocks have `rows` rows; 1: they do not ascend; 2: another number of rows."""
    total = np.int64(0)
    for i in range(partitions.size):
        if i and partitions[i] <= partitions[i - 1]:
            return 1
        total += np.int64(block_rows[i])
    return 0 if total == rows else 2


@kernel
def first_misplaced(hashes, row_partitions, partitions):
    """The first row whose hash mod `partitions` is not its partition; -1: none."""
    for i in range(hashes.size):
        if hashes[i] % np.uint64(partitions) != row_partitions[i]:
            return i
    return -1


@kernel
def are_plain_events(ends, id_bytes_max, events, codes, times, earliest, latest):
    """Whether no row has an empty or long id, an event whose code is negative, or a time outside of the bounds (ms)."""
    start = np.int64(0)
    for i in range(ends.size):
        end = np.int64(ends[i])
        if end == start or end - start > id_bytes_max or codes[events[i]] < 0 or times[i] < earliest or times[i] > latest:
            return False
        start = end
    return True


@kernel
def batches_applied(highest, seen, batch, partitions, out):
    """Fill bool[blocks] with whether a producer's batch was applied in each partition; False: one is too old to tell.

    highest, seen uint64[P]: the producer's highest batch, and a bit for that one and the 63 before.
    """
    for i in range(partitions.size):
        p = partitions[i]
        if highest[p] < batch:
            out[i] = False
            continue
        behind = highest[p] - batch
        if behind >= np.uint64(64):
            return False
        out[i] = (seen[p] >> behind) & np.uint64(1) == np.uint64(1)
    return True


@kernel
def mark_batches(highest, seen, batch, partitions):
    """Enter a batch that `batches_applied` could tell."""
    for i in range(partitions.size):
        p = partitions[i]
        if batch > highest[p]:
            rise = batch - highest[p]
            seen[p] = (seen[p] << rise if rise < np.uint64(64) else np.uint64(0)) | np.uint64(1)
            highest[p] = batch
        else:
            seen[p] |= np.uint64(1) << min(highest[p] - batch, np.uint64(63))


@kernel
def reserve_positions(reserved, partitions, fresh, positions):
    """Give each fresh block the next position of its partition; positions uint64[blocks] is filled, others get 0."""
    for i in range(partitions.size):
        positions[i] = 0
        if fresh[i]:
            reserved[partitions[i]] += np.uint64(1)
            positions[i] = reserved[partitions[i]]


@kernel
def reach_positions(applied, partitions, blocks, positions):
    """Raise the applied position of the partitions of some blocks (bool) to theirs."""
    for i in range(partitions.size):
        if blocks[i]:
            applied[partitions[i]] = max(applied[partitions[i]], positions[i])


@kernel
def has_room(next_ordinals, sizes, partitions):
    """Whether each partition's id table could take all of these rows at a load of 4/5, if every one were a new user of it."""
    fits = True
    for i in range(partitions.size):
        fits &= (next_ordinals[partitions[i]] + partitions.size) * 5 <= sizes[partitions[i]] * 4
    return fits


@kernel
def rows_fed(fed, events):
    """int64[m]: the rows whose event is one that counts (bool by code)."""
    out = np.empty(events.size, dtype=np.int64)
    m = 0
    for i in range(events.size):
        out[m] = i
        m += fed[events[i]]
    return out[:m]
