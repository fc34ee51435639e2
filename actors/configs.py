"""What controller and shards are told when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field

from grid.storage.log import SEGMENT_BYTES

SHARDS_DEFAULT = 2
CHECKPOINT_EVERY_S = 300.0


@dataclass(frozen=True, slots=True)
class GridConfig:
    """What `up` asks for."""

    folder: str
    shards: int = 0  # 0: as many as it has; 2 for a new grid
    partitions: int = 64
    host: str = "127.0.0.1"
    port: int = 7600
    memory_bytes_max: int = 8 << 30
    keep_log: bool = False
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    segment_bytes: int = SEGMENT_BYTES
    metrics_port: int = 7601
    snapshots_url: str = ""  # where snapshots are made by themselves; empty: nowhere
    snapshots_every_s: float = 86_400.0
    snapshots_keep: int = 7
    replicas: int = 1  # of a new grid
    is_cluster: bool = False  # on a Ray cluster that exists, with shards on its nodes
    shard_resources: dict[str, float] = field(default_factory=lambda: {"CPU": 1.0})  # there: what Ray keeps free for each
    spares: int = 2  # processes ready for shards that die, as many as there are shards at most; none on a cluster
    replace_after_s: float = 600.0  # a shard that is down so long has its copies made again elsewhere


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """What a shard is told when it is made. Survives restarts: Ray gives it again."""

    shard: int
    folder: str
    partitions: int
    host: str = "127.0.0.1"
    memory_bytes_max: int = 8 << 30
    keep_log: bool = False
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    segment_bytes: int = SEGMENT_BYTES
