"""Fields of one number a user, read for some users in one call (grid/kernels/flat.py)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        known = engine.flat_fields[key] = FlatFields(engine, names, states)
    return known


class FlatFields:
    """Where the columns of flat fields lie: made once, good for as long as it `holds`.

    names   of the flat fields, as asked for; `others` those that are read by themselves
    pieces  all fields in their order: (first, last) of flat ones that follow one another, by number, or the name of another
    sent    by users and flags of a read, what is the same of all answers to such; kept here for who sends them
    """

    def __init__(self, engine: Engine, names: list[str], states: dict[str, FeatureState]) -> None:
        """Of features that are complete."""
        self._types = engine.catalog.result_types
        read = ((name, state, state.columns.flat(is_whole=self._types[name] == "int")) for name, state in states.items())
        found = {name: (state, flat) for name, state, flat in read if flat is not None}
        self._engine, self._catalog = engine, engine.catalog
        self._of = [(name, state, state.columns) for name, (state, _) in found.items()]
        self.names = list(found)
        self.pieces = _pieces(dict.fromkeys(names), {name: f for f, name in enumerate(found)})
        self.others = [piece for piece in self.pieces if isinstance(piece, str)]
        self.sent: dict[tuple[int, bytes], Any] = {}
        self._fields = np.zeros((len(found), WIDTH), dtype=np.int64)
        self._half_lives = np.array([flat.half_life for _, flat in found.values()])
        self._hops: dict[int, list[tuple[int, int]]] = {}  # by length: which words of `_fields` are to be the hop of the moment
        for f, (_, flat) in enumerate(found.values()):
            self._fields[f, : len(flat.words)] = flat.words
            if flat.hop_ms:
                self._hops.setdefault(flat.hop_ms, []).append((f, len(flat.words)))

    @property
    def holds(self) -> bool:
        """Whether the fields lie where they lay, under the same catalog."""
        features = self._engine.features
        return self._catalog is self._engine.catalog and all(features[name] is state and state.columns is columns for name, state, columns in self._of)

    def read(self, slots: Slots, as_of_ms: int) -> FlatRead:
        """The flat fields of some users."""
        for hop_ms, places in self._hops.items():
            hop = hop_at(as_of_ms, hop_ms, self._catalog.timezone)
            for place in places:
                self._fields[place] = hop
        shape = len(self._of), slots.size
        values, known, said = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=bool), np.empty(shape[0], dtype=np.uint8)
        read_flat(self._fields, self._half_lives, slots, float(as_of_ms), values, known, said)
        return FlatRead(self, values, known, said.tobytes())

    def is_float(self, name: str) -> bool:
        """Whether a field's values are float64."""
        return self._types[name] == "float"


def _pieces(names: Iterable[str], numbers: dict[str, int]) -> list[tuple[int, int] | str]:
    """As FlatFields has them; `numbers` of the flat fields, which rise."""
    pieces: list[tuple[int, int] | str] = []
    for name in names:
        number = numbers.get(name)
        if number is None:
            pieces.append(name)
        elif pieces and isinstance(pieces[-1], tuple):
            pieces[-1] = pieces[-1][0], number + 1
        else:
            pieces.append((number, number + 1))
    return pieces


@dataclass(frozen=True, slots=True)
class FlatRead:
    """Flat fields of n users.

    values  int64[fields, n]: whole numbers and times, or the bytes of float64; 0 where NULL
    known   bool[fields, n]
    said    of each field HAS_NULLS | NOT_HELD (grid/kernels/flat.py)
    """

    fields: FlatFields
    values: NDArray[np.int64]
    known: NDArray[np.bool_]
    said: bytes

    def not_held(self) -> list[str]:
        """Fields of which some window reaches back to hops that are no longer held."""
        return [name for name, flags in zip(self.fields.names, self.said, strict=True) if flags & NOT_HELD]

    def reading(self, name: str) -> Reading:
        """One field."""
        f = self.fields.names.index(name)
        values = self.values[f].view(np.float64) if self.fields.is_float(name) else self.values[f]
        return Reading(values, self.known[f] if self.said[f] & HAS_NULLS else None, is_held=not self.said[f] & NOT_HELD)
