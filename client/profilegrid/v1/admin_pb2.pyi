from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Layout(_message.Message):
    __slots__ = ("shards", "drained", "sets_drained", "replicas")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    SETS_DRAINED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    shards: int
    drained: _containers.RepeatedScalarFieldContainer[int]
    sets_drained: bool
    replicas: int
    def __init__(self, shards: _Optional[int] = ..., drained: _Optional[_Iterable[int]] = ..., sets_drained: _Optional[bool] = ..., replicas: _Optional[int] = ...) -> None: ...

class PlanLayoutRequest(_message.Message):
    __slots__ = ("layout",)
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    def __init__(self, layout: _Optional[_Union[Layout, _Mapping]] = ...) -> None: ...

class PartitionMove(_message.Message):
    __slots__ = ("partition", "source", "target")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    partition: int
    source: int
    target: int
    def __init__(self, partition: _Optional[int] = ..., source: _Optional[int] = ..., target: _Optional[int] = ...) -> None: ...

class PlanLayoutResponse(_message.Message):
    __slots__ = ("shards", "drained", "moves", "users", "partitions")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    shards: int
    drained: _containers.RepeatedScalarFieldContainer[int]
    moves: _containers.RepeatedCompositeFieldContainer[PartitionMove]
    users: int
    partitions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, shards: _Optional[int] = ..., drained: _Optional[_Iterable[int]] = ..., moves: _Optional[_Iterable[_Union[PartitionMove, _Mapping]]] = ..., users: _Optional[int] = ..., partitions: _Optional[_Iterable[int]] = ...) -> None: ...

class SetLayoutRequest(_message.Message):
    __slots__ = ("layout", "bytes_per_s")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    bytes_per_s: int
    def __init__(self, layout: _Optional[_Union[Layout, _Mapping]] = ..., bytes_per_s: _Optional[int] = ...) -> None: ...

class SetLayoutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KeepLayoutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KeepLayoutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLayoutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLayoutResponse(_message.Message):
    __slots__ = ("shards", "shards_wanted", "drained", "moves_left", "moves_total", "partitions", "source", "target", "phase", "pages_done", "pages_total", "pause_ms_max", "problem", "is_done", "replicas")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_WANTED_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    MOVES_LEFT_FIELD_NUMBER: _ClassVar[int]
    MOVES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PAGES_DONE_FIELD_NUMBER: _ClassVar[int]
    PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAUSE_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    shards: int
    shards_wanted: int
    drained: _containers.RepeatedScalarFieldContainer[int]
    moves_left: int
    moves_total: int
    partitions: _containers.RepeatedScalarFieldContainer[int]
    source: int
    target: int
    phase: str
    pages_done: int
    pages_total: int
    pause_ms_max: float
    problem: str
    is_done: bool
    replicas: int
    def __init__(self, shards: _Optional[int] = ..., shards_wanted: _Optional[int] = ..., drained: _Optional[_Iterable[int]] = ..., moves_left: _Optional[int] = ..., moves_total: _Optional[int] = ..., partitions: _Optional[_Iterable[int]] = ..., source: _Optional[int] = ..., target: _Optional[int] = ..., phase: _Optional[str] = ..., pages_done: _Optional[int] = ..., pages_total: _Optional[int] = ..., pause_ms_max: _Optional[float] = ..., problem: _Optional[str] = ..., is_done: _Optional[bool] = ..., replicas: _Optional[int] = ...) -> None: ...

class ListReplicasRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Replica(_message.Message):
    __slots__ = ("shard", "is_insync", "lag")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    IS_INSYNC_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    shard: int
    is_insync: bool
    lag: int
    def __init__(self, shard: _Optional[int] = ..., is_insync: _Optional[bool] = ..., lag: _Optional[int] = ...) -> None: ...

class ReplicatedPartition(_message.Message):
    __slots__ = ("partition", "epoch", "primary", "replicas")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    epoch: int
    primary: int
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    def __init__(self, partition: _Optional[int] = ..., epoch: _Optional[int] = ..., primary: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ...) -> None: ...

class ListReplicasResponse(_message.Message):
    __slots__ = ("partitions",)
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[ReplicatedPartition]
    def __init__(self, partitions: _Optional[_Iterable[_Union[ReplicatedPartition, _Mapping]]] = ...) -> None: ...

class CompareReplicasRequest(_message.Message):
    __slots__ = ("partition",)
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    partition: int
    def __init__(self, partition: _Optional[int] = ...) -> None: ...

