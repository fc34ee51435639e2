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
from grid.kernels.codes import compact_codes
from grid.state.dictionary import Strings
from grid.state.rows import TEXT_TYPES, PropertyColumn, Rows

FORMAT = 1
_TIME = pa.timestamp("ms", tz="UTC")
_NUMBERS: dict[str, Any] = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "timestamp": _TIME}
_WIRE: dict[str, ColumnType] = {"int": "int", "float": "float", "bool": "bool", "timestamp": "timestamp", "category": "text", "key": "text", "text": "text"}


def table_of(frame: Frame, rows: Rows, pick: NDArray[np.int64], users: dict[str, NDArray[Any]]) -> pa.Table:
    """The picked rows of a decoded frame. `users` has a uint16, uint32, uint64[pick] column each: partition, ordinal, position."""
    events = pa.DictionaryArray.from_arrays(pa.array(frame.events[pick].astype(np.int32)), pa.array(frame.event_names, pa.string()))
    arrays = [pa.array(users["partition"]), pa.array(users["ordinal"]), _times(rows.times[pick]), pa.array(users["position"]), events]
    fields = [pa.field(name, array.type) for name, array in zip(("@partition", "@ordinal", "@time", "@position", "@event"), arrays, strict=True)]
    if frame.event_ids is not None:
        arrays.append(_texts(frame.event_ids).take(pa.array(pick)))
        fields.append(pa.field("@event_id", pa.string()))
    for (name, kind), column in rows.columns.items():
        present = column.present[pick]
        if present.any():
            arrays.append(_property(kind, column, pick, ~present))
            fields.append(pa.field(f"{name}:{kind}", arrays[-1].type, metadata={"property": name, "type": kind}))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _times(times_ms: NDArray[np.int64], mask: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(times_ms, pa.int64(), mask=mask).view(_TIME)


def _property(kind: str, column: PropertyColumn, pick: NDArray[np.int64], mask: NDArray[np.bool_]) -> pa.Array:
    values = column.values[pick]
    if kind in TEXT_TYPES:
        assert column.words is not None
        return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int32), mask=mask), _texts(column.words))
    if kind == "timestamp":
        return _times(values.astype(np.int64), mask)
    return pa.array(values.astype(bool) if kind == "bool" else values, _NUMBERS[kind], mask=mask)


def _texts(strings: Strings) -> pa.StringArray:
    offsets = np.concatenate([np.zeros(1, dtype=np.int32), strings.ends.astype(np.int32)])
    return pa.StringArray.from_buffers(len(strings), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(strings.data)))


def joined_tables(tables: list[pa.Table]) -> pa.Table:
    """Tables end to end, each dictionary one; columns that some lack are NULL there."""
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()


def sorted_by_user(table: pa.Table) -> pa.Table:
    """Rows by (partition if it has one, ordinal, time, position): they come in log order, and the sort is stable."""
    users = table["@ordinal"].to_numpy().astype(np.uint64)
    if "@partition" in table.column_names:
        users |= table["@partition"].to_numpy().astype(np.uint64) << np.uint64(32)
    return table.take(pa.array(np.lexsort((table["@time"].cast(pa.int64()).to_numpy(), users))))


def split(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """(partition, its rows) of a sorted table, without the partition column."""
    partitions = table["@partition"].to_numpy()
    rest = table.drop_columns(["@partition"])
    starts = np.flatnonzero(np.diff(partitions, prepend=-1)).tolist() if partitions.size else []
    for start, stop in zip(starts, [*starts[1:], partitions.size], strict=True):
        yield int(partitions[start]), rest.slice(start, stop - start)


def tidy(table: pa.Table) -> pa.Table:
    """What a file holds of one partition's rows: only the words it uses, no empty column, properties under their own names."""
    arrays, fields = [], []
    names: set[str] = set()
    for field in table.schema:
        array = _whole(table[field.name])
        if array.null_count == len(array) and not field.name.startswith("@"):
            continue
        if pa.types.is_dictionary(field.type):
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
    events = _whole(table["@event"])
    none = Strings(np.empty(0, dtype=np.uint8), np.zeros(table.num_rows, dtype=np.uint32))
    columns = [_column(*_property_of(field), table[field.name]) for field in table.schema if not field.name.startswith("@")]
    one = np.zeros(1, dtype=np.uint16)
    return Frame(
        "events", b"", 0, 0, one, np.array([table.num_rows], dtype=np.uint32), one.astype(np.uint64), none,
        table["@time"].cast(pa.int64()).to_numpy(), events.dictionary.to_pylist(), events.indices.to_numpy(zero_copy_only=False).astype(np.uint16), columns,
    )  # fmt: skip


def _column(name: str, kind: str, chunks: pa.ChunkedArray) -> Column:
    array = _whole(chunks)
    presence = array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
    if pa.types.is_dictionary(array.type):
        codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint32)
        return Column(name, "text", presence, codes, _strings(array.dictionary))
    if kind == "bool":
        return Column(name, "bool", presence, array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint8))
    whole = array.view(pa.int64()) if kind == "timestamp" else array
    return Column(name, _WIRE[kind], presence, whole.fill_null(0).to_numpy(zero_copy_only=False))


def _whole(chunks: pa.ChunkedArray) -> Any:
    """The one array of a column."""
    array = chunks.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _strings(array: pa.StringArray) -> Strings:
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    octets = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    return Strings(octets[bounds[0] : bounds[-1]], bounds[1:] - bounds[0])
