"""What a frame's rows mean under a catalog: which are accepted, why the others are not. Decided once, before the log.

Replay never decides again: it decodes the same columns and takes the verdict from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grid.catalog import Catalog
from grid.catalog.durations import format_duration
from grid.errors import FrameInvalid
from grid.frame import PRESENT, UNSET, Column, Frame
from grid.kernels.frames import are_plain_events, first_misplaced
from grid.state.dictionary import Dictionary, Strings, lengths_of
from grid.state.rows import TEXT_TYPES, PropertyColumn, Rows, joined_strings

Mask = NDArray[np.bool_]
ID_BYTES_MAX = 256
WORD_BYTES_MAX = 65_535
TIME_MS_MIN = -2_208_988_800_000  # 1900-01-01
INT_EXACT_MAX = float(2**63)


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refused row: its number in the frame (or block), why, and what would have been right."""

    row: int
    reason: str
    field: str
    value: str
    expected: str


@dataclass(slots=True)
class AttributeUpdate:
    """One attribute of a frame: rows that set it, rows that unset it."""

    name: str
    type: str
    set_rows: NDArray[np.int64]
    unset_rows: NDArray[np.int64]
    values: NDArray[Any]
    ends: NDArray[np.uint32] | None = None
    words: Strings | None = None

    def uses(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(codes of its words, the row of each) where rows set it."""
        if self.type != "set":
            return self.values[self.set_rows], self.set_rows
        assert self.ends is not None
        owners = np.repeat(np.arange(self.ends.size), lengths_of(self.ends))
        here = np.isin(owners, self.set_rows)
        return self.values[here], owners[here]


class Judge:
    """Collects what is wrong with the rows of one frame; the first fault of a row counts. The past needs no reasons."""

    def __init__(self, frame: Frame, *, keeps_reasons: bool = True) -> None:
        self.frame, self._keeps_reasons = frame, keeps_reasons
        self.good = np.ones(frame.rows, dtype=bool)
        self.rejections: list[Rejection] = []

    def refuse(self, bad: Mask, reason: str, where: str, values: Any, expected: str) -> None:
        """Reject the rows of `bad` that are still good; `values(row)` shows what a row had."""
        bad = bad & self.good
        if not bad.any():
            return
        self.good &= ~bad
        if not self._keeps_reasons:
            return
        for row in np.flatnonzero(bad).tolist():  # one by one: each refused row is reported by itself
            self.rejections.append(Rejection(row, reason, where, str(values(row))[:200], expected))


def check_ids(judge: Judge) -> None:
    """User ids: there, and at most 256 bytes."""
    frame = judge.frame
    lengths = frame.ids.lengths
    judge.refuse(lengths == 0, "USER_ID_MISSING", "user_id", lambda row: "", "a user id of 1 to 256 bytes")
    judge.refuse(lengths > ID_BYTES_MAX, "USER_ID_TOO_LONG", "user_id", lambda row: frame.ids.text(row), f"at most {ID_BYTES_MAX} bytes")


def check_partitions(frame: Frame, hashes: NDArray[np.uint64], partitions: int) -> None:
    """Raise FrameInvalid unless every id lies in the partition it was sent for: a client with another hash would hide users."""
    if first_misplaced(hashes, frame.row_partitions, partitions) < 0:
        return
    wrong = np.flatnonzero((hashes % np.uint64(partitions)).astype(np.uint16) != frame.row_partitions)
    wrong = wrong[frame.ids.lengths[wrong] <= 1024]
    if wrong.size:
        row = int(wrong[0])
        raise FrameInvalid(
            f"user_id[{row}]",
            f"'{frame.ids.text(row)}' in partition {frame.row_partitions[row]}",
            f"partition {int(hashes[row]) % partitions} (xxh3_64 mod {partitions})",
        )


def times_taken(catalog: Catalog, received_ms: int) -> tuple[int, int]:
    """The earliest and the latest time (ms) that an event may have."""
    limits = catalog.limits
    earliest = TIME_MS_MIN if limits.lateness is None else max(TIME_MS_MIN, received_ms - limits.lateness)
    return earliest, received_ms + limits.future


def judge_events(judge: Judge, catalog: Catalog, received_ms: int) -> Rows:
    """Decode an events frame and refuse what is wrong. Returns all rows; those refused must not be folded."""
    frame, codes = judge.frame, _codes_of(judge.frame, catalog)
    if are_plain_events(frame.ids.ends, ID_BYTES_MAX, frame.events, codes, frame.times, *times_taken(catalog, received_ms)):
        return _decoded(judge, catalog, codes[frame.events])
    check_ids(judge)
    events = _event_codes(judge, catalog)
    _check_times(judge, catalog, received_ms)
    return _decoded(judge, catalog, events)


def judge_past(judge: Judge, catalog: Catalog) -> Rows:
    """As `judge_events`, for rows that were accepted before: ids and times are not judged again."""
    return _decoded(judge, catalog, _event_codes(judge, catalog))


def _codes_of(frame: Frame, catalog: Catalog) -> NDArray[np.int64]:
    """int64[event names of the frame]: their codes, -1 where the catalog has none."""
    return np.array([catalog.event_codes.get(name, -1) for name in frame.event_names], dtype=np.int64)


def _event_codes(judge: Judge, catalog: Catalog) -> NDArray[np.int64]:
    """int64[rows]: codes of the rows' events; 0 where the event is unknown, and the row refused."""
    frame = judge.frame
    events = _codes_of(frame, catalog)[frame.events]
    known = ", ".join(catalog.events) or "none: the catalog has no events"
    judge.refuse(events < 0, "UNKNOWN_EVENT", "event", lambda row: frame.event_names[frame.events[row]], f"one of {known}")
    return np.maximum(events, 0)


def _decoded(judge: Judge, catalog: Catalog, events: NDArray[np.int64]) -> Rows:
    rows = Rows(judge.frame.times, events.astype(np.uint16), {}, catalog.timezone)
    for column in judge.frame.columns:
        _decode_property(judge, catalog, column, events, rows)
    return rows


def _check_times(judge: Judge, catalog: Catalog, received_ms: int) -> None:
    times, limits = judge.frame.times, catalog.limits
    judge.refuse(times < TIME_MS_MIN, "TIME_OUT_OF_RANGE", "time", lambda row: times[row], "ms since 1970-01-01 UTC, not before 1900")
    judge.refuse(
        times > received_ms + limits.future, "TIME_IN_FUTURE", "time", lambda row: times[row],
        f"at most {format_duration(limits.future)} ahead of the server's clock ({received_ms})",
    )  # fmt: skip
    if limits.lateness is not None:
        judge.refuse(
            times < received_ms - limits.lateness, "TIME_TOO_LATE", "time", lambda row: times[row],
            f"at most {format_duration(limits.lateness)} behind the server's clock ({received_ms})",
        )  # fmt: skip


def _decode_property(judge: Judge, catalog: Catalog, column: Column, events: NDArray[np.int64], rows: Rows) -> None:
    """Convert one wire column to the declared type of each row's event."""
    declared = [properties.get(column.name, "") for properties in catalog.events.values()] or [""]
    types = dict.fromkeys(declared)
    for type_ in types:
        here = judge.good.copy() if column.presence is None else judge.good & (column.presence == PRESENT)
        if len(types) > 1:
            here &= np.array([kind == type_ for kind in declared])[events]
        if not here.any():
            continue
        if not type_:
            judge.refuse(here, "UNKNOWN_PROPERTY", column.name, lambda row: shown(column, row), "a property that the catalog declares for this event")
            continue
        converted = converted_column(judge, column, type_, here)
        if converted is not None:
            _merge(rows, (column.name, type_), converted)


def converted_column(judge: Judge, column: Column, type_: str, here: Mask) -> PropertyColumn | None:
    """The column's values as `type_` where `here`, or None when no conversion is allowed (then the rows are refused)."""
    if type_ in TEXT_TYPES:
        return _to_text(judge, column, type_, here)
    if type_ == "set":
        return _to_set(judge, column, here)
    allowed = {"int": ("int", "float"), "float": ("int", "float"), "bool": ("bool",), "timestamp": ("int", "timestamp")}[type_]
    if column.type not in allowed:
        judge.refuse(here, "WRONG_TYPE", column.name, lambda row: shown(column, row), _expected(type_))
        return None
    values = column.values
    if values.dtype == np.float64:
        judge.refuse(here & ~np.isfinite(values), "NOT_FINITE", column.name, lambda row: values[row], "a finite number")
        if type_ == "int":
            whole = np.where(np.isfinite(values), values, 0.0)
            is_int = (np.floor(whole) == whole) & (np.abs(whole) < INT_EXACT_MAX)
            judge.refuse(here & ~is_int, "WRONG_TYPE", column.name, lambda row: values[row], _expected(type_))
            values = np.where(is_int, whole, 0.0).astype(np.int64)
    if type_ == "float":
        values = values.astype(np.float64)
    if type_ == "timestamp":
        judge.refuse(here & (np.abs(values) > 2**53), "TIME_OUT_OF_RANGE", column.name, lambda row: values[row], "ms since 1970-01-01 UTC")
    return PropertyColumn(type_, here & judge.good, values)


def _to_text(judge: Judge, column: Column, type_: str, here: Mask) -> PropertyColumn | None:
    """Text as it is; whole numbers as their decimal text."""
    if column.type == "int":
        numbers, codes = np.unique(column.values, return_inverse=True)
        return PropertyColumn(type_, here, codes.astype(np.int64), Strings.of([str(number) for number in numbers.tolist()]))
    if column.type != "text":
        judge.refuse(here, "WRONG_TYPE", column.name, lambda row: shown(column, row), _expected(type_))
        return None
    assert column.words is not None
    if column.words.data.size > WORD_BYTES_MAX and (too_long := column.words.lengths > WORD_BYTES_MAX).any():
        judge.refuse(here & too_long[column.values], "TEXT_TOO_LONG", column.name, lambda row: shown(column, row), f"at most {WORD_BYTES_MAX} bytes")
    return PropertyColumn(type_, here & judge.good, column.values.astype(np.int64), column.words)


def _to_set(judge: Judge, column: Column, here: Mask) -> PropertyColumn | None:
    if column.type != "texts":
        judge.refuse(here, "WRONG_TYPE", column.name, lambda row: shown(column, row), _expected("set"))
        return None
    return PropertyColumn("set", here, column.values.astype(np.int64), column.words)


def _merge(rows: Rows, key: tuple[str, str], column: PropertyColumn) -> None:
    """Two wire columns may feed one property (ints and floats of one price): rows take the one they have."""
    before = rows.columns.get(key)
    if before is None:
        rows.columns[key] = column
        return
    if column.words is not None and before.words is not None:
        shifted = column.values + len(before.words)  # type: ignore[operator]
        values = np.where(column.present, shifted, before.values)
        words: Strings | None = joined_strings([before.words, column.words])
    else:
        values, words = np.where(column.present, column.values, before.values), None
    rows.columns[key] = PropertyColumn(key[1], before.present | column.present, values, words)


def judge_attributes(judge: Judge, catalog: Catalog) -> list[AttributeUpdate]:
    """Decode an attributes frame and refuse what is wrong. Rows refused later must be left out by the caller."""
    check_ids(judge)
    updates = []
    for column in judge.frame.columns:
        rows = judge.frame.rows
        presence = np.full(rows, PRESENT, dtype=np.uint8) if column.presence is None else column.presence
        given = (presence == PRESENT) & judge.good
        type_ = catalog.attributes.get(column.name)
        if type_ is None:
            known = ", ".join(catalog.attributes) or "none: the catalog has no attributes"
            judge.refuse(presence > 0, "UNKNOWN_ATTRIBUTE", column.name, lambda row, c=column: shown(c, row), f"one of {known}")
            continue
        converted = converted_column(judge, column, type_, given)
        unset = np.flatnonzero(presence == UNSET)
        if converted is not None:
            set_rows = np.flatnonzero(converted.present)
            updates.append(AttributeUpdate(column.name, type_, set_rows, unset, converted.values, column.list_ends, converted.words))
        elif unset.size:
            updates.append(AttributeUpdate(column.name, type_, np.empty(0, dtype=np.int64), unset, np.empty(0, dtype=np.int64)))
    return updates


@dataclass(slots=True)
class Reserved:
    """Words that a frame added to a dictionary, for the log: `key` names the dictionary."""

    key: str
    first_code: int
    words: Strings


def reserve_words(
    judge: Judge, where: str, dictionary: Dictionary, key: str, words: Strings, uses: Callable[[], tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> Reserved | None:
    """Enter the words that good rows use into a dictionary; refuse rows whose word no longer fits.

    `uses`: codes int64[m] into words, rows_of int64[m]: the row of each code. Not asked for where all words are known, as in most frames.
    """
    hashes = words.hashes()
    known = dictionary.find_all(words, hashes)
    if (known >= 0).all():
        return None
    codes, rows_of = uses()
    live = judge.good[rows_of]
    used = np.unique(codes[live])
    if used.size == 0:
        return None
    unknown = used[known[used] < 0]
    if unknown.size == 0:
        return None
    _, first = np.unique(hashes[unknown], return_index=True)
    fresh = unknown[np.sort(first)]
    room = max(dictionary.size_max - dictionary.size, 0)
    if fresh.size > room:
        left_out = np.isin(hashes, hashes[fresh[room:]])
        bad = np.zeros(judge.frame.rows, dtype=bool)
        bad[rows_of[left_out[codes]]] = True
        shown = dict(zip(rows_of.tolist(), codes.tolist(), strict=True))
        judge.refuse(bad, "DICTIONARY_FULL", where, lambda row: words.text(shown[row]), f"one of the {dictionary.size_max} values that the limit allows")
        fresh = fresh[:room]
        if fresh.size == 0:
            return None
    added = words.take(fresh)
    return Reserved(key, dictionary.add(added), added)


def coded_properties(catalog: Catalog) -> Mapping[tuple[str, str], str]:
    """Properties whose values features must give back, (name, type) to their dictionary's key: `by`, and first or last of a text."""
    coded = {}
    for feature in catalog.features.values():
        if feature.by is not None:
            coded[feature.by, catalog.property_type(feature, feature.by)] = feature.by
        name = feature.property_name
        if feature.spec.yields == "value" and name is not None and catalog.property_type(feature, name) in TEXT_TYPES:
            coded[name, catalog.property_type(feature, name)] = name
    return coded


def shown(column: Column, row: int) -> str:
    """A row's value as people write it."""
    if column.type == "text" and column.words is not None:
        return repr(column.words.text(int(column.values[row]))) + " (text)"
    if column.type == "texts":
        return "a list (texts)"
    return f"{column.values[row]} ({column.type})"


def _expected(type_: str) -> str:
    return {
        "int": "a whole number of 64 bits", "float": "a number", "bool": "true or false", "timestamp": "a timestamp (ms since 1970-01-01 UTC)",
        "category": "text", "key": "text", "text": "text", "set": "a list of texts",
    }[type_]  # fmt: skip
