"""Checkpoints of partitions in RocksDB: pages under a generation, then one manifest that names them.

Nothing here is on the acknowledgement path. Writes go in small batches without sync (rocksdict holds the GIL through a write: 150 MB
froze every thread for 691 ms), then one `flush_wal(True)`, which releases it; then the manifest, and another. A page that no manifest
names does not exist. Never `items()`: it stops silently at a corrupt block.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import xxhash
from rocksdict import AccessType, BlockBasedOptions, Cache, Checkpoint, DBCompressionType, DBRecoveryMode, Options, Rdict, ReadOptions, WriteBatch

from grid.errors import CheckpointCorrupt, DataFolderForeign, WriteFailed
from grid.failpoints import failpoint
from grid.storage.files import forget_cached, replace_file

Entry = TypeVar("Entry")
FORMAT = 1
# Beside the folder: what RocksDB found damaged while it ran.
DAMAGE_FILE = "DAMAGED"
BATCH_BYTES_MAX, MEMTABLE_BYTES, CACHE_BYTES = 128 << 10, 16 << 20, 4 << 20
# New files that wait until they are merged with the older ones: four, the default, are one checkpoint of a busy shard, and each merge reads and writes
# all that is in its way; with twelve merges take half the CPU, and the disk holds some 100 MB more.
UNMERGED_FILES_MAX = 12
# After a batch the thread sleeps this many times as long as it held the GIL: at most 5 % of the time is taken from the loop. Of partitions
# that come from another shard a quarter may be: somebody waits for them.
PACE, ARRIVAL_PACE = 19, 3
_FORMAT_KEY, _SHARD_KEY, _HISTORY_KEY, _ERASED_KEY, _REPLAY_KEY, _LETTERS_KEY, _LOADS_KEY, _VOID_KEY = b"f", b"s", b"h", b"e", b"r", b"l", b"u", b"v"
_LONE_KEYS = (_FORMAT_KEY, _SHARD_KEY, _HISTORY_KEY, _ERASED_KEY, _REPLAY_KEY, _LETTERS_KEY, _LOADS_KEY, _VOID_KEY)


@dataclass(slots=True)
class PartitionDump:
    """A partition at one log position: changed pages (column key, page number) to bytes, and the facts of its manifest."""

    partition: int
    facts: dict[str, Any]
    pages: dict[tuple[str, int], bytes]
    columns: list[str]


@dataclass(slots=True)
class Manifest:
    """What a checkpoint of a partition consists of."""

    facts: dict[str, Any]
    pages: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)  # to (generation, checksum)


class Checkpoints:
    """The RocksDB of one shard."""

    def __init__(self, folder: Path, *, is_read_only: bool = False) -> None:
        self._folder = folder
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_paranoid_checks(True)
        # Pages are written once and read at the next start: the default of 64 MB would only hold memory.
        options.set_write_buffer_size(MEMTABLE_BYTES)
        options.set_max_write_buffer_number(2)
        options.set_level_zero_file_num_compaction_trigger(UNMERGED_FILES_MAX)
        options.set_compression_type(DBCompressionType.lz4())  # two thirds of the CPU of Snappy, the default; files as large within 5 %
        tables = BlockBasedOptions()
        tables.set_block_cache(Cache(CACHE_BYTES))
        options.set_block_based_table_factory(tables)
        # The default recovery silently drops what follows a bit flip.
        options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
        try:
            self._db = Rdict(str(folder), options=options, access_type=AccessType.read_only() if is_read_only else AccessType.read_write())
        except Exception as error:  # rocksdict raises plain Exception with RocksDB's text
            if _is_damage(error):
                raise CheckpointCorrupt(-1, f"{folder} cannot be opened: {error}") from error
            raise DataFolderForeign(str(folder), f"cannot open the checkpoints: {error}") from error
        once = ReadOptions()
        once.fill_cache(False)  # what is read is needed once
        self._db.set_read_options(once)
        found = self._get(_FORMAT_KEY, -1, "format")
        if found is None:
            self._db[_FORMAT_KEY] = str(FORMAT).encode()
        elif found != str(FORMAT).encode():
            raise DataFolderForeign(str(folder), f"format {found.decode()}, this version reads {FORMAT}")
        self.manifests: dict[int, Manifest] = {}
        self._generation = 0
        self.is_paced, self.pace = True, PACE

    # --- writing (a thread) ---------------------------------------------------------------------------------------------

    def write(self, dump: PartitionDump) -> None:
        """Make a partition's dump its newest checkpoint. Raises WriteFailed: the one before then stands."""
        self.install({dump.partition: self.stage(dump)})

    def stage(self, dump: PartitionDump) -> Manifest:
        """Write a dump's pages; they count once `install` has the manifest. Raises WriteFailed."""
        before = self.manifests.get(dump.partition, Manifest({}))
        self._generation += 1
        kept = {place: version for place, version in before.pages.items() if place[0] in dump.columns}
        with self._writing():
            for (column, page), blob in dump.pages.items():
                kept.pop((column, page), None)
                if blob:
                    kept[column, page] = (self._generation, xxhash.xxh3_64_intdigest(blob))
            self._put_pages(dump)
            failpoint("checkpoint.pages_put")
            self._db.flush_wal(True)
            failpoint("checkpoint.staged")
            self._read_back(dump, kept)
        return Manifest(dump.facts, kept)

    def install(
        self,
        manifests: dict[int, Manifest],
        *,
        loads: dict[str, int] | None = None,
        letters: Iterable[tuple[bytes, bytes]] = (),
        history: dict[str, Any] | None = None,
    ) -> None:
        """Make staged manifests the newest checkpoints of their partitions, all or none, with the list of bulk loads, and with the refused rows
        and the list of history files that came along. Raises WriteFailed."""
        batch = WriteBatch(raw_mode=True)
        for key, value in letters:
            batch.put(b"x" + key, value)
        for partition, manifest in manifests.items():
            batch.put(_manifest_key(partition), _pack_manifest(manifest))
        if loads is not None:
            batch.put(_LOADS_KEY, msgpack.packb(loads))
        if history is not None:
            batch.put(_HISTORY_KEY, msgpack.packb(history))
        with self._writing():
            self._db.write(batch)
            self._db.flush_wal(True)
            failpoint("checkpoint.installed")
            for partition, manifest in manifests.items():
                before = self.manifests.get(partition, Manifest({}))
                self.manifests[partition] = manifest
                self._drop_pages(partition, before, manifest.pages)

    def _put_pages(self, dump: PartitionDump) -> None:
        self._put_all((_page_key(dump.partition, column, page, self._generation), blob) for (column, page), blob in dump.pages.items() if blob)

    def _put_all(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """In small batches, not durable yet. Raises WriteFailed, and what `entries` raises."""
        batch, nbytes = WriteBatch(raw_mode=True), 0
        for key, value in entries:
            batch.put(key, value)
            nbytes += len(value)
            if nbytes >= BATCH_BYTES_MAX:
                self._write_paced(batch)
                batch, nbytes = WriteBatch(raw_mode=True), 0
        if len(batch):
            self._write_paced(batch)

    def _read_back(self, dump: PartitionDump, kept: dict[tuple[str, int], tuple[int, int]]) -> None:
        """Raise unless every page that was written reads as it was: the pages it replaces are deleted next."""
        for column, page in [place for place, blob in dump.pages.items() if blob]:
            started = time.perf_counter()
            generation, checksum = kept[column, page]
            blob = self._db.get(_page_key(dump.partition, column, page, generation))
            if blob is None or xxhash.xxh3_64_intdigest(blob) != checksum:
                raise CheckpointCorrupt(dump.partition, f"page {page} of {column} does not read as it was written")
            if self.is_paced:
                time.sleep((time.perf_counter() - started) * self.pace)

    def _write_paced(self, batch: WriteBatch) -> None:
        started = time.perf_counter()
        self._write(batch)
        if self.is_paced:
            time.sleep(min((time.perf_counter() - started) * self.pace, 0.05))

    def _drop_pages(self, partition: int, before: Manifest, kept: dict[tuple[str, int], tuple[int, int]]) -> None:
        batch, count = WriteBatch(raw_mode=True), 0
        for (column, page), (generation, _) in before.pages.items():
            if kept.get((column, page), (0, 0))[0] != generation:
                batch.delete(_page_key(partition, column, page, generation))
                count += 1
        if count:
            self._write(batch)

    def drop(self, partitions: list[int]) -> None:
        """Forget the checkpoints of partitions: their manifests durably, then their pages. Raises WriteFailed."""
        gone = {partition: self.manifests.pop(partition) for partition in partitions if partition in self.manifests}
        if not gone:
            return
        batch = WriteBatch(raw_mode=True)
        for partition in gone:
            batch.delete(_manifest_key(partition))
        self._write_durably(batch)
        for partition, manifest in gone.items():
            self._drop_pages(partition, manifest, {})

    def put_shard_state(self, state: dict[str, Any]) -> None:
        """Facts of the whole shard (dictionary sizes, event ids). Call before the manifests that rely on it."""
        self._put_durably(_SHARD_KEY, msgpack.packb(state))
        failpoint("checkpoint.shard_put")

    def _put_durably(self, key: bytes, value: bytes) -> None:
        """One value, flushed. Raises WriteFailed: what RocksDB holds is then unknown until it is opened again."""
        batch = WriteBatch(raw_mode=True)
        batch.put(key, value)
        self._write_durably(batch)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Writes of RocksDB: what fails is a WriteFailed. Damage that it met in its own files is noted beside them: it takes no write any more, until it is
        made anew (`grid/storage/renewing.py`)."""
        try:
            yield
        except WriteFailed:
            raise  # of one within
        except Exception as error:  # rocksdict raises plain Exception with RocksDB's text
            if _is_damage(error):
                with contextlib.suppress(OSError):
                    replace_file(self._folder.parent / DAMAGE_FILE, str(error).encode())
            raise WriteFailed(str(self._folder), str(error)) from error

    def _write(self, batch: WriteBatch) -> None:
        with self._writing():
            self._db.write(batch)

    def _write_durably(self, batch: WriteBatch) -> None:
        with self._writing():
            self._db.write(batch)
            self._db.flush_wal(True)

    def put_history(self, facts: dict[str, Any]) -> None:
        """Keep the list of history files, durably. Raises WriteFailed."""
        self._put_durably(_HISTORY_KEY, msgpack.packb(facts))
        failpoint("history.listed")

    def put_erased(self, positions: bytes) -> None:
        """Keep up to which position of each partition erasures are done, durably."""
        self._put_durably(_ERASED_KEY, positions)
        failpoint("erase.positions_put")

    def put_void(self, void: list[list[int]]) -> None:
        """Keep which partitions are void before which record of the log, and whether all of theirs is dropped. Durable. Raises WriteFailed."""
        self._put_durably(_VOID_KEY, msgpack.packb(void))

    def note_erased(self, users: list[tuple[int, int]]) -> None:
        """Remember (when, hash of the id) of users whose bytes are gone: snapshots from before must be told of them. Durable."""
        batch = WriteBatch(raw_mode=True)
        for received_ms, id_hash in users:
            batch.put(b"z" + received_ms.to_bytes(8, "big") + id_hash.to_bytes(8, "big"), b"")
        self._write_durably(batch)

    def noted_erased(self) -> list[tuple[int, int]]:
        """What `note_erased` was told, oldest first."""
        return [(int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:], "big")) for key in self._keys(b"z")]

    def link_to(self, folder: Path) -> None:
        """A copy of the whole database as it is now, by hard links; milliseconds. `folder` must not exist. Raises WriteFailed."""
        try:
            Checkpoint(self._db).create_checkpoint(str(folder))
        except Exception as error:
            raise WriteFailed(str(folder), str(error)) from error

    def compact(self) -> None:
        """Rewrite every file, so that replaced and deleted pages are gone from the disk. Releases the GIL. Raises WriteFailed."""
        failpoint("compact.before")
        with self._writing():
            self._db.flush()
            self._db.compact_range(None, None)
        self._put_durably(_FORMAT_KEY, str(FORMAT).encode())  # only a later write fails when the compaction did

    def copy_to(self, folder: Path, partitions: int) -> list[str]:
        """Make a new database of all that counts in this one: what no manifest names, and no start reads, stays behind with its damage.

        A page or manifest that cannot be read is left out, so that its partition stops as it would here; of refused and erased rows those that lie
        between damaged blocks. Returns what was left out, in words. Durable. Raises CheckpointCorrupt where no start can do without it, WriteFailed.
        """
        left_out: list[str] = []
        copy = Checkpoints(folder)
        copy.is_paced = False
        try:
            copy._put_all(self._all_that_counts(partitions, left_out))
            copy._write_durably(WriteBatch(raw_mode=True))
        finally:
            copy.close()
        return left_out

    def _all_that_counts(self, partitions: int, left_out: list[str]) -> Iterator[tuple[bytes, bytes]]:
        for key in _LONE_KEYS:
            if (value := self._get(key, -1, f"entry {key.decode()}")) is not None:
                yield key, value
        for prefix in (b"c", b"d"):
            yield from self._entries(prefix, _entry)
        for prefix, what in ((b"x", "refused rows"), (b"z", "who was erased")):
            yield from self._entries_around_damage(prefix, what, left_out)
        for partition, fault in self.load_manifests(partitions).items():
            left_out.append(str(fault))
            yield _manifest_key(partition), b""  # not as if there had been none
        for partition, manifest in self.manifests.items():
            yield _manifest_key(partition), _pack_manifest(manifest)
            for (column, number), (generation, _) in manifest.pages.items():
                try:
                    yield _page_key(partition, column, number, generation), self.page(partition, column, number)
                except CheckpointCorrupt as error:
                    left_out.append(str(error))

    def _entries_around_damage(self, prefix: bytes, what: str, left_out: list[str]) -> Iterator[tuple[bytes, bytes]]:
        """What lies before the first damaged block, and behind the last."""
        last = b""
        try:
            for last, value in self._entries(prefix, _entry):
                yield last, value
        except CheckpointCorrupt as error:
            left_out.append(f"{what}, some: {error}")
            with contextlib.suppress(Exception):  # the damage, from behind
                for key, value in self._entries_backwards(prefix):
                    if key <= last:
                        return
                    yield key, value

    def _entries_backwards(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries under a prefix of at most 32 bytes more, the last first."""
        iterator = self._db.iter()
        iterator.seek_for_prev(prefix + b"\xff" * 32)
        while iterator.valid() and bytes(iterator.key()).startswith(prefix):
            yield _entry(iterator)
            iterator.prev()
        iterator.status()

    def put_words(self, key: str, first_code: int, data: bytes, ends: bytes) -> None:
        """Append words to a dictionary; durable with the next shard state. Raises WriteFailed."""
        for_key = b"d" + key.encode() + b"\0" + first_code.to_bytes(8, "big")
        with self._writing():
            self._db[for_key] = msgpack.packb([data, ends, xxhash.xxh3_64_intdigest(data)])

    def put_catalog(self, version: int, source: str) -> None:
        """Keep a catalog durably: the log refers to it by version."""
        self._put_durably(b"c" + version.to_bytes(8, "big"), source.encode())

    # --- reading (recovery) -----------------------------------------------------------------------------------------------

    def load_manifests(self, partitions: int) -> dict[int, CheckpointCorrupt]:
        """Read every partition's newest manifest into `manifests`. Returns what is wrong, by partition."""
        faults = {}
        for partition in range(partitions):
            try:
                raw = self._get(_manifest_key(partition), partition, "its manifest")
                if raw is not None:
                    self.manifests[partition] = _unpack_manifest(partition, raw)
            except CheckpointCorrupt as error:
                faults[partition] = error
        generations = [generation for manifest in self.manifests.values() for generation, _ in manifest.pages.values()]
        self._generation = max(generations, default=0) + 1
        return faults

    def _get(self, key: bytes, partition: int, what: str) -> bytes | None:
        """A value, or None. Raises CheckpointCorrupt where RocksDB finds damage."""
        try:
            raw = self._db.get(key)
        except Exception as error:  # rocksdict raises plain Exception with RocksDB's text, which names the file
            raise CheckpointCorrupt(partition, f"{what}: {error}") from error
        return None if raw is None else bytes(raw)

    def page(self, partition: int, column: str, number: int) -> bytes:
        """A page of the newest checkpoint, verified; empty when it has none. Raises CheckpointCorrupt."""
        version = self.manifests[partition].pages.get((column, number))
        return b"" if version is None else self._page_of(partition, column, number, version)

    def _page_of(self, partition: int, column: str, number: int, version: tuple[int, int]) -> bytes:
        blob = self._get(_page_key(partition, column, number, version[0]), partition, f"page {number} of {column}")
        if blob is None or xxhash.xxh3_64_intdigest(blob) != version[1]:
            raise CheckpointCorrupt(partition, f"page {number} of {column} {'is missing' if blob is None else 'does not match its checksum'}")
        return blob

    def read_from_disk(self) -> None:
        """Let what is read next come from the disk, not from what the system keeps of it in memory."""
        for path in self._folder.glob("*.sst"):
            forget_cached(path)

    def damaged_pages(self, partition: int) -> list[tuple[str, int, str]]:
        """(column, page, why) of each page of the newest checkpoint that does not read as it was written. In a thread, which takes 5 % of the time."""
        found = []
        for (column, number), version in self.manifests.get(partition, Manifest({})).pages.items():
            started = time.perf_counter()
            try:
                self._page_of(partition, column, number, version)
            except CheckpointCorrupt as error:
                if self.manifests.get(partition, Manifest({})).pages.get((column, number)) == version:  # else it was replaced meanwhile
                    found.append((column, number, str(error)))
            if self.is_paced:
                time.sleep((time.perf_counter() - started) * PACE)
        return found

    def shard_state(self) -> dict[str, Any]:
        """What `put_shard_state` kept last; empty on a new folder."""
        raw = self._get(_SHARD_KEY, -1, "facts of the shard")
        return {} if raw is None else msgpack.unpackb(raw, strict_map_key=False)

    def history(self) -> dict[str, Any]:
        """What `put_history` kept last; empty on a new folder."""
        raw = self._get(_HISTORY_KEY, -1, "list of history files")
        return {} if raw is None else msgpack.unpackb(raw)

    def loads(self) -> dict[str, int]:
        """Bulk loads that are done: users by the load's id."""
        raw = self._get(_LOADS_KEY, -1, "list of loads")
        return {} if raw is None else msgpack.unpackb(raw)

    def void(self) -> list[list[int]]:
        """What `put_void` kept last."""
        raw = self._get(_VOID_KEY, -1, "void partitions")
        return [] if raw is None else msgpack.unpackb(raw)

    def erased(self) -> bytes:
        """What `put_erased` kept last."""
        return self._get(_ERASED_KEY, -1, "positions of erasures") or b""

    def words(self) -> Iterator[tuple[str, int, bytes, bytes]]:
        """(dictionary key, first code, data, ends) in code order within a dictionary."""
        for key, value in self._scan(b"d"):
            name, _, code = key[1:].partition(b"\0")
            data, ends, checksum = msgpack.unpackb(value)
            if xxhash.xxh3_64_intdigest(data) != checksum:
                raise CheckpointCorrupt(-1, f"dictionary {name.decode()} does not match its checksum")
            yield name.decode(), int.from_bytes(code, "big"), data, ends

    def catalogs(self) -> dict[int, str]:
        """Source of every catalog by version."""
        return {int.from_bytes(key[1:], "big"): value.decode() for key, value in self._scan(b"c")}

    def _scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return list(self._entries(prefix, _entry))

    def _keys(self, prefix: bytes) -> list[bytes]:
        return list(self._entries(prefix, lambda iterator: bytes(iterator.key())))

    def _entries(self, prefix: bytes, of: Callable[[Any], Entry]) -> Iterator[Entry]:
        """What `of` takes from each entry under a prefix. Raises CheckpointCorrupt: an iterator stops silently, only `status` tells why."""
        try:
            iterator = self._db.iter()
            iterator.seek(prefix)
            while iterator.valid() and bytes(iterator.key()).startswith(prefix):
                yield of(iterator)
                iterator.next()
            iterator.status()
        except Exception as error:
            raise CheckpointCorrupt(-1, f"entries {prefix.decode()}: {error}") from error

    def put_dead_letters(self, letters: list[tuple[bytes, bytes]], sequence: int) -> None:
        """Keep the refused rows of log record `sequence` under their (time, sequence, row) keys, and that they are kept."""
        batch = WriteBatch(raw_mode=True)
        for key, value in letters:
            batch.put(b"x" + key, value)
        batch.put(_LETTERS_KEY, sequence.to_bytes(8, "big"))
        self._write(batch)

    def all_letters(self) -> list[tuple[bytes, bytes]]:
        """(key, letter) of every refused row."""
        return [(key[1:], value) for key, value in self._scan(b"x")]

    def dead_letters_through(self) -> int:
        """The last log record whose refused rows were kept."""
        return int.from_bytes(self._get(_LETTERS_KEY, -1, "position of dead letters") or b"", "big")

    def trim_dead_letters(self, *, before_ms: int, count_max: int) -> int:
        """Drop refused rows from before a time, and the oldest beyond a count. Returns how many are left."""
        oldest_first = self._keys(b"x")
        young = [key for key in oldest_first if int.from_bytes(key[1:9], "big") >= before_ms]
        kept = young[-count_max:] if count_max else []
        batch = WriteBatch(raw_mode=True)
        for key in oldest_first[: len(oldest_first) - len(kept)]:
            batch.delete(key)
        if len(kept) < len(oldest_first):
            self._write(batch)
        return len(kept)

    def dead_letters_of(self, reason: str) -> list[tuple[bytes, dict[str, Any]]]:
        """(key, letter) of every refused row of a reason (empty: all), oldest first."""
        found = [(key, msgpack.unpackb(value)) for key, value in self._scan(b"x")]
        return [(key, letter) for key, letter in found if not reason or letter["reason"] == reason]

    def dead_letters_at(self, keys: list[bytes]) -> list[dict[str, Any]]:
        """The letters of keys."""
        return [msgpack.unpackb(self._db[key]) for key in keys]

    def put_replay_plan(self, number: int, keys: list[bytes]) -> None:
        """What a replay is about to do, durably."""
        self._put_durably(_REPLAY_KEY, msgpack.packb({"number": number, "keys": keys}))

    def replay_plan(self) -> dict[str, Any]:
        """The newest plan; without keys when it is done."""
        raw = self._get(_REPLAY_KEY, -1, "plan of a replay")
        return {} if raw is None else msgpack.unpackb(raw)

    def finish_replay(self, number: int, keys: list[bytes]) -> None:
        """The letters of a plan are acknowledged: delete them and the plan, all or nothing."""
        batch = WriteBatch(raw_mode=True)
        for key in keys:
            batch.delete(key)
        batch.put(_REPLAY_KEY, msgpack.packb({"number": number}))
        self._write_durably(batch)

    def forget_dead_letters(self, is_gone: Callable[[dict[str, Any]], bool]) -> int:
        """Drop the letters of which `is_gone` is true. Returns how many."""
        batch, count = WriteBatch(raw_mode=True), 0
        for key, value in self._scan(b"x"):
            if is_gone(msgpack.unpackb(value)):
                batch.delete(key)
                count += 1
        if count:
            self._write(batch)
        return count

    def dead_letters(self, limit: int) -> list[bytes]:
        """The newest refused rows, newest first."""
        return [value for _, value in itertools.islice(self._entries_backwards(b"x"), limit)]

    def close(self) -> None:
        """Release the folder. What counts was flushed before; after a failed write RocksDB complains once more, and lets go all the same."""
        with contextlib.suppress(Exception):
            self._db.close()


def _is_damage(error: Exception) -> bool:
    """Whether files of RocksDB are damaged, by its own text or by our checksums; else the disk failed for another reason."""
    return isinstance(error, CheckpointCorrupt) or str(error).startswith("Corruption")


def _entry(iterator: Any) -> tuple[bytes, bytes]:
    return bytes(iterator.key()), bytes(iterator.value())


def _manifest_key(partition: int) -> bytes:
    return b"m" + partition.to_bytes(2, "big")


def _page_key(partition: int, column: str, page: int, generation: int) -> bytes:
    return b"p" + partition.to_bytes(2, "big") + column.encode() + b"\0" + page.to_bytes(4, "big") + generation.to_bytes(8, "big")


def _pack_manifest(manifest: Manifest) -> bytes:
    pages = [[column, page, generation, checksum] for (column, page), (generation, checksum) in manifest.pages.items()]
    packed = msgpack.packb([FORMAT, manifest.facts, pages])
    return xxhash.xxh3_64_digest(packed) + packed


def _unpack_manifest(partition: int, raw: bytes) -> Manifest:
    checksum, packed = raw[:8], raw[8:]
    if xxhash.xxh3_64_digest(packed) != checksum:
        raise CheckpointCorrupt(partition, "its manifest does not match its checksum")
    _, facts, pages = msgpack.unpackb(packed, strict_map_key=False)
    return Manifest(facts, {(column, page): (generation, checksum) for column, page, generation, checksum in pages})
