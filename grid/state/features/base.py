"""What every kind's columns can do: fold a group, be read, be cleared, go to disk and come back by page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import Vector

from grid.catalog import Catalog, Feature
from grid.kernels.lists import CLASSES
from grid.kernels.marks import TOUCHED, UNSEEN
from grid.state.dictionary import Dictionary
from grid.state.memory import PAGE_ROWS, Space, give_back, reserve
from grid.state.rows import RowNumbers, Rows
from grid.state.sketches import Sketch

Slots = NDArray[np.int64]
# Codes int64[n] of one dictionary to codes of another.
Turn = Callable[[NDArray[np.int64]], NDArray[np.int64]]
ONE = np.ones(1, dtype=np.float64)


@dataclass(slots=True)
class SharedState:
    """What columns share in a shard: dictionaries by property or attribute, address space, the timezone of days."""

    space: Space
    dictionaries: dict[str, Dictionary]
    timezone: str


@dataclass(slots=True)
class Reading:
    """A feature's values for some users.

    values       float64, int64 (times), uint8 (bools) or int64 codes of `dictionary`; one a user, or one an entry when keyed
    known        bool[users]: False reads NULL; None: all have a value
    counts       int64[users]: entries a user, for keyed features; None otherwise
    keys         uint32[entries]: codes of `dictionary`
    approximate  the value of at least one user comes from a sketch
    is_held      False: at least one user's window reaches back to hops that are no longer held (it reads NULL)
    """

    values: NDArray[Any]
    known: NDArray[np.bool_] | None = None
    counts: NDArray[np.int64] | None = None
    keys: NDArray[np.uint32] | None = None
    dictionary: Dictionary | None = None
    approximate: bool = False
    is_held: bool = True


@dataclass(slots=True)
class Scannable:
    """A column as scans read it: a value a slot, in a form that keeps the order.

    values      int64, float64, uint8, or uint64[slots] (times, encoded); uint32: code + 1 of a text, 0 is NULL
    known       uint8[slots]; None: all rows are known, or the NULL ones have a value that bounds never include
    is_reversed the code of an earlier time is greater (first_time)
    factors_at  what values are multiplied by: float64[n] of pages int64[n] at a time (ms), all finite, else None
    sketch      of values of eight bytes
    """

    values: NDArray[Any]
    known: NDArray[np.uint8] | None = None
    is_time: bool = False
    is_reversed: bool = False
    factors_at: Callable[[NDArray[np.int64], int], NDArray[np.float64] | None] | None = None
    dictionary: Dictionary | None = None
    sketch: Sketch | None = None


@dataclass(frozen=True, slots=True)
class Flat:
    """A field of one number a user, as grid/kernels/flat.py reads it. `words` begin with its kind; `hop_ms` 0: no hop is to be told last."""

    words: tuple[int, ...]
    half_life: float = 1.0
    hop_ms: int = 0


@dataclass(frozen=True, slots=True)
class Foldable:
    """A feature as grid/kernels/folds.py folds it. `words` begin with its kind and where its columns and marks lie; `hop_ms` 0: it has no hops."""

    words: tuple[int, ...]
    half_life: float = 1.0
    hop_ms: int = 0


def addresses(*arrays: NDArray[Any]) -> tuple[int, ...]:
    """Where arrays lie: for good, when they were reserved."""
    return tuple(int(array.ctypes.data) for array in arrays)


class FeatureColumns(ABC):
    """State of one feature for all slots of a shard. Empty is zero everywhere."""

    full: Set[int] = frozenset()  # slots that have as many keys as they may

    def __init__(self, catalog: Catalog, feature: Feature, shared: SharedState) -> None:
        self.feature, self.shared = feature, shared
        self.property_type = catalog.property_type(feature, feature.property_name) if feature.property_name else ""
        self.by_type = catalog.property_type(feature, feature.by) if feature.by else ""
        self.dirty: NDArray[np.uint8] = reserve(np.uint8, shared.space.pages_max)

    @abstractmethod
    def fold(self, rows: Rows, picked: RowNumbers) -> None:
        """Fold the picked rows of a group."""

    @abstractmethod
    def read(self, slots: Slots, as_of_ms: int) -> Reading:
        """Values of slots at a time."""

    @abstractmethod
    def clear(self, slots: Slots) -> None:
        """Forget users."""

    @abstractmethod
    def dump_page(self, page: int) -> bytes:
        """A page for the disk; equal state gives equal bytes. Empty bytes: nothing in it."""

    @abstractmethod
    def load_page(self, page: int, blob: bytes) -> None:
        """Inverse of `dump_page`, into an empty page."""

    def drop_page(self, page: int) -> None:
        """The page is nobody's any more: as if it had never been used."""
        self.clear(page_slots(page))
        self.dirty[page] = UNSEEN

    @property
    def dictionary_key(self) -> str | None:
        """The dictionary whose codes are in its pages; None: there are none."""
        return None

    def recoded(self, blob: bytes, turn: Turn) -> bytes:
        """A page with other codes in place of its own."""
        raise AssertionError(f"{self.feature.name} has no codes")

    def vector(self, slots: Slots, as_of_ms: int) -> tuple[Vector, Reading]:
        """Values as the rule language reads them."""
        reading = self.read(slots, as_of_ms)
        return Vector(reading.values, reading.known), reading

    def scannable(self) -> Scannable | None:
        """The column for scans; None where a value is more than one comparison away."""
        return None

    def flat(self, *, is_whole: bool) -> Flat | None:
        """How it is read with others in one call, as whole numbers or not; None where it is read by itself."""
        return None

    def foldable(self) -> Foldable | None:
        """How it is folded with others in one call; None where it is folded by itself."""
        return None

    @property
    def nbytes(self) -> int:
        """Memory of variable parts, in bytes; fixed columns are counted by page elsewhere."""
        return 0

    @property
    def page_bytes(self) -> int:
        """Memory of fixed columns a page that is in use, in bytes."""
        return 4 * PAGE_ROWS  # where the user's list lies

    @property
    def row_bytes(self) -> int:
        """Memory that one event may take, in bytes: of a new user, or of a list's entry with the room that lists grow by."""
        return 3 * 16 + 24

    def weights(self, rows: Rows) -> NDArray[np.float64]:
        """float64[rows] of the property, or [1.0] where only events count."""
        if rows.weights is not None:
            return rows.weights
        name = self.feature.property_name
        return ONE if name is None else rows.columns[(name, self.property_type)].numbers()

    def is_held(self, reading: Reading) -> Reading:
        """Mark a reading whose NULLs come from hops that are gone."""
        reading.is_held = reading.known is None or bool(reading.known.all())
        return reading


