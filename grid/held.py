"""Logged groups that are not known to be committed: on this disk, not yet in the columns, and perhaps never.

    logged --hold--> held --all copies have it: take--> applied
                          --another entry is in its place: cut--> dead
    a partition's records --it leaves, or comes anew: forget--> void

Only blocks of partitions that have several copies are held. What is dead or void stays in the log until its segment goes: history leaves it out,
and what is void is not replayed either, nor is anything of the partition from before used again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from grid.group import Group


class Held:
    """Groups in the order of the log. `sequence` of one that is being written is the least that it can get."""

    def __init__(self, partitions: int) -> None:
        self._groups: list[tuple[Group, dict[int, list[int]]]] = []
        self._last = np.zeros(partitions, dtype=np.uint64)
        # (partition, position, sequence): blocks of that partition above the position, in records before that one, are dead.
        self.cuts: list[tuple[int, int, int]] = []
        # uint64[P]: blocks of the partition in records before that one are void.
        self.void = np.zeros(partitions, dtype=np.uint64)
        # Partitions that are void, with something of theirs still on the disk or in memory.
        self.undropped: set[int] = set()

    def __len__(self) -> int:
        return len(self._groups)

    def hold(self, group: Group) -> None:
        """A group is logged, or about to be."""
        places = group.places()
        self._groups.append((group, places))
        for partition, positions in places.items():
            self._last[partition] = positions[-1]

    def last(self, partition: int) -> int:
        """The highest position held; 0: none."""
        return int(self._last[partition])

    def first_sequence(self, partition: int | None = None) -> int:
        """Of the first record that holds something of a partition, or of any; beyond every record when there is none."""
        return min((group.sequence for group, places in self._groups if partition is None or partition in places), default=1 << 62)

    def oldest_catalog(self) -> int:
        """Of what is held, the oldest catalog that something was judged under; beyond every one when there is none."""
        return min((group.catalog_version for group, _ in self._groups if group.judged), default=1 << 62)

    def of(self, partition: int) -> Iterable[tuple[int, int, Group]]:
        """(epoch, position, group) of what is held of a partition, in order."""
        for group, places in self._groups:
            for position in places.get(partition, ()):
                yield group.entries[partition][0], position, group

    def cut(self, partition: int, after: int, sequence: int) -> None:
        """Blocks of a partition above a position are dead: the record `sequence` has others in their place."""
        if self._last[partition] <= after:
            return
        self.cuts.append((partition, after, sequence))
        self._keep(lambda partitions, positions: (partitions != partition) | (positions <= after))

    def forget(self, partition: int, sequence: int) -> None:
        """What records before `sequence` have of a partition is void, all of it: it comes whole, with its past, or has left."""
        self.cuts = [cut for cut in self.cuts if cut[0] != partition]
        self.void[partition] = sequence
        self.undropped.add(partition)
        self._keep(lambda partitions, positions: partitions != partition)

    def take(self, committed: NDArray[np.uint64]) -> list[Group]:
        """What lies up to uint64[P] `committed`, in order; it is held no more."""
        taken: list[Group] = []
        kept: list[Group] = []
        for group, places in self._groups:
            reached = [positions[-1] <= committed[partition] for partition, positions in places.items()]
            if all(reached):
                taken.append(group)
            elif not any(positions[0] <= committed[partition] for partition, positions in places.items()):
                kept.append(group)
            else:
                taken += filter(None, [group.only(lambda partitions, positions: positions <= committed[partitions])])
                kept += filter(None, [group.only(lambda partitions, positions: positions > committed[partitions])])
        if taken:
            self._replace(kept)
        return taken

    def is_dead(self, partitions: NDArray[np.uint16], positions: NDArray[np.uint64], sequence: int) -> NDArray[np.bool_]:
        """bool[n]: blocks of the record `sequence` that are void, or that another took the place of."""
        dead = sequence < self.void[partitions]
        for partition, after, before in self.cuts:
            if sequence < before:
                dead |= (partitions == partition) & (positions > after)
        return dead

    def forget_cuts(self, through: int) -> None:
        """Records up to there are read no more."""
        self.cuts = [cut for cut in self.cuts if cut[2] > through]

    def known_through(self, partition: int, sequence: int, position: int) -> int:
        """Of a partition's positions up to `position`, the last that stood when record `sequence` was the newest and is not dead since."""
        return min([position, *(after for cut, after, since in self.cuts if cut == partition and since > sequence)])

    def _keep(self, wanted: object) -> None:
        self._replace([part for group, _ in self._groups if (part := group.only(wanted)) is not None])  # type: ignore[arg-type]

    def _replace(self, groups: list[Group]) -> None:
        self._groups = []
        self._last[:] = 0
        for group in groups:
            self.hold(group)
