"""Shards made from the folders of other shards: a snapshot's, into any number of shards.

    folder of a shard --its own recovery--> engine --partitions, codes of words turned--> new engine --> checkpoint in a new folder

The new log begins empty; history files come along. Who was erased after the snapshot is erased here before the checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grid.engine import Engine
from grid.errors import SnapshotCorrupt
from grid.state.dictionary import Strings
from grid.state.memory import Space
from grid.storage.snapshots import Erased, salted
from grid.storage.store import Store
from grid.transferring import Transfer


def make_shard(folder: Path, sources: dict[Path, list[int]], *, partitions: int, seed: int, erased: Iterable[Erased] = (), space: Space | None = None) -> int:
    """A shard's folder from partitions of others: source folder to the partitions that come from it. Returns its users.

    Raises SnapshotCorrupt where a source does not recover whole, HistoryCorrupt.
    """
    engine = Engine(partitions=partitions, seed=seed, space=space)
    store = Store(folder, engine)
    try:
        for source, wanted in sources.items():
            _take_over(store, source, wanted, list(erased), space)
        store.checkpoint_all()
        return engine.users.total
    finally:
        store.close()


def _take_over(store: Store, source: Path, wanted: list[int], erased: list[Erased], space: Space | None) -> None:
    engine = store.engine
    theirs = Engine(partitions=engine.partitions, seed=engine.users.seed, space=space)
    theirs.epochs[wanted] = 1
    origin = Store(source, theirs)
    try:
        report = origin.recover(is_all_committed=True)
        if report.stopped:
            partition, fault = next(iter(report.stopped.items()))
            raise SnapshotCorrupt(str(source), f"partition {partition}: {fault}")
        origin.log.roll()
        origin.write_history()
        _adopt_catalogs(store, origin)
        origin.history.forget(_erase(theirs, wanted, erased))
        transfer = Transfer(theirs, engine)
        for partition in wanted:
            transfer.partition(partition)
        transfer.shard()
        store.history.adopt(origin.history, wanted)
        engine.epochs[wanted] = 1
    finally:
        origin.close()


def _adopt_catalogs(store: Store, origin: Store) -> None:
    """All versions that the source knows, the newest in force."""
    engine, theirs = store.engine, origin.engine
    for version, catalog in theirs.catalogs.items():
        if version and version not in engine.catalogs:
            store.checkpoints.put_catalog(version, catalog.source)
            engine.catalogs[version] = catalog
    if theirs.catalog.version > engine.catalog.version:
        engine.install_catalog(theirs.catalog)
        for name, state in engine.features.items():
            state.is_whole = theirs.features[name].is_whole


def _erase(engine: Engine, partitions: list[int], erased: list[Erased]) -> dict[int, NDArray[np.uint32]]:
    """Erase whoever is on the list since the engine's clock stood still: who was erased before and came back since is another user.

    Returns their ordinals by partition, for history.
    """
    ordinals: dict[int, NDArray[np.uint32]] = {}
    by_salt: dict[int, list[int]] = defaultdict(list)
    for one in erased:
        if one.erased_ms > engine.received_ms:
            by_salt[one.salt].append(one.id_hash)
    for partition in partitions if by_salt else ():
        slots = engine.users.slots_of(partition)
        slots = slots[engine.users.exists(slots)]
        lengths, data = engine.users.ids(slots)
        hashes = Strings(data, np.cumsum(lengths, dtype=np.uint32)).hashes()
        gone = np.zeros(slots.size, dtype=bool)
        for salt, listed in by_salt.items():
            gone |= np.isin(salted(hashes, salt), np.array(listed, dtype=np.uint64))
        ordinals[partition] = engine.users.ordinals_of(slots[gone]).astype(np.uint32)
        engine.forget(slots[gone])
    return ordinals
