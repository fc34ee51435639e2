"""Attributes: facts set from outside. One class a storage form; NULL is zero everywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import TextVector, Vector, Words

from grid.kernels.lists import bytes_get, bytes_put, keyed_items, keyed_load, list_clear, set_contains, set_put
from grid.kernels.marks import TOUCHED, UNSEEN
from grid.state.dictionary import Dictionary, Strings
from grid.state.features.base import ListArena, Reading, Scannable, Slots, Turn, page_slots, recoded_lists
from grid.state.memory import PAGE_ROWS, Space, reserve
from grid.state.sketches import Sketch


def attribute_key(name: str) -> str:
    """The key of an attribute's dictionary; those of properties are their names."""
    return f"@{name}"


class AttributeColumns(ABC):
    """State of one attribute for all slots of a shard."""

    def __init__(self, name: str, type_: str, dictionary: Dictionary, space: Space) -> None:
        self.name, self.type, self.dictionary = name, type_, dictionary
        self.dirty: NDArray[np.uint8] = reserve(np.uint8, space.pages_max)

    @abstractmethod
    def set(self, slots: Slots, values: NDArray[Any], ends: NDArray[Any] | None, words: Strings | None) -> None:
        """Set values of slots, in order: of repeats the last wins.

        values  int64, float64 or uint8[n]; for category and key int64[n] codes of `dictionary`; for set int64[m] codes and
                ends int64[n]; for text int64[n] numbers of `words`
        """

    @abstractmethod
    def clear(self, slots: Slots) -> None:
        """Make NULL."""

    @abstractmethod
    def read(self, slots: Slots) -> Reading:
        """Values of slots; for text `values` are numbers of `texts`."""

    def vector(self, slots: Slots) -> Vector | TextVector:
        """Values as the rule language reads them."""
        reading = self.read(slots)
        if reading.dictionary is not None:
            return TextVector(reading.values, reading.dictionary, reading.known)
        return Vector(reading.values.astype(bool) if self.type == "bool" else reading.values, reading.known)

    def scannable(self) -> Scannable | None:
        """The column for scans; None where a value is more than one comparison away."""
        return None

    @property
    def dictionary_key(self) -> str | None:
        """The dictionary whose codes are in its pages; None: there are none."""
        return None

    def drop_page(self, page: int) -> None:
        """The page is nobody's any more: as if it had never been used."""
        self.clear(page_slots(page))
        self.dirty[page] = UNSEEN

    def recoded(self, blob: bytes, turn: Turn) -> bytes:
        """A page with other codes in place of its own. Only where pages have codes."""
        raise AssertionError(f"{self.name} has no codes")

    @abstractmethod
    def dump_page(self, page: int) -> bytes:
        """A page for the disk; empty bytes: nothing in it."""

    @abstractmethod
    def load_page(self, page: int, blob: bytes) -> None:
        """Inverse of `dump_page`."""

    @property
    def nbytes(self) -> int:
        """Memory of variable parts."""
        return 0

    @property
    def page_bytes(self) -> int:
        """Memory of fixed columns a page that is in use, in bytes."""
        return 4 * PAGE_ROWS  # a code, or where the user's list lies


_DTYPES = {"int": np.int16, "float": np.float64, "timestamp": np.int64, "bool": np.uint8}


