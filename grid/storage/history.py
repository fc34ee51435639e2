"""A shard's accepted past events: immutable Arrow IPC files, one per partition and range of log positions.

    closed log segment --drafts--> frames decoded --users resolved (where the engine runs)--> write --> files, then one durable list

A file that the list does not name does not exist. Owns the files and the list (kept in the checkpoints' RocksDB); knows nothing of
columns. Everything here but the list itself runs in threads.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from grid.catalog import Catalog
from grid.errors import HistoryCorrupt
from grid.failpoints import failpoint
from grid.group import Group, Judged
from grid.state.dictionary import Strings
from grid.state.memory import trim_heap
from grid.state.rows import Rows
from grid.storage.checkpoints import PACE, Checkpoints
from grid.storage.files import forget_cached, sync_folder
from grid.storage.log import Record, read_segment
from grid.storage.past import PastEvents, joined_tables, named_by_type, sorted_by_user, tidy
from grid.verdict import Judge, judge_past

DAY_MS = 86_400_000
# Neighbouring files of one partition and day are merged once there are so many, up to that size: each event is written about twice.
MERGE_FILES, MERGED_BYTES_MAX, MERGED_RUNS = 32, 256 << 20, 16
VERIFY_BYTES = 1 << 20
APPLIED_ROWS_MAX, APPLIED_ROWS_MIN = 16 << 20, 256
# Files that are fsynced side by side: 256 of 340 KB take 1.2 s one after another, 0.35 so, as the disk is told of several at once.
PUTS_MAX = 8


def release_memory() -> None:
    """Give back what Arrow and malloc keep after work on a whole segment: as much as the segment several times over. In a thread."""
    pa.default_memory_pool().release_unused()
    trim_heap()


class PastFile(NamedTuple):
    """One file: rows of positions first..last, events from first_ms to last_ms, received up to received_ms. The list has it as it is."""

    partition: int
    name: str
    first_position: int
    last_position: int
    rows: int
    first_ms: int
    last_ms: int
    received_ms: int
    nbytes: int
    checksum: int


@dataclass(slots=True)
class Draft:
    """Accepted rows of one logged frame. `ordinals` int64[rows] is filled in where the engine runs; -1 leaves a row out.

    slots  uint32[rows]: where the rows went when they were applied; None when that was in another life
    sequence  of its record
    """

    judged: Judged
    rows: Rows
    pick: NDArray[np.int64]
    received_ms: int
    slots: NDArray[np.uint32] | None
    sequence: int
    ordinals: NDArray[np.int64] = field(init=False)

    @property
    def partitions(self) -> NDArray[np.uint16]:
        """uint16[rows]."""
        return self.judged.frame.row_partitions[self.pick]

    @property
    def positions(self) -> NDArray[np.uint64]:
        """uint64[rows]: log positions."""
        return np.repeat(self.judged.positions, self.judged.frame.block_rows)[self.pick]

    @property
    def ids(self) -> Strings:
        """The users' ids."""
        return self.judged.frame.ids.take(self.pick)


class AppliedSlots:
    """Where the rows of applied groups went, until their segment is history: looking every id up again would cost 100 ns an event.

    At most 16M rows are kept (64 MB); what is not here is looked up. Small frames' are not kept: their bookkeeping weighs more than their
    rows, and a segment of them lasts for hours. The loop keeps, a thread pops.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[int, list[NDArray[np.uint32] | None]] = {}
        self._rows = 0

    def keep(self, group: Group) -> None:
        """Call when a group of this life is applied."""
        slots = [judged.slots for judged in group.judged if judged.fresh.any()]
        rows = _rows_of(slots)
        with self._lock:
            if rows and rows >= APPLIED_ROWS_MIN * len(slots) and self._rows + rows <= APPLIED_ROWS_MAX:
                self._groups[group.sequence] = slots
                self._rows += rows

    def pop(self, sequence: int, frames: int) -> list[NDArray[np.uint32] | None]:
        """What is known of a logged group's frames, once."""
        with self._lock:
            slots = self._groups.pop(sequence, None)
            if slots is None:
                return [None] * frames
            self._rows -= _rows_of(slots)
            return slots


