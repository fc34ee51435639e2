"""The map of a grid and the splitting of batches by it: one frame a shard, rows sorted by partition."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from profilegrid.columns import Batch, Strings
from profilegrid.hashing import hash_ids
from profilegrid.v1 import admin_pb2
from profilegrid.v1 import events_pb2 as pb

FRAME_ROWS_MAX = 30_000
FRAME_BYTES_MAX = 8 << 20


@dataclass
class Map:
    """Who owns which partition. owners uint16[P], epochs uint64[P]."""

    version: int
    catalog_version: int
    owners: NDArray[np.uint16]
    epochs: NDArray[np.uint64]
    endpoints: dict[int, str]
    lanes: dict[int, str] = field(default_factory=dict)
    grid_id: str = ""
    lane: str = ""  # the gateway's

    @classmethod
    def of(cls, response: admin_pb2.GetMapResponse) -> Map:
        """From the wire."""
        return cls(
            response.map_version, response.catalog_version, np.frombuffer(response.owners, dtype=np.uint16),
            np.frombuffer(response.epochs, dtype=np.uint64), {shard.id: shard.endpoint for shard in response.shards},
            {shard.id: shard.lane for shard in response.shards}, response.grid_id, response.lane,
        )  # fmt: skip

    @cached_property
    def partitions(self) -> int:
        """P, fixed when a grid is created."""
        return int(self.owners.size)

    @cached_property
    def holding(self) -> list[int]:
        """The shards that own something."""
        return np.unique(self.owners).tolist()  # type: ignore[no-any-return]

    @cached_property
    def serving(self) -> frozenset[str]:
        """Lanes of the gateway and of those shards."""
        return frozenset((self.lane, *(self.lanes.get(shard, "") for shard in self.holding)))

    @cached_property
    def rank(self) -> NDArray[np.uint16]:
        """uint16[P]: each partition's place when they are sorted by owner. numpy sorts 16 bits by radix."""
        rank = np.empty(self.partitions, dtype=np.uint16)
        rank[np.lexsort((np.arange(self.partitions), self.owners))] = np.arange(self.partitions)
        return rank

    @cached_property
    def owner_list(self) -> list[int]:
        """`owners`, where one is looked up at a time."""
        return self.owners.tolist()

    @cached_property
    def epoch_list(self) -> list[int]:
        """`epochs`, likewise."""
        return self.epochs.tolist()

    def shard_of(self, raw_id: bytes) -> int:
        """The owner of one user."""
        return self.owner_list[xxhash.xxh3_64_intdigest(raw_id) % self.partitions]


def partitions_of(ids: Strings, partitions: int) -> NDArray[np.uint16]:
    """uint16[n]: xxh3_64(id) mod P."""
    return (hash_ids(ids) % np.uint64(partitions)).astype(np.uint16)


@dataclass(slots=True)
class Parcel:
    """Rows of a batch for one shard: their numbers in the batch, in the order of the frame."""

    shard: int
    rows: NDArray[np.int64]
    frame: pb.Frame


def split(batch: Batch, partitions: NDArray[np.uint16], rows: NDArray[np.int64], map_: Map) -> list[Parcel]:
    """Parcels of some rows of a batch (all of them, or those not acknowledged yet). `partitions` is of the whole batch.

    Rows keep their order within a partition, whoever splits them: a verdict counts rows from the start of their block.
    """
    of_rows = partitions[rows]
    order = np.argsort(map_.rank[of_rows], kind="stable")
    rows, of_rows = rows[order], of_rows[order]
    shards = map_.owners[of_rows]
    parcels = []
    for first, last in _runs(shards):
        parcels.append(Parcel(int(shards[first]), rows[first:last], frame_of(batch, rows[first:last], of_rows[first:last], map_)))
    return parcels


def _runs(values: NDArray[Any]) -> list[tuple[int, int]]:
    """(first, last) of each run of equal neighbours."""
    if not values.size:
        return []
    starts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()]
    return list(zip(starts, [*starts[1:], int(values.size)], strict=True))


def frame_of(batch: Batch, rows: NDArray[np.int64], partitions: NDArray[np.uint16], map_: Map) -> pb.Frame:
    """The frame of rows that are sorted by partition."""
    runs = np.array(_runs(partitions), dtype=np.int64).reshape(-1, 2)
    numbers, counts = partitions[runs[:, 0]], runs[:, 1] - runs[:, 0]
    ids = batch.ids.take(rows)
    frame = pb.Frame(
        kind=batch.kind,  # type: ignore[arg-type]
        catalog_version=map_.catalog_version,
        partitions=numbers.astype(np.uint16).tobytes(),
        partition_rows=counts.astype(np.uint32).tobytes(),
        epochs=map_.epochs[numbers].tobytes(),
        user_id_data=ids.data.tobytes(),
        user_id_ends=ids.ends.tobytes(),
        columns=[column.take(rows) for column in batch.columns],
    )
    if batch.kind == pb.FRAME_KIND_EVENTS:
        frame.times_ms = batch.times[rows].tobytes()
        frame.event_names.extend(batch.event_names)
        frame.events = batch.events[rows].tobytes()
        if batch.event_ids is not None:
            event_ids = batch.event_ids.take(rows)
            frame.event_id_data, frame.event_id_ends = event_ids.data.tobytes(), event_ids.ends.tobytes()
    return frame


def chunks(batch: Batch) -> list[NDArray[np.int64]]:
    """Row numbers of a batch in pieces that make frames of a bearable size, in order."""
    per_row = 24 + batch.ids.data.size / max(batch.rows, 1) + sum(8 + _bytes_a_row(column) for column in batch.columns)
    rows = max(1, min(FRAME_ROWS_MAX, int(FRAME_BYTES_MAX / per_row)))
    return [np.arange(first, min(first + rows, batch.rows)) for first in range(0, batch.rows, rows)]


def _bytes_a_row(column: Any) -> float:
    words = column.words.data.size if column.words is not None else 0
    return float(words / max(column.values.size, 1))
