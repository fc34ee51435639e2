"""A frame: what a client sends to a shard, as columns. Checked for shape here; what its values mean is decided in `grid.verdict`.

On disk (the log) a frame is a msgpack header, then its buffers one after another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from grid.errors import FrameInvalid
from grid.kernels.frames import directory_fault
from grid.kernels.ids import check_texts
from grid.state.dictionary import Strings, lengths_of

if TYPE_CHECKING:
    from grid.plain import Plain

FrameKind = Literal["events", "attributes", "deletes"]
ColumnType = Literal["int", "float", "bool", "timestamp", "text", "texts"]
ABSENT, PRESENT, UNSET = 0, 1, 2
ROWS_MAX = 1 << 20
# So few rows are copied together for the log: each buffer takes a microsecond to be summed and written.
JOINED_ROWS_MAX = 512
_DTYPES: dict[str, Any] = {"int": np.int64, "float": np.float64, "bool": np.uint8, "timestamp": np.int64, "text": np.uint32, "texts": np.uint32}


@dataclass(slots=True)
class Column:
    """Values of one property or attribute, as the client typed them. A name may come as several columns of different types.

    presence   uint8[rows]: 0 absent, 1 given, 2 unset (attributes only); None: given in every row
    values     [rows] by type; text: uint32 numbers of `words`; texts: uint32[m] numbers, row i has those up to list_ends[i]
    """

    name: str
    type: ColumnType
    presence: NDArray[np.uint8] | None
    values: NDArray[Any]
    words: Strings | None = None
    list_ends: NDArray[np.uint32] | None = None

    def take(self, rows: NDArray[np.int64]) -> Column:
        """The column of some rows, with the words that they use."""
        presence = None if self.presence is None else self.presence[rows]
        if self.list_ends is None:
            values, ends = self.values[rows], None
        else:
            lengths = lengths_of(self.list_ends)
            starts, taken = (self.list_ends - lengths)[rows], lengths[rows]
            values, ends = self.values[_spans(starts, taken)], np.cumsum(taken).astype(np.uint32)
        if self.words is None:
            return Column(self.name, self.type, presence, values, None, ends)
        # A row without the property has any code.
        used, numbers = np.unique(np.minimum(values, max(len(self.words) - 1, 0)), return_inverse=True)
        words = self.words.take(used.astype(np.int64)) if len(self.words) else self.words
        return Column(self.name, self.type, presence, numbers.astype(np.uint32), words, ends)


@dataclass(slots=True)
class Frame:
    """Rows sorted by partition, with a directory: `partitions[i]` has the next `block_rows[i]` rows, sent for `epochs[i]`."""

    kind: FrameKind
    producer: bytes
    batch: int
    catalog_version: int
    partitions: NDArray[np.uint16]
    block_rows: NDArray[np.uint32]
    epochs: NDArray[np.uint64]
    ids: Strings
    times: NDArray[np.int64]
    event_names: list[str] = field(default_factory=list)
    events: NDArray[np.uint16] = field(default_factory=lambda: np.empty(0, dtype=np.uint16))
    columns: list[Column] = field(default_factory=list)
    event_ids: Strings | None = None
    is_durable: bool = True
    producer_started_ms: int = 0
    _id_hashes: NDArray[np.uint64] | None = None
    _row_partitions: NDArray[np.uint16] | None = None
    plain: Plain | None = None  # what admission found, where nothing needs a closer look

    def take_hashes(self, id_hashes: NDArray[np.uint64], row_partitions: NDArray[np.uint16]) -> None:
        """Computed elsewhere."""
        self._id_hashes, self._row_partitions = id_hashes, row_partitions

    @property
    def id_hashes(self) -> NDArray[np.uint64]:
        """uint64[rows]: xxh3_64 of the ids, computed once."""
        if self._id_hashes is None:
            self._id_hashes = self.ids.hashes()
        return self._id_hashes

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.ids)

    @property
    def row_partitions(self) -> NDArray[np.uint16]:
        """uint16[rows]: each row's partition, computed once."""
        if self._row_partitions is None:
            self._row_partitions = np.repeat(self.partitions, self.block_rows)
        return self._row_partitions

    @property
    def block_starts(self) -> NDArray[np.int64]:
        """int64[blocks]: first row of each block."""
        ends = np.cumsum(self.block_rows, dtype=np.int64)
        return ends - self.block_rows

    def rows_of(self, first: int, last: int) -> slice:
        """The rows of partitions first..last-1."""
        if first <= int(self.partitions[0]) and last > int(self.partitions[-1]):
            return slice(0, self.rows)
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.block_rows, dtype=np.int64)])
        start, stop = np.searchsorted(self.partitions, [first, last])
        return slice(int(ends[start]), int(ends[stop]))

    def take(self, blocks: NDArray[np.int64]) -> tuple[Frame, NDArray[np.int64]]:
        """(the frame of some blocks, ascending; int64[n] which rows it has)."""
        rows = _spans(self.block_starts[blocks], self.block_rows[blocks].astype(np.int64))
        is_events = self.kind == "events"
        frame = Frame(
            self.kind, self.producer, self.batch, self.catalog_version, self.partitions[blocks], self.block_rows[blocks], self.epochs[blocks],
            self.ids.take(rows), self.times[rows] if is_events else self.times, self.event_names, self.events[rows] if is_events else self.events,
            [column.take(rows) for column in self.columns], None if self.event_ids is None else self.event_ids.take(rows), self.is_durable,
            self.producer_started_ms,
        )  # fmt: skip
        return frame, rows

    @property
    def nbytes(self) -> int:
        """Bytes of its texts and columns, about."""
        return self.text_bytes + self.rows * 24 + sum(column.values.nbytes for column in self.columns)

    @property
    def text_bytes(self) -> int:
        """Bytes of ids and of words."""
        return self.ids.data.size + sum(column.words.data.size for column in self.columns if column.words is not None)

    def check(self, partitions: int) -> None:
        """Raise FrameInvalid unless every buffer fits every other. O(blocks + columns), and O(rows) for codes and offsets."""
        expect(len(self.producer) == 16, "producer_id", f"{len(self.producer)} bytes", "16 random bytes")
        expect(0 < self.rows <= ROWS_MAX, "rows", str(self.rows), f"1 to {ROWS_MAX}")
        expect(self.partitions.size == self.block_rows.size == self.epochs.size, "partitions", "directory columns of different lengths", "one entry a block")
        expect(self.partitions.size > 0, "partitions", "none", "one or more")
        fault, last = directory_fault(self.partitions, self.block_rows, self.rows), int(self.partitions[-1])
        expect(fault != 1, "partitions", "unsorted or repeated", "ascending, each once")
        expect(last < partitions, "partitions", str(last), f"below {partitions}")
        if fault:
            raise FrameInvalid("partition_rows", str(self.block_rows.sum(dtype=np.int64)), f"{self.rows} rows in all")
        _check_strings("user_id", self.ids, self.rows)
        if self.kind == "events":
            expect(self.times.size == self.rows, "times_ms", f"{self.times.size} values", f"{self.rows}")
            expect(self.events.size == self.rows, "events", f"{self.events.size} values", f"{self.rows}")
            highest = int(self.events.max())
            expect(highest < len(self.event_names), "events", str(highest), f"below {len(self.event_names)}, the number of event names")
            if self.event_ids is not None:
                _check_strings("event_id", self.event_ids, self.rows)
        for column in self.columns:
            _check_column(column, self.rows, self.kind)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def encode(self) -> list[bytes | memoryview]:
        """The frame as buffers to be written one after another: header length, header, arrays. No copies of large arrays."""
        buffers: list[memoryview] = []

        def put(array: NDArray[Any] | None) -> int:
            if array is None:
                return -1
            if array.size:
                buffers.append((array if array.flags.c_contiguous else np.ascontiguousarray(array)).data)
            return array.nbytes

        def put_strings(strings: Strings | None) -> list[int] | None:
            return None if strings is None else [put(strings.data), put(strings.ends.astype(np.uint32, copy=False))]

        header = [
            self.kind, self.producer, self.batch, self.catalog_version, self.is_durable,
            put(self.partitions), put(self.block_rows), put(self.epochs), put_strings(self.ids), put(self.times),
            self.event_names, put(self.events), put_strings(self.event_ids),
            [[c.name, c.type, put(c.presence), put(c.values), put_strings(c.words), put(c.list_ends)] for c in self.columns],
            self.producer_started_ms,
        ]  # fmt: skip
        packed = msgpack.packb(header)
        head = len(packed).to_bytes(4, "little") + packed
        if self.rows <= JOINED_ROWS_MAX:
            return [b"".join([head, *buffers])]
        return [head, *(buffer.cast("B") for buffer in buffers)]

    @classmethod
    def decode(cls, raw: memoryview) -> Frame:
        """Inverse of `encode`; arrays are views of `raw`."""
        header_size = int.from_bytes(raw[:4], "little")
        header = msgpack.unpackb(raw[4 : 4 + header_size])
        at = 4 + header_size

        def take(nbytes: int, dtype: Any) -> Any:
            nonlocal at
            if nbytes < 0:
                return None
            array = np.frombuffer(raw[at : at + nbytes], dtype=dtype)
            at += nbytes
            return array

        def take_strings(sizes: list[int] | None) -> Strings | None:
            return None if sizes is None else Strings(take(sizes[0], np.uint8), take(sizes[1], np.uint32))

        kind, producer, batch, version, is_durable, n_parts, n_rows, n_epochs, ids, n_times, names, n_events, event_ids, columns, started = header
        partitions, block_rows, epochs = take(n_parts, np.uint16), take(n_rows, np.uint32), take(n_epochs, np.uint64)
        id_strings = take_strings(ids)
        assert id_strings is not None
        times, events, event_id_strings = take(n_times, np.int64), take(n_events, np.uint16), take_strings(event_ids)
        decoded = [
            Column(name, type_, take(presence, np.uint8), take(values, _DTYPES[type_]), take_strings(words), take(ends, np.uint32))
            for name, type_, presence, values, words, ends in columns
        ]
        return cls(
            kind, producer, batch, version, partitions, block_rows, epochs, id_strings, times, names, events, decoded, event_id_strings, is_durable, started
        )


