"""Arrow columns (pyarrow, polars, pandas) to columns of a frame, buffer by buffer; and tables back to Arrow. Needs the `arrow` extra."""

from __future__ import annotations

from typing import Any

import numpy as np

from profilegrid.columns import BOOL, FLOAT, INT, TEXT, TEXTS, TIMESTAMP, Column, Strings

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
    return strings_of(pc.fill_null(array, ""))


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
        return Column(name, BOOL, presence, pc.fill_null(array, False).cast(pa.uint8()).to_numpy())
    if pa.types.is_integer(kind):
        return Column(name, INT, presence, pc.fill_null(array.cast(pa.int64()), 0).to_numpy())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return Column(name, FLOAT, presence, pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = array.cast(pa.timestamp("ms")) if pa.types.is_date(kind) else array.cast(pa.timestamp("ms", tz=kind.tz), safe=False)
        return Column(name, TIMESTAMP, presence, pc.fill_null(times.cast(pa.int64()), 0).to_numpy())
    raise TypeError(f"{name}: got {kind}, expected text, numbers, bools, timestamps or lists of text")


def _text_column(name: str, array: Any, presence: Any) -> Column:
    encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), 0).to_numpy().astype(np.uint32)
    return Column(name, TEXT, presence, codes, strings_of(encoded.dictionary))


def _list_column(name: str, array: Any, presence: Any) -> Column:
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)
    inner = _text_column(name, array.flatten(), None)
    return Column(name, TEXTS, presence, inner.values, inner.words, np.cumsum(lengths))