class FixedAttribute(AttributeColumns):
    """float, timestamp, bool: a value and whether it is there."""

    def __init__(self, name: str, type_: str, dictionary: Dictionary, space: Space) -> None:
        super().__init__(name, type_, dictionary, space)
        self._values = reserve(_DTYPES[type_], space.slots_max)
        self._known = reserve(np.uint8, space.slots_max)
        self._sketch = Sketch(self.dirty, space)

    def set(self, slots: Slots, values: NDArray[Any], ends: NDArray[Any] | None, words: Strings | None) -> None:
        self._values[slots] = values
        self._known[slots] = 1
        self.dirty[slots >> 12] = TOUCHED

    def clear(self, slots: Slots) -> None:
        self._values[slots] = 0
        self._known[slots] = 0
        self.dirty[slots >> 12] = TOUCHED

    def read(self, slots: Slots) -> Reading:
        return Reading(self._values[slots], self._known[slots] != 0)

    def scannable(self) -> Scannable:
        return Scannable(self._values, self._known, sketch=self._sketch)

    @property
    def page_bytes(self) -> int:
        return (self._values.itemsize + 1) * PAGE_ROWS

    def dump_page(self, page: int) -> bytes:
        rows = slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)
        return self._known[rows].tobytes() + self._values[rows].tobytes() if self._known[rows].any() else b""

    def load_page(self, page: int, blob: bytes) -> None:
        rows = slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)
        self._known[rows] = np.frombuffer(blob, dtype=np.uint8, count=PAGE_ROWS)
        self._values[rows] = np.frombuffer(blob, dtype=self._values.dtype, offset=PAGE_ROWS)


