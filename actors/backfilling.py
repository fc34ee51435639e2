"""Backfill of features that were added to a running shard: the past is read from history files in a thread and folded beside live ingest.

Live groups after the catalog record feed the new columns at once; events up to it come from history, each once: the log segment is
closed at the record, history catches up, and rows of later positions are left out. History knows users by ordinal, which is never
reused, so nobody who was erased comes back. A crash starts anew: an incomplete feature is in no checkpoint, so recovery resets it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.committing import Committer
from actors.remembering import Rememberer
from grid.catalog import Catalog
from grid.engine import Engine
from grid.failpoints import failpoint
from grid.group import Group
from grid.state.rows import Rows, selected
from grid.storage.history import PastFile
from grid.storage.past import frame_of_past
from grid.storage.store import Store
from grid.verdict import Judge, Reserved, judge_past

log = logging.getLogger("profilegrid")
FOLD_ROWS = 8192


@dataclass(slots=True)
class PastRows:
    """Some rows of a history file, decoded under today's catalog, with the partition and ordinals of their users."""

    judge: Judge
    rows: Rows
    partition: int
    ordinals: NDArray[np.int64]
    pick: NDArray[np.int64]
    done: int


class Backfill:
    """Folds history up to one moment into features that lack it."""

    def __init__(self, engine: Engine, store: Store, committer: Committer, rememberer: Rememberer, names: list[str]) -> None:
        """Make it in the quiet moment of the catalog record (or of recovery): the positions of now are its end."""
        self._engine, self._store, self._committer, self._rememberer = engine, store, committer, rememberer
        self.names = names
        self._positions = engine.positions.copy()
        self._sequence = store.log.next_sequence - 1

    async def run(self) -> None:
        """Fold everything; then the features are whole, and `finish` after a checkpoint makes them complete."""
        catalog = self._engine.catalog
        await self._rememberer.catch_up(self._sequence)
        async with self._rememberer.upkeep:  # no file goes away meanwhile
            files = [file for partition in self._store.kept() for file in self._store.history.of_partition(partition)]
            total = sum(file.rows for file in files)
            past = self._past_rows(files, catalog)
            while (rows := await asyncio.to_thread(next, past, None)) is not None:
                async with self._committer.quiet():
                    if self._engine.catalog.version != catalog.version:
                        return  # the newer catalog's own backfill takes over
                    await self._fold(rows)
                failpoint("backfill.folded")
                self._tell(min(99, 100 * rows.done // max(total, 1)))
        async with self._committer.quiet():
            if self._engine.catalog.version == catalog.version:
                for name in self.names:
                    self._engine.features[name].is_whole = True
                    failpoint("backfill.whole")
                    self._engine.features[name].complete_since_ms = self._store.history.dropped_ms

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

    def _past_rows(self, files: list[PastFile], catalog: Catalog) -> Iterator[PastRows]:
        """The rows of files, some thousands at a time, newest first. Pulled in a thread.

        Newest first, because folding the past lets the present win ties of `last` and lose those of `first`.
        """
        done = 0
        for file in reversed(files):
            table = self._store.history.read(file)
            positions = table["@position"].to_numpy()
            ordinals = table["@ordinal"].to_numpy().astype(np.int64)
            for first in reversed(range(0, table.num_rows, FOLD_ROWS)):
                judge = Judge(frame_of_past(table.slice(first, FOLD_ROWS)), keeps_reasons=False)
                rows = judge_past(judge, catalog)
                here = slice(first, first + FOLD_ROWS)
                done += rows.size
                is_past = positions[here] <= self._positions[file.partition]
                yield PastRows(judge, rows, file.partition, ordinals[here], np.flatnonzero(is_past & judge.good)[::-1], done)

    async def _fold(self, past: PastRows) -> None:
        """Some rows. Words that no feature needed before get their codes through the log, as live ones do."""
        engine = self._engine
        reserved: list[Reserved] = []
        engine.reserve_properties(past.judge, past.rows, reserved)
        if reserved:
            group = Group(engine.received_ms, engine.catalog.version, [], reserved)
            await self._committer.append(group, is_durable=True)
        slots = engine.users.slots_of_ordinals(past.partition, past.ordinals)
        pick = past.pick[past.judge.good[past.pick] & engine.users.exists(slots[past.pick])]
        if pick.size == 0:
            return
        rows = selected(past.rows, pick)
        rows.slots, rows.is_past = slots[pick], True
        engine.fold(rows, engine.catalog.version, [engine.features[name] for name in self.names])
