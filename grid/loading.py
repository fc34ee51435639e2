"""Users in bulk, from Arrow columns straight into an empty shard: no events, no log; a checkpoint makes them durable.

A row is a user: `user_id`, attributes under their names, features under theirs, as of one time. What a feature's column may hold:

    a value                              what the feature reads now (last_time and first_time: a time)
    list of values                       distinct: each counts once; days_active: a time in each day
    map of key to number                 `by` features; for windows without `by`, map of time to number
    struct, or list of struct            any of `time`, `key`, `value`

Each becomes rows that the feature folds as it folds events, weighted by the number: kinds need no second way in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from grid.catalog import Feature
from grid.engine import Engine, FeatureState
from grid.errors import LoadRefused
from grid.state.attributes import AttributeColumns
from grid.state.dictionary import Dictionary, Strings
from grid.state.features.keyed import KeyedColumns
from grid.state.rows import TEXT_TYPES, PropertyColumn, Rows
from grid.state.users import Slots
from grid.storage.past import strings_of, whole
from grid.verdict import ID_BYTES_MAX

USER_ID, ROW = "user_id", "@row"
RowNumbers = NDArray[np.int64]
_TIME = pa.timestamp("ms", tz="UTC")
_ARROW = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "timestamp": _TIME}


@dataclass(slots=True)
class _Entries:
    """A column flattened: entry i belongs to row owner[i] of the table."""

    owner: NDArray[np.int64]
    time: Any = None
    key: Any = None
    value: Any = None

    def known(self) -> _Entries:
        """Only entries whose parts are all there."""
        valid = np.ones(self.owner.size, dtype=bool)
        for part in (self.time, self.key, self.value):
            if part is not None and part.null_count:
                valid &= part.is_valid().to_numpy(zero_copy_only=False)
        if valid.all():
            return self
        mask = pa.array(valid)
        kept = [None if part is None else part.filter(mask) for part in (self.time, self.key, self.value)]
        return _Entries(self.owner[valid], *kept)


class Load:
    """Takes tables of users into an engine that has none. Nobody else may use the engine meanwhile."""

    def __init__(self, engine: Engine, as_of_ms: int) -> None:
        self._engine, self._as_of_ms = engine, as_of_ms
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Take the users of a table. Raises LoadRefused naming row, column and value; the engine must then be emptied.

        A column `@row` gives the rows' numbers for such errors; without it they are counted over all tables.
        """
        engine = self._engine
        names = set(table.column_names) - {ROW}
        numbers = table[ROW].to_numpy() if ROW in table.column_names else np.arange(self.rows, self.rows + table.num_rows)
        if USER_ID not in names:
            raise LoadRefused(USER_ID, f"columns {', '.join(table.column_names)}", "a column of user ids")
        unknown = names - {USER_ID} - set(engine.attributes) - set(engine.features)
        if unknown:
            raise LoadRefused(min(unknown), "a column of that name", "an attribute or feature of the catalog")
        slots = self._users(whole(table[USER_ID]), numbers)
        engine.users.touch(slots, np.full(slots.size, self._as_of_ms if names & set(engine.features) else 0, dtype=np.int64))
        for name in table.column_names:
            if name in engine.attributes:
                self._attribute(engine.attributes[name], slots, whole(table[name]), numbers)
            elif name in engine.features:
                self._feature(engine.features[name], slots, whole(table[name]), numbers)
        self.rows += table.num_rows

    def _users(self, array: Any, numbers: RowNumbers) -> Slots:
        engine = self._engine
        ids = strings_of(_cast(array, pa.string(), USER_ID).fill_null(""))
        lengths = ids.lengths
        bad = np.flatnonzero((lengths == 0) | (lengths > ID_BYTES_MAX))
        if bad.size:
            raise refusal(numbers[bad[0]], USER_ID, ids.text(int(bad[0])), f"1 to {ID_BYTES_MAX} bytes")
        hashes = ids.hashes()
        partitions = (hashes % np.uint64(engine.partitions)).astype(np.uint16)
        strangers = np.flatnonzero(engine.epochs[partitions] == 0)
        if strangers.size:
            raise refusal(numbers[strangers[0]], USER_ID, ids.text(int(strangers[0])), "a user of this shard's partitions")
        before = engine.users.next_ordinal.copy()
        slots = engine.users.resolve(ids, hashes, partitions)
        repeated = engine.users.ordinals_of(slots) < before[partitions]
        if slots.size != int((engine.users.next_ordinal - before).sum()) or repeated.any():
            _, first = np.unique(slots, return_index=True)
            again = np.ones(slots.size, dtype=bool)
            again[first] = repeated[first]
            row = int(np.flatnonzero(again)[0])
            raise refusal(numbers[row], USER_ID, ids.text(row), "each user once")
        return slots

    # --- attributes -------------------------------------------------------------------------------------------------------

    def _attribute(self, columns: AttributeColumns, slots: Slots, array: Any, numbers: RowNumbers) -> None:
        valid = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
        if not valid.size:
            return
        kept = array if valid.size == len(array) else array.take(pa.array(valid))
        slots, numbers = slots[valid], numbers[valid]
        if columns.type == "set":
            kept = _cast(kept, pa.list_(pa.string()), columns.name)
            codes = self._codes(columns.dictionary, kept.flatten(), columns.name)
            columns.set(slots, codes, np.cumsum(kept.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)), None)
        elif columns.type in ("category", "key"):
            columns.set(slots, self._codes(columns.dictionary, kept, columns.name), None, None)
        elif columns.type == "text":
            columns.set(slots, np.arange(slots.size), None, strings_of(_cast(kept, pa.string(), columns.name)))
        else:
            columns.set(slots, _numbers(kept, columns.type, columns.name, numbers), None, None)

    def _codes(self, dictionary: Dictionary, array: Any, column: str) -> NDArray[np.int64]:
        """int64[n]: codes of texts; the dictionary takes those it lacks."""
        numbers, words = _encoded(array, column)
        codes = self._known(dictionary, words, column)
        return codes[numbers] if len(words) else numbers

    def _known(self, dictionary: Dictionary, words: Strings, column: str) -> NDArray[np.int64]:
        codes = dictionary.find_all(words)
        wanted = dictionary.size + int(np.count_nonzero(codes < 0))
        if wanted > dictionary.size_max:
            raise LoadRefused(column, f"{wanted} different values", f"at most {dictionary.size_max}, as the catalog's limits allow")
        dictionary.add_unknown(words, codes)
        return codes

    # --- features ---------------------------------------------------------------------------------------------------------

    def _feature(self, state: FeatureState, slots: Slots, array: Any, numbers: RowNumbers) -> None:
        feature = state.feature
        entries = self._entries(feature, array).known()
        if not entries.owner.size:
            return
        numbers = numbers[entries.owner]
        times = np.full(entries.owner.size, self._as_of_ms, dtype=np.int64)
        if entries.time is not None:
            times = _numbers(entries.time, "timestamp", feature.name, numbers)
        rows = Rows(times, np.zeros(times.size, dtype=np.uint16), {}, self._engine.catalog.timezone, slots[entries.owner])
        catalog = self._engine.catalog
        if feature.by is not None:
            self._check_keys(state, entries, numbers)
            rows.columns[feature.by, catalog.property_type(feature, feature.by)] = self._texts(feature, feature.by, entries.key)
        if feature.spec.takes == "any":
            assert feature.property_name is not None
            type_ = catalog.property_type(feature, feature.property_name)
            rows.columns[feature.property_name, type_] = self._property(feature, type_, entries.value, numbers)
        elif entries.value is not None:
            rows.weights = _numbers(entries.value, "float", feature.name, numbers)
        else:
            rows.weights = np.ones(times.size)
        state.columns.fold(rows, np.arange(times.size))

    def _entries(self, feature: Feature, array: Any) -> _Entries:
        """The column as entries, whatever its shape."""
        owner = np.arange(len(array), dtype=np.int64)
        is_map = pa.types.is_map(array.type)
        if is_map or pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            offsets = array.offsets.to_numpy()
            owner = np.repeat(owner, np.diff(offsets))
            first, count = int(offsets[0]), owner.size
            if is_map:
                keys, items = array.keys.slice(first, count), array.items.slice(first, count)
                return _Entries(owner, key=keys, value=items) if feature.by is not None else _Entries(owner, time=keys, value=items)
            array = array.values.slice(first, count)
        if pa.types.is_struct(array.type):
            fields = {array.type.field(i).name: part for i, part in enumerate(array.flatten())}
            unknown = set(fields) - {"time", "key", "value"}
            if unknown or (feature.by is not None) != ("key" in fields):
                raise LoadRefused(feature.name, f"fields {', '.join(fields)}", f"time, value{' and key' if feature.by else ''}")
            return _Entries(owner, **fields)
        if feature.by is not None:
            raise LoadRefused(feature.name, f"type {array.type}", "a map of key to number")
        if feature.spec.yields == "timestamp" or feature.kind == "days_active":
            return _Entries(owner, time=array)
        return _Entries(owner, value=array)

    def _check_keys(self, state: FeatureState, entries: _Entries, numbers: RowNumbers) -> None:
        limit = self._engine.catalog.limits.keys_per_user
        counts = np.bincount(entries.owner)
        if isinstance(state.columns, KeyedColumns) and int(counts.max(initial=0)) > limit:
            row = numbers[np.flatnonzero(entries.owner == counts.argmax())[0]]
            raise refusal(row, state.feature.name, f"{counts.max()} keys", f"at most {limit}, as limits.keys_per_user allows")

    def _property(self, feature: Feature, type_: str, array: Any, numbers: RowNumbers) -> PropertyColumn:
        if type_ in TEXT_TYPES:
            return self._texts(feature, str(feature.property_name), array)
        return PropertyColumn(type_, np.ones(len(array), dtype=bool), _numbers(array, type_, feature.name, numbers))

    def _texts(self, feature: Feature, name: str, array: Any) -> PropertyColumn:
        codes, words = _encoded(array, feature.name)
        dictionary = self._engine.dictionaries.get(name)
        if dictionary is not None:
            self._known(dictionary, words, feature.name)
        return PropertyColumn(self._engine.catalog.property_type(feature, name), np.ones(codes.size, dtype=bool), codes, words)


