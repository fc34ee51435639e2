"""Columns of a file to columns of a batch: a column's name, or an expression of the rule language over the file's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from profilegrid_rules import Expression, Field, TextVector, Type, Vector, Words, columns_of, compile_value, evaluate
from profilegrid_rules.plan import Column as ColumnOf

from profilegrid.arrow import column_of_arrow
from profilegrid.columns import PRESENT, TEXT, TIMESTAMP, Column

_INTEGER, _NUMBER = r"^[+-]?(0|[1-9][0-9]{0,17})$", r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_US_MIN, _MS_MIN = 10**14, 10**11


@dataclass(slots=True)
class Sniffed:
    """What a file's columns hold, by a look at all of it: Arrow types, text ones refined to int or float where every value is one."""

    types: dict[str, str]
    rows: int
    first_times: dict[str, Any]

    @classmethod
    def of(cls, names: list[str], batches: Any) -> Sniffed:
        """One pass over the file."""
        found = dict.fromkeys(names, "")
        firsts: dict[str, Any] = {}
        rows = 0
        for batch in batches:
            rows += batch.num_rows
            for name in names:
                column = batch.column(name) if hasattr(batch, "column") else batch[name]
                if column.null_count < len(column):
                    firsts.setdefault(name, column.drop_null()[0].as_py())
                found[name] = _wider(found[name], _kind(column))
        return cls({name: kind or "text" for name, kind in found.items()}, rows, firsts)


def _kind(column: Any) -> str:
    """int, float, bool, timestamp, texts, text, or '' for a column of nulls."""
    kind = column.type
    if column.null_count == len(column):
        return ""
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp"
    if pa.types.is_list(kind):
        return "texts"
    values = column.drop_null()
    values = values.dictionary_decode() if pa.types.is_dictionary(kind) else values
    if pc.all(pc.match_substring_regex(values, _INTEGER)).as_py():
        return "int"
    return "float" if pc.all(pc.match_substring_regex(values, _NUMBER)).as_py() else "text"


def _wider(a: str, b: str) -> str:
    if not a or not b or a == b:
        return a or b
    return "float" if {a, b} == {"int", "float"} else "text"


_RULE_TYPES = {"int": Type.NUMBER, "float": Type.NUMBER, "bool": Type.BOOL, "timestamp": Type.TIMESTAMP, "text": Type.TEXT, "texts": Type.SET}


