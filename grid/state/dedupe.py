"""Event ids of the last day (or what the catalog says): a repeated one counts once, whoever sends it.

Two generations of 64-bit hashes: an id is remembered for at least `keep_ms` and at most twice that of `received_ms`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from grid.kernels.ids import is_remembered, remember

_HASHES_MAX = 1 << 26


class EventIds:
    """The event ids that a shard's partitions remember; a hash is of the id and its partition."""

    def __init__(self) -> None:
        self._young = np.zeros(1024, dtype=np.uint64)
        self._old = np.zeros(1024, dtype=np.uint64)
        self._count = 0
        self._turned_ms = 0
        # (partition of each, hash) of those that came in `telling_new_ones_apart`.
        self._new: list[tuple[NDArray[np.uint16], NDArray[np.uint64]]] | None = None

    def seen_before(
        self, hashes: NDArray[np.uint64], partitions: NDArray[np.uint16], rows: NDArray[np.int64], keep_ms: int, received_ms: int
    ) -> NDArray[np.bool_]:
        """bool[n]: rows (of `rows`, in order) whose id was there already, also earlier in the same call. Remembers the others."""
        self._turn(keep_ms, received_ms)
        mixed = _mixed(hashes, partitions)
        self._make_room(rows.size)
        before = np.zeros(hashes.size, dtype=bool)
        is_remembered(self._old, mixed, before)
        self._count += remember(self._young, mixed, rows[~before[rows]], before)
        if self._new is not None:
            self._new.append((partitions[rows], mixed[rows]))
        return before

    @contextlib.contextmanager
    def telling_new_ones_apart(self) -> Iterator[None]:
        """Meanwhile `new_of` knows what came since the beginning."""
        self._new = []
        try:
            yield
        finally:
            self._new = None

    def new_of(self, partition: int) -> bytes:
        """New ids of a partition, for `add`."""
        return b"".join(hashes[partitions == partition].tobytes() for partitions, hashes in self._new or ())

    def _turn(self, keep_ms: int, received_ms: int) -> None:
        if self._turned_ms == 0:
            self._turned_ms = received_ms
        if received_ms - self._turned_ms >= keep_ms or self._count > _HASHES_MAX:
            self._old, self._young, self._count = self._young, np.zeros(1024, dtype=np.uint64), 0
            self._turned_ms = received_ms

    def _make_room(self, rows: int) -> None:
        wanted = (self._count + rows) * 2
        if wanted > self._young.size:
            kept = self._young[self._young != 0]
            self._young = np.zeros(1 << wanted.bit_length(), dtype=np.uint64)
            remember(self._young, kept, np.arange(kept.size), np.zeros(kept.size, dtype=bool))

    def merge(self, other: EventIds) -> None:
        """Remember what another remembers too."""
        if other._turned_ms:
            self._turned_ms = max(self._turned_ms, other._turned_ms)
        for hashes in (other._old[other._old != 0], other._young[other._young != 0]):
            self.add(hashes)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Remember hashes, as `new_of` gives them."""
        self._make_room(hashes.size)
        self._count += remember(self._young, hashes, np.arange(hashes.size), np.zeros(hashes.size, dtype=bool))

    def dump(self) -> tuple[int, bytes, bytes]:
        """For a checkpoint: (when the generation turned, young, old)."""
        return self._turned_ms, self._young[self._young != 0].tobytes(), self._old[self._old != 0].tobytes()

    def load(self, turned_ms: int, young: bytes, old: bytes) -> None:
        """Inverse of `dump`."""
        self._turned_ms = turned_ms
        self.add(np.frombuffer(old, dtype=np.uint64))
        self._old, self._young, self._count = self._young, np.zeros(1024, dtype=np.uint64), 0
        self.add(np.frombuffer(young, dtype=np.uint64))


def _mixed(hashes: NDArray[np.uint64], partitions: NDArray[np.uint16]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        mixed = (hashes ^ (partitions.astype(np.uint64) + np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
    return np.where(mixed == 0, np.uint64(1), mixed)
