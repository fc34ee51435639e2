"""Rules over all shards: an answer has every partition, or is asked for again by the map of now."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from profilegrid.v1 import segments_pb2, shard_pb2

from actors.coordinator import Queries

PARTITIONS = 4


class Shards:
    """Lanes to shards of two partitions each, every one with ten users of which all match; `asked` has the lanes that were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def to(self, lane: str, timeout_s: float) -> Any:
        self._lane = lane
        return Asked(self, lane)

    def answer(self, lane: str, request: shard_pb2.EvaluateRequest) -> bytes:
        self.asked.append(lane)
        mine = [p for p in {"a": (0, 1), "b": (2, 3)}[lane] if request.first_partition <= p <= request.last_partition]
        if request.limit:
            mine = mine[: -(-request.limit // 10)]
        return shard_pb2.EvaluateResponse(
            partitions=np.array(mine, dtype=np.uint16).tobytes(), counts=np.full(len(mine), 10, dtype=np.uint64).tobytes(), users=20,
            clauses=[segments_pb2.ClauseReport(matched=20)], positions=np.zeros(len(mine), dtype=np.uint64).tobytes(), bitmaps=[b""] * len(mine),
        ).SerializeToString()  # fmt: skip


class Asked:
    def __init__(self, shards: Shards, lane: str) -> None:
        self._shards, self._lane = shards, lane

    async def ask(self, kind: int, raw: bytes) -> bytes:
        return self._shards.answer(self._lane, shard_pb2.EvaluateRequest.FromString(raw))


class Stale(Queries):
    """Knows a map of before shard b held anything, until it asks anew."""

    def __init__(self, first: list[int]) -> None:
        super().__init__(None)
        self._lanes, self.maps = Shards(), [first, [0, 1]]  # type: ignore[assignment]

    async def map(self) -> dict[str, Any]:
        if self._map is None:
            self._map = {"partitions": PARTITIONS, "holding": self.maps.pop(0), "lanes": {0: "a", 1: "b"}}
        return self._map


def test_a_shard_that_a_stale_map_does_not_know_of_is_not_left_out_of_a_listing() -> None:
    queries = Stale([0])
    audience = asyncio.run(queries.audience("x > 1", 0, limit=1000))
    assert sorted(audience.bitmaps) == [0, 1, 2, 3]
    assert queries._lanes.asked == ["a", "a", "b"]  # type: ignore[attr-defined]


def test_nor_of_a_count_nor_of_an_explanation() -> None:
    assert asyncio.run(Stale([1]).count("x > 1", 0))[0] == 40
    parts = asyncio.run(Stale([0])._evaluate("x > 1", 0, shard_pb2.EVALUATE_MODE_EXPLAIN))
    assert sum(part.users for part in parts) == 40


def test_with_a_limit_partitions_are_whole_up_to_where_the_first_shard_stopped() -> None:
    queries = Stale([0, 1])
    audience = asyncio.run(queries.audience("x > 1", 0, limit=5))
    assert sorted(audience.bitmaps) == [0]  # shard b stopped after partition 2, but 1 was not asked for
    assert sorted(asyncio.run(Stale([0, 1]).audience("x > 1", 0, first=2, limit=5)).bitmaps) == [2]
