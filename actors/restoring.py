"""A data folder made from a snapshot, for any number of shards; nothing runs meanwhile. `up` then serves it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from actors.controller import State
from actors.local import FORMAT
from grid.errors import DataFolderForeign
from grid.storage.files import replace_file
from grid.storage.restoring import make_shard
from grid.storage.snapshots import Repository, ShardPart, Snapshot

Told = Callable[[str, int, int], None]


def restore(repository: Repository, snapshot: Snapshot, folder: Path, shards: int, told: Told = lambda what, done, total: None) -> int:
    """Make the data folder of a grid with `shards` shards, without users erased since. Returns its users. `told` hears what is being done, and how far.

    Raises DataFolderForeign when the folder is not empty, SnapshotCorrupt; what was made by then is removed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataFolderForeign(str(folder), "it is not empty; restore into a new folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fetched = folder / "restore"
    try:
        sources = _fetch(repository, snapshot, fetched, told)
        owners = [partition % shards for partition in range(snapshot.partitions)]
        # Another grid than the one it was: what clients keep of that one (how far an import got) does not hold here.
        seed, erased, users = secrets.randbits(63), repository.erasures(), 0
        for shard in range(shards):
            told(f"shard {shard}", shard, shards)
            wanted = _sources_of(snapshot.parts, sources, [partition for partition, owner in enumerate(owners) if owner == shard])
            users += make_shard(folder / f"shard-{shard}", wanted, partitions=snapshot.partitions, seed=seed, erased=erased)
        shutil.rmtree(fetched)
        _write_state(snapshot, folder, seed, shards, owners)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return users


def _fetch(repository: Repository, snapshot: Snapshot, folder: Path, told: Told) -> dict[int, Path]:
    """Each shard's files in a folder of its own, verified."""
    total = sum(file.stored_bytes for part in snapshot.parts for file in part.files)
    done = 0

    def said(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        told("reading the snapshot", done, total)

    sources = {}
    for part in snapshot.parts:
        sources[part.shard] = folder / f"of-shard-{part.shard}"
        repository.fetch(part, sources[part.shard], said)
    return sources


def _sources_of(parts: list[ShardPart], folders: dict[int, Path], partitions: list[int]) -> dict[Path, list[int]]:
    """From which folder each of some partitions comes."""
    wanted = {folders[part.shard]: [partition for partition in partitions if partition in part.positions] for part in parts}
    return {folder: mine for folder, mine in wanted.items() if mine}


def _write_state(snapshot: Snapshot, folder: Path, seed: int, shards: int, owners: list[int]) -> None:
    """The controller's: the same partitions and catalogs; epochs begin anew, as no client of the old grid can know these shards."""
    epochs = [0] * snapshot.partitions
    state = State(snapshot.partitions, shards, seed, owners, epochs, 1, snapshot.catalog_version, dict(snapshot.catalogs))
    (folder / "controller").mkdir(mode=0o700)
    replace_file(folder / "controller" / "state.bin", state.pack())
    replace_file(folder / "GRID", FORMAT.encode())
