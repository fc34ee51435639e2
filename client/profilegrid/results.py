"""What calls return: reports of deliveries, profiles, tables of profiles, pages of ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilegrid.columns import Strings
from profilegrid.v1 import profiles_pb2


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was refused: its number in what was sent, why, and what would have been right."""

    row: int
    reason: str
    field: str
    value: str
    expected: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.field}: got {self.value or 'nothing'}, expected {self.expected} [{self.reason}]"


@dataclass(slots=True)
class Report:
    """How a delivery ended: counts of rows, and each refused one."""

    accepted: int = 0
    duplicates: int = 0
    rejections: list[Rejection] = field(default_factory=list)

    @property
    def rejected(self) -> int:
        """How many rows were refused."""
        return len(self.rejections)

    def add(self, other: Report) -> None:
        """Count another report into this one."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.rejections += other.rejections


@dataclass(frozen=True, slots=True)
class Page:
    """Some user ids of an audience; `next` asks for those after them, empty at the end."""

    user_ids: list[str]
    next: str
    as_of: int
    warnings: list[str] = field(default_factory=list)


class Answer:
    """What profiles of one message share: their time, which fields are features, sketches, warnings."""

    def __init__(self, wire: profiles_pb2.ProfileColumns | profiles_pb2.Profile, features: Callable[[], Iterable[str]]) -> None:
        self._features, self.as_of = features, wire.as_of_ms
        self.approximate, self.warnings = list(wire.approximate), list(wire.warnings)

    @cached_property
    def features(self) -> frozenset[str]:
        """Names of the features; few ask."""
        return frozenset(self._features())


class Profile(dict[str, Any]):
    """One user's attributes and features by name: a dict. `exists` is False for a user the grid does not know: then all read as empty.

    Values: numbers, text, bool, times in ms since 1970-01-01 UTC, sets as `set`, keyed features as dict, `top` as a list of
    {"key", "value"}; NULL is None. A plain dict, as nothing else is made and read as fast: profiles are made by the ten thousand a second.
    """

    __slots__ = ("answer", "exists", "user_id")
    answer: Answer
    exists: bool
    user_id: str

    @property
    def as_of(self) -> int:
        """ms since 1970 UTC: the time that all values are of."""
        return self.answer.as_of

    @property
    def approximate(self) -> list[str]:
        """Features whose values come from sketches."""
        return self.answer.approximate

    @property
    def warnings(self) -> list[str]:
        """What the answer leaves out; each begins with its reason."""
        return self.answer.warnings

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute values by name."""
        return {name: value for name, value in self.items() if name not in self.answer.features}

    @property
    def features(self) -> dict[str, Any]:
        """Feature values by name."""
        return {name: value for name, value in self.items() if name in self.answer.features}

    def __repr__(self) -> str:
        return f"Profile({self.user_id!r}, exists={self.exists}, {dict(self)!r})"

    def to_json(self) -> dict[str, Any]:
        """Plain data as the CLI prints it: sets as sorted lists."""

        def plain(values: dict[str, Any]) -> dict[str, Any]:
            return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}

        return {
            "user_id": self.user_id, "exists": self.exists, "attributes": plain(self.attributes), "features": plain(self.features),
            "as_of": self.as_of, "approximate": self.approximate, "warnings": self.warnings,
        }  # fmt: skip