def _spans(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[sum]: the numbers starts[i], starts[i] + 1, … of each span, one span after another."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))


def expect(condition: bool, where: str, got: str, expected: str) -> None:
    """Raise FrameInvalid unless the condition holds."""
    if not condition:
        raise FrameInvalid(where, got, expected)


def _check_strings(where: str, strings: Strings, count: int) -> None:
    expect(len(strings) == count, f"{where}_ends", f"{len(strings)} values", str(count))
    fault = check_texts(strings.data, strings.ends)
    expect(fault != 1, f"{where}_ends", "offsets that fall or leave the data", f"ascending, at most {strings.data.size}")
    try:
        strings.data[: int(strings.ends[-1]) if count else 0].tobytes().decode()
    except UnicodeDecodeError as error:
        raise FrameInvalid(where, f"bytes that are no UTF-8 at {error.start}", "UTF-8") from None
    expect(fault != 2, where, "a value that starts inside a character", "UTF-8")


def _check_column(column: Column, rows: int, kind: FrameKind) -> None:
    where = f"columns.{column.name}"
    expect(column.type in _DTYPES, where, repr(column.type), "a known column type")
    if column.presence is not None:
        expect(column.presence.size == rows, f"{where}.presence", f"{column.presence.size} values", str(rows))
        highest = UNSET if kind == "attributes" else PRESENT
        expect(int(column.presence.max()) <= highest, f"{where}.presence", str(column.presence.max()), f"at most {highest}")
    if column.type == "texts":
        expect(column.list_ends is not None and column.list_ends.size == rows, f"{where}.list_ends", "none or of another length", f"{rows} values")
        assert column.list_ends is not None
        ends = column.list_ends.astype(np.int64)
        expect(
            bool((np.diff(ends, prepend=0) >= 0).all()) and int(ends[-1]) == column.values.size,
            f"{where}.list_ends",
            "offsets that fall or miss the values",
            "ascending to the number of values",
        )
    else:
        expect(column.values.size == rows, f"{where}.values", f"{column.values.size} values", str(rows))
    if column.type in ("text", "texts"):
        expect(column.words is not None, f"{where}.dictionary", "none", "the words that the values number")
        assert column.words is not None
        _check_strings(f"{where}.dictionary", column.words, len(column.words))
        highest_code = int(column.values.max()) if column.values.size else -1
        expect(
            highest_code < len(column.words) or (column.presence is not None and not column.presence.any()),
            f"{where}.values",
            str(highest_code),
            f"below {len(column.words)}",
        )
