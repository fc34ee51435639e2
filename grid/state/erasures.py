"""Deletions whose bytes may still lie on disk: in the log, in history, among dead letters, in old files of the checkpoints.

From a delete's acknowledgement the user does not exist; what this list is for is the physical removal within `erase_within`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Erasure:
    """One deletion. ordinal -1: the user was unknown then, but its refused rows may be among the dead letters."""

    partition: int
    ordinal: int
    id_hash: int
    position: int
    received_ms: int


class Erasures:
    """What a shard has still to remove from its disk."""

    def __init__(self, partitions: int) -> None:
        self.pending: list[Erasure] = []
        # Invariant: everything erased at or below this position of a partition is gone from the disk.
        self.done = np.zeros(partitions, dtype=np.uint64)
        self._hashes = np.empty(0, dtype=np.uint64)
        self._positions = np.empty(0, dtype=np.uint64)

    def add(self, erasures: list[Erasure]) -> None:
        """Remember deletions, unless they are done."""
        fresh = [erasure for erasure in erasures if erasure.position > int(self.done[erasure.partition])]
        self.pending = list(dict.fromkeys(self.pending + fresh))  # a partition that comes back brings those that were left here
        self._index()

    def finish(self, positions: NDArray[np.uint64]) -> None:
        """All that was erased up to these positions, uint64[partitions], is gone from the disk."""
        self.done = np.maximum(self.done, positions)
        self.pending = [erasure for erasure in self.pending if erasure.position > int(self.done[erasure.partition])]
        self._index()

    def _index(self) -> None:
        """By id: the last position that its erasure hides."""
        latest: dict[int, int] = {}
        for erasure in self.pending:  # per deletion, which are few
            latest[erasure.id_hash] = max(latest.get(erasure.id_hash, 0), erasure.position)
        self._hashes = np.array(sorted(latest), dtype=np.uint64)
        self._positions = np.array([latest[h] for h in sorted(latest)], dtype=np.uint64)

    def hides(self, hashes: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """bool[n]: rows of ids that were erased after the rows' positions (an id's partition follows from its hash)."""
        if not self._hashes.size:
            return np.zeros(hashes.size, dtype=bool)
        at = np.minimum(np.searchsorted(self._hashes, hashes), self._hashes.size - 1)
        return (self._hashes[at] == hashes) & (positions < self._positions[at])

    def dump(self, partition: int) -> list[list[int]]:
        """A partition's pending deletions for its manifest."""
        return [[e.ordinal, e.id_hash, e.position, e.received_ms] for e in self.pending if e.partition == partition]

    def load(self, partition: int, dumped: list[list[Any]]) -> None:
        """Inverse of `dump`."""
        self.add([Erasure(partition, *facts) for facts in dumped])