class ComparedColumn(_message.Message):
    __slots__ = ("name", "pages", "differing", "differing_values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    DIFFERING_FIELD_NUMBER: _ClassVar[int]
    DIFFERING_VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    pages: int
    differing: int
    differing_values: int
    def __init__(self, name: _Optional[str] = ..., pages: _Optional[int] = ..., differing: _Optional[int] = ..., differing_values: _Optional[int] = ...) -> None: ...

class CompareReplicasResponse(_message.Message):
    __slots__ = ("partition", "position", "shards", "columns")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    position: int
    shards: _containers.RepeatedScalarFieldContainer[int]
    columns: _containers.RepeatedCompositeFieldContainer[ComparedColumn]
    def __init__(self, partition: _Optional[int] = ..., position: _Optional[int] = ..., shards: _Optional[_Iterable[int]] = ..., columns: _Optional[_Iterable[_Union[ComparedColumn, _Mapping]]] = ...) -> None: ...

class RenewReplicasRequest(_message.Message):
    __slots__ = ("partition",)
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    partition: int
    def __init__(self, partition: _Optional[int] = ...) -> None: ...

class RenewReplicasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateSnapshotRequest(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...

class CreateSnapshotResponse(_message.Message):
    __slots__ = ("bytes_done", "bytes_total", "id", "users", "bytes", "created_ms")
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    bytes_done: int
    bytes_total: int
    id: str
    users: int
    bytes: int
    created_ms: int
    def __init__(self, bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., id: _Optional[str] = ..., users: _Optional[int] = ..., bytes: _Optional[int] = ..., created_ms: _Optional[int] = ...) -> None: ...

class TellErasuresRequest(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...

class TellErasuresResponse(_message.Message):
    __slots__ = ("told",)
    TOLD_FIELD_NUMBER: _ClassVar[int]
    told: int
    def __init__(self, told: _Optional[int] = ...) -> None: ...

class GetMapRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardAddress(_message.Message):
    __slots__ = ("id", "endpoint", "lane")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    id: int
    endpoint: str
    lane: str
    def __init__(self, id: _Optional[int] = ..., endpoint: _Optional[str] = ..., lane: _Optional[str] = ...) -> None: ...

class GetMapResponse(_message.Message):
    __slots__ = ("map_version", "partitions", "catalog_version", "shards", "owners", "epochs", "grid_id", "lane")
    MAP_VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    GRID_ID_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    map_version: int
    partitions: int
    catalog_version: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardAddress]
    owners: bytes
    epochs: bytes
    grid_id: str
    lane: str
    def __init__(self, map_version: _Optional[int] = ..., partitions: _Optional[int] = ..., catalog_version: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardAddress, _Mapping]]] = ..., owners: _Optional[bytes] = ..., epochs: _Optional[bytes] = ..., grid_id: _Optional[str] = ..., lane: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("id", "state", "pid", "endpoint", "partitions", "users", "memory_bytes", "events", "dead_letters", "turn_ms_max", "problems", "recovered_users", "recovered_seconds", "history_events", "history_bytes", "history_first_ms", "segments_behind", "stopped", "metrics", "profiles_read", "queries", "groups", "ack_ms_p50", "ack_ms_p99", "fsync_ms_p50", "fsync_ms_p99", "inbox_bytes", "checkpoint_age_s", "node")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    TURN_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_USERS_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIRST_MS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_BEHIND_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PROFILES_READ_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ACK_MS_P50_FIELD_NUMBER: _ClassVar[int]
    ACK_MS_P99_FIELD_NUMBER: _ClassVar[int]
    FSYNC_MS_P50_FIELD_NUMBER: _ClassVar[int]
    FSYNC_MS_P99_FIELD_NUMBER: _ClassVar[int]
    INBOX_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_AGE_S_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    id: int
    state: str
    pid: int
    endpoint: str
    partitions: int
    users: int
    memory_bytes: int
    events: int
    dead_letters: int
    turn_ms_max: float
    problems: _containers.RepeatedScalarFieldContainer[str]
    recovered_users: int
    recovered_seconds: float
    history_events: int
    history_bytes: int
    history_first_ms: int
    segments_behind: int
    stopped: int
    metrics: str
    profiles_read: int
    queries: int
    groups: int
    ack_ms_p50: float
    ack_ms_p99: float
    fsync_ms_p50: float
    fsync_ms_p99: float
    inbox_bytes: int
    checkpoint_age_s: float
    node: str
    def __init__(self, id: _Optional[int] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., endpoint: _Optional[str] = ..., partitions: _Optional[int] = ..., users: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., events: _Optional[int] = ..., dead_letters: _Optional[int] = ..., turn_ms_max: _Optional[float] = ..., problems: _Optional[_Iterable[str]] = ..., recovered_users: _Optional[int] = ..., recovered_seconds: _Optional[float] = ..., history_events: _Optional[int] = ..., history_bytes: _Optional[int] = ..., history_first_ms: _Optional[int] = ..., segments_behind: _Optional[int] = ..., stopped: _Optional[int] = ..., metrics: _Optional[str] = ..., profiles_read: _Optional[int] = ..., queries: _Optional[int] = ..., groups: _Optional[int] = ..., ack_ms_p50: _Optional[float] = ..., ack_ms_p99: _Optional[float] = ..., fsync_ms_p50: _Optional[float] = ..., fsync_ms_p99: _Optional[float] = ..., inbox_bytes: _Optional[int] = ..., checkpoint_age_s: _Optional[float] = ..., node: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "host", "folder", "is_alive", "shards")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    IS_ALIVE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    host: str
    folder: str
    is_alive: bool
    shards: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., host: _Optional[str] = ..., folder: _Optional[str] = ..., is_alive: _Optional[bool] = ..., shards: _Optional[_Iterable[int]] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("map_version", "catalog_version", "shards", "metrics", "nodes", "problem")
    MAP_VERSION_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    map_version: int
    catalog_version: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    metrics: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    problem: str
    def __init__(self, map_version: _Optional[int] = ..., catalog_version: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., metrics: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., problem: _Optional[str] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckpointResponse(_message.Message):
    __slots__ = ("partitions", "seconds")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    partitions: int
    seconds: float
    def __init__(self, partitions: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("time_ms", "reason", "field", "value", "expected", "event_json")
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    EVENT_JSON_FIELD_NUMBER: _ClassVar[int]
    time_ms: int
    reason: str
    field: str
    value: str
    expected: str
    event_json: str
    def __init__(self, time_ms: _Optional[int] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., expected: _Optional[str] = ..., event_json: _Optional[str] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("letters",)
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    def __init__(self, letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ...) -> None: ...

class ReplayDeadLettersRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ReplayDeadLettersResponse(_message.Message):
    __slots__ = ("replayed", "accepted", "rejected")
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    replayed: int
    accepted: int
    rejected: int
    def __init__(self, replayed: _Optional[int] = ..., accepted: _Optional[int] = ..., rejected: _Optional[int] = ...) -> None: ...

class RepairRequest(_message.Message):
    __slots__ = ("accept_loss",)
    ACCEPT_LOSS_FIELD_NUMBER: _ClassVar[int]
    accept_loss: bool
    def __init__(self, accept_loss: _Optional[bool] = ...) -> None: ...

class Loss(_message.Message):
    __slots__ = ("shard", "what")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    what: str
    def __init__(self, shard: _Optional[int] = ..., what: _Optional[str] = ...) -> None: ...

class RepairResponse(_message.Message):
    __slots__ = ("losses",)
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    losses: _containers.RepeatedCompositeFieldContainer[Loss]
    def __init__(self, losses: _Optional[_Iterable[_Union[Loss, _Mapping]]] = ...) -> None: ...

class LoadStart(_message.Message):
    __slots__ = ("load_id", "as_of_ms")
    LOAD_ID_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    load_id: str
    as_of_ms: int
    def __init__(self, load_id: _Optional[str] = ..., as_of_ms: _Optional[int] = ...) -> None: ...

class LoadUsersRequest(_message.Message):
    __slots__ = ("start", "users", "commit")
    START_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    start: LoadStart
    users: bytes
    commit: bool
    def __init__(self, start: _Optional[_Union[LoadStart, _Mapping]] = ..., users: _Optional[bytes] = ..., commit: _Optional[bool] = ...) -> None: ...

class LoadUsersResponse(_message.Message):
    __slots__ = ("users", "is_done")
    USERS_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    users: int
    is_done: bool
    def __init__(self, users: _Optional[int] = ..., is_done: _Optional[bool] = ...) -> None: ...

class ListErasuresRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Erasure(_message.Message):
    __slots__ = ("user", "erased_ms", "due_ms", "state")
    USER_FIELD_NUMBER: _ClassVar[int]
    ERASED_MS_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    user: int
    erased_ms: int
    due_ms: int
    state: str
    def __init__(self, user: _Optional[int] = ..., erased_ms: _Optional[int] = ..., due_ms: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class ListErasuresResponse(_message.Message):
    __slots__ = ("erasures",)
    ERASURES_FIELD_NUMBER: _ClassVar[int]
    erasures: _containers.RepeatedCompositeFieldContainer[Erasure]
    def __init__(self, erasures: _Optional[_Iterable[_Union[Erasure, _Mapping]]] = ...) -> None: ...

class FinishErasuresRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinishErasuresResponse(_message.Message):
    __slots__ = ("finished", "seconds")
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    finished: int
    seconds: float
    def __init__(self, finished: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...
