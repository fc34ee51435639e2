"""Arrow columns (pyarrow, polars, pandas) to columns of a frame, buffer by buffer; and tables back to Arrow. Needs the `arrow` extra."""

from __future__ import annotations

from typing import Any

import numpy as np

from profilegrid.columns import BOOL, FLOAT, INT, TEXT, TEXTS, TIMESTAMP, Column, Strings
from profilegrid.results import LISTS, FieldColumn, Part

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:  # pragma: no cover
    raise ImportError("columns of Arrow, pandas or polars need pyarrow: pip install 'profilegrid[arrow]'") from error


def as_array(values: Any) -> Any:
    """One contiguous pyarrow Array of anything that speaks Arrow. NaN in pandas means missing, elsewhere it is a value."""
    if type(values).__module__.startswith("pandas"):
        values = pa.array(values, from_pandas=True)
    elif not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.chunked_array(values) if hasattr(values, "__arrow_c_stream__") else pa.array(values)
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _filled(array: Any, value: Any) -> Any:
    """Nulls replaced; a call of Arrow's only where there are any: it takes 100 µs."""
    return pc.fill_null(array, value) if array.null_count else array


def strings_of(array: Any) -> Strings:
    """Packed texts of a string array without nulls."""
    array = array.cast(pa.large_string()) if not pa.types.is_large_string(array.type) else array
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    octets = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    return Strings(octets[int(ends[0]) : int(ends[-1])], (ends[1:] - ends[0]).astype(np.uint32))


def ids_of_arrow(name: str, values: Any) -> Strings:
    """Ids of an Arrow column: texts, or integers as decimal text; null is empty."""
    array = as_array(values)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type)):
        raise TypeError(f"{name}: got {array.type}, expected text or integers")
    array = array.cast(pa.large_string())
    return strings_of(_filled(array, ""))


def column_of_arrow(name: str, values: Any) -> Column:
    """A frame column of an Arrow column."""
    array = as_array(values)
    presence = None
    if array.null_count:
        presence = array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
    kind = array.type
    if pa.types.is_null(kind):
        return Column(name, BOOL, np.zeros(len(array), dtype=np.uint8), np.zeros(len(array), dtype=np.uint8))
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _text_column(name, array, presence)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list_column(name, array, presence)
    if pa.types.is_boolean(kind):
        return Column(name, BOOL, presence, _filled(array, False).cast(pa.uint8()).to_numpy())
    if pa.types.is_integer(kind):
        return Column(name, INT, presence, _filled(array.cast(pa.int64()), 0).to_numpy())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return Column(name, FLOAT, presence, _filled(array.cast(pa.float64()), 0.0).to_numpy())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = array.cast(pa.timestamp("ms")) if pa.types.is_date(kind) else array.cast(pa.timestamp("ms", tz=kind.tz), safe=False)
        return Column(name, TIMESTAMP, presence, _filled(times.cast(pa.int64()), 0).to_numpy())
    raise TypeError(f"{name}: got {kind}, expected text, numbers, bools, timestamps or lists of text")


def _text_column(name: str, array: Any, presence: Any) -> Column:
    encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
    codes = _filled(encoded.indices.cast(pa.int64()), 0).to_numpy().astype(np.uint32)
    return Column(name, TEXT, presence, codes, strings_of(encoded.dictionary))


def _list_column(name: str, array: Any, presence: Any) -> Column:
    lengths = _filled(pc.list_value_length(array), 0).to_numpy().astype(np.int64)
    inner = _text_column(name, array.flatten(), None)
    return Column(name, TEXTS, presence, inner.values, inner.words, np.cumsum(lengths))


def array_of_field(column: FieldColumn) -> Any:
    """A field of many users, as it came over the wire, as an Arrow array: from its buffers, without an object a value."""
    known = column.known
    if column.type in LISTS:
        return _lists(column, None if known is None else pa.array(~known))
    if column.type in _PLAIN:
        return _plain(column.type, column.values, known)
    words = _packed_texts(column.words)
    numbers = pa.array(column.values.astype(np.int32), mask=None if known is None else ~known)
    return words.take(numbers) if len(words) else pa.nulls(len(numbers), pa.string())


_PLAIN = {"float": pa.float64(), "int": pa.int64(), "timestamp": pa.timestamp("ms", tz="UTC"), "bool": pa.bool_()}


def _plain(kind: str, values: Any, known: Any) -> Any:
    """An array of fixed width over the values, without a copy: pa.array takes ten times as long."""
    data = np.packbits(values, bitorder="little") if kind == "bool" else values
    validity = None if known is None or known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(_PLAIN[kind], values.size, [validity, pa.py_buffer(data)])


def _lists(column: FieldColumn, mask: Any) -> Any:
    """Sets as sorted lists of text, keyed features as maps, ranked ones as lists of {key, value} in their order."""
    ends = column.ends
    words = _packed_texts(column.words)
    if column.type == "set":
        offsets = _offsets(ends)
        owners = np.repeat(np.arange(ends.size), np.diff(ends, prepend=np.uint32(0)))
        rank = np.empty(len(words), dtype=np.int64)
        rank[pc.sort_indices(words).to_numpy()] = np.arange(len(words))
        values = column.values
        return pa.ListArray.from_arrays(offsets, words.take(pa.array(values[np.lexsort((rank[values], owners))])), mask=mask)
    return _entries(column.type, ends, words.take(pa.array(column.keys)), column.values, mask)


