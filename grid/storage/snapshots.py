"""Snapshots: all that a recovery of a grid needs, at one moment of each shard, in a folder or at any fsspec URL.

    shard: segment closed, files linked (a moment) --> objects, by what is in them --> one manifest, which makes the snapshot exist

    URL/objects/ab/abcd…      a file of some shard, under the hash of its bytes; one that is there already is not sent again
    URL/snapshots/ID.json     which files each shard has, where it was cut, catalogs; a snapshot that has none does not exist
    URL/erasures/list.json    who was erased when, beside the snapshots: every restore leaves them out

RocksDB's tables and history files never change, so that a snapshot sends what is new since the one before it.
"""

from __future__ import annotations

import calendar
import json
import os
import posixpath
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import xxhash
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from grid.errors import SnapshotCorrupt, SnapshotUnknown
from grid.storage.files import sync_folder

if TYPE_CHECKING:
    from grid.storage.store import Store

FORMAT = 1
_CHUNK_BYTES = 4 << 20
_ERASURES = ("erasures", "list.json")
_ID_TIME = "%Y%m%dT%H%M%S"
Said = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a shard's folder. Zeros at its end (of a log segment that is not full) are not stored."""

    name: str
    digest: str
    stored_bytes: int
    file_bytes: int


@dataclass(slots=True)
class ShardPart:
    """One shard's part: its partitions with the log position each was cut at, and its files."""

    shard: int
    positions: dict[int, int]
    users: int
    files: list[StoredFile] = field(default_factory=list)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> ShardPart:
        """From plain data, as JSON has it."""
        positions = {int(partition): position for partition, position in plain["positions"].items()}
        return cls(plain["shard"], positions, plain["users"], [StoredFile(**file) for file in plain["files"]])


