"""Who the users are: ids to ordinals and slots, pages of slots, which users exist.

Invariant: an ordinal is never reused, even after deletion: merged bitmaps and cached handles outlive the user.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grid.errors import holds
from grid.kernels.flat import present
from grid.kernels.hashing import hash_strings
from grid.kernels.ids import find_ids, forget_id, locate_ids, next_page, pack_strings, place_ids, rehash, resolve_ids, zero_strings
from grid.kernels.marks import TOUCHED
from grid.kernels.scalars import newest_per_page
from grid.state.dictionary import Strings
from grid.state.memory import PAGE_ROWS, Space, give_back, reserve

Slots = NDArray[np.int64]
TABLE_MIN = 1024


class Users:
    """Ids, ordinals, slots and existence of the users of one shard's partitions."""

    def __init__(self, partitions: int, seed: int, space: Space) -> None:
        self.partitions = partitions
        self.seed = seed
        self._space, self._seed = space, np.uint64(seed)
        self._table = reserve(np.uint64, 1 << 33)
        self._table_used = self._table_free = 0
        self._free_tables: dict[int, list[int]] = {}
        self._base = np.zeros(partitions, dtype=np.int64)
        self._sizes = np.zeros(partitions, dtype=np.int64)
        self.page_table = reserve(np.int32, partitions * space.partition_pages_max).reshape(partitions, -1)
        # Invariant: next ordinal of each partition; ordinals below it are users, erased or not.
        self.next_ordinal = np.zeros(partitions, dtype=np.int64)
        self._page_owner = reserve(np.int64, space.pages_max)
        self._free_pages = reserve(np.int64, space.pages_max)
        # Invariant: page 0 is nobody's: slot 0 reads as an unknown user. Control is (heap bytes used, next fresh page, free pages, page changes).
        self._control = np.array([1, 1, 0, 0], dtype=np.int64)
        self._heap = reserve(np.uint8, space.id_bytes_max)
        self._id_refs = reserve(np.uint64, space.slots_max)
        self.dirty = reserve(np.uint8, space.pages_max)
        self.page_newest_ms = reserve(np.int64, space.pages_max)
        self.erased = np.zeros(partitions, dtype=np.int64)

    # --- lookups ------------------------------------------------------------------------------------------------------

    def find(self, data: NDArray[np.uint8], ends: NDArray[np.uint32], hashes: NDArray[np.uint64], partitions: NDArray[np.uint16]) -> Slots:
        """int64[n]: slots of ids, -1 for unknown ones."""
        out = np.empty(ends.size, dtype=np.int64)
        find_ids(data, ends, hashes, partitions, self._seed, self._table, self._base, self._sizes, self.page_table, self._heap, self._id_refs, out)
        return out

    def locate(self, ids: Strings, epochs: NDArray[np.uint64]) -> tuple[Slots, NDArray[np.uint16], bool]:
        """(int64[n]: slots of ids, -1 for unknown ones; uint16[n]: their partitions; whether all of these have an epoch)."""
        ends = np.ascontiguousarray(ids.ends, dtype=np.uint32)
        hashes, partitions, out = np.empty(ends.size, dtype=np.uint64), np.empty(ends.size, dtype=np.uint16), np.empty(ends.size, dtype=np.int64)
        are_owned = locate_ids(
            ids.data, ends, epochs, self._seed, self._table, self._base, self._sizes, self.page_table, self._heap, self._id_refs, hashes, partitions, out
        )
        return out, partitions, bool(are_owned)

    def resolve(self, ids: Strings, hashes: NDArray[np.uint64], partitions: NDArray[np.uint16]) -> Slots:
        """int64[n]: slots of ids; unseen ids become users."""
        out = np.empty(len(ids), dtype=np.int64)
        arguments = (
            ids.data, ids.ends.astype(np.int64), hashes, partitions, self._seed, self._table, self._base, self._sizes, self.page_table,
            self.next_ordinal, self._page_owner, self._free_pages, self._control, self._heap, self._id_refs, self.dirty, out,
        )  # fmt: skip
        if not resolve_ids(*arguments, False):
            incoming = np.bincount(partitions, minlength=self.partitions)
            for partition in np.flatnonzero((self.next_ordinal + incoming) * 5 > self._sizes * 4).tolist():
                self._make_room(partition, int(incoming[partition]))
            resolve_ids(*arguments, True)
        return out

    def touch(self, slots: Slots, times_ms: NDArray[np.int64]) -> None:
        """Remember the newest event time of each page."""
        newest_per_page(self.page_newest_ms, slots, times_ms)

    def _make_room(self, partition: int, rows: int) -> None:
        """A table with load <= 4/5 even if all rows are new users; it grows by an eighth, so that little of it is air."""
        wanted = int(self.next_ordinal[partition]) + rows
        size = int(self._sizes[partition])
        if wanted * 5 <= size * 4:
            return
        new_size = max(TABLE_MIN, size)
        while wanted * 5 > new_size * 4:
            new_size += new_size // 64 * 8
        base = self._take_table(new_size)
        if size:
            old = int(self._base[partition])
            rehash(self._table, old, size, base, new_size)
            give_back(self._table, old, old + size)
            self._free_tables.setdefault(size, []).append(old)
            self._table_free += size
        self._base[partition], self._sizes[partition] = base, new_size

    def _take_table(self, size: int) -> int:
        free = self._free_tables.get(size)
        if free:
            self._table_free -= size
            return free.pop()
        base = self._table_used
        self._table_used += size
        return base

    # --- partitions ---------------------------------------------------------------------------------------------------

    def pages_of(self, partition: int) -> NDArray[np.int64]:
        """int64[pages]: a partition's pages in ordinal order."""
        count = -(-int(self.next_ordinal[partition]) // PAGE_ROWS)
        return self.page_table[partition, :count].astype(np.int64)

    def slots_of(self, partition: int) -> Slots:
        """int64[users]: slots of ordinals 0, 1, … of a partition, erased users included."""
        pages = self.pages_of(partition)
        slots = (pages[:, None] * PAGE_ROWS + np.arange(PAGE_ROWS)).ravel()
        return slots[: int(self.next_ordinal[partition])]

    def slots_of_ordinals(self, partition: int, ordinals: NDArray[np.int64]) -> Slots:
        """int64[n]: slots of ordinals, which are below the partition's next."""
        return self.page_table[partition, ordinals >> 12].astype(np.int64) * PAGE_ROWS + (ordinals & 4095)

    def handles_of(self, slots: Slots) -> NDArray[np.uint64]:
        """uint64[n]: user handles, partition << 32 | ordinal."""
        owners = self._page_owner[slots >> 12]
        return ((owners >> 32 << 32) | ((owners & 0xFFFFFFFF) << 12) | (slots & 4095)).astype(np.uint64)

    def ordinals_of(self, slots: Slots) -> NDArray[np.int64]:
        """int64[n]: ordinals within the users' partitions; -1 where the slot is -1."""
        return np.where(slots >= 0, (self.handles_of(np.maximum(slots, 0)) & np.uint64(0xFFFFFFFF)).astype(np.int64), -1)

    def exists(self, slots: Slots) -> NDArray[np.bool_]:
        """bool[n]: users that are not erased; slots may be -1."""
        return (slots >= 0) & (self._id_refs[np.maximum(slots, 0)] != 0)

    def present(self, slots: Slots) -> tuple[NDArray[np.bool_], Slots, int]:
        """(bool[n]: users that exist; int64[n]: their slots, 0 for others; the newest event time of their pages in ms, 0 for none)."""
        exists, safe = np.empty(slots.size, dtype=bool), np.empty(slots.size, dtype=np.int64)
        return exists, safe, int(present(slots, self._id_refs, self.page_newest_ms, safe, exists))

    def ids(self, slots: Slots) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """(lengths, bytes) of the ids of slots; an erased user's is empty."""
        return pack_strings(self._id_refs[slots], self._heap)

    @property
    def page_changes(self) -> int:
        """Rises with each page that a partition takes, and where one gives up its own."""
        return int(self._control[3])

    @property
    def pages_used(self) -> int:
        """Pages that some partition holds."""
        return int(self._control[1]) - 1 - int(self._control[2])

    @property
    def nbytes(self) -> int:
        """Memory of tables, references and bytes of ids."""
        return (self._table_used - self._table_free) * 8 + int(self._control[0]) + self.pages_used * PAGE_ROWS * 8

    def count(self, partition: int) -> int:
        """Users that exist in a partition."""
        return int(self.next_ordinal[partition]) - int(self.erased[partition])

    @property
    def total(self) -> int:
        """Users that exist in this shard."""
        return int(self.next_ordinal.sum() - self.erased.sum())

    # --- erasure ------------------------------------------------------------------------------------------------------

    def erase(self, slots: Slots) -> None:
        """Forget users: ids gone from tables and heap, ordinals stay taken. Slots are distinct and exist."""
        lengths, data = self.ids(slots)
        ends = np.cumsum(lengths, dtype=np.uint32)
        hashes = hash_strings(data, ends)
        handles = self.handles_of(slots)
        for slot, h, handle in zip(slots.tolist(), hashes, handles.tolist(), strict=True):  # per deletion, which are few
            partition, ordinal = handle >> 32, handle & 0xFFFFFFFF
            forget_id(h, ordinal, self._seed, self._table, int(self._base[partition]), int(self._sizes[partition]))
            ref = int(self._id_refs[slot])
            self._heap[ref >> 16 : (ref >> 16) + (ref & 0xFFFF)] = 0
            self._id_refs[slot] = 0
            self.erased[partition] += 1
            self.dirty[slot >> 12] = TOUCHED

    # --- pages on disk ------------------------------------------------------------------------------------------------

    def dump_page(self, page: int) -> bytes:
        """Lengths and bytes of the ids of a page, erased ones empty."""
        lengths, data = pack_strings(self._id_refs[page * PAGE_ROWS : (page + 1) * PAGE_ROWS], self._heap)
        return lengths.tobytes() + data.tobytes()

    def load_partition(self, partition: int, pages: list[bytes], next_ordinal: int) -> list[int]:
        """Bring back a partition from its id pages, in order. Returns the page numbers they got here."""
        self.begin_partition(partition, next_ordinal)
        taken = [self.load_ids(partition, number, blob, next_ordinal) for number, blob in enumerate(pages)]
        self.end_partition(partition, next_ordinal)
        return taken

    def begin_partition(self, partition: int, next_ordinal: int) -> None:
        """Make room for a partition that comes page by page; `end_partition` lets it be seen."""
        holds(int(self.next_ordinal[partition]) == 0, "partition is loaded twice", partition=partition)
        self._make_room(partition, next_ordinal)

    def end_partition(self, partition: int, next_ordinal: int) -> None:
        """All its pages are here."""
        self.next_ordinal[partition] = next_ordinal

    def load_ids(self, partition: int, number: int, blob: bytes, next_ordinal: int) -> int:
        """Bring back page `number` of a partition. Returns the page it got here."""
        rows = min(PAGE_ROWS, next_ordinal - number * PAGE_ROWS)
        lengths = np.frombuffer(blob, dtype=np.uint16, count=PAGE_ROWS)[:rows]
        data = np.frombuffer(blob, dtype=np.uint8, offset=PAGE_ROWS * 2)
        hashes = hash_strings(data, np.cumsum(lengths, dtype=np.uint32))
        page = self._take_page(partition, number)
        place_ids(
            data, lengths, hashes, self._seed, self._table, int(self._base[partition]), int(self._sizes[partition]),
            number * PAGE_ROWS, page * PAGE_ROWS, self._control, self._heap, self._id_refs,
        )  # fmt: skip
        self.erased[partition] += int((lengths == 0).sum())
        return page

    def drop_partition(self, partition: int) -> None:
        """Forget a partition: its table and pages are free for others. The bytes of its ids are zeroed; a restart packs those of the others."""
        pages = self.page_table[partition]
        for page in pages[pages > 0].tolist():
            refs = slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)
            zero_strings(self._id_refs[refs], self._heap)
            self._id_refs[refs] = 0
            self.page_newest_ms[page] = self._page_owner[page] = self.dirty[page] = 0
            self._free_pages[self._control[2]] = page
            self._control[2] += 1
        pages[:] = 0
        self._control[3] += 1
        base, size = int(self._base[partition]), int(self._sizes[partition])
        if size:
            give_back(self._table, base, base + size)
            self._free_tables.setdefault(size, []).append(base)
            self._table_free += size
        # In this order: a heartbeat that counts users from another thread never finds more erased than there are.
        self.erased[partition] = self.next_ordinal[partition] = self._base[partition] = self._sizes[partition] = 0

    def _take_page(self, partition: int, number: int) -> int:
        """A place for a partition's page `number`."""
        page = int(next_page(self._control, self._free_pages))
        self.page_table[partition, number] = page
        self._page_owner[page] = (partition << 32) | number
        return page

    def check(self) -> None:
        """Raise InvariantBroken unless every id is found at its own slot. O(users)."""
        for partition in range(self.partitions):
            slots = self.slots_of(partition)
            slots = slots[self.exists(slots)]
            lengths, data = self.ids(slots)
            ends = np.cumsum(lengths, dtype=np.uint32)
            found = self.find(data, ends, hash_strings(data, ends), np.full(slots.size, partition, dtype=np.uint16))
            holds(bool((found == slots).all()), "ids and slots disagree", partition=partition)
            holds(slots.size == self.count(partition), "count of users disagrees", partition=partition)