def refusal(number: int, column: str, value: object, expected: str) -> LoadRefused:
    """The error of one row."""
    return LoadRefused(column, repr(value)[:80], expected, int(number))


def _cast(array: Any, kind: pa.DataType, column: str) -> Any:
    if pa.types.is_dictionary(array.type) and kind == pa.string():
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type) and kind == pa.string():
        raise LoadRefused(column, f"type {array.type}", "text or whole numbers")
    if kind == _TIME and pa.types.is_integer(array.type):
        array = array.cast(pa.int64())
    try:
        return array if array.type == kind else array.cast(kind)
    except pa.ArrowInvalid as error:
        raise LoadRefused(column, str(error).splitlines()[0], f"type {kind}") from None
    except pa.ArrowNotImplementedError:
        raise LoadRefused(column, f"type {array.type}", f"type {kind}") from None


def _encoded(array: Any, column: str) -> tuple[NDArray[np.int64], Strings]:
    """(int64[n] numbers of words, words) of an array of texts without NULLs."""
    encoded = array if pa.types.is_dictionary(array.type) else _cast(array, pa.string(), column).dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), strings_of(_cast(encoded.dictionary, pa.string(), column))


def _numbers(array: Any, type_: str, column: str, numbers: RowNumbers) -> NDArray[Any]:
    """The values of an array without NULLs, as columns hold them."""
    cast = _cast(array, _ARROW[type_], column)
    if type_ == "timestamp":
        cast = cast.view(pa.int64())
    values: NDArray[Any] = cast.to_numpy(zero_copy_only=False)
    if type_ == "float" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise refusal(numbers[row], column, values[row], "a finite number")
    return values.astype(np.uint8) if type_ == "bool" else values
