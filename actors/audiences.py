"""A shard's part of queries: rules over the partitions that it serves, some of them a turn of its loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import Expression, Rules, Template

from grid.catalog import Catalog
from grid.reading import check_complete, contains, explain
from grid.scanning import Shape, Shaped
from grid.selecting import Selection
from grid.state.bitmaps import mask_to_portable
from grid.state.dictionary import Strings

if TYPE_CHECKING:
    from actors.serving import ShardServer

# Users that a query looks at in one turn of the loop: a scan takes half a millisecond a clause for them.
SCAN_USERS_MAX = 1 << 20


@dataclass(slots=True)
class Evaluated:
    """A shard's part of a query, a row a partition: how many users, at which log position, and (if asked for) which ordinals."""

    partitions: NDArray[np.uint16]
    counts: NDArray[np.uint64]
    positions: NDArray[np.uint64]
    bitmaps: list[bytes]
    warnings: list[str]


class Audiences:
    """Rules under the catalog of now, and who they are true for. Lives in the shard's loop."""

    def __init__(self, shard: ShardServer) -> None:
        self._shard = shard
        self._rules: tuple[Catalog, Rules] | None = None
        self._shapes = WeakKeyDictionary[Template, Shape]()
        self.queries = 0

    def rule(self, text: str) -> Expression:
        """The plan of a rule under the current catalog. Raises RuleError, FeatureBackfilling."""
        plan = self._known_rules().compile(text)
        check_complete(self._shard.engine, plan)
        return plan

    def _shaped(self, text: str) -> Expression | Shaped:
        """As `rule`, as its shape and constants where it has such: what follows from the shape is decided once."""
        found = self._known_rules().shaped(text)
        if found is None:
            return self.rule(text)
        template, values = found
        shape = self._shapes.get(template)
        if shape is None:
            shape = self._shapes[template] = Shape(template)
        check_complete(self._shard.engine, shape.plan)
        return Shaped(shape, values)

    def _known_rules(self) -> Rules:
        self._shard.check_serving()
        catalog = self._shard.engine.catalog
        if self._rules is None or self._rules[0] is not catalog:
            self._rules = catalog, Rules(catalog.rule_schema, catalog.zone)
        return self._rules[1]

    async def evaluate(self, text: str, as_of_ms: int, first: int, last: int, limit: int, *, with_bitmaps: bool) -> Evaluated:
        """A rule over owned partitions first..last; stops after a partition with which `limit` users are reached (0: never).

        Some partitions a turn, as many as have a million users: each part is exact at the log position it states.
        """
        shard, engine, reached = self._shard, self._shard.engine, 0
        shard.committer.read_at = time.monotonic()
        self.queries += 1
        selection, version = Selection(engine, self._shaped(text), as_of_ms), engine.catalog.version
        warnings: dict[str, None] = {}
        counts, positions, bitmaps = [], [], []
        (asked,) = engine.epochs.nonzero()
        shard.check_still_readable(asked)
        if first > 0 or last < engine.partitions - 1:
            asked = asked[(asked >= first) & (asked <= last)]
        for number, together in enumerate(self._turns(asked)):
            if number:
                await asyncio.sleep(0)
                if engine.catalog.version != version:
                    selection, version = Selection(engine, self._shaped(text), as_of_ms), engine.catalog.version
                shard.check_readable(together)  # one may have moved away
            selected, said = selection.of_many(together)
            warnings |= dict.fromkeys(said)
            found = selected.counts()
            if limit:
                found = found[: 1 + int(np.searchsorted(np.cumsum(found), limit - reached))]
                reached += int(found.sum())
            counts.append(found)
            positions.append(engine.positions[together[: found.size]])
            if with_bitmaps:
                bitmaps += [mask_to_portable(selected.of(i)) for i in range(found.size)]
            if limit and reached >= limit:
                break
        all_counts = _joined(counts)
        return Evaluated(asked[: all_counts.size].astype(np.uint16), all_counts, _joined(positions), bitmaps, list(warnings))

    def _turns(self, partitions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Partitions in runs of about as many users as one turn may look at."""
        given = np.cumsum(self._shard.engine.users.next_ordinal[partitions])
        first, before = 0, 0
        while first < partitions.size:
            last = max(first + 1, int(np.searchsorted(given, before + SCAN_USERS_MAX, side="right")))
            yield partitions[first:last]
            first, before = last, int(given[last - 1])

    async def explain(self, text: str, as_of_ms: int) -> tuple[int, dict[int, int], list[tuple[int, int]], list[str]]:
        """(users, {partition: matched}, [(matched, unknown) of each clause], warnings) of this shard."""
        engine, rule, users = self._shard.engine, self.rule(text), 0
        matched: dict[int, int] = {}
        clauses: list[tuple[int, int]] = []
        warnings: dict[str, None] = {}
        for partition in np.flatnonzero(engine.epochs).tolist():
            self._shard.check_readable(np.array([partition], dtype=np.uint16))
            more_users, matched[partition], counts, said = explain(engine, partition, rule, as_of_ms)
            warnings |= dict.fromkeys(said)
            users += more_users
            clauses = clauses or [(0, 0)] * len(counts)
            clauses = [(a + c.matched, b + c.unknown) for (a, b), c in zip(clauses, counts, strict=True)]
            await asyncio.sleep(0)
        return users, matched, clauses, list(warnings)

    def contains(self, text: str, ids: Strings, as_of_ms: int) -> tuple[list[bool], list[str]]:
        """Whether users are in the audience, and warnings."""
        found, warnings = contains(self._shard.engine, self._shard.find(ids), self.rule(text), as_of_ms)
        return found.tolist(), warnings


def _joined(parts: list[NDArray[Any]]) -> NDArray[np.uint64]:
    if len(parts) == 1:
        return parts[0].astype(np.uint64, copy=False)
    return np.concatenate(parts).astype(np.uint64, copy=False) if parts else np.empty(0, dtype=np.uint64)