def _rows_of(slots: list[NDArray[np.uint32] | None]) -> int:
    return sum(part.size for part in slots if part is not None)


class History:
    """The history files of one shard."""

    def __init__(self, folder: Path, checkpoints: Checkpoints) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._checkpoints = folder, checkpoints
        self._committing = threading.Lock()
        kept = checkpoints.history()
        # Invariant: every event of a log record up to `through` that is kept at all is in a file.
        self.through: int = kept.get("through", 0)
        # Events received up to then were dropped by retention.
        self.dropped_ms: int = kept.get("dropped_ms", 0)
        self.files: list[PastFile] = [PastFile(*facts) for facts in kept.get("files", [])]
        self.damaged: list[str] = list(kept.get("damaged", []))
        # Records of the segment that `drafts` was last asked for.
        self.lost: list[Record] = []
        self._summed: list[PastFile] = []
        self._facts: dict[str, Any] = {}
        named = {file.name for file in self.files}
        for path in folder.iterdir():
            if path.name not in named:
                path.unlink()  # a conversion, merge or drop that did not end

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    @property
    def rows(self) -> int:
        """Events of all files."""
        return sum(file.rows for file in self.files)

    # --- making -------------------------------------------------------------------------------------------------------

    def drafts(self, segment: Path, catalogs: Mapping[int, Catalog], slots: AppliedSlots) -> Iterator[Draft]:
        """Accepted events of a closed segment, frame by frame, decoded under the catalog that judged them. Damage is kept in `lost`: what it had is
        in the columns, perhaps, but in no past from now on."""
        self.lost = []
        for record in read_segment(segment):
            if record.fault is not None:
                self.damaged.append(str(record.fault))
                self.lost.append(record)
            elif record.header["kind"] == "group" and record.body is not None:
                group = Group.decode(record.header, record.body, record.sequence)
                applied = slots.pop(record.sequence, len(group.judged))
                for judged, at in zip(group.judged, applied, strict=True):
                    if judged.frame.kind == "events" and judged.accepted.any():
                        rows = judge_past(Judge(judged.frame, keeps_reasons=False), catalogs[group.catalog_version])
                        yield Draft(judged, rows, np.flatnonzero(judged.accepted), group.received_ms, at, record.sequence)

    @staticmethod
    def gather(past: PastEvents, drafts: list[Draft]) -> None:
        """Add drafts to what will be files."""
        for draft in drafts:
            kept = np.flatnonzero(draft.ordinals >= 0)
            users: dict[str, NDArray[Any]] = {
                "partition": draft.partitions[kept], "ordinal": draft.ordinals[kept].astype(np.uint32), "position": draft.positions[kept],
            }  # fmt: skip
            past.add(draft.judged.frame, draft.rows, draft.pick[kept], users)
            past.received_ms = max(past.received_ms, draft.received_ms)
        past.settle()

    def write(self, past: PastEvents, through: int, lost_ms: int = 0) -> None:
        """Make files of a segment's events; all records up to `through` are then in history, but for some that were lost, received up to
        `lost_ms`. Raises OSError: nothing is changed then."""
        made, puts = list[PastFile](), deque[Future[None]]()
        with ThreadPoolExecutor(PUTS_MAX, "history") as pool:
            for partition, table in past.tables():
                file, raw = _file_of(partition, tidy(table, is_joined=False), past.received_ms)
                made.append(file)
                puts.append(pool.submit(self._put, file.name, raw))
                if len(puts) > PUTS_MAX:
                    puts.popleft().result()
            for put in puts:
                put.result()
        failpoint("history.file_written")
        self._commit(made, [], through=through, dropped_ms=lost_ms)

    def _write_file(self, partition: int, table: pa.Table, received_ms: int) -> PastFile:
        """One durable file; the list does not have it yet."""
        file, raw = _file_of(partition, table, received_ms)
        self._put(file.name, raw)
        return file

    def _put(self, name: str, raw: Any) -> None:
        """A file's bytes, fsynced; its name is durable with the list."""
        with open(os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())

    def begin_at(self, received_ms: int) -> None:
        """What came before is not in history and never will be: users loaded in bulk have no events."""
        self._commit([], [], dropped_ms=received_ms)

    def adopt(self, other: History, partitions: list[int]) -> None:
        """Copy the files of some partitions of another shard, verified. Raises HistoryCorrupt."""
        made = [file for file in other.files if file.partition in partitions]
        for file in made:
            other.read(file)
            self._put(file.name, (other._folder / file.name).read_bytes())
        self._commit(made, [], dropped_ms=other.dropped_ms)

    def list_files(self, made: list[PastFile], dropped_ms: int, put: Callable[[dict[str, Any]], None]) -> None:
        """Put files on the list that `receive` took; `put` makes the new list durable, with what must not be there without it."""
        self._commit(made, [], dropped_ms=dropped_ms, put=put)

    def receive(self, file: PastFile, chunk: bytes, *, is_first: bool, is_last: bool) -> None:
        """The next part of a file of another shard; durable and verified with the last. Raises HistoryCorrupt."""
        with (self._folder / file.name).open("wb" if is_first else "ab") as out:
            out.write(chunk)
            if is_last:
                out.flush()
                os.fsync(out.fileno())
        if is_last:
            self.read(file)

    def forget_received(self, names: set[str]) -> None:
        """Remove files that were received, wholly or not, and are not on the list."""
        for name in names - {file.name for file in self.files}:
            (self._folder / name).unlink(missing_ok=True)

    def link_to(self, files: list[PastFile], folder: Path) -> None:
        """The files also in another folder of the disk, so that they stay while someone reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            os.link(self._folder / file.name, folder / file.name)

    def discard(self, partitions: list[int]) -> None:
        """Drop the files of partitions that live elsewhere."""
        gone = [file for file in self.files if file.partition in partitions]
        if gone:
            self._commit([], gone)

    def _commit(
        self, made: list[PastFile], gone: list[PastFile], *, through: int = 0, dropped_ms: int = 0, put: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Put files on the list and take others off, durably; then delete those. Threads may come together here."""
        sync_folder(self._folder)
        with self._committing:
            names = {file.name for file in gone}
            files = [file for file in self.files if file.name not in names] + made
            through, dropped_ms = max(through, self.through), max(dropped_ms, self.dropped_ms)
            put = put or self._checkpoints.put_history
            put({"through": through, "dropped_ms": dropped_ms, "damaged": self.damaged[-16:], "files": files})
            self.files, self.through, self.dropped_ms = files, through, dropped_ms
        for file in gone:
            (self._folder / file.name).unlink(missing_ok=True)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, file: PastFile) -> pa.Table:
        """A file's rows, mapped into memory, verified. Raises HistoryCorrupt."""
        path = self._folder / file.name
        try:
            source = pa.memory_map(str(path))
            if xxhash.xxh3_64_intdigest(source.read_buffer()) != file.checksum:
                raise HistoryCorrupt(str(path), "the file does not match its checksum", file.partition)
            source.seek(0)
            return pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise HistoryCorrupt(str(path), str(error), file.partition) from error

    def damaged_files(self) -> list[HistoryCorrupt]:
        """What is wrong with files of the list, each read from the disk. In a thread, which takes 5 % of the time."""
        found = []
        for file in self.files:
            path, checksum = self._folder / file.name, xxhash.xxh3_64()
            forget_cached(path)
            try:
                with path.open("rb") as raw:
                    while chunk := raw.read(VERIFY_BYTES):
                        started = time.perf_counter()
                        checksum.update(chunk)
                        time.sleep((time.perf_counter() - started) * PACE)
                what = "" if checksum.intdigest() == file.checksum else "the file does not match its checksum"
            except OSError as error:
                what = str(error)
            if what and file in self.files:  # else it was merged or dropped meanwhile
                found.append(HistoryCorrupt(str(path), what, file.partition))
        return found

    def of_partition(self, partition: int) -> list[PastFile]:
        """A partition's files, oldest positions first."""
        return sorted((file for file in self.files if file.partition == partition), key=lambda file: file.first_position)

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def merge(self) -> int:
        """Join small neighbours of one partition and day, some runs a call: each makes the list anew. Returns how many files were joined; 0: nothing to do."""
        due = itertools.islice((run for run in self._runs() if len(run) >= MERGE_FILES), MERGED_RUNS)
        made, gone = [], list[PastFile]()
        for run in due:
            joined = sorted_by_user(joined_tables([named_by_type(self.read(file)) for file in run]))
            made.append(self._write_file(run[0].partition, tidy(joined, is_joined=True), max(file.received_ms for file in run)))
            gone += run
        if made:
            self._commit(made, gone)
            failpoint("merge.listed")
        return len(gone)

    def _runs(self) -> Iterator[list[PastFile]]:
        """Neighbouring files whose positions follow each other, of one partition and day, together not too large."""
        run: list[PastFile] = []
        nbytes = 0
        for file in sorted(self.files, key=lambda file: (file.partition, file.first_position)):
            is_next = run and (run[0].partition, run[0].received_ms // DAY_MS) == (file.partition, file.received_ms // DAY_MS)
            if not is_next or nbytes + file.nbytes > MERGED_BYTES_MAX:
                yield run
                run, nbytes = [], 0
            run.append(file)
            nbytes += file.nbytes
        yield run

    def drop_old(self, before_ms: int, nbytes_max: int) -> int:
        """Drop files that were received before a time, and the oldest beyond a size. Returns how many."""
        excess = self.nbytes - nbytes_max
        dropped = []
        for file in sorted(self.files, key=lambda file: file.received_ms):
            if file.received_ms < before_ms or excess > 0:
                dropped.append(file)
                excess -= file.nbytes
        if dropped:
            self._commit([], dropped, dropped_ms=max(file.received_ms for file in dropped))
        return len(dropped)

    def forget(self, erased: Mapping[int, NDArray[np.uint32]]) -> int:
        """Rewrite the files that have rows of erased users (partition to ordinals) without them. Returns the rows removed."""
        made, gone, removed = [], [], 0
        for file in self.files:
            ordinals = erased.get(file.partition)
            if ordinals is None or not ordinals.size:
                continue
            table = self.read(file)
            is_erased = np.isin(table["@ordinal"].to_numpy(), ordinals)
            if is_erased.any():
                removed += int(is_erased.sum())
                gone.append(file)
                if not is_erased.all():
                    left = tidy(named_by_type(table).filter(pa.array(~is_erased)), is_joined=True)
                    made.append(self._write_file(file.partition, left, file.received_ms))
        if gone:
            self._commit(made, gone)
        return removed

    def status(self) -> dict[str, Any]:
        """Plain facts for people; summed when the list changes, as heartbeats ask four times a second."""
        if self._summed is not self.files:
            first_ms = min((file.first_ms for file in self.files), default=0)
            self._facts = {"files": len(self.files), "rows": self.rows, "bytes": self.nbytes, "first_ms": first_ms}
            self._summed = self.files
        return self._facts


def _file_of(partition: int, table: pa.Table, received_ms: int) -> tuple[PastFile, pa.Buffer]:
    """What the list has of a file, and its bytes."""
    positions, times = table["@position"].to_numpy(), table["@time"].cast(pa.int64()).to_numpy()
    first, last = int(positions.min()), int(positions.max())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    raw = sink.getvalue()
    checksum = xxhash.xxh3_64_intdigest(raw)
    name = f"p{partition:05d}-{first:012d}-{last:012d}-{checksum & 0xFFFFFFFF:08x}.arrow"
    return PastFile(partition, name, first, last, table.num_rows, int(times.min()), int(times.max()), received_ms, raw.size, checksum), raw