@dataclass(slots=True)
class Snapshot:
    """A snapshot's manifest. `catalogs` by version; `received_ms`: the grid's clock when it was cut."""

    id: str
    created_ms: int
    received_ms: int
    partitions: int
    seed: int
    catalog_version: int
    catalogs: dict[int, str]
    parts: list[ShardPart]

    @property
    def users(self) -> int:
        """Users of all shards."""
        return sum(part.users for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of its objects, also those that others share."""
        return sum({file.digest: file.stored_bytes for part in self.parts for file in part.files}.values())

    def digests(self) -> set[str]:
        """The objects it needs."""
        return {file.digest for part in self.parts for file in part.files}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Snapshot:
        """From plain data, as JSON has it."""
        catalogs = {int(version): source for version, source in plain["catalogs"].items()}
        return cls(**{**plain, "catalogs": catalogs, "parts": [ShardPart.of(part) for part in plain["parts"]]})


def stage(store: Store, folder: Path) -> None:
    """Link all that a recovery of this shard as it is now needs into an empty folder on the same disk.

    Call when nothing is between log and columns, the log's segment is closed and no file of history or log may go meanwhile.
    """
    for name in ("log", "history"):
        (folder / name).mkdir(parents=True)
    for segment, _ in store.log.closed():
        os.link(segment, folder / "log" / segment.name)
    store.log.write_head(folder / "log", max((store.log.first_sequence(segment) for segment, _ in store.log.closed()), default=0))
    for file in store.history.files:
        os.link(store.folder / "history" / file.name, folder / "history" / file.name)
    store.checkpoints.link_to(folder / "rocks")
    sync_folder(folder)


class Repository:
    """Snapshots at a URL. One writer at a time: `prune` must not run beside a snapshot that is being made."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")

    def _path(self, *parts: str) -> str:
        return posixpath.join(self._root, *parts)

    # --- writing ----------------------------------------------------------------------------------------------------------

    def put_folder(self, folder: Path, said: Said = lambda nbytes: None) -> list[StoredFile]:
        """Store every file of a folder; `said` is told the bytes of each."""
        stored = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            stored.append(self._put_file(path, str(path.relative_to(folder))))
            said(path.stat().st_size)
        return stored

    def _put_file(self, path: Path, name: str) -> StoredFile:
        nbytes = _bytes_without_zeros_at_the_end(path)
        digest = _digest(path, nbytes)
        target = self._object(digest)
        if not self._files.exists(target):
            with path.open("rb") as source:
                self._write(target, _chunks(source, nbytes))
        return StoredFile(name, digest, nbytes, path.stat().st_size)

    def commit(self, snapshot: Snapshot) -> None:
        """Make a snapshot exist: all of its objects are there."""
        plain = json.loads(json.dumps(asdict(snapshot)))  # as it will be read: keys are texts
        document = {"format": FORMAT, "checksum": _checksum(plain), "snapshot": plain}
        self._flush()
        self._write(self._path("snapshots", f"{snapshot.id}.json"), [json.dumps(document, indent=1).encode()])
        self._flush()

    def _write(self, path: str, chunks: Iterable[bytes]) -> None:
        """A whole file, under another name first: what is there under its own is whole."""
        self._files.makedirs(posixpath.dirname(path), exist_ok=True)
        unfinished = f"{path}.{secrets.token_hex(4)}"
        with self._files.open(unfinished, "wb") as sink:
            for chunk in chunks:
                sink.write(chunk)
        self._files.mv(unfinished, path)

    def _flush(self) -> None:
        """On a disk of this machine: what was written is there after the power goes."""
        if isinstance(self._files, LocalFileSystem):
            os.sync()

    def prune(self, keep: int) -> tuple[list[str], int]:
        """Drop all but the newest `keep` snapshots and the objects that no other needs. Returns (ids dropped, bytes freed)."""
        ids = self.ids()
        dropped = ids[: max(len(ids) - keep, 0)]
        for snapshot_id in dropped:
            self._files.rm(self._path("snapshots", f"{snapshot_id}.json"))
        needed = set().union(*(self.read(snapshot_id).digests() for snapshot_id in self.ids())) if len(ids) > len(dropped) else set()
        freed = 0
        for path in self._files.find(self._path("objects")):
            if posixpath.basename(path) not in needed:
                freed += int(self._files.size(path) or 0)
                self._files.rm(path)
        return dropped, freed

    def put_erasures(self, erasures: list[Erased]) -> None:
        """Remember who was erased, for every restore: what is told again is kept once."""
        known = set(self.erasures())
        if not known.issuperset(erasures):
            everybody = sorted(known.union(erasures), key=lambda erased: (erased.erased_ms, erased.id_hash))
            self._write(self._path(*_ERASURES), [json.dumps([asdict(erased) for erased in everybody]).encode()])
            self._flush()

    # --- reading ----------------------------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Of all snapshots, oldest first."""
        folder = self._path("snapshots")
        self._files.invalidate_cache()
        names = [posixpath.basename(path) for path in self._files.ls(folder, detail=False)] if self._files.exists(folder) else []
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def read(self, snapshot_id: str) -> Snapshot:
        """A snapshot's manifest; empty: the newest one's. Raises SnapshotUnknown, SnapshotCorrupt."""
        ids = self.ids()
        if not ids or (snapshot_id and snapshot_id not in ids):
            raise SnapshotUnknown(self.url, snapshot_id, ids)
        wanted = snapshot_id or ids[-1]
        path = self._path("snapshots", f"{wanted}.json")
        try:
            document = json.loads(self._files.cat_file(path))
            if document["format"] != FORMAT or _checksum(document["snapshot"]) != document["checksum"]:
                raise SnapshotCorrupt(path, "its manifest does not match its checksum")
            return Snapshot.of(document["snapshot"])
        except (ValueError, KeyError, TypeError) as error:
            raise SnapshotCorrupt(path, f"its manifest cannot be read: {error!r}") from error

    def verify(self, snapshot: Snapshot, said: Said = lambda nbytes: None) -> None:
        """Read every object of a snapshot. Raises SnapshotCorrupt for the first that is missing or changed."""
        for digest, nbytes in {file.digest: file.stored_bytes for part in snapshot.parts for file in part.files}.items():
            for chunk in self._read_object(digest, nbytes):
                said(len(chunk))

    def fetch(self, part: ShardPart, folder: Path, said: Said = lambda nbytes: None) -> None:
        """A shard's files into an empty folder, verified. Raises SnapshotCorrupt."""
        for file in part.files:
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as sink:
                for chunk in self._read_object(file.digest, file.stored_bytes):
                    sink.write(chunk)
                    said(len(chunk))
                sink.truncate(file.file_bytes)

    def erasures(self) -> list[Erased]:
        """Everybody who was erased, as far as it was told here."""
        path = self._path(*_ERASURES)
        self._files.invalidate_cache()
        return [Erased(**plain) for plain in json.loads(self._files.cat_file(path))] if self._files.exists(path) else []

    def _object(self, digest: str) -> str:
        return self._path("objects", digest[:2], digest)

    def _read_object(self, digest: str, nbytes: int) -> Iterator[bytes]:
        path, hasher, size = self._object(digest), xxhash.xxh3_128(), 0
        try:
            with self._files.open(path, "rb") as source:
                while chunk := source.read(_CHUNK_BYTES):
                    hasher.update(chunk)
                    size += len(chunk)
                    yield chunk
        except OSError as error:
            raise SnapshotCorrupt(path, str(error)) from error
        if size != nbytes or hasher.hexdigest() != digest:
            raise SnapshotCorrupt(path, f"{size} bytes that are not those that were stored ({nbytes})")


@dataclass(frozen=True, slots=True)
class Erased:
    """One erased user: a salted hash of the id, so that the list tells nobody who it was; when, by the grid's clock."""

    salt: int
    id_hash: int
    erased_ms: int


def salted(id_hashes: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """uint64[n]: what the list has of users (the finaliser of splitmix64: Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = id_hashes + np.uint64(salt)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def new_id(created_ms: int) -> str:
    """An id of a snapshot; ids of later ones sort behind it."""
    return f"{time.strftime(_ID_TIME, time.gmtime(created_ms // 1000))}-{secrets.token_hex(3)}"


def created_s(snapshot_id: str) -> int:
    """When the snapshot of an id was made, s since 1970 UTC: known without reading it."""
    return calendar.timegm(time.strptime(snapshot_id.partition("-")[0], _ID_TIME))


def _checksum(plain: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(plain, sort_keys=True).encode())


def _chunks(source: Any, nbytes: int) -> Iterator[bytes]:
    left = nbytes
    while left and (chunk := source.read(min(_CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


def _digest(path: Path, nbytes: int) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as source:
        for chunk in _chunks(source, nbytes):
            hasher.update(chunk)
    return hasher.hexdigest()


def _bytes_without_zeros_at_the_end(path: Path) -> int:
    """A log segment is allocated whole and zeroed; a restored one may be so again."""
    end = path.stat().st_size
    if path.suffix != ".log":
        return end
    with path.open("rb") as source:
        while end:
            start = max(end - _CHUNK_BYTES, 0)
            source.seek(start)
            kept = source.read(end - start).rstrip(b"\0")
            if kept:
                return start + len(kept)
            end = start
    return 0
