"""Accepted events of a group as columns: what features fold. Built from frames (live and replay) or from history (backfill)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import Expression, TextVector, Vector, Words, truth

from grid.catalog import Catalog, Feature
from grid.kernels.frames import rows_fed
from grid.kernels.hashing import hash_numbers
from grid.state.days import DAY_MS, calendar_part, local_times
from grid.state.dictionary import Dictionary, Strings

RowNumbers = NDArray[np.int64]
PickKey = tuple[Any, ...]
TEXT_TYPES = ("category", "key", "text")
NO_ROWS: RowNumbers = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class PropertyColumn:
    """One property, of one declared type, for all rows of a group.

    present  bool[rows]: the row has the property
    values   float64, int64 or uint8[rows] (numbers, times, bools); for text int64[rows] codes into `words`
    words    the distinct texts, possibly repeated (frames are joined end to end); None for other types
    known    codes of `words` by dictionary, once looked up: shared by all that is selected from this column
    """

    type: str
    present: NDArray[np.bool_]
    values: NDArray[Any]
    words: Strings | None = None
    known: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def hashes(self) -> NDArray[np.uint64]:
        """uint64[rows]: a hash of each value; equal values hash alike whatever group they come in."""
        if self.words is not None:
            return _taken(self.words.hashes(), self.values)
        return hash_numbers(self.values.astype(np.float64))

    def uses(self) -> tuple[NDArray[np.int64], RowNumbers]:
        """(codes of its words, the row of each) where rows have it."""
        rows = np.flatnonzero(self.present)
        return self.values[rows], rows

    def numbers(self) -> NDArray[np.float64]:
        """float64[rows]: the values as numbers."""
        return self.values.astype(np.float64, copy=False)

    def codes(self, dictionary: Dictionary) -> NDArray[np.uint32]:
        """uint32[rows]: codes of the shard's dictionary. Every present word is in it: the verdict saw to that."""
        assert self.words is not None
        codes = self.known.get(id(dictionary))
        if codes is None:
            codes = self.known[id(dictionary)] = dictionary.find_all(self.words)
        return _taken(codes, self.values).astype(np.uint32)


