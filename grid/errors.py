"""Every error the engine raises, each with a stable reason, its facts, and whether a retry is safe.

GridError
├── CatalogInvalid          the declarations do not hold together; nothing was applied
├── CatalogWouldLose        a change drops state and was not forced
├── FrameInvalid            a frame's columns contradict each other; nothing of it was applied
├── FieldInvalid            a request's field is wrong
├── BitmapInvalid           a bitmap that a client handed in is damaged
├── LoadRefused             a row of a bulk load is wrong; nothing of the load is kept
├── NotEmpty                a bulk load goes into empty partitions only
├── PartitionMoved          another owner, or a newer epoch
├── MoveFailed              partitions could not be moved; they are served where they were
├── NodeGone                the node that has a shard's data is not there
├── NoRoom                  no node has the resources of a new shard
├── SequenceTooOld          below the window of batches that are remembered
├── ProducerExpired         the producer was silent so long that its batches are forgotten
├── MemoryExhausted         the shard's memory bound, or disk space
│   └── Overloaded          the shard's inbox is full
├── FeatureBackfilling      the feature is not complete yet
├── UnknownField            a read names no attribute or feature
├── PartitionUnavailable    the partition's log or pages are damaged
├── ShardRecovering         the log is being replayed
│   └── ShardLoading        users are being loaded in bulk
└── StorageError
    ├── LogCorrupt          a bad group before a valid one
    ├── CheckpointCorrupt   a page or manifest does not match its checksum
    ├── HistoryCorrupt      a history file is missing or does not match its checksum
    ├── DataFolderForeign   another format or another owner
    └── WriteFailed         a write or fsync failed: its outcome is unknown, the shard stops
"""

from __future__ import annotations

from dataclasses import dataclass


class GridError(Exception):
    """Base of the engine's errors. `reason` is stable; `retriable`: the same call may succeed later."""

    reason = "GRID_ERROR"
    retriable = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a catalog: where (path and line, 0 when unknown) and what."""

    path: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.path}: {self.message}"


class CatalogInvalid(GridError):
    """The catalog has faults. Nothing was applied; all faults are listed."""

    reason = "CATALOG_INVALID"

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(str(problem) for problem in self.problems)


class CatalogWouldLose(GridError):
    """The change drops or resets state. Nothing was applied; repeat with force to accept the loss."""

    reason = "CATALOG_WOULD_LOSE"

    def __init__(self, losses: list[str]) -> None:
        super().__init__(losses)
        self.losses = losses

    def __str__(self) -> str:
        return "the change would lose: " + "; ".join(self.losses) + "; repeat with force to accept that"


class FrameInvalid(GridError):
    """A frame contradicts itself: a broken client or a damaged message. Nothing of it was applied."""

    reason = "FRAME_INVALID"

    def __init__(self, field: str, got: str, expected: str) -> None:
        super().__init__(field, got, expected)
        self.field, self.got, self.expected = field, got, expected

    def __str__(self) -> str:
        return f"{self.field}: got {self.got}, expected {self.expected}"


class FieldInvalid(FrameInvalid):
    """A field of a request is wrong. Nothing was applied."""

    reason = "FIELD_INVALID"


class BitmapInvalid(FrameInvalid):
    """A bitmap that a client handed in is no portable 64-bit roaring bitmap of user handles. Nothing was computed."""

    reason = "BITMAP_INVALID"

    def __init__(self, at: int, got: str, expected: str) -> None:
        super().__init__("within", f"{got} at byte {at}", expected)
        self.args = (at, got, expected)
        self.at = at


class LoadRefused(FrameInvalid):
    """A row of a bulk load is wrong. Nothing of the load is kept."""

    reason = "LOAD_REFUSED"

    def __init__(self, field: str, got: str, expected: str, row: int = -1) -> None:
        super().__init__(field, got, expected)
        self.args = (field, got, expected, row)
        self.row = row

    def __str__(self) -> str:
        return super().__str__() if self.row < 0 else f"row {self.row}: {super().__str__()}"


class NotEmpty(GridError):
    """Users can be loaded in bulk only where there are none yet."""

    reason = "NOT_EMPTY"

    def __init__(self, users: int) -> None:
        super().__init__(users)
        self.users = users

    def __str__(self) -> str:
        return f"the shard has {self.users} users or had some; load goes into an empty grid only, ingest takes them beside others"


class PartitionMoved(GridError):
    """Another shard owns the partition, or its epoch rose. Nothing was applied; refresh the map and retry."""

    reason, retriable = "PARTITION_MOVED", True

    def __init__(self, partition: int, epoch_sent: int, epoch_now: int) -> None:
        super().__init__(partition, epoch_sent, epoch_now)
        self.partition, self.epoch_sent, self.epoch_now = partition, epoch_sent, epoch_now

    def __str__(self) -> str:
        now = f"owner is at {self.epoch_now}" if self.epoch_now else "this shard does not own it"
        return f"partition {self.partition} moved: request has epoch {self.epoch_sent}, {now}; refresh the map and retry"


class MoveFailed(GridError):
    """Partitions could not be moved to another shard. Nothing has changed: they are served where they were."""

    reason = "MOVE_FAILED"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the partitions stay where they are: {self.what}"


class NodeGone(GridError):
    """The node that has a shard's data is not in the cluster now."""

    reason = "NODE_GONE"
    retriable = True

    def __init__(self, shard: int, node: str) -> None:
        super().__init__(shard, node)
        self.shard, self.node = shard, node

    def __str__(self) -> str:
        return f"node {self.node}, which has the data of shard {self.shard}, is not in the Ray cluster"