class TableSource:
    """A table's columns as the rule language reads them."""

    def __init__(self, table: Any, types: dict[str, str]) -> None:
        self._table, self._types = table, types

    @property
    def rows(self) -> int:
        return int(self._table.num_rows)

    @property
    def now_ms(self) -> int:
        from profilegrid.columns import now_ms

        return now_ms()

    def column(self, name: str) -> Vector | TextVector:
        values = self._table[name].combine_chunks()
        if self._types[name] in ("int", "float") and pa.types.is_string(values.type):
            values = values.cast(pa.float64())
        column = column_of_arrow(name, values)
        known = None if column.presence is None else column.presence == PRESENT
        if column.words is not None:
            return TextVector(column.values.astype(np.int64), Words(np.array([*column.words.to_list(), None], dtype=object)[:-1]), known)
        return Vector(column.values.astype(bool) if self._types[name] == "bool" else column.values, known)

    def keyed(self, name: str, key: str) -> Vector:
        raise ValueError("a file's columns have no keys")

    def set_contains(self, name: str, values: tuple[str, ...], is_all: bool) -> Vector:
        raise ValueError("has() works on attributes, not on a file's columns")

    def day_active(self, name: str, day: Vector) -> Vector:
        raise ValueError("day_active() works on features, not on a file's columns")

    def calendar(self, name: str, times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        moments = pa.array(times_ms, pa.timestamp("ms"))
        part = {"year": pc.year, "month": pc.month, "day": pc.day}[name]
        return np.asarray(part(moments), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where a field comes from: a column by name, or an expression."""

    field: str
    column: str = ""
    expression: Expression | None = None

    def values(self, table: Any, types: dict[str, str]) -> Any:
        """An Arrow array of the field."""
        if self.expression is None:
            return table[self.column].combine_chunks()
        return as_arrow(evaluate(self.expression, TableSource(table, types)), table.num_rows)

    def kind(self, types: dict[str, str]) -> str:
        """int, float, bool, timestamp, text or texts."""
        if self.expression is None:
            return types[self.column]
        return {Type.TEXT: "text", Type.BOOL: "bool", Type.TIMESTAMP: "timestamp"}.get(self.expression.type, "float")


def mapped(field: str, text: str, types: dict[str, str], flag: str) -> Mapped:
    """A column's name if the file has it, else an expression. Raises ValueError that says which columns there are."""
    if text in types:
        return Mapped(field, text)
    schema = {name: Field(_RULE_TYPES[kind], f"column of {kind}") for name, kind in types.items()}
    try:
        expression = compile_value(text, schema)
    except ValueError as error:
        raise ValueError(f"{flag} {text}: {error}; columns of the file: {', '.join(types)}") from None
    if isinstance(expression, ColumnOf):  # a quoted name: "session ID"
        return Mapped(field, expression.name)
    return Mapped(field, "", expression)


def as_arrow(vector: Vector | TextVector, rows: int) -> Any:
    """An evaluated expression as an Arrow array."""
    mask = None if vector.known is None else ~np.broadcast_to(vector.known, (rows,))
    if isinstance(vector, TextVector):
        codes = pa.array(np.broadcast_to(vector.codes, (rows,)).astype(np.int64), mask=mask)
        return pa.DictionaryArray.from_arrays(codes, pa.array(vector.words.all().tolist(), pa.string())).dictionary_decode()
    values = np.broadcast_to(vector.values, (rows,))
    if values.dtype.kind == "f":
        mask = ~np.isfinite(values) if mask is None else mask | ~np.isfinite(values)
    return pa.array(np.ascontiguousarray(values), mask=mask)


def names_of(expression: Mapped) -> list[str]:
    """Columns of the file that a mapping reads."""
    return [expression.column] if expression.expression is None else columns_of(expression.expression)


# --- typing ------------------------------------------------------------------------------------------------------------


def ids_array(values: Any, kind: str, flag: str) -> Any:
    """User ids as text without nulls: integers as decimal text, a float refused."""
    if kind == "float" and not pa.types.is_string(values.type):
        whole = pc.all(pc.equal(pc.floor(values), values)).as_py()
        hint = "; its column has missing values and was read as floats: write it as text or integers" if whole else ""
        raise ValueError(f"{flag}: user ids are floats, expected text or integers{hint}")
    return pc.fill_null(values.cast(pa.string()), "")


def as_declared(field: str, values: Any, declared: str, timezone: str) -> list[Column]:
    """Columns of a field typed as declared. Text that is no such value stays text: the grid refuses those rows with a reason."""
    if declared == "set":
        return [_set_column(field, values)]
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        if declared == "int" and pa.types.is_floating(values.type):
            return [column_of_arrow(field, values)]
        if declared in ("category", "key", "text") and not pa.types.is_floating(values.type):
            return [column_of_arrow(field, values if pa.types.is_integer(values.type) else values.cast(pa.string()))]
        return [column_of_arrow(field, values)]
    if declared in ("category", "key", "text"):
        return [column_of_arrow(field, values)]
    if declared == "timestamp":
        times, is_good = parse_times(values, None, timezone)
        good = Column(field, TIMESTAMP, (is_good & ~_nulls(values)).astype(np.uint8), times)
        return [good, *_leftover(field, values, is_good | _nulls(values))]
    if declared == "bool":
        lowered = pc.utf8_lower(values)
        is_true = pc.is_in(lowered, pa.array(["true", "t", "yes", "y", "1"]))
        is_good = np.asarray(pc.or_(is_true, pc.is_in(lowered, pa.array(["false", "f", "no", "n", "0"]))))
        good_values = pa.array(np.asarray(is_true), mask=~is_good)
        return [column_of_arrow(field, good_values), *_leftover(field, values, is_good | _nulls(values))]
    is_number = np.asarray(pc.fill_null(pc.match_substring_regex(values, _INTEGER if declared == "int" else _NUMBER), False))
    numbers = pc.if_else(pa.array(is_number), values, None).cast(pa.int64() if declared == "int" else pa.float64())
    return [column_of_arrow(field, numbers), *_leftover(field, values, is_number | _nulls(values))]


def _nulls(values: Any) -> NDArray[np.bool_]:
    return np.asarray(values.is_null())


def _leftover(field: str, values: Any, is_good: NDArray[np.bool_]) -> list[Column]:
    """The rows that are no value of the declared type, as text."""
    if is_good.all():
        return []
    column = column_of_arrow(field, pc.if_else(pa.array(is_good), None, values))
    assert column.type == TEXT
    return [column]


def _set_column(field: str, values: Any) -> Column:
    """Lists as they are; text is split at ';' (or read as a JSON list)."""
    if pa.types.is_list(values.type):
        return column_of_arrow(field, values.cast(pa.list_(pa.string())))
    stripped = pc.utf8_trim(values.cast(pa.string()), '[]" ')
    return column_of_arrow(field, pc.split_pattern_regex(stripped, r'"?\s*[;,|]\s*"?'))


def infer_unit(first: Any, kind: str) -> str:
    """s, ms, us or iso, by the first time of a column."""
    if kind == "timestamp" or first is None:
        return "iso"
    try:
        number = abs(float(first))
    except (TypeError, ValueError):
        return "iso"
    return "us" if number >= _US_MIN else "ms" if number >= _MS_MIN else "s"


def parse_times(values: Any, unit: str | None, timezone: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(ms int64, good bool) of a column of times. `unit` None: ISO text, or whatever type it has."""
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        moments = values.cast(pa.timestamp("ms", tz=getattr(values.type, "tz", None)), safe=False)
        if getattr(moments.type, "tz", None) is None:
            moments = pc.assume_timezone(moments, timezone, ambiguous="earliest", nonexistent="latest")
        return _filled(moments.cast(pa.int64()))
    if unit in ("s", "ms", "us"):
        is_number = pc.fill_null(pc.match_substring_regex(values.cast(pa.string()), _NUMBER), False)
        numbers = pc.if_else(is_number, values.cast(pa.string()), None).cast(pa.float64())
        scale = {"s": 1000.0, "ms": 1.0, "us": 0.001}[unit]
        return _filled(pc.cast(pc.round(pc.multiply(numbers, scale)), pa.int64()))
    return _parse_iso(values.cast(pa.string()), timezone)


def _filled(values: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return np.asarray(pc.fill_null(values, 0), dtype=np.int64), np.asarray(values.is_valid())


def _parse_iso(values: Any, timezone: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """ISO 8601 text; distinct texts are parsed once."""
    encoded = pc.dictionary_encode(values)
    times, good = _parse_distinct(encoded.dictionary, timezone)
    codes = np.asarray(pc.fill_null(encoded.indices, 0), dtype=np.int64)
    if times.size == 0:
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    return times[codes], good[codes] & np.asarray(encoded.indices.is_valid())


def _parse_distinct(texts: Any, timezone: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    from datetime import datetime

    zone = ZoneInfo(timezone)
    try:
        naive = texts.cast(pa.timestamp("ms"))
        moments = pc.assume_timezone(naive, timezone, ambiguous="earliest", nonexistent="latest")
        return _filled(moments.cast(pa.int64()))
    except pa.ArrowInvalid:
        pass  # mixed forms, offsets or faults: one by one
    times, good = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=bool)
    for number, text in enumerate(texts.to_pylist()):
        try:
            moment = datetime.fromisoformat(text.strip())
        except (ValueError, AttributeError):
            continue
        times[number] = round((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp() * 1000)
        good[number] = True
    return times, good
