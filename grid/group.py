"""A group: the frames committed together, with their verdicts, positions and the words they added. One log record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grid.frame import Frame
from grid.state.dictionary import Strings
from grid.state.rows import Rows
from grid.verdict import AttributeUpdate, Rejection, Reserved

FORMAT = 1
Mask = NDArray[np.bool_]


@dataclass(slots=True)
class Judged:
    """A frame with its verdict. Row masks cover the whole frame; blocks that are no longer fresh (a retry) have no row in them.

    fresh      bool[blocks]: applied by this group; the others were applied before
    positions  uint64[blocks]: log position of each fresh block; blocks of one partition may share it, in the frames of one group
    rows       decoded columns of all rows (events), or `updates` (attributes); None until decoded
    slots      uint32[accepted rows]: where they went when the events were applied
    """

    frame: Frame
    fresh: Mask
    accepted: Mask
    duplicate: Mask
    rejections: list[Rejection]
    positions: NDArray[np.uint64]
    rows: Rows | None = None
    updates: list[AttributeUpdate] = field(default_factory=list)
    slots: NDArray[np.uint32] | None = None
    is_clean: bool = False  # known to be: all blocks fresh, all rows accepted

    @classmethod
    def plain(cls, frame: Frame, positions: NDArray[np.uint64], rows: Rows) -> Judged:
        """Of a frame about which nothing needs a closer look."""
        masks = np.zeros(frame.partitions.size + 2 * frame.rows, dtype=bool)
        accepted = frame.partitions.size + frame.rows
        masks[:accepted] = True
        fresh, mine, duplicate = masks[: frame.partitions.size], masks[frame.partitions.size : accepted], masks[accepted:]
        return cls(frame, fresh, mine, duplicate, [], positions, rows, is_clean=True)

    def take(self, blocks: NDArray[np.int64]) -> Judged:
        """Some blocks with their verdict."""
        frame, rows = self.frame.take(blocks)
        mine = dict(zip(rows.tolist(), range(rows.size), strict=True)) if self.rejections else {}
        rejections = [Rejection(mine[r.row], r.reason, r.field, r.value, r.expected) for r in self.rejections if r.row in mine]
        return Judged(frame, self.fresh[blocks], self.accepted[rows], self.duplicate[rows], rejections, self.positions[blocks])


@dataclass(slots=True)
class Group:
    """What one log record holds. `sequence` is the log's; 0 until appended. `is_adopted`: another shard decided and logged it before.

    entries  of each partition in it that has several copies: (epoch of its blocks here, the position up to which it was committed then).
             Blocks of other partitions are committed when they are logged
    starts   partition to position: where an epoch begins in it
    """

    received_ms: int
    catalog_version: int
    judged: list[Judged]
    reserved: list[Reserved]
    sequence: int = 0
    is_adopted: bool = False
    entries: dict[int, tuple[int, int]] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    is_part: bool = False  # not all of its record

    @property
    def rows(self) -> int:
        """Of all frames, duplicates and refused ones included."""
        return sum(judged.frame.rows for judged in self.judged)

    @property
    def has_news(self) -> bool:
        """Whether anything must be logged: a group of pure retries changes nothing."""
        return bool(self.starts) or any(judged.is_clean or judged.fresh.any() for judged in self.judged)

    def places(self) -> dict[int, list[int]]:
        """Positions of its fresh blocks, and of the epochs that it begins, by partition, each once."""
        found = {partition: [position] for partition, position in self.starts.items()}
        for judged in self.judged:
            here = judged.fresh
            for partition, position in zip(judged.frame.partitions[here].tolist(), judged.positions[here].tolist(), strict=True):
                known = found.setdefault(partition, [])
                if not known or known[-1] != position:
                    known.append(position)
        return found

    def only(self, wanted: Callable[[NDArray[np.uint16], NDArray[np.uint64]], Mask]) -> Group | None:
        """The blocks that are wanted, by their partitions and positions, with the same record's number; None: there are none."""
        judged = []
        for item in self.judged:
            blocks = np.flatnonzero(item.fresh & wanted(item.frame.partitions, item.positions))
            if blocks.size == item.fresh.size:
                judged.append(item)
            elif blocks.size:
                judged.append(item.take(blocks))
        starts = {p: at for p, at in self.starts.items() if wanted(np.array([p], dtype=np.uint16), np.array([at], dtype=np.uint64))[0]}
        if not judged and not starts:
            return None
        part = Group(self.received_ms, self.catalog_version, judged, self.reserved, self.sequence, self.is_adopted, {}, starts, is_part=True)
        part.entries = {partition: self.entries[partition] for partition in part.places() if partition in self.entries}
        return part

    @property
    def nbytes(self) -> int:
        """Bytes of its frames, about."""
        return sum(judged.frame.nbytes for judged in self.judged)

    @classmethod
    def joined(cls, groups: list[Group]) -> Group:
        """Groups of one catalog as one, in their order."""
        last = groups[-1]
        return cls(last.received_ms, last.catalog_version, [judged for group in groups for judged in group.judged], [], is_adopted=last.is_adopted)

    def part_of(self, partitions: Mask) -> Group | None:
        """The blocks of some partitions (bool[P]) with their verdicts, for another shard; None: there are none."""
        judged = []
        for item in self.judged:
            blocks = np.flatnonzero(item.fresh & partitions[item.frame.partitions])
            if blocks.size:
                judged.append(item.take(blocks))
        return Group(self.received_ms, self.catalog_version, judged, [], is_adopted=True) if judged else None

    def encode(self) -> tuple[dict[str, Any], list[bytes | memoryview]]:
        """(header, body) for the log."""
        body: list[bytes | memoryview] = []
        items = []
        for judged in self.judged:
            if not judged.is_clean and not judged.fresh.any():
                continue
            buffers = judged.frame.encode()
            body.extend(buffers)
            items.append(
                [
                    sum(len(buffer) for buffer in buffers), np.packbits(judged.fresh).tobytes(), judged.positions.tobytes(),
                    judged.frame.partitions.tobytes(), judged.is_clean or _packed(judged.accepted), not judged.is_clean and _packed(judged.duplicate),
                    [[r.row, r.reason, r.field, r.value, r.expected] for r in judged.rejections],
                ]
            )  # fmt: skip
        reserved = [[r.key, r.first_code, r.words.data.tobytes(), r.words.ends.astype(np.uint32).tobytes()] for r in self.reserved]
        header = {
            "format": FORMAT, "kind": "group", "received_ms": self.received_ms, "catalog_version": self.catalog_version,
            "reserved": reserved, "items": items,
        }  # fmt: skip
        if self.is_adopted:
            header["adopted"] = True
        if self.entries:
            header |= {"entries": self.entries, "starts": self.starts}
        return header, body

    @classmethod
    def decode(cls, header: dict[str, Any], body: memoryview, sequence: int) -> Group:
        """Inverse of `encode`; frames are views of `body`, not yet decoded to columns."""
        judged, at = [], 0
        for nbytes, fresh, positions, partitions, accepted, duplicate, rejections in header["items"]:
            frame = Frame.decode(body[at : at + nbytes])
            at += nbytes
            blocks = len(partitions) // 2
            judged.append(
                Judged(
                    frame, np.unpackbits(np.frombuffer(fresh, dtype=np.uint8), count=blocks).astype(bool),
                    _unpacked(accepted, frame.rows), _unpacked(duplicate, frame.rows),
                    [Rejection(*fields) for fields in rejections], np.frombuffer(positions, dtype=np.uint64),
                )
            )  # fmt: skip
        entries = {partition: (epoch, committed) for partition, (epoch, committed) in header.get("entries", {}).items()}
        return cls(
            header["received_ms"], header["catalog_version"], judged, reserved_words(header), sequence, header.get("adopted", False),
            entries, header.get("starts", {}),
        )  # fmt: skip