class FieldColumn:
    """One field of many users, as it came over the wire; taken apart when it is asked for.

    Small messages are the common case: memoryviews cast and listed cost half of what numpy does below some hundred values.
    """

    __slots__ = ("_objects", "_rows", "_wire", "name", "type")

    def __init__(self, wire: profiles_pb2.ResultColumn, rows: int) -> None:
        self._wire, self._rows = wire, rows
        self._objects: list[Any] | None = None
        self.name, self.type = wire.name, wire.type

    @property
    def known(self) -> NDArray[np.bool_] | None:
        """bool[users]: False reads NULL; None: nobody does."""
        return np.frombuffer(self._wire.known, dtype=np.bool_) if self._wire.known else None

    @property
    def values(self) -> NDArray[Any]:
        """One a user, or an entry; for text and set numbers of `words`."""
        return np.frombuffer(self._wire.values, dtype=_FORMATS[self.type])

    @property
    def raw_values(self) -> bytes:
        """The bytes of `values`."""
        return self._wire.values

    @property
    def ends(self) -> NDArray[np.uint32]:
        """uint32[users]: where each user's entries end."""
        return np.frombuffer(self._wire.list_ends, dtype=np.uint32)

    @property
    def keys(self) -> NDArray[np.uint32]:
        """uint32[entries]: numbers of `words`."""
        return np.frombuffer(self._wire.keys, dtype=np.uint32)

    @property
    def words(self) -> Strings:
        """The distinct texts."""
        return Strings(np.frombuffer(self._wire.dictionary_data, dtype=np.uint8), np.frombuffer(self._wire.dictionary_ends, dtype=np.uint32))

    @property
    def objects(self) -> list[Any]:
        """Each user's value as a Python object, None where it is NULL."""
        if self._objects is None:
            made = self._entries() if self.type in LISTS else self._plain()
            known = self._wire.known
            self._objects = made if not known else [value if is_known else None for value, is_known in zip(made, known, strict=True)]
        return self._objects

    def _texts(self) -> list[str]:
        data, start, texts = self._wire.dictionary_data, 0, []
        for end in _numbers(self._wire.dictionary_ends, "I"):
            texts.append(data[start:end].decode())
            start = end
        return texts

    def _plain(self) -> list[Any]:
        values = _numbers(self._wire.values, _FORMATS[self.type])
        if self.type in ("text", "set"):
            words = self._texts() or [""]  # no word: nobody has a value
            return [words[number] for number in values]
        return [round(value) for value in values] if self.type.endswith("_int") else values

    def _entries(self) -> list[Any]:
        """The entries of each user: a set, a dict, or a ranked list."""
        values, ends = self._plain(), _numbers(self._wire.list_ends, "I")
        bounds = zip([0, *ends], ends, strict=False)
        if self.type == "set":
            return [set(values[a:b]) for a, b in bounds]
        words = self._texts()
        keys = [words[number] for number in _numbers(self._wire.keys, "I")]
        if self.type.startswith("ranked"):
            entries = [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
            return [entries[a:b] for a, b in bounds]
        return [dict(zip(keys[a:b], values[a:b], strict=True)) for a, b in bounds]

    def array(self) -> NDArray[Any]:
        """All users' values: numbers and times as arrays (masked where NULL), all else as objects."""
        if self.type in LISTS or self.type == "text":
            out = np.empty(self._rows, dtype=object)
            out[:] = self.objects
            return out
        known = self.known
        return self.values if known is None or known.all() else np.ma.masked_array(self.values, ~known)  # type: ignore[no-any-return,no-untyped-call]


LISTS = frozenset(("set", "keyed", "keyed_int", "ranked", "ranked_int"))
_FORMATS = {
    "float": "d", "int": "q", "timestamp": "q", "bool": "?", "text": "I", "set": "I",
    "keyed": "d", "keyed_int": "d", "ranked": "d", "ranked_int": "d",
}  # fmt: skip


def _numbers(raw: bytes, format_: Any) -> list[Any]:
    return memoryview(raw).cast(format_).tolist()


class Part:
    """Profiles of the users that one shard owns: `rows` are their numbers in what was asked."""

    def __init__(self, rows: NDArray[np.int64], wire: profiles_pb2.ProfileColumns) -> None:
        self.rows, self._exists = rows, wire.exists
        self.by_name = {column.name: FieldColumn(column, rows.size) for column in wire.columns}
        self.answer = Answer(wire, lambda: (column.name for column in wire.columns if column.is_feature))

    @property
    def exists(self) -> NDArray[np.bool_]:
        """bool[users]."""
        return np.frombuffer(self._exists, dtype=np.bool_)

    def profiles(self, user_ids: Iterable[str]) -> Iterator[Profile]:
        """Each user's profile, in the order of the message."""
        names = tuple(self.by_name)
        rows: Iterable[tuple[Any, ...]] = zip(*(column.objects for column in self.by_name.values()), strict=True) if names else repeat(())
        for user_id, exists, row in zip(user_ids, self._exists, rows, strict=False):
            profile = Profile(zip(names, row, strict=True))
            profile.user_id, profile.exists, profile.answer = user_id, exists == 1, self.answer
            yield profile


class Table(Mapping[str, Any]):
    """Many users' fields as columns of numpy arrays, in the order asked for. `exists` is bool[users]."""

    def __init__(self, ids: Strings, parts: list[Part]) -> None:
        self._ids = ids
        self.exists: NDArray[np.bool_] = np.zeros(len(ids), dtype=bool)
        self.as_of = max((part.answer.as_of for part in parts), default=0)
        self.warnings = sorted({warning for part in parts for warning in part.answer.warnings})
        self.approximate = sorted({name for part in parts for name in part.answer.approximate})
        self._parts = parts
        # Columns are put together when they are asked for.
        self._columns: dict[str, NDArray[Any]] = {}
        self._types = {name: column.type for part in parts for name, column in part.by_name.items()}
        for part in parts:
            self.exists[part.rows] = part.exists

    @cached_property
    def user_ids(self) -> list[str]:
        """The ids asked for."""
        return self._ids.to_list()

    def _placed(self, name: str) -> NDArray[Any]:
        """A column over all parts; masked only where something is NULL: plain arrays are what most callers want."""
        whole: NDArray[Any] | None = None
        for part in self._parts:
            values = part.by_name[name].array()
            if whole is None:
                whole = np.empty(self.exists.size, dtype=values.dtype)
            if isinstance(values, np.ma.MaskedArray) and not isinstance(whole, np.ma.MaskedArray):
                whole = np.ma.masked_array(whole, np.zeros(whole.size, dtype=bool))
            whole[part.rows] = values
        assert whole is not None
        return whole

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._types:
            raise KeyError(name)
        if name not in self._columns:
            self._columns[name] = self._placed(name)
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)

    def to_arrow(self) -> Any:
        """A pyarrow.Table with user_id first. Needs the `arrow` extra."""
        from profilegrid.arrow import table_of_parts

        return table_of_parts(self._ids, self._parts, list(self._types))

    def to_pandas(self) -> Any:
        """A pandas.DataFrame. Needs the `arrow` extra and pandas."""
        return self.to_arrow().to_pandas()
