"""An engine and its folder: what was acknowledged is in the log, what the log need not replay is in checkpoints.

folder/OWNER   the lock of the process that serves it
folder/log/    segments of groups
folder/history/  accepted past events, by partition
folder/NOTED   partitions that are to be copied anew, as something of theirs is damaged
folder/rocks/  checkpoints, dictionaries, catalogs, dead letters, the list of history files
folder/DAMAGED what RocksDB found damaged in its own files; it is made anew at the next start
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from grid.catalog import Catalog, load_catalog
from grid.engine import Engine, FeatureState
from grid.errors import CheckpointCorrupt, LogCorrupt
from grid.failpoints import failpoint
from grid.group import FORMAT, Group, reserved_words, touched_positions
from grid.held import Held
from grid.kernels.marks import TOUCHED, UNSAVED, UNSEEN
from grid.state.dictionary import Dictionary, Strings
from grid.state.memory import PAGE_ROWS
from grid.storage.checkpoints import ARRIVAL_PACE, PACE, Checkpoints, Manifest, PartitionDump
from grid.storage.copying import PartitionCopy
from grid.storage.files import own, replace_file
from grid.storage.history import AppliedSlots, Draft, History, PastFile
from grid.storage.letters import dead_letter
from grid.storage.log import SEGMENT_BYTES, Log, Record, read_segment
from grid.storage.past import PastEvents
from grid.storage.renewing import ROCKS_FOLDER, renew_damaged

DEAD_LETTERS_MAX, DEAD_LETTERS_MS = 1_000_000, 7 * 86_400_000
DRAFTS_MAX, DRAFT_ROWS_MAX = 500, 200_000
NOTED_FILE = "NOTED"
# Of a refused row's key: time, record, frame, row. One that came from another shard has two more.
LETTER_KEY_BYTES = 22
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Recovery:
    """What a start found: users, groups replayed on top of checkpoints, seconds, partitions that are stopped and why."""

    users: int = 0
    groups: int = 0
    seconds: float = 0.0
    stopped: dict[int, str] = field(default_factory=dict)
    # What was given up, in words, when the loss was accepted.
    lost: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


class Store:
    """The durable side of an engine. `append` and `write` run in threads; all else where the engine runs."""

    def __init__(self, folder: Path, engine: Engine, *, keep_log: bool = False, segment_bytes: int = SEGMENT_BYTES, owner_timeout_s: float = 30.0) -> None:
        self.folder, self.engine, self.keep_log = folder, engine, keep_log
        self._owner = own(folder, timeout_s=owner_timeout_s)
        try:
            # What could not be read of a damaged RocksDB that was made anew, in words.
            self.left_out = renew_damaged(folder, engine.partitions)
            self.checkpoints = Checkpoints(folder / ROCKS_FOLDER)
            self.log = Log(folder / "log", segment_bytes)
            self.history = History(folder / "history", self.checkpoints)
        except BaseException:
            os.close(self._owner)  # whoever tries again in this process must get the lock
            raise
        self.applied = AppliedSlots()
        self.held = Held(engine.partitions)
        self._void_kept: list[list[int]] = []
        self._keeping_void = threading.Lock()
        self._words_kept: dict[str, int] = {}
        self._words_covered = 0  # the last record whose words are all among those
        self._covered: dict[int, int] = {}
        self._complete_since: dict[str, int] = {}
        self._letters_through = 0
        self._accept_loss = False

    # --- groups ---------------------------------------------------------------------------------------------------------

    def append(self, group: Group, *, is_durable: bool) -> None:
        """Write a group to the log (fsynced when durable). In a thread. Raises WriteFailed."""
        header, body = group.encode()
        group.sequence = self.log.append(header, body, is_durable=is_durable)

    def append_catalog(self, catalog: Catalog, received_ms: int) -> int:
        """Log that every owned partition goes over to `catalog`; its source is durable first."""
        # Positions of partitions with several copies count what all copies agree on; each has the catalog by itself.
        engine, kept = self.engine, self.engine.kept & ~self.engine.copied
        self.checkpoints.put_catalog(catalog.version, catalog.source)
        failpoint("catalog.put")
        engine.reserved[kept] += np.uint64(1)
        header = {
            "format": FORMAT, "kind": "catalog", "received_ms": received_ms, "version": catalog.version,
            # Of copies nothing: what is held when a recovery comes here would pass for applied.
            "positions": np.where(engine.copied, np.uint64(0), engine.reserved).tobytes(), "reserved": [], "items": [],
        }  # fmt: skip
        sequence = self.log.append(header, [])
        failpoint("catalog.logged")
        engine.positions[kept] = engine.reserved[kept]
        return sequence

    # --- checkpoints ----------------------------------------------------------------------------------------------------

    def dump_partition(self, partition: int) -> PartitionDump:
        """Copy what changed in a partition since its last checkpoint, all at once. Call between groups."""
        copy = self.begin_copy(partition)
        while copy.copy_next():
            pass
        self.engine.copying = None
        return copy.dump

    def begin_copy(self, partition: int, *, is_whole: bool = False) -> PartitionCopy:
        """Mark what changed in a partition since its last checkpoint, or all of it. Call between groups, when nothing is between log and columns;
        the engine copies marked pages before it touches them, until the caller has copied all and sets `engine.copying` to None."""
        engine = self.engine
        waiting: dict[int, tuple[int, list[tuple[str, Any]]]] = {}
        columns_by_key = self._columns()
        keys = [key for key, _ in columns_by_key]
        known = self.checkpoints.manifests.get(partition)
        # A column that came after the last checkpoint is new to the disk, dirty or not.
        old = set() if known is None else {key for key in keys if self._is_in(known, key)}
        for number, page in enumerate(engine.users.pages_of(partition).tolist()):
            changed = [(key, columns) for key, columns in columns_by_key if is_whole or columns.dirty[page] & UNSAVED or key not in old]
            for _, columns in changed if not is_whole else ():
                columns.dirty[page] &= UNSEEN
            if changed:
                waiting[page] = (number, changed)
        facts = {
            "position": int(engine.positions[partition]), "columns": keys, "entry_epoch": int(engine.entry_epochs[partition]),
            "sequence": min(self.log.next_sequence - 1, self.held.first_sequence(partition) - 1),
            "next_ordinal": int(engine.users.next_ordinal[partition]), "epoch": int(engine.epochs[partition]),
            "catalog_version": engine.catalog.version, "received_ms": engine.received_ms,
            "producers": engine.producers.dump(partition), "erasures": engine.erasures.dump(partition),
            "newest_ms": engine.users.page_newest_ms[engine.users.pages_of(partition)].tolist(), "floor": int(engine.floors[partition]),
            "event_ids": engine.event_ids.new_of(partition), "cuts": [cut for cut in self.held.cuts if cut[0] == partition],
        }  # fmt: skip
        engine.copying = PartitionCopy(PartitionDump(partition, facts, {}, keys), waiting)
        return engine.copying

    def _is_in(self, manifest: Manifest, key: str) -> bool:
        """Whether a checkpoint has a column: under its key, and not from before it was dropped and declared again."""
        if key not in manifest.facts["columns"]:
            return False
        name = key.split(":")[1] if key.startswith("f:") else ""
        return not name or manifest.facts["catalog_version"] >= self._introduced(name)

    def _columns(self) -> list[tuple[str, Any]]:
        """(key, columns) of all that goes to disk by page. A feature whose past is missing does not: it starts anew."""
        engine = self.engine
        features = [(self._key_of(state), state.columns) for state in engine.features.values() if state.is_whole]
        attributes = [(f"a:{name}:{columns.type}", columns) for name, columns in engine.attributes.items()]
        return [("ids", engine.users), *attributes, *features]

    def _key_of(self, state: FeatureState) -> str:
        return feature_key(state.feature.name, state.feature.identity, self.engine.catalog.timezone)

    def dump_shard(self) -> dict[str, Any]:
        """Facts of the whole shard and words not yet on disk. Call together with the dumps that rely on it."""
        engine, covered = self.engine, self.log.next_sequence - 1
        words = []
        for key, dictionary in engine.dictionaries.items():
            first = self._words_kept.get(key, 0)
            if dictionary.size > first:
                new = dictionary.slice(first, dictionary.size)
                words.append((key, first, new.data.tobytes(), new.ends.astype(np.uint32).tobytes()))
        since = {self._key_of(state): state.complete_since_ms for state in engine.features.values() if state.complete_since_ms}
        state = {
            "received_ms": engine.received_ms, "event_ids": list(engine.event_ids.dump()), "partitions": engine.partitions,
            "complete_since": since, "forgotten_started_ms": engine.producers.forgotten_started_ms, "cuts": self.held.cuts,
            "words_covered": covered,
        }  # fmt: skip
        return {"words": words, "state": state}

    def write_shard(self, dumped: dict[str, Any]) -> None:
        """Write what `dump_shard` copied. In a thread, before the partitions."""
        self.keep_void()
        for key, first, data, ends in dumped["words"]:
            self.checkpoints.put_words(key, first, data, ends)
            # Only now: a write that failed must bring them again, or a later checkpoint would rely on words that no disk has.
            self._words_kept[key] = first + len(ends) // 4
        self.checkpoints.put_shard_state(dumped["state"])
        self._words_covered = dumped["state"]["words_covered"]

    def write_partition(self, dump: PartitionDump) -> None:
        """Write a partition's dump. In a thread."""
        self.checkpoints.write(dump)
        self._covered[dump.partition] = int(dump.facts["sequence"])

    def write_load(self, load_id: str, users: int, received_ms: int) -> None:
        """Make users that were loaded in bulk durable: the checkpoints of all partitions at once, with the load's id. In a thread, the
        engine untouched meanwhile. Raises WriteFailed."""
        self.history.begin_at(received_ms)
        self.write_shard(self.dump_shard())
        staged = {}
        for partition in self.kept():
            dump = self.dump_partition(partition)
            staged[partition] = self.checkpoints.stage(dump)
            self._covered[partition] = int(dump.facts["sequence"])
        failpoint("load.staged")
        self.checkpoints.install(staged, loads=self.checkpoints.loads() | {load_id: users})

    def checkpoint_all(self) -> None:
        """Checkpoint every owned partition, here and now: for embedding, tests and a clean stop."""
        self.checkpoints.is_paced = False
        self.write_shard(self.dump_shard())
        for partition in self.kept():
            self.write_partition(self.dump_partition(partition))
        self.checkpoints.is_paced = True

    def settle_loss(self) -> None:
        """After a recovery that accepted losses: checkpoint what is left and begin a new segment, so that the damage is never read again."""
        self.log.roll()
        self.checkpoint_all()
        self._write_noted({})

    def owned(self) -> list[int]:
        """Partitions that this shard owns and that are not stopped."""
        return [p for p in np.flatnonzero(self.engine.epochs).tolist() if p not in self.engine.stopped]

    def kept(self) -> list[int]:
        """As `owned`, with those that are about to be."""
        return [p for p in np.flatnonzero(self.engine.kept).tolist() if p not in self.engine.stopped]

    @property
    def covered_sequence(self) -> int:
        """The last record that every partition's checkpoint covers, and the words kept, which come with the first partition: that may have left, and
        those of the others cover more. All of the log where there is no partition."""
        covered = [self._covered.get(p, 0) for p in self.kept()]
        return min([self._words_covered, *covered]) if covered else self.log.next_sequence - 1

    # --- partitions that come and go ------------------------------------------------------------------------------------

    def forget_slots(self) -> None:
        """Slots of applied rows mean nothing any more, as pages come to others: users of past events are looked up from now on."""
        self.applied = AppliedSlots()

    def columns_by_key(self) -> dict[str, Any]:
        """What goes to disk by page, under its name there."""
        return dict(self._columns())

    def write_arrived(
        self, shard: dict[str, Any], dumps: list[PartitionDump], files: list[PastFile], dropped_ms: int, letters: list[tuple[bytes, bytes]]
    ) -> None:
        """Make partitions that came from another shard durable, all or none: `dumps` as `begin_copy` makes them, their history files already
        put, their refused rows. In a thread. Raises WriteFailed."""
        self.write_shard(shard)
        self.checkpoints.pace = ARRIVAL_PACE
        try:
            staged = {dump.partition: self.checkpoints.stage(dump) for dump in dumps}
        finally:
            self.checkpoints.pace = PACE
        failpoint("move.staged")
        self.history.list_files(files, dropped_ms, lambda listed: self.checkpoints.install(staged, letters=letters, history=listed))
        for dump in dumps:
            self._covered[dump.partition] = int(dump.facts["sequence"])

    def discard(self, partitions: list[int], *, anew: Container[int] = ()) -> None:
        """Remove from the disk what it has of partitions that live elsewhere, or come `anew`: those keep their refused rows. In a thread."""
        self.keep_void()
        self.checkpoints.drop(partitions)
        self.history.discard(partitions)
        if left := {partition for partition in partitions if partition not in anew}:
            self.checkpoints.forget_dead_letters(lambda letter: self.partition_of(letter) in left)
        for partition in partitions:
            self._covered.pop(partition, None)
        self.held.undropped.difference_update(partitions)
        self.keep_void()
        if (noted := self._noted()).keys() & set(partitions):
            self._write_noted({partition: why for partition, why in noted.items() if partition not in partitions})

    def keep_void(self) -> None:
        """Make durable which partitions are void, before anything goes on without what they have. In a thread."""
        held = self.held
        with self._keeping_void:
            void = [[p, int(held.void[p]), p in held.undropped] for p in np.flatnonzero(held.void).tolist()]
            if void != self._void_kept:
                self.checkpoints.put_void(void)
                self._void_kept = void

    def letters_of(self, partitions: list[int], shard: int) -> list[tuple[bytes, bytes]]:
        """(key, letter) of the refused rows of partitions, for another shard. In a thread. Keys count records of our log: `shard` makes them unique."""
        mark = shard.to_bytes(2, "big")
        found = [(key, value) for key, value in self.checkpoints.all_letters() if self.partition_of(msgpack.unpackb(value)) in partitions]
        return [(key + mark if len(key) == LETTER_KEY_BYTES else key, value) for key, value in found]

    def partition_of(self, letter: dict[str, Any]) -> int:
        """The partition of a refused row's user."""
        return xxhash.xxh3_64_intdigest(letter["event"]["user_id"].encode()) % self.engine.partitions

    def foreign(self) -> list[int]:
        """Partitions that the disk has something of, and that are not kept: they moved away, or their move was broken off."""
        kept = set(np.flatnonzero(self.engine.kept).tolist())
        return sorted({*self.checkpoints.manifests, *(file.partition for file in self.history.files), *self.held.undropped} - kept)

    def unwritten_history(self) -> list[tuple[Path, int]]:
        """(segment, its last sequence) of closed segments that are not in history yet, oldest first."""
        first_held = self.held.first_sequence()
        return [(segment, last) for segment, last in self.log.closed() if self.history.through < last < first_held]

    def write_history(self) -> int:
        """Bring every closed segment into history, here and now: for embedding and tests. Returns how many segments."""
        segments = self.unwritten_history()
        for segment, last in segments:
            past = PastEvents()
            for drafts in self.drafts(segment):
                for draft in drafts:
                    self.find_users(draft)
                self.history.gather(past, drafts)
            self.write_past(past, last)
        return len(segments)

    def write_past(self, past: PastEvents, through: int) -> None:
        """Make files of what was gathered of a segment. In a thread. Raises OSError: nothing is changed then."""
        self.keep_void()  # nothing void is in the files, so nothing of it may come back
        # A feature that is backfilled later is not complete before: as when retention has dropped what is older.
        lost = self.history.lost if self.touched_by_lost(through) else []
        lost_ms = max((record.header.get("received_ms", self.engine.received_ms) for record in lost), default=0)
        self.history.write(past, through, lost_ms)

    def touched_by_lost(self, last: int) -> set[int]:
        """Partitions of which damaged records of the segment that ends with record `last` had something that counts, as far as one can tell."""
        # What a copy had that was given up since counts no more.
        kept, touched = [p for p in self.kept() if last >= self.held.void[p]], set[int]()
        for record in self.history.lost:
            if not record.header:
                return set(kept)
            places = touched_positions(record.header) if record.header["kind"] == "group" else []
            touched |= {p for p, position in places if p in kept and position > int(self.engine.floors[p])}
        return touched

    def note_damage(self, partitions: Iterable[int], why: str) -> None:
        """Partitions of which another has a sound copy are not served from this folder any more: from the next start on, until they came anew."""
        self._write_noted(self._noted() | dict.fromkeys(partitions, why))

    def _noted(self) -> dict[int, str]:
        path = self.folder / NOTED_FILE
        return msgpack.unpackb(path.read_bytes(), strict_map_key=False) if path.exists() else {}

    def _write_noted(self, noted: dict[int, str]) -> None:
        replace_file(self.folder / NOTED_FILE, msgpack.packb(noted))

    def write_again(self, partition: int, key: str, number: int) -> None:
        """Let the next checkpoint write a page anew, whose bytes on the disk are damaged."""
        pages, columns = self.engine.users.pages_of(partition), self.columns_by_key().get(key)
        if columns is not None and number < pages.size:
            columns.dirty[pages[number]] |= UNSAVED

    def drafts(self, segment: Path) -> Iterator[list[Draft]]:
        """What a closed segment holds for history, some frames at a time: all of a segment would be 100 MB of objects or arrays. In threads."""
        some, rows = list[Draft](), 0
        for draft in self.history.drafts(segment, self.engine.catalogs, self.applied):
            some.append(draft)
            rows += draft.pick.size
            if len(some) == DRAFTS_MAX or rows >= DRAFT_ROWS_MAX:
                yield some
                some, rows = [], 0
        if some:
            yield some

    def find_users(self, draft: Draft) -> None:
        """Fill in a draft's ordinals. Where the engine runs; all of a closed segment is applied, as the next begins with the group after it."""
        engine = self.engine
        is_ours = engine.kept[draft.partitions] & (draft.positions > engine.floors[draft.partitions])
        is_ours &= ~self.held.is_dead(draft.partitions, draft.positions, draft.sequence)
        known = engine.ordinals_of_past(draft.ids, draft.partitions, draft.positions) if draft.slots is None else engine.ordinals_at(draft.slots)
        draft.ordinals = np.where(is_ours, known, -1)

    def drop_old_segments(self) -> int:
        """Delete closed segments that checkpoints and history cover. Returns how many. None while a partition is stopped: a repair needs them."""
        if self.keep_log or self.engine.stopped:
            return 0
        self.keep_void()
        dropped = 0
        for segment, last in self.log.closed():
            if last > min(self.covered_sequence, self.history.through):
                break
            self.log.remove(segment)
            self.held.forget_cuts(last)
            dropped += 1
        return dropped

    # --- recovery -------------------------------------------------------------------------------------------------------

    def recover(self, progress: Progress = lambda what, done, total: None, *, accept_loss: bool = False, is_all_committed: bool = False) -> Recovery:
        """Bring the engine to the state of everything acknowledged: newest good checkpoints, then the log after them.

        `engine.epochs` says which partitions are owned. Damage stops the partitions it touches, not the shard; or, when the loss is
        accepted, it is left out, told in the report, and the partitions serve what is left: checkpoint them then.
        Of partitions with several copies (`engine.copied`) `held` has afterwards what is not known to be committed, unless all of it is.
        """
        started = time.perf_counter()
        engine, report = self.engine, Recovery()
        catalogs = self.checkpoints.catalogs()
        for version, source in sorted(catalogs.items()):
            engine.catalogs[version] = load_catalog(source, version)
        self._load_shard()
        if catalogs:
            engine.install_catalog(engine.catalogs[max(catalogs)])
        for state in engine.features.values():
            state.complete_since_ms = self._complete_since.get(self._key_of(state), 0)
        self._accept_loss = accept_loss
        for partition, fault in self.checkpoints.load_manifests(engine.partitions).items():
            if engine.kept[partition]:  # else it has left, or never was here: its place in a damaged block cannot be read
                self._meet(partition, str(fault), report)
        manifests = self.checkpoints.manifests
        self._drop_void()
        for partition, why in self._noted().items():
            if engine.copied[partition]:
                self._meet(partition, why, report)
        for number, partition in enumerate(self.kept()):
            progress("checkpoints", number, len(self.kept()))
            if partition in manifests:
                self._load_partition(partition, report)
        progress("checkpoints", 1, 1)
        failpoint("recovery.checkpoints")
        self._replay(report, progress)
        # Where there is no other copy (any more) all that is on this disk holds.
        is_certain = engine.kept if is_all_committed else ~engine.copied
        self._apply_held(np.where(is_certain, np.iinfo(np.uint64).max, 0).astype(np.uint64))
        if any(since > self.log.next_sequence for _, _, since in self.held.cuts):  # its own record did not survive: it holds for those that did
            self.held.cuts = [(partition, after, min(since, self.log.next_sequence)) for partition, after, since in self.held.cuts]
            self.write_shard(self.dump_shard())
        failpoint("recovery.replayed")
        self._find_incomplete(report)
        report.users = engine.users.total
        report.stopped = dict(engine.stopped)
        report.seconds = time.perf_counter() - started
        return report

    def _load_shard(self) -> None:
        engine, state = self.engine, self.checkpoints.shard_state()
        if erased := self.checkpoints.erased():
            engine.erasures.finish(np.frombuffer(erased, dtype=np.uint64))
        if not state:
            return
        self._complete_since = state.get("complete_since", {})
        self._words_covered = state.get("words_covered", 1 << 62)  # a checkpoint by a former version says nothing
        self.held.cuts = [tuple(cut) for cut in state.get("cuts", [])]
        engine.received_ms = state["received_ms"]
        engine.producers.forgotten_started_ms = state["forgotten_started_ms"]
        engine.event_ids.load(*state["event_ids"])
        for key, first, data, ends in self.checkpoints.words():
            words = Strings(np.frombuffer(data, dtype=np.uint8), np.frombuffer(ends, dtype=np.uint32))
            dictionary = engine.dictionaries.setdefault(key, Dictionary(1 << 40))
            dictionary.add_at(words, first)
            self._words_kept[key] = dictionary.size

    def _drop_void(self) -> None:
        """What a crash left of partitions that are void goes; the log of those that came since begins behind it."""
        held = self.held
        for partition, sequence, is_undropped in self.checkpoints.void():
            held.void[partition] = sequence
            if is_undropped:
                held.undropped.add(partition)
        if held.undropped:
            self.discard(list(held.undropped), anew=np.flatnonzero(self.engine.copied).tolist())
        for partition in np.flatnonzero(held.void).tolist():
            self._covered[partition] = int(held.void[partition]) - 1

    def _meet(self, partition: int, fault: str, report: Recovery) -> None:
        """Damage of a partition: it stops, or its loss is told."""
        if self._accept_loss:
            report.lost.append(f"partition {partition}: {fault}")
        else:
            self.engine.stopped.setdefault(partition, fault)

    def _pass_over(self, partition: int, through: int) -> None:
        """What a partition lacks up to a position is lost, when that was accepted; what is held before it counts."""
        if self._accept_loss:
            committed = np.zeros(self.engine.partitions, dtype=np.uint64)
            committed[partition] = through
            self._apply_held(committed)
            self.engine.positions[partition] = self.engine.reserved[partition] = through

    def _page(self, partition: int, key: str, number: int, report: Recovery) -> bytes | None:
        """A page of the checkpoint; None when it is damaged and that was accepted. Raises CheckpointCorrupt."""
        try:
            return self.checkpoints.page(partition, key, number)
        except CheckpointCorrupt as error:
            if not self._accept_loss:
                raise
            self._meet(partition, f"{error}; it is empty now", report)
            return None

    def _load_partition(self, partition: int, report: Recovery) -> None:
        engine, facts = self.engine, self.checkpoints.manifests[partition].facts
        next_ordinal = int(facts["next_ordinal"])
        count = -(-next_ordinal // PAGE_ROWS)
        try:
            ids = [self._page(partition, "ids", number, report) for number in range(count)]
            pages = engine.users.load_partition(partition, [blob or bytes(PAGE_ROWS * 2) for blob in ids], next_ordinal)
            engine.users.dirty[[page for page, blob in zip(pages, ids, strict=True) if blob is None]] = TOUCHED
            for key, columns in self._columns()[1:]:
                for number, page in enumerate(pages):
                    # What had the users of lost ids is nobody's.
                    blob = None if ids[number] is None else self._page(partition, key, number, report)
                    if blob:
                        columns.load_page(page, blob)
                        columns.dirty[page] = UNSEEN
                    elif blob is None:  # the next checkpoint replaces it
                        columns.dirty[page] = TOUCHED
        except CheckpointCorrupt as error:
            engine.stopped[partition] = str(error)
            return
        engine.users.page_newest_ms[pages] = facts["newest_ms"]
        engine.load_facts(partition, facts)
        self.held.cuts += [cut for cut in map(tuple, facts.get("cuts", [])) if cut not in self.held.cuts]
        self._covered[partition] = max(self._covered.get(partition, 0), int(facts["sequence"]))

    def _replay(self, report: Recovery, progress: Progress) -> None:
        # A shard that holds nothing reads what is there; what is not was of partitions that have left.
        oldest = self.log.oldest_sequence
        for partition in self.kept() if oldest > 1 else ():
            # A copy whose data went, to be replaced; the others go on behind their own checkpoints.
            if partition not in self.checkpoints.manifests and self._covered.get(partition, 0) < oldest - 1:
                self._meet(partition, f"it has no checkpoint, and {self.folder / 'log'} begins with record {oldest}", report)
                self._covered[partition] = oldest - 1
        start = self.covered_sequence + 1 if self.kept() else oldest
        self._letters_through = self.checkpoints.dead_letters_through()
        total = self.log.bytes_from(start)
        done = 0
        for record in self.log.recover(start, accept_loss=self._accept_loss):
            if record.fault is not None:
                self._stop_touched(record, record.fault, report)
                continue
            self._replay_record(record, report)
            report.groups += 1
            done += len(record.body or b"")
            progress("log", done, total)

    def _replay_record(self, record: Record, report: Recovery) -> None:
        engine, header = self.engine, record.header
        if header["kind"] == "catalog":
            positions = np.where(engine.kept, np.frombuffer(header["positions"], dtype=np.uint64), np.uint64(0))
            engine.positions = np.maximum(engine.positions, positions)
            engine.reserved = np.maximum(engine.reserved, positions)
            return
        assert record.body is not None
        reached: dict[int, int] = {}  # several frames of a group may touch one partition
        entries = header.get("entries", {})
        committed = np.zeros(engine.partitions, dtype=np.uint64)
        for partition, position in touched_positions(header):
            if record.sequence <= self._covered.get(partition, 0):
                continue  # in its pages, or dead
            if partition not in reached:
                if partition in entries:
                    self.held.cut(partition, position - 1, record.sequence)
                committed[partition] = entries[partition][1] if partition in entries else position - 1
            here = reached.get(partition, max(int(engine.positions[partition]), self.held.last(partition)))
            if position > here + 1 and engine.kept[partition] and partition not in engine.stopped:
                missing = f"position {position} follows {here}; groups between are missing"
                self._meet(partition, f"{record.file} at offset {record.offset}: {missing}", report)
                self._pass_over(partition, position - 1)
            reached[partition] = max(here, position)
        if len(self.held):
            self._apply_held(committed)
        group = Group.decode(header, record.body, record.sequence)
        if group.catalog_version not in engine.catalogs:
            missing = f"catalog {group.catalog_version}, which {record.file} at offset {record.offset} refers to, is not in {self.folder / 'rocks'}"
            raise CheckpointCorrupt(-1, missing)
        if entries:
            self._replay_copied(group)
            return
        engine.replay(group)
        if record.sequence > self._letters_through:  # the crash came between the log and the letters; others may have been replayed since
            self.keep_dead_letters(group)

    def _replay_copied(self, group: Group) -> None:
        """A record of partitions that have several copies: what it brings of them is held."""
        engine = self.engine
        engine.learn(group.reserved)
        is_held = np.zeros(engine.partitions, dtype=bool)
        is_held[list(group.entries)] = True
        is_held &= engine.kept
        is_held[[partition for partition in group.entries if group.sequence <= self._covered.get(partition, 0)]] = False
        positions_now = engine.positions.copy()
        alone = group.only(lambda partitions, positions: ~np.isin(partitions, list(group.entries)))
        if alone is not None:
            alone.entries = {}
            engine.replay(alone)
        waiting = group.only(lambda partitions, positions: is_held[partitions] & (positions > positions_now[partitions]))
        if waiting is not None:
            self.held.hold(waiting)

    def _apply_held(self, committed: NDArray[np.uint64]) -> None:
        for group in self.held.take(committed):
            self.engine.replay(group)
            if group.sequence > self._letters_through:
                self.keep_dead_letters(group)

    def _stop_touched(self, record: Record, fault: LogCorrupt, report: Recovery) -> None:
        """Stop the partitions that a damaged record may have changed beyond their checkpoints: all, when its header is gone.

        When the loss is accepted they go on behind it; what a lost header touched shows by the positions that are missing later.
        """
        engine = self.engine
        if record.header:
            for added in reserved_words(record.header):
                engine.dictionaries.setdefault(added.key, Dictionary(1 << 40)).add_at(added.words, added.first_code)
        touched = touched_positions(record.header) if record.header else [(p, 1 << 62) for p in self.kept()]
        for partition, position in touched:
            if engine.kept[partition] and position > int(engine.positions[partition]):
                at = position if position < 1 << 62 else int(engine.positions[partition]) + 1
                self._meet(partition, f"{fault}; position {at}", report)
                if position < 1 << 62:
                    self._pass_over(partition, position)

    def _find_incomplete(self, report: Recovery) -> None:
        """Features whose past is not in the columns: added while events were there, and not yet in every checkpoint."""
        engine = self.engine
        first_version = self._first_logged_version()
        for name, state in engine.features.items():
            key, since = self._key_of(state), self._introduced(name)
            for partition in self.kept():
                manifest = self.checkpoints.manifests.get(partition)
                is_old = manifest is not None and self._is_in(manifest, key)
                if not is_old and (manifest is not None or first_version < since) and int(engine.users.next_ordinal[partition]):
                    report.incomplete.append(name)
                    break
        for name in report.incomplete:
            engine.reset_feature(name)

    def _introduced(self, name: str) -> int:
        """The first catalog version since which the feature is as it is now."""
        engine = self.engine
        identity, since = engine.catalog.features[name].identity, engine.catalog.version
        for version in sorted(engine.catalogs, reverse=True):
            feature = engine.catalogs[version].features.get(name)
            if version > engine.catalog.version:
                continue
            if feature is None or feature.identity != identity:
                break
            since = version
        return since

    def _first_logged_version(self) -> int:
        """The catalog version of the oldest group of rows in the log; a version never reached when there is none."""
        for segment in self.log.segments():
            for record in read_segment(segment):
                if record.fault is None and record.header["kind"] == "group" and record.header["items"]:  # others begin epochs
                    return int(record.header["catalog_version"])
        return 1 << 62

    # --- refused rows -------------------------------------------------------------------------------------------------------

    def keep_dead_letters(self, group: Group) -> int:
        """Keep the refused rows of a group. Returns how many. Not those of partitions that have left, or that brought them along; nor of another
        primary's group, whose shard has them: kept twice they could be replayed twice."""
        letters: list[tuple[bytes, bytes]] = []
        if group.is_adopted and group.entries:
            return 0
        for number, judged in enumerate(group.judged):
            if not judged.rejections:
                continue
            is_ours = self.engine.kept[judged.frame.partitions] & (judged.positions > self.engine.floors[judged.frame.partitions])
            ends = np.cumsum(judged.frame.block_rows, dtype=np.int64)
            for rejection in judged.rejections:
                if not is_ours[np.searchsorted(ends, rejection.row, side="right")]:
                    continue
                key = group.received_ms.to_bytes(8, "big") + group.sequence.to_bytes(8, "big") + number.to_bytes(2, "big") + rejection.row.to_bytes(4, "big")
                letters.append((key, msgpack.packb(dead_letter(group.received_ms, judged.frame, rejection))))
        if letters:
            self.checkpoints.put_dead_letters(letters, group.sequence)
        return len(letters)

    def trim_dead_letters(self, now_ms: int) -> int:
        """Keep dead letters of 7 days, at most 1M, oldest dropped first. Returns how many are kept."""
        return self.checkpoints.trim_dead_letters(before_ms=now_ms - DEAD_LETTERS_MS, count_max=DEAD_LETTERS_MAX)

    def close(self) -> None:
        """Release the folder."""
        self.log.close()
        self.checkpoints.close()
        os.close(self._owner)


def feature_key(name: str, identity: str, timezone: str) -> str:
    """The name of a feature's pages on disk: another definition is another key."""
    return f"f:{name}:{xxhash.xxh3_64_hexdigest((identity + timezone).encode())}"
