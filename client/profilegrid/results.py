"""What calls return: reports of deliveries, profiles, tables of profiles, pages of ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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


class Profile(Mapping[str, Any]):
    """One user's attributes and features by name. `exists` is False for a user the grid does not know: then all read as empty.

    Values: numbers, text, bool, times in ms since 1970-01-01 UTC, sets as `set`, keyed features as dict, `top` as a list of
    {"key", "value"}; NULL is None.
    """

    __slots__ = ("_attributes", "_features", "_part", "_row", "approximate", "as_of", "exists", "user_id", "warnings")
    _part: Part
    _row: int

    def __init__(
        self, user_id: str, exists: bool, attributes: dict[str, Any], features: dict[str, Any], as_of: int, approximate: list[str], warnings: list[str]
    ) -> None:
        self.user_id, self.exists, self.as_of = user_id, exists, as_of
        self._attributes: dict[str, Any] | None = attributes
        self._features: dict[str, Any] | None = features
        self.approximate, self.warnings = approximate, warnings

    @classmethod
    def view(cls, part: Part, row: int, user_id: str) -> Profile:
        """A profile whose values are made when they are asked for: of a coalesced read most never are (7 µs a profile, measured)."""
        profile = cls.__new__(cls)
        profile.user_id, profile.exists, profile.as_of = user_id, bool(part.exists[row]), part.as_of
        profile._attributes = profile._features = None
        profile._part, profile._row = part, row
        profile.approximate, profile.warnings = part.approximate, part.warnings
        return profile

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute values by name."""
        if self._attributes is None:
            self._attributes = {column.name: column.value(self._row) for column in self._part.columns if not column.is_feature}
        return self._attributes

    @property
    def features(self) -> dict[str, Any]:
        """Feature values by name."""
        if self._features is None:
            self._features = {column.name: column.value(self._row) for column in self._part.columns if column.is_feature}
        return self._features

    def __getitem__(self, name: str) -> Any:
        if self._attributes is None or self._features is None:
            return self._part.by_name[name].value(self._row)
        return self._attributes[name] if name in self._attributes else self._features[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.attributes
        yield from self.features

    def __len__(self) -> int:
        return len(self.attributes) + len(self.features)

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
    """One field of many users, as it came over the wire."""

    def __init__(self, wire: profiles_pb2.ResultColumn, rows: int) -> None:
        self.name, self.type, self.is_feature = wire.name, wire.type, wire.is_feature
        self.known = np.frombuffer(wire.known, dtype=np.uint8).astype(bool) if wire.known else np.ones(rows, dtype=bool)
        self.ends = np.frombuffer(wire.list_ends, dtype=np.uint32).astype(np.int64) if self.is_list else None
        self.values: NDArray[Any] = np.frombuffer(wire.values, dtype=_DTYPES[wire.type])
        self.keys = np.frombuffer(wire.keys, dtype=np.uint32)
        self._wire_words = Strings(np.frombuffer(wire.dictionary_data, dtype=np.uint8), np.frombuffer(wire.dictionary_ends, dtype=np.uint32))
        self._words: NDArray[Any] | None = None

    @property
    def is_list(self) -> bool:
        """Whether a user has several entries."""
        return self.type in ("set", "keyed", "keyed_int", "ranked", "ranked_int")

    @property
    def words(self) -> NDArray[Any]:
        """object[words]: the distinct texts."""
        if self._words is None:
            self._words = np.array([*self._wire_words.to_list(), None], dtype=object)[:-1]
        return self._words

    def value(self, row: int) -> Any:
        """A user's value as a Python object."""
        if not self.known[row]:
            return None
        if self.ends is not None:
            return self._entries(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))
        return self._plain[row]

    @cached_property
    def _plain(self) -> list[Any]:
        """All values as Python objects: one conversion for a batch, not one a user."""
        if self.type in ("text", "set"):
            return self.words[self.values].tolist() if self.words.size else [None] * self.values.size
        values = np.rint(self.values).astype(np.int64) if self.type.endswith("_int") else self.values
        return [bool(value) for value in values.tolist()] if self.type == "bool" else values.tolist()

    @cached_property
    def _key_words(self) -> list[str]:
        return self.words[self.keys].tolist() if self.words.size else []

    def _entries(self, start: int, stop: int) -> Any:
        values = self._plain[start:stop]
        if self.type == "set":
            return set(values)
        keys = self._key_words[start:stop]
        if self.type.startswith("ranked"):
            return [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
        return dict(zip(keys, values, strict=True))

    def array(self) -> NDArray[Any]:
        """All users' values: numbers and times as arrays (masked where NULL), all else as objects."""
        if self.ends is not None:
            out = np.empty(self.known.size, dtype=object)
            bounds = [0, *self.ends.tolist()]
            known = self.known.tolist()
            out[:] = [self._entries(a, b) if is_known else None for a, b, is_known in zip(bounds, bounds[1:], known, strict=False)]
            return out
        if self.type == "text":
            padded = np.array([*self.words.tolist(), None], dtype=object)
            return padded[np.where(self.known, self.values, self.words.size)]  # type: ignore[no-any-return]
        values = self.values.astype(bool) if self.type == "bool" else self.values
        return values if self.known.all() else np.ma.masked_array(values, ~self.known)  # type: ignore[no-any-return,no-untyped-call]


_DTYPES: dict[str, Any] = {
    "float": np.float64, "int": np.int64, "timestamp": np.int64, "bool": np.uint8, "text": np.uint32, "set": np.uint32,
    "keyed": np.float64, "keyed_int": np.float64, "ranked": np.float64, "ranked_int": np.float64,
}  # fmt: skip


@dataclass(slots=True)
class Part:
    """Profiles of the users that one shard owns: `rows` are their numbers in what was asked."""

    rows: NDArray[np.int64]
    exists: NDArray[np.bool_]
    columns: list[FieldColumn]
    as_of: int
    approximate: list[str]
    warnings: list[str]
    _by_name: dict[str, FieldColumn] | None = None

    @property
    def by_name(self) -> dict[str, FieldColumn]:
        """Columns by name."""
        if self._by_name is None:
            self._by_name = {column.name: column for column in self.columns}
        return self._by_name

    @classmethod
    def of(cls, rows: NDArray[np.int64], wire: profiles_pb2.ProfileColumns) -> Part:
        """From the wire."""
        columns = [FieldColumn(column, rows.size) for column in wire.columns]
        exists = np.frombuffer(wire.exists, dtype=np.uint8).astype(bool)
        return cls(rows, exists, columns, wire.as_of_ms, list(wire.approximate), list(wire.warnings))

    def profile(self, user_id: str, row: int) -> Profile:
        """The profile of the part's row `row`."""
        return Profile.view(self, row, user_id)


class Table(Mapping[str, Any]):
    """Many users' fields as columns of numpy arrays, in the order asked for. `exists` is bool[users]."""

    def __init__(self, user_ids: Sequence[str], parts: list[Part]) -> None:
        self.user_ids = list(user_ids)
        self.exists: NDArray[np.bool_] = np.zeros(len(self.user_ids), dtype=bool)
        self.as_of = max((part.as_of for part in parts), default=0)
        self.warnings = sorted({warning for part in parts for warning in part.warnings})
        self.approximate = sorted({name for part in parts for name in part.approximate})
        self._parts = parts
        # Columns are put together when they are asked for.
        self._columns: dict[str, NDArray[Any]] = {}
        self._types = {column.name: column.type for part in parts for column in part.columns}
        for part in parts:
            self.exists[part.rows] = part.exists

    def _placed(self, name: str) -> NDArray[Any]:
        """A column over all parts; masked only where something is NULL: plain arrays are what most callers want."""
        whole: NDArray[Any] | None = None
        for part in self._parts:
            values = part.by_name[name].array()
            if whole is None:
                whole = np.empty(len(self.user_ids), dtype=values.dtype)
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
        import pyarrow as pa

        columns: dict[str, Any] = {"user_id": pa.array(self.user_ids, pa.string())}
        for name, values in self.items():
            columns[name] = self._arrow(pa, name, values)
        return pa.table(columns)

    def _arrow(self, pa: Any, name: str, values: NDArray[Any]) -> Any:
        kind = self._types[name]
        if kind == "set":
            return pa.array([sorted(value) for value in values], pa.list_(pa.string()))
        if kind.startswith("keyed"):
            return pa.array([list(value.items()) for value in values], pa.map_(pa.string(), pa.float64()))
        if kind.startswith("ranked"):
            return pa.array(list(values), pa.list_(pa.struct([("key", pa.string()), ("value", pa.float64())])))
        types = {"text": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "timestamp": pa.int64()}
        mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None  # type: ignore[no-untyped-call]
        array = pa.array(np.asarray(values), types[kind], mask=mask)
        return array.cast(pa.timestamp("ms", tz="UTC")) if kind == "timestamp" else array

    def to_pandas(self) -> Any:
        """A pandas.DataFrame. Needs the `arrow` extra and pandas."""
        return self.to_arrow().to_pandas()