class NoRoom(GridError):
    """No node has the resources that a new shard is to have."""

    reason = "NO_ROOM"

    def __init__(self, shards: int, resources: dict[str, float]) -> None:
        super().__init__(shards, resources)
        self.shards, self.resources = shards, resources

    def __str__(self) -> str:
        return f"the Ray cluster has no room for {self.shards} shards of {self.resources} each; add nodes, or ask for less per shard"


class SequenceTooOld(GridError):
    """The batch number lies below the 64 that are remembered: whether it was applied is no longer known."""

    reason = "SEQUENCE_TOO_OLD"

    def __init__(self, batch: int, highest: int) -> None:
        super().__init__(batch, highest)
        self.batch, self.highest = batch, highest

    def __str__(self) -> str:
        return f"batch {self.batch} is more than 63 below {self.highest}, the producer's highest; keep at most 64 batches in flight"


class ProducerExpired(GridError):
    """The producer began long ago and is not known any more: whether this batch was applied cannot be told. Nothing was applied now."""

    reason = "PRODUCER_EXPIRED"

    def __init__(self, producer: str, started_ms: int) -> None:
        super().__init__(producer, started_ms)
        self.producer, self.started_ms = producer, started_ms

    def __str__(self) -> str:
        return f"producer {self.producer} began at {self.started_ms} and has been silent for more than 7 days; use a new producer for new data"


class MemoryExhausted(GridError):
    """The shard's memory bound or its disk is nearly used up. Nothing was applied; retry after the delay."""

    reason, retriable = "MEMORY_EXHAUSTED", True

    def __init__(self, what: str, used: int, bound: int, delay_ms: int = 1_000) -> None:
        super().__init__(what, used, bound, delay_ms)
        self.what, self.used, self.bound, self.delay_ms = what, used, bound, delay_ms

    def __str__(self) -> str:
        return f"{self.what}: {self.used} used of {self.bound}; retry in {self.delay_ms} ms or add memory"


class Overloaded(MemoryExhausted):
    """The shard's inbox is full. Nothing was applied; retry after the delay."""

    reason = "OVERLOADED"

    def __str__(self) -> str:
        return f"{self.what} is full ({self.used} of {self.bound} bytes); retry in {self.delay_ms} ms"


class FeatureBackfilling(GridError):
    """The feature was added lately and its past is still being read. Retry when `catalog show` says it is complete."""

    reason, retriable = "FEATURE_BACKFILLING", True

    def __init__(self, feature: str, percent: int) -> None:
        super().__init__(feature, percent)
        self.feature, self.percent = feature, percent

    def __str__(self) -> str:
        return f"feature {self.feature} is backfilling ({self.percent} %); rules on it wait until it is complete"


class UnknownField(GridError):
    """The read names neither an attribute nor a feature."""

    reason = "UNKNOWN_FIELD"

    def __init__(self, field: str, suggestion: str = "") -> None:
        super().__init__(field, suggestion)
        self.field, self.suggestion = field, suggestion

    def __str__(self) -> str:
        hint = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        return f"unknown attribute or feature {self.field}{hint}"


