"""Counts by the client's own hand: a few shards are asked over their lanes, and what they say is added up.

Two messages fewer than by the gateway, which asks the same of the same shards: it stays the way where there are many, and when this one fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilegrid.columns import now_ms
from profilegrid.connections import Connections
from profilegrid.errors import Unavailable
from profilegrid.lanes import EVALUATE
from profilegrid.routes import Map
from profilegrid.v1 import segments_pb2, shard_pb2

# By the gateway a client has one message whatever the grid's size.
SHARDS_MAX = 4
_NOT_SAID_OF_NOW = "AS_OF_EARLY"


async def counted_by_shards(connections: Connections, map_: Map, rule: str, as_of_ms: int | None, timeout_s: float) -> segments_pb2.CountResponse | None:
    """What the gateway would answer; None where it is to be asked: more shards, or one that is down.

    As of the client's now without `as_of_ms`, as reads are. Raises what a shard refuses with, Unavailable when one or a partition goes away.
    """
    lanes = [map_.lanes.get(shard, "") for shard in map_.holding]
    if len(lanes) > SHARDS_MAX or not all(lanes):
        return None
    started, moment = time.perf_counter(), now_ms() if as_of_ms is None else as_of_ms
    request = shard_pb2.EvaluateRequest(rule=rule, as_of_ms=moment, mode=shard_pb2.EVALUATE_MODE_COUNT, last_partition=map_.partitions - 1)
    asked = request.SerializeToString()
    answers = await asyncio.gather(*(connections.lane(lane, timeout_s).ask(EVALUATE, asked) for lane in lanes))
    parts = [shard_pb2.EvaluateResponse.FromString(answer) for answer in answers]
    check_whole(np.frombuffer(b"".join(part.partitions for part in parts), dtype=np.uint16), 0, map_.partitions - 1)
    count = sum(int(np.frombuffer(part.counts, dtype=np.uint64).sum()) for part in parts)
    warnings = said_once((warning for part in parts for warning in part.warnings), is_of_now=as_of_ms is None)
    return segments_pb2.CountResponse(count=count, as_of_ms=moment, elapsed_ms=(time.perf_counter() - started) * 1000, warnings=warnings)


def check_whole(answered: NDArray[np.integer[Any]], first: int, last: int) -> None:
    """Raise Unavailable unless these are every partition from first to last, once: by a stale map a shard is asked that has given one away, and one is
    not that has taken one."""
    if not np.array_equal(np.sort(answered), np.arange(first, last + 1)):
        raise Unavailable("some partitions have just moved", "PARTITION_MOVED", code="ABORTED")


def said_once(warnings: Iterable[str], *, is_of_now: bool = False) -> list[str]:
    """Each warning once. Who asks as of now is not told that events of this very moment are in."""
    return [warning for warning in dict.fromkeys(warnings) if not (is_of_now and warning.startswith(_NOT_SAID_OF_NOW))]
