"""Accepted events as Arrow tables and back: what a history file holds, readable by any Arrow tool.

Columns `@ordinal` (of the user, within the partition), `@time`, `@position` (log position), `@event`, `@event_id` where one was
given, then every property under its name; a name that has two declared types comes as `name` and `name:type`. Rows are sorted by
(ordinal, time, position). The schema's metadata names the format, each field's the property and its declared type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from grid.frame import Column, ColumnType, Frame
from grid.kernels.ids import compact_codes
from grid.kernels.past import order_by_partition, order_by_user
from grid.state.dictionary import Dictionary, Strings
from grid.state.rows import TEXT_TYPES, PropertyColumn, Rows, joined_strings

FORMAT = 1
_TIME = pa.timestamp("ms", tz="UTC")
_NUMBERS: dict[str, Any] = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "timestamp": _TIME}
_WIRE: dict[str, ColumnType] = {"int": "int", "float": "float", "bool": "bool", "timestamp": "timestamp", "category": "text", "key": "text", "text": "text"}


# First row, values, which rows have one.
Part = tuple[int, NDArray[Any], NDArray[np.bool_]]


class PastEvents:
    """Accepted events of many frames, gathered as columns and given out as one table a partition, sorted.

    A partition at a time, because its rows fit the cache: one sort and gather over a whole segment took three times as long.
    """

    def __init__(self) -> None:
        self.rows = self.received_ms = 0
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("partition", "ordinal", "time", "position", "event")}
        self._event_names: dict[str, int] = {}
        self._event_ids: list[tuple[int, Strings]] = []
        self._columns: dict[tuple[str, str], _GatheredColumn] = {}
        # So many of the parts are joined already.
        self._settled = 0

    def add(self, frame: Frame, rows: Rows, pick: NDArray[np.int64], users: dict[str, NDArray[Any]]) -> None:
        """Picked rows of a decoded frame. `users` has [pick] columns: partition uint16, ordinal uint32, position uint64."""
        if not pick.size:
            return
        codes = np.array([self._event_names.setdefault(name, len(self._event_names)) for name in frame.event_names], dtype=np.int32)
        for name, values in (*users.items(), ("time", rows.times[pick]), ("event", codes[frame.events[pick]])):
            self._parts[name].append(values)
        if frame.event_ids is not None:
            self._event_ids.append((self.rows, frame.event_ids.take(pick)))
        for key, column in rows.columns.items():
            present = column.present[pick]
            if present.any():
                self._columns.setdefault(key, _GatheredColumn(key[1])).add(self.rows, column, pick, present)
        self.rows += pick.size

    def settle(self) -> None:
        """Join what was added since the last time: a segment of small frames is tens of thousands of arrays otherwise."""
        for parts in self._parts.values():
            if added := parts[self._settled :]:
                parts[self._settled :] = [np.concatenate(added)]
        self._settled = len(self._parts["event"])
        for column in self._columns.values():
            column.settle()

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """(partition, its rows)."""
        if not self.rows:
            return
        own = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        ids = self._all_event_ids()
        for column in self._columns.values():
            column.close(self.rows)
        order, ends = order_by_partition(own["partition"])
        for partition in np.flatnonzero(np.diff(ends, prepend=0)).tolist():
            mine = order[int(ends[partition - 1]) if partition else 0 : int(ends[partition])]
            rows = mine[order_by_user(own["ordinal"][mine].astype(np.int64), own["time"][mine])]
            yield partition, self._table(own, rows, ids)

    def _all_event_ids(self) -> Strings | None:
        if not self._event_ids:
            return None
        parts, at = [], 0
        nothing = np.empty(0, dtype=np.uint8)
        for first, strings in [*self._event_ids, (self.rows, None)]:
            parts.append(Strings(nothing, np.zeros(first - at, dtype=np.int64)))
            if strings is not None:
                parts.append(strings)
                at = first + len(strings)
        whole = joined_strings(parts)
        return Strings(whole.data, whole.ends.astype(np.uint32))

    def _table(self, own: dict[str, NDArray[Any]], rows: NDArray[np.int32], ids: Strings | None) -> pa.Table:
        events, codes = compact_codes(own["event"][rows], np.ones(rows.size, dtype=bool), np.full(len(self._event_names), -1, dtype=np.int32))
        names = list(self._event_names)
        event = pa.DictionaryArray.from_arrays(_array(pa.int32(), events), pa.array([names[code] for code in codes.tolist()], pa.string()))
        arrays = [_array(pa.uint32(), own["ordinal"][rows]), _array(_TIME, own["time"][rows]), _array(pa.uint64(), own["position"][rows]), event]
        fields = [pa.field(name, array.type) for name, array in zip(("@ordinal", "@time", "@position", "@event"), arrays, strict=True)]
        if ids is not None:
            mine = ids.take(rows)
            arrays.append(_texts(mine, mine.lengths > 0))
            fields.append(pa.field("@event_id", pa.string()))
        for (name, kind), column in self._columns.items():
            arrays.append(column.array(rows))
            fields.append(pa.field(f"{name}:{kind}", arrays[-1].type, metadata={"property": name, "type": kind}))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


class _GatheredColumn:
    """One property of all rows; words of text types are numbered once for the whole segment."""

    def __init__(self, kind: str) -> None:
        self._kind, self._is_text = kind, kind in TEXT_TYPES
        self._parts: list[Part] = []
        self._settled = 0
        self._words = Dictionary(1 << 40)
        self._values: NDArray[Any] = np.empty(0)
        self._present: NDArray[np.bool_] = np.empty(0, dtype=bool)
        self._place = np.empty(0, dtype=np.int32)

    def add(self, first: int, column: PropertyColumn, pick: NDArray[np.int64], present: NDArray[np.bool_]) -> None:
        values = column.values[pick]
        if self._is_text:
            assert column.words is not None
            values = self._codes(column.words)[np.where(present, values, 0)]
        self._parts.append((first, values, present))

    def _codes(self, words: Strings) -> NDArray[np.int32]:
        """int32[words]: their codes in the segment's dictionary, which takes those it lacks."""
        codes = self._words.find_all(words)
        self._words.add_unknown(words, codes)
        return codes.astype(np.int32)

    def settle(self) -> None:
        """One part of those that were added since the last time."""
        if added := self._parts[self._settled :]:
            start, (last, values, _) = added[0][0], added[-1]
            self._parts[self._settled :] = [(start, *self._joined(added, start, last + values.size))]
        self._settled = len(self._parts)

    def _joined(self, parts: list[Part], start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(values, present) of rows start..stop-1; rows without a part are absent."""
        values = np.zeros(stop - start, dtype=np.int32 if self._is_text else parts[0][1].dtype)
        present = np.zeros(stop - start, dtype=bool)
        for first, part, mask in parts:
            values[first - start : first - start + part.size] = part
            present[first - start : first - start + part.size] = mask
        return values, present

    def close(self, rows: int) -> None:
        """Nothing is added any more: one array."""
        self._values, self._present = self._joined(self._parts, 0, rows)
        self._parts.clear()
        self._place = np.full(self._words.size, -1, dtype=np.int32)

    def array(self, rows: NDArray[np.int32]) -> pa.Array:
        """Some rows."""
        values, present = self._values[rows], self._present[rows]
        if not self._is_text:
            return _array(_NUMBERS[self._kind], values, present)
        codes, used = compact_codes(values, present, self._place)
        return pa.DictionaryArray.from_arrays(_array(pa.int32(), codes, present), _texts(self._words.words_of(used)))


def _array(kind: pa.DataType, values: NDArray[Any], present: NDArray[np.bool_] | None = None) -> pa.Array:
    """A fixed-width Arrow array over the values, without a copy."""
    data = np.packbits(values, bitorder="little") if kind == pa.bool_() else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, values.size, [_validity(present), pa.py_buffer(data)])


def _validity(present: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if present is None or present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))


def _texts(strings: Strings, present: NDArray[np.bool_] | None = None) -> pa.StringArray:
    offsets = np.concatenate([np.zeros(1, dtype=np.int32), strings.ends.astype(np.int32)])
    return pa.StringArray.from_buffers(len(strings), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(strings.data)), _validity(present))


def joined_tables(tables: list[pa.Table]) -> pa.Table:
    """Tables end to end, each dictionary one; columns that some lack are NULL there."""
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()


def sorted_by_user(table: pa.Table) -> pa.Table:
    """Rows of one partition by (ordinal, time, position): they come in the order of their positions, and the sort is stable."""
    order = order_by_user(table["@ordinal"].to_numpy().astype(np.int64), table["@time"].cast(pa.int64()).to_numpy())
    return table.take(pa.array(order))


def tidy(table: pa.Table, *, is_joined: bool) -> pa.Table:
    """What a file holds of one partition's rows: no empty column, properties under their own names, of joined tables only the words used."""
    arrays, fields = [], []
    names: set[str] = set()
    for field in table.schema:
        array = whole(table[field.name])
        if array.null_count == len(array) and not field.name.startswith("@"):
            continue
        if pa.types.is_dictionary(field.type) and is_joined:
            array = _compacted(array)
        name, kind = _property_of(field)
        while name in names:
            name += f":{kind}"
        names.add(name)
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata=field.metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata={"profilegrid.history": str(FORMAT)}))


