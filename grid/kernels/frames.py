"""What is asked of every frame, in one pass each: of a small frame ten numpy calls for it would cost more than its rows."""

import numpy as np

from grid.kernels.compiling import allocating, inlined, kernel
from grid.kernels.hashing import hash_bytes


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


@inlined
def _is_new(highest, seen, batch, partition):
    """Whether a batch was not applied in a partition; False also where it is too old to tell."""
    if highest[partition] < batch:
        return True
    behind = highest[partition] - batch
    return behind < np.uint64(64) and (seen[partition] >> behind) & np.uint64(1) == np.uint64(0)


@inlined
def _are_plain_blocks(partitions, block_rows, sent_epochs, epochs, highest, seen, batch, rows, row_partitions):
    total = np.int64(0)
    for b in range(partitions.size):
        p = partitions[b]
        if p >= epochs.size or (b > 0 and p <= partitions[b - 1]) or sent_epochs[b] == 0 or epochs[p] != sent_epochs[b]:
            return False
        first, total = total, total + np.int64(block_rows[b])
        if total > rows or not _is_new(highest, seen, batch, p):
            return False
        for i in range(first, total):
            row_partitions[i] = p
    return total == rows


@kernel
def are_plain(
    partitions, block_rows, sent_epochs, epochs, highest, seen, batch, data, ends, id_bytes_max, events, codes, times, hashes, row_partitions, bounds
):
    """Whether nothing about a frame of events needs a closer look: its directory fits, each block is owned in the epoch that it was sent for and new,
    each id is ASCII of 1 to `id_bytes_max` bytes and in its partition, each event is known. Fills hashes uint64[n], row_partitions uint16[n] and bounds
    int64[2], the least and the greatest time (ms).

    partitions uint16[b], block_rows uint32[b], sent_epochs uint64[b]; epochs uint64[P]: of what is owned, else 0; highest, seen: as `batches_applied`
    data uint8, ends uint32[n], events uint16[n], times int64[n], n > 0; codes int64[names], at least one: negative where the event is unknown
    """
    if not _are_plain_blocks(partitions, block_rows, sent_epochs, epochs, highest, seen, batch, ends.size, row_partitions):
        return False
    start = np.int64(0)
    low = high = times[0]
    for i in range(ends.size):
        end = np.int64(ends[i])
        if end <= start or end - start > id_bytes_max or end > data.size or events[i] >= codes.size or codes[events[i]] < 0:
            return False
        bits = np.uint8(0)
        for k in range(start, end):
            bits |= data[k]
        h = hash_bytes(data, start, end - start)
        if bits >= np.uint8(128) or h % np.uint64(epochs.size) != row_partitions[i]:
            return False
        hashes[i] = h
        low, high = min(low, times[i]), max(high, times[i])
        start = end
    bounds[0], bounds[1] = low, high
    return True


@kernel
def enter_plain(partitions, reserved, highest, seen, batch, positions):
    """Mark a batch as `mark_batches` and give each of its blocks a position as `reserve_positions`, if it is new to all of them; else change nothing."""
    for b in range(partitions.size):
        if not _is_new(highest, seen, batch, partitions[b]):
            return False
    for b in range(partitions.size):
        reserved[partitions[b]] += np.uint64(1)
        positions[b] = reserved[partitions[b]]
    mark_batches(highest, seen, batch, partitions)
    return True


@kernel
def batches_applied(highest, seen, batch, partitions, out):
    """Fill bool[blocks] with whether a producer's batch was applied in each partition; False: one is too old to tell.

    highest, seen uint64[P]: the producer's highest batch, and a bit for that one and the 63 before.
    """
    for i in range(partitions.size):
        p = partitions[i]
        if highest[p] >= batch and highest[p] - batch >= np.uint64(64):
            return False
        out[i] = not _is_new(highest, seen, batch, p)
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


@allocating
def rows_fed(fed, events):
    """int64[m]: the rows whose event is one that counts (bool by code)."""
    out = np.empty(events.size, dtype=np.int64)
    m = 0
    for i in range(events.size):
        out[m] = i
        m += fed[events[i]]
    return out[:m]