def _taken(per_word: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """per_word[codes]; zeros when there is no word at all (then no row is present)."""
    if per_word.size == 0:
        return np.zeros(codes.size, dtype=per_word.dtype)
    return per_word[codes]


@dataclass(slots=True)
class Rows:
    """Events of a group. `columns` is keyed by (property name, declared type)."""

    times: NDArray[np.int64]
    events: NDArray[np.uint16]
    columns: dict[tuple[str, str], PropertyColumn]
    timezone: str
    slots: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    is_past: bool = False
    # float64[rows]: what a row weighs in whatever it feeds; None: as the feature says. Set when users are loaded in bulk.
    weights: NDArray[np.float64] | None = None
    # The code of all rows' event, where each row has all of the columns; -1: it is not so, or not known.
    only: int = -1
    picks: dict[PickKey, RowNumbers] = field(default_factory=dict)
    _hops: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    _everything: RowNumbers | None = None

    @property
    def size(self) -> int:
        """How many rows."""
        return int(self.times.size)

    @property
    def everything(self) -> RowNumbers:
        """int64[rows]: the numbers of all rows."""
        if self._everything is None:
            self._everything = np.arange(self.size)
        return self._everything

    def hops(self, hop_ms: int) -> NDArray[np.int64]:
        """int64[rows]: index of each row's hop. Hops of whole days are aligned to local days, others to 1970-01-01 UTC."""
        if hop_ms not in self._hops:
            self._hops[hop_ms] = hop_index(self.times, hop_ms, self.timezone)
        return self._hops[hop_ms]


def hop_at(time_ms: int, hop_ms: int, timezone: str) -> int:
    """As `hop_index`, of one time."""
    if timezone == "UTC" or hop_ms % DAY_MS:
        return time_ms // hop_ms
    return int(hop_index(np.array([time_ms]), hop_ms, timezone)[0])


def hop_index(times_ms: NDArray[np.int64], hop_ms: int, timezone: str) -> NDArray[np.int64]:
    """int64[n]: index of the hop that each time lies in."""
    if hop_ms % DAY_MS == 0:
        times_ms = local_times(times_ms, timezone)
    return times_ms // hop_ms


class RowSource:
    """Rows of a group as the rule language reads them, for a feature's `where`."""

    def __init__(self, rows: Rows, types: dict[str, str]) -> None:
        self._rows, self._types = rows, types

    @property
    def rows(self) -> int:
        return self._rows.size

    @property
    def now_ms(self) -> int:
        raise AssertionError("a where has no now()")

    def column(self, name: str) -> Vector | TextVector:
        column = self._rows.columns.get((name, self._types[name]))
        if column is None:
            return Vector(np.zeros(self.rows), np.zeros(self.rows, dtype=bool))
        if column.words is not None:
            return TextVector(column.values, _FrameWords(column.words), column.present)
        values = column.values.astype(bool) if column.type == "bool" else column.values
        return Vector(values, column.present)

    def keyed(self, name: str, key: str) -> Vector:
        raise AssertionError("properties have no keys")

    def set_contains(self, name: str, values: tuple[str, ...], is_all: bool) -> Vector:
        raise AssertionError("properties are no sets")

    def day_active(self, name: str, day: Vector) -> Vector:
        raise AssertionError("properties have no days")

    def calendar(self, name: str, times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        return calendar_part(name, times_ms, self._rows.timezone)


class _FrameWords(Words):
    """Words of a group, decoded only when a clause needs them all."""

    def __init__(self, strings: Strings) -> None:
        self._strings = strings

    @cached_property
    def _decoded(self) -> NDArray[np.object_]:
        return np.array(self._strings.to_list(), dtype=object)

    def all(self) -> NDArray[np.object_]:
        return self._decoded

    def find(self, word: str) -> NDArray[np.int64]:
        return np.flatnonzero(self._strings.hashes() == Strings.of([word]).hashes()[0])


class Picker:
    """Which rows of a group feed a feature: its events, the properties it needs present, `where` true."""

    def __init__(self, catalog: Catalog, feature: Feature, where: Expression | None) -> None:
        codes = [catalog.event_codes[event] for event in feature.events]
        self._fed = np.zeros(max(len(catalog.events), 1), dtype=bool)
        self._fed[codes] = True
        # The catalog made sure that the events' types agree in all that the feature uses.
        self._types: dict[str, str] = dict(catalog.events[feature.events[0]])
        self._needs = [(name, self._types[name]) for name in (feature.property_name, feature.by) if name is not None]
        self._where = where
        # Features of one event pick alike: of small frames the picks would cost as much as the folds.
        self._key: PickKey = (tuple(codes), tuple(self._needs), feature.where)

    @property
    def has_where(self) -> bool:
        """Whether it looks at the values of rows."""
        return self._where is not None

    def may_pick(self, rows: Rows) -> bool:
        """Whether rows that are all of one event and have the same columns feed it, but for its `where`."""
        return bool(self._fed[rows.only]) and all(need in rows.columns for need in self._needs)

    def pick(self, rows: Rows) -> RowNumbers:
        """int64[m]: numbers of the rows that feed it."""
        picked = rows.picks.get(self._key)
        if picked is None:
            picked = rows.picks[self._key] = self._pick(rows)
        return picked

    def _pick(self, rows: Rows) -> RowNumbers:
        if rows.only >= 0 and not self.may_pick(rows):
            return NO_ROWS
        if rows.only >= 0 and self._where is None:
            return rows.everything
        if not self._needs and self._where is None:
            return rows_fed(self._fed, rows.events)
        mask = self._fed[rows.events]
        for need in self._needs:
            column = rows.columns.get(need)
            if column is None:
                return np.empty(0, dtype=np.int64)
            mask &= column.present
        if self._where is not None and mask.any():
            mask &= truth(self._where, RowSource(rows, self._types))
        return np.flatnonzero(mask)


def joined(parts: list[Rows]) -> Rows:
    """Rows of several frames as one, in order."""
    if len(parts) == 1:
        return parts[0]
    keys = list(dict.fromkeys(key for part in parts for key in part.columns))
    columns = {key: _joined_column(key, parts) for key in keys}
    are_alike = all(part.only == parts[0].only and part.columns.keys() == columns.keys() for part in parts)
    return Rows(
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.events for part in parts]),
        columns,
        parts[0].timezone,
        np.concatenate([part.slots for part in parts]),
        only=parts[0].only if are_alike else -1,
    )


def _joined_column(key: tuple[str, str], parts: list[Rows]) -> PropertyColumn:
    present, values, words, base = [], [], [], 0
    is_text = key[1] in TEXT_TYPES
    dtype = next(part.columns[key].values.dtype for part in parts if key in part.columns)
    for part in parts:
        column = part.columns.get(key)
        if column is None:
            present.append(np.zeros(part.size, dtype=bool))
            values.append(np.zeros(part.size, dtype=dtype))
            continue
        present.append(column.present)
        values.append(column.values + base if is_text else column.values)
        if column.words is not None:
            words.append(column.words)
            base += len(column.words)
    return PropertyColumn(key[1], np.concatenate(present), np.concatenate(values), joined_strings(words) if is_text else None)


def joined_strings(parts: list[Strings]) -> Strings:
    """Packed texts end to end."""
    ends, base = [], 0
    for part in parts:
        ends.append(part.ends.astype(np.int64) + base)
        base += int(part.ends[-1]) if len(part) else 0
    data = [part.data[: int(part.ends[-1]) if len(part) else 0] for part in parts]
    if not parts:
        return Strings(np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64))
    return Strings(np.concatenate(data), np.concatenate(ends))


def selected(rows: Rows, pick: RowNumbers) -> Rows:
    """Some of the rows, in the order of `pick`."""
    columns = {key: PropertyColumn(c.type, c.present[pick], c.values[pick], c.words, c.known) for key, c in rows.columns.items()}
    slots = rows.slots[pick] if rows.slots.size else rows.slots
    return Rows(rows.times[pick], rows.events[pick], columns, rows.timezone, slots, rows.is_past, only=rows.only)