def _property_of(field: pa.Field) -> tuple[str, str]:
    """(name, declared type) of a property's column; (its name, "") of our own."""
    if not field.metadata or b"property" not in field.metadata:
        return field.name, ""
    return field.metadata[b"property"].decode(), field.metadata[b"type"].decode()


def named_by_type(table: pa.Table) -> pa.Table:
    """A file's columns under `name:type` again, so that tables of different times can be joined."""
    named = [_property_of(field) for field in table.schema]
    return table.rename_columns([f"{name}:{kind}" if kind else name for name, kind in named]).replace_schema_metadata(None)


def _compacted(array: pa.DictionaryArray) -> pa.DictionaryArray:
    is_valid = array.indices.is_valid().to_numpy(zero_copy_only=False)
    codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    new, used = compact_codes(codes, is_valid, np.full(len(array.dictionary), -1, dtype=np.int32))
    return pa.DictionaryArray.from_arrays(pa.array(new, mask=~is_valid), array.dictionary.take(pa.array(used)))


def frame_of_past(table: pa.Table) -> Frame:
    """Rows of a history file as a frame to be decoded under today's catalog. It has no ids: ordinals stand for the users."""
    events = whole(table["@event"])
    none = Strings(np.empty(0, dtype=np.uint8), np.zeros(table.num_rows, dtype=np.uint32))
    columns = [_column(*_property_of(field), table[field.name]) for field in table.schema if not field.name.startswith("@")]
    one = np.zeros(1, dtype=np.uint16)
    return Frame(
        "events", b"", 0, 0, one, np.array([table.num_rows], dtype=np.uint32), one.astype(np.uint64), none,
        table["@time"].cast(pa.int64()).to_numpy(), events.dictionary.to_pylist(), events.indices.to_numpy(zero_copy_only=False).astype(np.uint16), columns,
    )  # fmt: skip


def _column(name: str, kind: str, chunks: pa.ChunkedArray) -> Column:
    array = whole(chunks)
    presence = array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
    if pa.types.is_dictionary(array.type):
        codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint32)
        return Column(name, "text", presence, codes, strings_of(array.dictionary))
    if kind == "bool":
        return Column(name, "bool", presence, array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint8))
    plain = array.view(pa.int64()) if kind == "timestamp" else array
    return Column(name, _WIRE[kind], presence, plain.fill_null(0).to_numpy(zero_copy_only=False))


def whole(chunks: pa.ChunkedArray) -> Any:
    """The one array of a column."""
    if chunks.num_chunks == 1:
        return chunks.chunk(0)
    array = chunks.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def strings_of(array: pa.StringArray) -> Strings:
    """The texts of an array, packed, without a copy."""
    _, offsets, data = array.buffers()
    if not len(array):
        return Strings(np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64))
    bounds = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    octets = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    return Strings(octets[bounds[0] : bounds[-1]], bounds[1:] - bounds[0])