class FixedColumns(FeatureColumns):
    """Kinds whose state is a few fixed-width columns, named in `arrays`."""

    arrays: dict[str, tuple[NDArray[Any], int]]

    def column(self, name: str, dtype: type, width: int = 1) -> NDArray[Any]:
        """Reserve a column of `width` values a slot."""
        if not hasattr(self, "arrays"):
            self.arrays = {}
        array = reserve(dtype, self.shared.space.slots_max * width)
        self.arrays[name] = (array, width)
        return array

    @property
    def page_bytes(self) -> int:
        return self.row_bytes * PAGE_ROWS

    @property
    def row_bytes(self) -> int:
        return sum(array.itemsize * width for array, width in self.arrays.values())

    def clear(self, slots: Slots) -> None:
        for array, width in self.arrays.values():
            array.reshape(-1, width)[slots] = 0
        self.dirty[slots >> 12] = TOUCHED

    def drop_page(self, page: int) -> None:
        for array, width in self.arrays.values():
            give_back(array, page * PAGE_ROWS * width, (page + 1) * PAGE_ROWS * width)
        self.dirty[page] = UNSEEN

    def dump_page(self, page: int) -> bytes:
        parts = [array[page * PAGE_ROWS * width : (page + 1) * PAGE_ROWS * width] for array, width in self.arrays.values()]
        return b"".join(part.tobytes() for part in parts) if any(part.any() for part in parts) else b""

    def load_page(self, page: int, blob: bytes) -> None:
        at = 0
        for array, width in self.arrays.values():
            count = PAGE_ROWS * width
            array[page * count : (page + 1) * count] = np.frombuffer(blob, dtype=array.dtype, count=count, offset=at)
            at += count * array.itemsize


class ListArena:
    """The arena of lists of one feature or attribute, seen as words, uint32 keys, floats and bytes."""

    def __init__(self, space: Space) -> None:
        self.words: NDArray[np.uint64] = reserve(np.uint64, space.list_words_max)
        self.keys = self.words.view(np.uint32)
        self.floats = self.words.view(np.float64)
        self.octets = self.words.view(np.uint8)
        self.heads: NDArray[np.uint32] = reserve(np.uint32, space.slots_max)
        # Invariant: word 0 is never handed out, 0 in `heads` and `free` means none.
        self.control = np.array([2, 0], dtype=np.int64)
        self.free = np.zeros(CLASSES, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return int(self.control[1]) * 8


def recoded_lists(blob: bytes, turn: Turn) -> bytes:
    """A page of lists with other codes for its keys: int32[4096] how many each, uint32 keys, and what stands behind them."""
    counts = np.frombuffer(blob, dtype=np.int32, count=PAGE_ROWS)
    keys = np.frombuffer(blob, dtype=np.uint32, count=int(np.maximum(counts, 0).sum()), offset=PAGE_ROWS * 4)
    return blob[: PAGE_ROWS * 4] + turn(keys.astype(np.int64)).astype(np.uint32).tobytes() + blob[PAGE_ROWS * 4 + keys.nbytes :]


def page_slots(page: int) -> Slots:
    """int64[4096]: the slots of a page."""
    return np.arange(page * PAGE_ROWS, (page + 1) * PAGE_ROWS, dtype=np.int64)
