"""Backfill of features that were added to a running shard: the past is read from the log in a thread and folded beside live ingest.

Live groups after the catalog record feed the new columns at once; groups up to it are folded here, each once. A crash starts anew:
an incomplete feature is in no checkpoint, so recovery finds it missing and resets it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.committing import Committer
from grid.catalog import Catalog
from grid.engine import Engine
from grid.group import Group
from grid.state.rows import Rows, selected
from grid.storage.store import Store
from grid.verdict import Judge, Reserved, judge_events

log = logging.getLogger("profilegrid")
_END_OF_TIME_MS = 1 << 60


@dataclass(slots=True)
class PastRows:
    """Accepted events of one logged frame, decoded under today's catalog, with what finds their users."""

    judge: Judge
    rows: Rows
    pick: NDArray[np.int64]
    sequence: int


class Backfill:
    """Folds the log up to one record into features that lack it."""

    def __init__(self, engine: Engine, store: Store, committer: Committer, names: list[str], last_sequence: int) -> None:
        self._engine, self._store, self._committer = engine, store, committer
        self.names, self._last_sequence = names, last_sequence
        # Erased users: what was logged before the erasure must not come back under a new user of the same id.
        self._erased: dict[tuple[int, int], int] = {}

    async def run(self) -> None:
        """Fold everything; then the features are whole, and `finish` after a checkpoint makes them complete."""
        catalog = self._engine.catalog
        frames = _past_frames(self._store, self._last_sequence, catalog)
        done = 0
        await asyncio.to_thread(self._find_erasures)
        while (past := await asyncio.to_thread(next, frames, None)) is not None:
            async with self._committer.quiet():
                if self._engine.catalog.version != catalog.version:
                    return  # the newer catalog's own backfill takes over
                await self._fold(past)
            done = past.sequence
            self._tell(min(99, 100 * done // max(self._last_sequence, 1)))
        async with self._committer.quiet():
            if self._engine.catalog.version == catalog.version:
                for name in self.names:
                    self._engine.features[name].is_whole = True

    def finish(self) -> None:
        """A checkpoint has the features: reads and rules may use them."""
        for name in self.names:
            state = self._engine.features.get(name)
            if state is not None and state.is_whole:
                state.is_complete, state.percent = True, 100
        log.info("backfilled %s", ", ".join(self.names))

    def _tell(self, percent: int) -> None:
        for name in self.names:
            if name in self._engine.features:
                self._engine.features[name].percent = int(percent)

    def _find_erasures(self) -> None:
        for record in self._store.past_records():
            assert record.body is not None
            for judged in Group.decode(record.header, record.body, record.sequence).judged:
                if judged.frame.kind == "deletes":
                    for h, partition in zip(judged.frame.ids.hashes().tolist(), judged.frame.row_partitions.tolist(), strict=True):  # per erasure
                        self._erased[h, partition] = record.sequence

    async def _fold(self, past: PastRows) -> None:
        """One frame's rows. Words that no feature needed before get their codes through the log, as live ones do."""
        engine, frame = self._engine, past.judge.frame
        reserved: list[Reserved] = []
        engine.reserve_properties(past.judge, past.rows, reserved)
        if reserved:
            group = Group(engine.received_ms, engine.catalog.version, [], reserved)
            await asyncio.to_thread(self._store.append, group, is_durable=True)
        hashes = frame.ids.hashes()
        slots = engine.users.find(frame.ids.data, frame.ids.ends, hashes, frame.row_partitions)
        pick = past.pick[past.judge.good[past.pick] & (slots[past.pick] >= 0)]
        if self._erased:
            keys = zip(hashes[pick].tolist(), frame.row_partitions[pick].tolist(), strict=True)
            alive = np.fromiter((self._erased.get(key, 0) < past.sequence for key in keys), dtype=bool, count=pick.size)
            pick = pick[alive]
        if pick.size == 0:
            return
        rows = selected(past.rows, pick)
        rows.slots, rows.is_past = slots[pick], True
        engine.fold(rows, engine.catalog.version, [engine.features[name] for name in self.names])


def _past_frames(store: Store, last_sequence: int, catalog: Catalog) -> Iterator[PastRows]:
    """Every logged frame of events, decoded, oldest first. Pulled in a thread."""
    # Time limits were decided when it was logged; they do not apply again.
    limits = catalog.limits.model_copy(update={"lateness": None})
    timeless = catalog.model_copy(update={"limits": limits})
    for record in store.past_records(last_sequence):
        assert record.body is not None
        for judged in Group.decode(record.header, record.body, record.sequence).judged:
            if judged.frame.kind == "events" and judged.accepted.any():
                judge = Judge(judged.frame)
                rows = judge_events(judge, timeless, _END_OF_TIME_MS)
                yield PastRows(judge, rows, np.flatnonzero(judged.accepted), record.sequence)
