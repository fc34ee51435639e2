"""The entries of one replica, by position: those after `base`, which stands for a committed state that needs no entries any more."""

from __future__ import annotations

from collections.abc import Sequence

from grid.errors import InvariantBroken, holds
from grid.replication.messages import Entry


class Journal:
    """Entries base+1 .. last, without a gap. Positions rise by one, epochs never fall."""

    def __init__(self, base: int = 0, base_epoch: int = 0, entries: Sequence[Entry] = ()) -> None:
        self.base, self.base_epoch = base, base_epoch
        self._entries: list[Entry] = []
        self.extend(entries)

    @property
    def last(self) -> int:
        """The highest position."""
        return self.base + len(self._entries)

    def epoch_at(self, position: int) -> int:
        """The epoch of the entry at a position from `base` to `last`."""
        return self.base_epoch if position == self.base else self._entries[position - self.base - 1].epoch

    def has(self, position: int, epoch: int) -> bool:
        """Whether the entry at a position is the one of that epoch; what `base` stands for is committed, so it is."""
        return position < self.base or (position <= self.last and self.epoch_at(position) == epoch)

    def entry(self, position: int) -> Entry:
        """The entry at a position above `base`."""
        return self._entries[position - self.base - 1]

    def between(self, first: int, last: int) -> tuple[Entry, ...]:
        """Entries first..last, as far as there are any; `first` lies above `base`."""
        return tuple(self._entries[first - self.base - 1 : last - self.base])

    def extend(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end. Raises InvariantBroken when that leaves a gap, or epochs fall."""
        position, epoch = self.last, self.epoch_at(self.last)
        for entry in entries:
            if entry.position != position + 1 or entry.epoch < epoch:
                raise InvariantBroken(f"{entry!r} does not follow position {position} of epoch {epoch}")
            position, epoch = entry.position, entry.epoch
        self._entries.extend(entries)

    def cut(self, after: int) -> None:
        """Forget the entries above a position."""
        holds(self.base <= after, "a committed entry would be cut", base=self.base, after=after)
        del self._entries[after - self.base :]

    def forget(self, through: int) -> None:
        """Let a committed state stand for the entries up to a position."""
        if through > self.base:
            self.base_epoch, kept = self.epoch_at(through), self._entries[through - self.base :]
            self.base, self._entries = through, kept

    def last_of_epoch_below(self, epoch: int, position: int) -> int:
        """The highest position up to `position` whose epoch is at most `epoch`: where two logs may still agree."""
        position = min(position, self.last)
        while position > self.base and self.epoch_at(position) > epoch:
            position -= 1
        return position