def reserved_words(header: dict[str, Any]) -> list[Reserved]:
    """The words that a group's record added to dictionaries."""
    return [
        Reserved(key, first, Strings(np.frombuffer(data, dtype=np.uint8), np.frombuffer(ends, dtype=np.uint32)))
        for key, first, data, ends in header["reserved"]
    ]


def touched_positions(header: dict[str, Any]) -> list[tuple[int, int]]:
    """(partition, position) of every fresh block of a record, from its header alone."""
    if header["kind"] == "catalog":
        return list(enumerate(np.frombuffer(header["positions"], dtype=np.uint64).tolist()))
    touched: list[tuple[int, int]] = list(header.get("starts", {}).items())
    for _, fresh, positions, partitions, *_ in header["items"]:
        numbers = np.frombuffer(partitions, dtype=np.uint16)
        is_fresh = np.unpackbits(np.frombuffer(fresh, dtype=np.uint8), count=numbers.size).astype(bool)
        places = np.frombuffer(positions, dtype=np.uint64)
        touched.extend(zip(numbers[is_fresh].tolist(), places[is_fresh].tolist(), strict=True))
    return touched


def _packed(mask: Mask) -> bytes | bool:
    """A mask as bits, or as one bool when all rows are alike."""
    if mask.all():
        return True
    return np.packbits(mask).tobytes() if mask.any() else False


def _unpacked(packed: bytes | bool, rows: int) -> Mask:
    if isinstance(packed, bool):
        return np.full(rows, packed)
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=rows).astype(bool)