def _fixed(kind: Any, values: Any) -> Any:
    """An array of fixed width over contiguous values, without a copy."""
    return pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(values)])


def _offsets(ends: Any) -> Any:
    offsets = np.empty(ends.size + 1, dtype=np.int32)
    offsets[0], offsets[1:] = 0, ends
    return _fixed(pa.int32(), offsets)


def _entries(kind: str, ends: Any, keys: Any, values: Any, mask: Any) -> Any:
    offsets, numbers = _offsets(ends), _fixed(pa.float64(), np.ascontiguousarray(values))
    if kind.startswith("keyed"):
        return pa.MapArray.from_arrays(offsets, keys, numbers, mask=mask)
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([keys, numbers], ["key", "value"]), mask=mask)


def _packed_texts(strings: Strings) -> Any:
    offsets = np.empty(len(strings) + 1, dtype=np.int32)
    offsets[0], offsets[1:] = 0, strings.ends
    return pa.StringArray.from_buffers(len(strings), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(strings.data)))


def table_of_parts(ids: Strings, parts: list[Part], names: list[str]) -> Any:
    """A pyarrow.Table: user_id, then the fields, in the order asked for."""
    columns = {name: [part.by_name[name] for part in parts] for name in names}
    if len(parts) == 1:
        arrays = [array_of_field(of_part) for (of_part,) in columns.values()]
    else:
        order = np.empty(len(ids), dtype=np.int64)
        order[np.concatenate([part.rows for part in parts])] = np.arange(len(ids))
        plain = _gathered_plain(columns, parts, order)
        arrays = [plain[name] if name in plain else _gathered(of_parts, parts, order) for name, of_parts in columns.items()]
    return pa.Table.from_arrays([_packed_texts(ids), *arrays], names=["user_id", *names])


def _gathered_plain(columns: dict[str, list[FieldColumn]], parts: list[Part], order: Any) -> dict[str, Any]:
    """Fields of eight bytes a user of all parts, in the order asked for: gathered together, as each gather by itself has its price."""
    wide = {name: of_parts for name, of_parts in columns.items() if of_parts[0].type in _PLAIN and of_parts[0].type != "bool"}
    raw = np.frombuffer(b"".join(column.raw_values for of_parts in wide.values() for column in of_parts), dtype=np.int64)
    values = raw.reshape(len(wide), order.size).take(order, axis=1)
    return {name: _plain(of_parts[0].type, values[i], _known(of_parts, parts, order)) for i, (name, of_parts) in enumerate(wide.items())}


def _gathered(columns: list[FieldColumn], parts: list[Part], order: Any) -> Any:
    """Another field of all parts, in the order asked for."""
    if columns[0].type == "bool":
        return _plain("bool", np.concatenate([column.values for column in columns])[order], _known(columns, parts, order))
    if columns[0].type in LISTS and columns[0].type != "set":
        return _gathered_entries(columns, parts, order)
    return pa.concat_arrays([array_of_field(column) for column in columns]).take(pa.array(order))


def _known(columns: list[FieldColumn], parts: list[Part], order: Any) -> Any:
    """Whose value is not NULL; None: everybody's."""
    knowns = [column.known for column in columns]
    if all(known is None for known in knowns):
        return None
    return np.concatenate([np.ones(part.rows.size, dtype=bool) if known is None else known for known, part in zip(knowns, parts, strict=True)])[order]


def _gathered_entries(columns: list[FieldColumn], parts: list[Part], order: Any) -> Any:
    """Keyed or ranked entries of all parts, in the order asked for: the texts are taken once."""
    of_words = [column.words for column in columns]
    keys, values = np.concatenate([column.keys for column in columns]).astype(np.int64), np.concatenate([column.values for column in columns])
    lasts, entries, words = np.concatenate([column.ends for column in columns]).astype(np.int64), 0, 0
    at = 0
    for column, part, texts in zip(columns, parts, of_words, strict=True):  # numbers of a part behind those of the parts before
        lasts[at : at + part.rows.size] += entries
        count = column.values.size
        keys[entries : entries + count] += words
        at, entries, words = at + part.rows.size, entries + count, words + len(texts)
    starts = np.empty_like(lasts)
    starts[:1], starts[1:] = 0, lasts[:-1]
    counts, starts = (lasts - starts)[order], starts[order]
    ends = np.cumsum(counts)
    index = np.arange(entries) + np.repeat(starts - (ends - counts), counts)
    texts = pa.concat_arrays([_packed_texts(texts) for texts in of_words])
    known = _known(columns, parts, order)
    taken = texts.take(_fixed(pa.int64(), keys[index]))
    return _entries(columns[0].type, ends, taken, values[index], None if known is None else pa.array(~known))
