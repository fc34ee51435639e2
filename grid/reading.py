"""Reading an engine: profiles of some users, audiences of all. Nothing here changes state; `as_of` is always given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import Expression, TextVector, Vector, columns_of, conjuncts, truth
from profilegrid_rules.evaluate import true_and_known

from grid.engine import Engine
from grid.errors import FeatureBackfilling, UnknownField
from grid.flat import FlatRead, flat_fields
from grid.state.attributes import SetAttribute
from grid.state.days import calendar_part
from grid.state.dictionary import Strings
from grid.state.features import Reading
from grid.state.features.days import DaysColumns
from grid.state.features.keyed import KeyedColumns
from grid.state.users import Slots

AS_OF_EARLY = "AS_OF_EARLY"


@dataclass(slots=True)
class Profiles:
    """Values of some users, one Reading a field; users that do not exist read as empty. Fields of one number a user are in `flat`."""

    exists: NDArray[np.bool_]
    as_of_ms: int
    flat: FlatRead | None = None
    columns: dict[str, Reading] = field(default_factory=dict)
    approximate: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def reading(self, name: str) -> Reading:
        """One field."""
        return self.columns[name] if self.flat is None or name in self.columns else self.flat.reading(name)


def not_held(name: str) -> str:
    """The warning that a window is NULL for some users because its hops are gone."""
    return f"WINDOW_NOT_HELD: {name} reaches back to hops that are no longer kept, and is NULL for some users"


def field_names(engine: Engine) -> list[str]:
    """Attributes, then features, as declared."""
    return [*engine.catalog.attributes, *engine.catalog.features]


def read_profiles(engine: Engine, slots: Slots, fields: Iterable[str] | None, as_of_ms: int) -> Profiles:
    """Profiles at slots (-1: unknown user). `fields` None: all. Raises UnknownField."""
    names = field_names(engine) if fields is None else list(fields)
    # Slot 0 lies in page 0, which is nobody's: it reads as empty.
    exists, safe, newest_ms = engine.users.present(slots)
    profiles = Profiles(exists, as_of_ms)
    together = flat_fields(engine, names)
    if together is not None:
        profiles.flat, names = together.read(safe, as_of_ms), together.others
        profiles.warnings += map(not_held, profiles.flat.not_held())
    for name in names:
        profiles.columns[name] = reading = _read_field(engine, name, safe, as_of_ms, profiles)
        if not reading.is_held:
            profiles.warnings.append(not_held(name))
    if newest_ms > as_of_ms:
        profiles.warnings.append(f"{AS_OF_EARLY}: events as late as {newest_ms} are counted in decayed and unwindowed features")
    return profiles


def _read_field(engine: Engine, name: str, slots: Slots, as_of_ms: int, profiles: Profiles) -> Reading:
    if name in engine.attributes:
        return engine.attributes[name].read(slots)
    state = engine.features.get(name)
    if state is None:
        near = difflib.get_close_matches(name, field_names(engine), n=1)
        raise UnknownField(name, near[0] if near else "")
    columns, top = state.columns, state.feature.top
    reading = columns.best(slots, as_of_ms, top) if top is not None and isinstance(columns, KeyedColumns) else columns.read(slots, as_of_ms)
    if not state.is_complete:
        profiles.warnings.append(f"FEATURE_BACKFILLING: {name} is at {state.percent} %")
        reading.known, reading.is_held = np.zeros(slots.size, dtype=bool), True
        return reading
    if reading.approximate:
        profiles.approximate.append(name)
    return reading


class SlotSource:
    """Users of some slots as the rule language reads them."""

    def __init__(self, engine: Engine, slots: Slots, as_of_ms: int) -> None:
        self._engine, self._slots, self._as_of_ms = engine, slots, as_of_ms
        self._not_held: set[str] = set()

    @property
    def rows(self) -> int:
        return int(self._slots.size)

    @property
    def now_ms(self) -> int:
        return self._as_of_ms

    def column(self, name: str) -> Vector | TextVector:
        if name in self._engine.attributes:
            return self._engine.attributes[name].vector(self._slots)
        vector, reading = self._engine.features[name].columns.vector(self._slots, self._as_of_ms)
        if not reading.is_held:
            self._not_held.add(name)
        return vector

    def keyed(self, name: str, key: str) -> Vector:
        columns = self._engine.features[name].columns
        assert isinstance(columns, KeyedColumns)
        values, known = columns.value_of(self._slots, key, self._as_of_ms)
        if known is not None and not known.all():
            self._not_held.add(name)
        return Vector(values, known)

    def set_contains(self, name: str, values: tuple[str, ...], is_all: bool) -> Vector:
        columns = self._engine.attributes[name]
        assert isinstance(columns, SetAttribute)
        return Vector(columns.contains(self._slots, values, is_all))

    def day_active(self, name: str, day: Vector) -> Vector:
        columns = self._engine.features[name].columns
        assert isinstance(columns, DaysColumns)
        return Vector(*columns.active_on(self._slots, int(day.values)))

    def calendar(self, name: str, times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        return calendar_part(name, times_ms, self._engine.catalog.timezone)

    def warnings(self, pages: NDArray[np.int64] | None = None) -> list[str]:
        """What the answer leaves out or looks ahead of; after the rule was evaluated. `pages`: all that was looked at, if more than the slots'."""
        said = [not_held(name) for name in sorted(self._not_held)]
        newest = self._engine.users.page_newest_ms[np.unique(self._slots >> 12) if pages is None else pages]
        if newest.size and int(newest.max()) > self._as_of_ms:
            said.append(f"{AS_OF_EARLY}: events after {self._as_of_ms} are counted in decayed and unwindowed features")
        return said


def check_complete(engine: Engine, rule: Expression) -> None:
    """Raise FeatureBackfilling unless all that the rule reads is complete."""
    incomplete = {name: state for name, state in engine.features.items() if not state.is_complete}
    for name in columns_of(rule) if incomplete else ():
        if name in incomplete:
            raise FeatureBackfilling(name, incomplete[name].percent)


def contains(engine: Engine, slots: Slots, rule: Expression, as_of_ms: int) -> tuple[NDArray[np.bool_], list[str]]:
    """(bool[n], warnings): whether users (slots, -1 unknown) are in the audience."""
    exists, safe, _ = engine.users.present(slots)
    source = SlotSource(engine, safe, as_of_ms)
    return truth(rule, source) & exists, source.warnings()


@dataclass(slots=True)
class ClauseCount:
    """Users of a partition for whom a clause is true, and for whom it is unknown (NULL)."""

    matched: int = 0
    unknown: int = 0


def explain(engine: Engine, partition: int, rule: Expression, as_of_ms: int) -> tuple[int, int, list[ClauseCount], list[str]]:
    """(users, matched, count of each top-level clause, warnings) of a partition."""
    slots = engine.users.slots_of(partition)
    slots = slots[engine.users.exists(slots)]
    source = SlotSource(engine, slots, as_of_ms)
    clauses = []
    for clause in conjuncts(rule):
        is_true, known = true_and_known(clause, source)
        clauses.append(ClauseCount(int(is_true.sum()), 0 if known is None else int((~known).sum())))
    return int(slots.size), int(truth(rule, source).sum()), clauses, source.warnings()


def user_ids(engine: Engine, slots: Slots) -> Strings:
    """Ids of slots, packed."""
    lengths, data = engine.users.ids(slots)
    return Strings(data, np.cumsum(lengths, dtype=np.int64))
