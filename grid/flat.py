"""Fields of one number a user, read for some users in one call (grid/kernels/flat.py)."""

from __future__ import annotations

import numpy as np

from grid.engine import Engine, FeatureState
from grid.kernels.flat import HAS_NULLS, NOT_HELD, WIDTH, read_flat
from grid.state.features import Reading
from grid.state.rows import hop_at
from grid.state.users import Slots

FIELDS_MAX = 256


def flat_fields(engine: Engine, names: list[str]) -> FlatFields | None:
    """Those of some fields that are flat; None while one of them is incomplete."""
    key = tuple(names)
    known = engine.flat_fields.get(key)
    if known is None or not known.holds:
        states = {name: engine.features[name] for name in names if name in engine.features}
        if not all(state.is_complete for state in states.values()):
            return None
        if len(engine.flat_fields) >= FIELDS_MAX:
            engine.flat_fields.clear()
        known = engine.flat_fields[key] = FlatFields(engine, states)
    return known


class FlatFields:
    """Where the columns of flat fields lie: made once, good for as long as it `holds`."""

    def __init__(self, engine: Engine, states: dict[str, FeatureState]) -> None:
        """Of features that are complete; those that are not flat are left out."""
        self._types = engine.catalog.result_types
        read = ((name, state, state.columns.flat(is_whole=self._types[name] == "int")) for name, state in states.items())
        found = [(name, state, flat) for name, state, flat in read if flat is not None]
        self._engine, self._catalog = engine, engine.catalog
        self._of = [(name, state, state.columns) for name, state, _ in found]
        self._fields = np.zeros((len(found), WIDTH), dtype=np.int64)
        self._half_lives = np.array([flat.half_life for _, _, flat in found])
        self._hops: dict[int, list[tuple[int, int]]] = {}  # by length: which words of `_fields` are to be the hop of the moment
        for f, (_, _, flat) in enumerate(found):
            self._fields[f, : len(flat.words)] = flat.words
            if flat.hop_ms:
                self._hops.setdefault(flat.hop_ms, []).append((f, len(flat.words)))

    @property
    def holds(self) -> bool:
        """Whether the fields lie where they lay, under the same catalog."""
        features = self._engine.features
        return self._catalog is self._engine.catalog and all(features[name] is state and state.columns is columns for name, state, columns in self._of)

    def read(self, slots: Slots, as_of_ms: int) -> dict[str, Reading]:
        """A clean reading of each flat field."""
        for hop_ms, places in self._hops.items():
            hop = hop_at(as_of_ms, hop_ms, self._catalog.timezone)
            for place in places:
                self._fields[place] = hop
        shape = len(self._of), slots.size
        values, known, said = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=bool), np.empty(shape[0], dtype=np.uint8)
        read_flat(self._fields, self._half_lives, slots, float(as_of_ms), values, known, said)
        readings = {}
        floats = values.view(np.float64)
        for f, ((name, _, _), flags) in enumerate(zip(self._of, said.tolist(), strict=True)):
            is_float = self._types[name] == "float"
            reading = Reading(floats[f] if is_float else values[f], known[f] if flags & HAS_NULLS else None, is_clean=True)
            reading.is_held = not flags & NOT_HELD
            readings[name] = reading
        return readings