class PartitionUnavailable(GridError):
    """The partition's storage is damaged. The others serve; `detail` names file, offset and positions."""

    reason = "PARTITION_UNAVAILABLE"

    def __init__(self, partition: int, detail: str) -> None:
        super().__init__(partition, detail)
        self.partition, self.detail = partition, detail

    def __str__(self) -> str:
        return f"partition {self.partition} is stopped: {self.detail}"


class ShardRecovering(GridError):
    """The shard replays its log. Nothing was applied; retry."""

    reason, retriable = "SHARD_RECOVERING", True

    def __str__(self) -> str:
        return "the shard is recovering; retry"


class ShardLoading(ShardRecovering):
    """Users are being loaded in bulk; nobody else may use the shard meanwhile."""

    reason = "SHARD_LOADING"

    def __str__(self) -> str:
        return "users are being loaded into the shard; retry soon"


class StorageError(GridError):
    """Base of what the disk does to us."""

    reason = "STORAGE_ERROR"


class LogCorrupt(StorageError):
    """A damaged group with valid ones after it. Partitions it may have touched stop."""

    reason = "LOG_CORRUPT"

    def __init__(self, file: str, offset: int, detail: str) -> None:
        super().__init__(file, offset, detail)
        self.file, self.offset, self.detail = file, offset, detail

    def __str__(self) -> str:
        return f"{self.file} is damaged at offset {self.offset}: {self.detail}"


class CheckpointCorrupt(StorageError):
    """A page or manifest does not match its checksum."""

    reason = "CHECKPOINT_CORRUPT"

    def __init__(self, partition: int, what: str) -> None:
        super().__init__(partition, what)
        self.partition, self.what = partition, what

    def __str__(self) -> str:
        return f"checkpoint of partition {self.partition}: {self.what}" if self.partition >= 0 else f"checkpoints of the shard: {self.what}"


class SnapshotCorrupt(StorageError):
    """A file of a snapshot is missing or changed. Restore an older snapshot, or put a copy of the file back."""

    reason = "SNAPSHOT_CORRUPT"

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class SnapshotUnknown(GridError):
    """There is no such snapshot at the URL."""

    reason = "SNAPSHOT_UNKNOWN"

    def __init__(self, url: str, snapshot_id: str, known: list[str]) -> None:
        super().__init__(url, snapshot_id, known)
        self.url, self.snapshot_id, self.known = url, snapshot_id, known

    def __str__(self) -> str:
        there = f"there are {', '.join(self.known[-5:])}" if self.known else "there is none"
        return f"no snapshot {self.snapshot_id or 'at all'} at {self.url}; {there}"


class SnapshotFailed(GridError):
    """A snapshot could not be made. What was stored of it counts for nothing; make another."""

    reason = "SNAPSHOT_FAILED"

    def __init__(self, url: str, what: str) -> None:
        super().__init__(url, what)
        self.url, self.what = url, what

    def __str__(self) -> str:
        return f"no snapshot was made at {self.url}: {self.what}"


class HistoryCorrupt(StorageError):
    """A history file is missing or damaged. Profiles do not depend on it; a backfill that needs it fails."""

    reason = "HISTORY_CORRUPT"

    def __init__(self, file: str, what: str, partition: int = -1) -> None:
        super().__init__(file, what, partition)
        self.file, self.what, self.partition = file, what, partition

    def __str__(self) -> str:
        return f"history file {self.file}: {self.what}"


class DataFolderForeign(StorageError):
    """The data folder is of another format, another grid, or held by a live process."""

    reason = "DATA_FOLDER_FOREIGN"

    def __init__(self, folder: str, detail: str) -> None:
        super().__init__(folder, detail)
        self.folder, self.detail = folder, detail

    def __str__(self) -> str:
        return f"data folder {self.folder}: {self.detail}"


class WriteFailed(StorageError):
    """A write or fsync failed. Its outcome is unknown; the shard stops at once and recovers; an fsync is never retried."""

    reason = "WRITE_FAILED"

    def __init__(self, file: str, detail: str) -> None:
        super().__init__(file, detail)
        self.file, self.detail = file, detail

    def __str__(self) -> str:
        return f"writing {self.file} failed: {self.detail}; the outcome is unknown, the shard recovers"


class InvariantBroken(AssertionError):
    """Our own mistake: a structural rule does not hold."""


def holds(condition: bool, what: str, **facts: object) -> None:
    """Raise InvariantBroken with the facts unless `condition`."""
    if not condition:
        details = ", ".join(f"{name}={value!r}" for name, value in facts.items())
        raise InvariantBroken(f"{what}: {details}")