class IntAttribute(FixedAttribute):
    """int: as wide as its widest value needs, for all slots alike; a page on disk as wide as its own values need."""

    def __init__(self, name: str, type_: str, dictionary: Dictionary, space: Space) -> None:
        super().__init__(name, type_, dictionary, space)
        self._space, self._used = space, 0
        self._values = reserve(_WIDTHS[0], space.slots_max)

    def _make_room(self, slots: Slots, low: int, high: int) -> None:
        """Widen the column when a value does not fit: at most twice in its life, 2 ms a million users."""
        self._used = max(self._used, int(slots.max()) + 1)
        width = _width_for(low, high)
        if np.dtype(width).itemsize > self._values.itemsize:
            wider = reserve(width, self._space.slots_max)
            wider[: self._used] = self._values[: self._used]
            self._values = wider

    def set(self, slots: Slots, values: NDArray[Any], ends: NDArray[Any] | None, words: Strings | None) -> None:
        if slots.size:
            self._make_room(slots, int(values.min()), int(values.max()))
        super().set(slots, values, ends, words)

    def read(self, slots: Slots) -> Reading:
        return Reading(self._values[slots].astype(np.int64), self._known[slots] != 0)

    def dump_page(self, page: int) -> bytes:
        rows = slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)
        if not self._known[rows].any():
            return b""
        values = self._values[rows]
        return self._known[rows].tobytes() + values.astype(_width_for(int(values.min()), int(values.max()))).tobytes()

    def load_page(self, page: int, blob: bytes) -> None:
        rows = slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)
        width = next(width for width in _WIDTHS if np.dtype(width).itemsize == len(blob) // PAGE_ROWS - 1)
        values = np.frombuffer(blob, dtype=width, offset=PAGE_ROWS)
        self._make_room(np.array([rows.stop - 1]), int(values.min()), int(values.max()))
        self._known[rows] = np.frombuffer(blob, dtype=np.uint8, count=PAGE_ROWS)
        self._values[rows] = values


_WIDTHS = (np.int16, np.int32, np.int64)


def _width_for(low: int, high: int) -> Any:
    """The narrowest type that holds both."""
    return next(width for width in _WIDTHS if np.iinfo(width).min <= low and high <= np.iinfo(width).max)


class CodedAttribute(AttributeColumns):
    """category, key: the code of a word + 1, so that 0 is NULL."""

    def __init__(self, name: str, type_: str, dictionary: Dictionary, space: Space) -> None:
        super().__init__(name, type_, dictionary, space)
        self._codes = reserve(np.uint32, space.slots_max)

    def set(self, slots: Slots, values: NDArray[Any], ends: NDArray[Any] | None, words: Strings | None) -> None:
        self._codes[slots] = values + 1
        self.dirty[slots >> 12] = TOUCHED

    def clear(self, slots: Slots) -> None:
        self._codes[slots] = 0
        self.dirty[slots >> 12] = TOUCHED

    def read(self, slots: Slots) -> Reading:
        codes = self._codes[slots].astype(np.int64)
        return Reading(np.maximum(codes - 1, 0), codes != 0, dictionary=self.dictionary)

    def scannable(self) -> Scannable:
        return Scannable(self._codes, dictionary=self.dictionary)

    def dump_page(self, page: int) -> bytes:
        codes = self._codes[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
        return codes.tobytes() if codes.any() else b""

    def load_page(self, page: int, blob: bytes) -> None:
        rows = slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)
        if len(blob) == PAGE_ROWS * 5:  # as versions before wrote it: whether it is known, then the code
            known = np.frombuffer(blob, dtype=np.uint8, count=PAGE_ROWS)
            self._codes[rows] = np.where(known, np.frombuffer(blob, dtype=np.uint32, offset=PAGE_ROWS) + 1, 0)
        else:
            self._codes[rows] = np.frombuffer(blob, dtype=np.uint32)

    @property
    def dictionary_key(self) -> str | None:
        return attribute_key(self.name)

    def recoded(self, blob: bytes, turn: Turn) -> bytes:
        theirs = np.frombuffer(blob, dtype=np.uint32).astype(np.int64)
        turned = np.zeros(PAGE_ROWS, dtype=np.uint32)
        turned[theirs != 0] = turn(theirs[theirs != 0] - 1) + 1
        return turned.tobytes()


class SetAttribute(AttributeColumns):
    """A set of category values: a list of codes; the empty set is not NULL to a writer, and reads as empty."""

    def __init__(self, name: str, type_: str, dictionary: Dictionary, space: Space) -> None:
        super().__init__(name, type_, dictionary, space)
        self._lists = ListArena(space)

    def set(self, slots: Slots, values: NDArray[Any], ends: NDArray[Any] | None, words: Strings | None) -> None:
        assert ends is not None
        lists, ends = self._lists, ends.astype(np.int64)
        starts = np.r_[np.int64(0), ends[:-1]]
        set_put(lists.words, lists.keys, lists.heads, lists.control, lists.free, self.dirty, slots, starts, ends, values.astype(np.uint32))

    def clear(self, slots: Slots) -> None:
        list_clear(self._lists.words, self._lists.heads, self._lists.control, self._lists.free, self.dirty, slots)

    def read(self, slots: Slots) -> Reading:
        counts, keys, _ = keyed_items(self._lists.words, self._lists.keys, self._lists.heads, slots, 0)
        return Reading(keys.astype(np.int64), np.ones(slots.size, dtype=bool), np.maximum(counts, 0), keys, self.dictionary)

    def contains(self, slots: Slots, values: tuple[str, ...], is_all: bool) -> NDArray[np.bool_]:
        """bool[n]: whether each set holds any (or all) of the values."""
        codes = self.dictionary.find_all(Strings.of(list(values)))
        if is_all and (codes < 0).any():
            return np.zeros(slots.size, dtype=bool)
        wanted = codes[codes >= 0].astype(np.uint32)
        return set_contains(self._lists.words, self._lists.keys, self._lists.heads, slots, wanted, is_all)  # type: ignore[no-any-return]

    def vector(self, slots: Slots) -> Vector | TextVector:
        """Only for IS NULL: a set never is."""
        return Vector(np.zeros(slots.size))

    def dump_page(self, page: int) -> bytes:
        counts, keys, _ = keyed_items(self._lists.words, self._lists.keys, self._lists.heads, page_slots(page), 0)
        return counts.astype(np.int32).tobytes() + keys.tobytes() if (counts >= 0).any() else b""

    def load_page(self, page: int, blob: bytes) -> None:
        counts = np.frombuffer(blob, dtype=np.int32, count=PAGE_ROWS).astype(np.int64)
        keys = np.frombuffer(blob, dtype=np.uint32, offset=PAGE_ROWS * 4).copy()
        lists = self._lists
        keyed_load(lists.words, lists.keys, lists.heads, lists.control, lists.free, page_slots(page), counts, keys, np.empty(0, dtype=np.uint64), 0)

    @property
    def dictionary_key(self) -> str | None:
        return attribute_key(self.name)

    def recoded(self, blob: bytes, turn: Turn) -> bytes:
        return recoded_lists(blob, turn)

    @property
    def nbytes(self) -> int:
        return self._lists.nbytes


class TextAttribute(AttributeColumns):
    """Free text: bytes in the arena, no dictionary."""

    def __init__(self, name: str, type_: str, dictionary: Dictionary, space: Space) -> None:
        super().__init__(name, type_, dictionary, space)
        self._lists = ListArena(space)

    def set(self, slots: Slots, values: NDArray[Any], ends: NDArray[Any] | None, words: Strings | None) -> None:
        assert words is not None
        lists = self._lists
        word_ends = words.ends.astype(np.int64)
        word_starts = np.r_[np.int64(0), word_ends[:-1]]
        bytes_put(
            lists.words, lists.octets, lists.heads, lists.control, lists.free, self.dirty,
            slots, words.data, word_starts[values], word_ends[values],
        )  # fmt: skip

    def clear(self, slots: Slots) -> None:
        list_clear(self._lists.words, self._lists.heads, self._lists.control, self._lists.free, self.dirty, slots)

    def texts(self, slots: Slots) -> tuple[NDArray[np.int64], Strings]:
        """(lengths with -1 for NULL, packed texts)."""
        lengths, data = bytes_get(self._lists.words, self._lists.octets, self._lists.heads, slots)
        return lengths, Strings(data, np.cumsum(np.maximum(lengths, 0)))

    def read(self, slots: Slots) -> Reading:
        lengths, strings = self.texts(slots)
        return Reading(np.arange(slots.size), lengths >= 0, dictionary=_PerRow(strings))  # type: ignore[arg-type]

    def dump_page(self, page: int) -> bytes:
        lengths, strings = self.texts(page_slots(page))
        return lengths.astype(np.int32).tobytes() + strings.data.tobytes() if (lengths >= 0).any() else b""

    def load_page(self, page: int, blob: bytes) -> None:
        lengths = np.frombuffer(blob, dtype=np.int32, count=PAGE_ROWS).astype(np.int64)
        data = np.frombuffer(blob, dtype=np.uint8, offset=PAGE_ROWS * 4)
        rows = np.flatnonzero(lengths >= 0)
        self.set(page_slots(page)[rows], rows, None, Strings(data, np.cumsum(np.maximum(lengths, 0))))

    @property
    def nbytes(self) -> int:
        return self._lists.nbytes


class _PerRow(Words):
    """Texts that are no dictionary: word i is row i's."""

    def __init__(self, strings: Strings) -> None:
        self._strings = strings

    def all(self) -> NDArray[Any]:
        return np.array(self._strings.to_list(), dtype=object)

    def find(self, word: str) -> NDArray[np.int64]:
        return np.flatnonzero(self._strings.hashes() == Strings.of([word]).hashes()[0])

    def words_used(self, codes: NDArray[Any]) -> tuple[Strings, NDArray[np.int32]]:
        """(the texts of the rows that codes name, int32[n] codes renumbered into them)."""
        used, numbers = np.unique(codes, return_inverse=True)
        return self._strings.take(used.astype(np.int64)), numbers.astype(np.int32)


_FORMS: dict[str, Any] = {"set": SetAttribute, "text": TextAttribute, "category": CodedAttribute, "key": CodedAttribute, "int": IntAttribute}


def attribute_columns(name: str, type_: str, dictionary: Dictionary, space: Space) -> AttributeColumns:
    """The columns that hold an attribute of a type."""
    columns: AttributeColumns = _FORMS.get(type_, FixedAttribute)(name, type_, dictionary, space)
    return columns
