"""Which batches each producer has had applied, per partition, and what it was told: the base of exactly-once.

A partition keeps per producer its highest batch number and a 64-bit map of that one and the 63 below. A clean verdict (all rows
accepted) is not kept: the reply to a retry then follows from the retry itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grid.errors import ProducerExpired, SequenceTooOld
from grid.kernels.frames import batches_applied, mark_batches
from grid.verdict import Rejection

IN_FLIGHT_MAX = 64
FORGOTTEN_AFTER_MS = 7 * 86_400_000


@dataclass(slots=True)
class BlockReply:
    """What a producer was told about one block that was not wholly accepted. Rejections count rows from the block's first."""

    accepted: int
    duplicates: int
    rejections: list[Rejection]


class Producers:
    """Batches of all producers over all partitions of a shard."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._index: dict[bytes, int] = {}
        self._highest = np.zeros((16, partitions), dtype=np.uint64)
        self._seen = np.zeros((16, partitions), dtype=np.uint64)
        self._last_ms = np.zeros(16, dtype=np.int64)
        self._started_ms = np.zeros(16, dtype=np.int64)
        # The latest start (by the producers' clock) of those that were forgotten: who began later was never forgotten.
        self.forgotten_started_ms = 0
        self._replies: dict[tuple[int, int], dict[int, BlockReply]] = {}

    def applied(self, producer: bytes, batch: int, partitions: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """bool[blocks]: this batch was applied there before. Raises SequenceTooOld when that is no longer known."""
        index = self._index.get(producer)
        if index is None:
            return np.zeros(partitions.size, dtype=bool)
        out = np.empty(partitions.size, dtype=bool)
        if not batches_applied(self._highest[index], self._seen[index], np.uint64(batch), partitions, out):
            raise SequenceTooOld(batch, int(self._highest[index, partitions].max()))
        return out

    def batches_of(self, producer: bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint64]] | None:
        """uint64[P], uint64[P]: a producer's highest batch and the map of those below, as kernels look at them; None: nothing of it was applied."""
        index = self._index.get(producer)
        return None if index is None else (self._highest[index], self._seen[index])

    def heard(self, producer: bytes, received_ms: int, started_ms: int) -> None:
        """A batch of a producer that is known was marked."""
        index = self._index[producer]
        self._last_ms[index] = received_ms
        self._started_ms[index] = max(self._started_ms[index], started_ms)

    def check_known(self, producer: bytes, started_ms: int) -> None:
        """Raise ProducerExpired when a producer that is not known began no later than one that was forgotten: it may be that one."""
        if 0 < started_ms <= self.forgotten_started_ms and producer not in self._index:
            raise ProducerExpired(producer.hex(), started_ms)

    def mark(self, producer: bytes, batch: int, partitions: NDArray[np.uint16], received_ms: int, started_ms: int = 0) -> None:
        """The batch is applied in these partitions."""
        index = self._index_of(producer)
        self.heard(producer, received_ms, started_ms)
        mark_batches(self._highest[index], self._seen[index], np.uint64(batch), partitions)

    def _index_of(self, producer: bytes) -> int:
        index = self._index.setdefault(producer, len(self._index))
        if index >= self._last_ms.size:
            grown = self._last_ms.size * 2
            for name in ("_highest", "_seen"):
                old = getattr(self, name)
                new = np.zeros((grown, self._partitions), dtype=np.uint64)
                new[: old.shape[0]] = old
                setattr(self, name, new)
            for name in ("_last_ms", "_started_ms"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros(grown - old.size, dtype=np.int64)]))
        return index

    def keep_reply(self, producer: bytes, batch: int, partition: int, reply: BlockReply) -> None:
        """Remember a verdict that was not clean, as long as the batch may be retried."""
        replies = self._replies.setdefault((self._index_of(producer), partition), {})
        replies[batch] = reply
        for old in [number for number in replies if number + IN_FLIGHT_MAX <= batch]:
            del replies[old]

    def reply(self, producer: bytes, batch: int, partition: int) -> BlockReply | None:
        """The kept verdict of an applied block; None: all rows were accepted."""
        return self._replies.get((self._index.get(producer, -1), partition), {}).get(batch)

    def forget_old(self, received_ms: int) -> None:
        """Drop producers that were silent for 7 days of `received_ms`."""
        old = [name for name, index in self._index.items() if self._last_ms[index] < received_ms - FORGOTTEN_AFTER_MS]
        if not old:
            return
        self.forgotten_started_ms = max(self.forgotten_started_ms, *(int(self._started_ms[self._index[name]]) for name in old))
        kept = [(name, index) for name, index in self._index.items() if name not in set(old)]
        order = [index for _, index in kept]
        moved = {index: number for number, index in enumerate(order)}
        for array_name in ("_highest", "_seen"):
            array = getattr(self, array_name)
            fresh = np.zeros_like(array)
            fresh[: len(order)] = array[order]
            setattr(self, array_name, fresh)
        for array_name in ("_last_ms", "_started_ms"):
            times = getattr(self, array_name)
            fresh = np.zeros_like(times)
            fresh[: len(order)] = times[order]
            setattr(self, array_name, fresh)
        self._index = {name: moved[index] for name, index in kept}
        self._replies = {(moved[index], p): replies for (index, p), replies in self._replies.items() if index in moved}

    def drop(self, partition: int) -> None:
        """Forget what was applied in a partition that lives elsewhere now."""
        self._highest[:, partition] = self._seen[:, partition] = 0
        self._replies = {place: replies for place, replies in self._replies.items() if place[1] != partition}

    # --- checkpoint ---------------------------------------------------------------------------------------------------

    def dump(self, partition: int) -> list[Any]:
        """A partition's producers as plain data."""
        out = []
        for name, index in self._index.items():
            if self._highest[index, partition]:
                replies = self._replies.get((index, partition), {})
                packed = [[batch, r.accepted, r.duplicates, [list(_fields(x)) for x in r.rejections]] for batch, r in replies.items()]
                out.append(
                    [
                        name,
                        int(self._highest[index, partition]),
                        int(self._seen[index, partition]),
                        int(self._last_ms[index]),
                        packed,
                        int(self._started_ms[index]),
                    ]
                )
        return out

    def load(self, partition: int, dumped: list[Any]) -> None:
        """Inverse of `dump`."""
        for name, highest, seen, last_ms, replies, started_ms in dumped:
            index = self._index_of(name)
            self._highest[index, partition], self._seen[index, partition] = highest, seen
            self._last_ms[index] = max(self._last_ms[index], last_ms)
            self._started_ms[index] = max(self._started_ms[index], started_ms)
            for batch, accepted, duplicates, rejections in replies:
                self.keep_reply(name, batch, partition, BlockReply(accepted, duplicates, [Rejection(*fields) for fields in rejections]))


def _fields(rejection: Rejection) -> tuple[int, str, str, str, str]:
    return rejection.row, rejection.reason, rejection.field, rejection.value, rejection.expected
