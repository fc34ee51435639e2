"""Counts that the client adds up itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from profilegrid.counting import SHARDS_MAX, counted_by_shards
from profilegrid.errors import InvalidRequest, ProfilegridError, Unavailable
from profilegrid.lanes import EVALUATE
from profilegrid.routes import Map
from profilegrid.v1 import segments_pb2, shard_pb2

AS_OF_MS = 1_700_000_000_000


class Shards:
    """Connections to shards that say what they are told to."""

    def __init__(self, *answers: shard_pb2.EvaluateResponse | ProfilegridError) -> None:
        self._answers = dict(zip((f"lane-{shard}" for shard in range(len(answers))), answers, strict=True))
        self.asked: list[tuple[str, shard_pb2.EvaluateRequest]] = []

    def lane(self, endpoint: str, timeout_s: float) -> Any:
        shards = self

        class Lane:
            def ask(self, kind: int, payload: bytes) -> asyncio.Future[bytes]:
                assert kind == EVALUATE
                shards.asked.append((endpoint, shard_pb2.EvaluateRequest.FromString(payload)))
                future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                answer = shards._answers[endpoint]
                if isinstance(answer, ProfilegridError):
                    future.set_exception(answer)
                else:
                    future.set_result(answer.SerializeToString())
                return future

        return Lane()


def part(partitions: Sequence[int], counts: Sequence[int], warnings: Sequence[str] = ()) -> shard_pb2.EvaluateResponse:
    return shard_pb2.EvaluateResponse(
        partitions=np.array(partitions, dtype=np.uint16).tobytes(), counts=np.array(counts, dtype=np.uint64).tobytes(), warnings=warnings
    )


def map_of(owners: list[int], down: Sequence[int] = ()) -> Map:
    lanes = {shard: "" if shard in down else f"lane-{shard}" for shard in set(owners)}
    return Map(1, 1, np.array(owners, dtype=np.uint16), np.ones(len(owners), dtype=np.uint64), lanes, lanes)


def counted(shards: Shards, map_: Map, as_of_ms: int | None = AS_OF_MS) -> segments_pb2.CountResponse | None:
    return asyncio.run(counted_by_shards(shards, map_, "age > 5", as_of_ms, 1.0))  # type: ignore[arg-type]


def test_the_parts_of_all_shards_are_added_up() -> None:
    shards = Shards(part([0, 2], [3, 4], ["one"]), part([1, 3], [5, 1 << 40], ["one", "other"]))
    found = counted(shards, map_of([0, 1, 0, 1]))
    assert found is not None
    assert (found.count, found.as_of_ms, [*found.warnings]) == (12 + (1 << 40), AS_OF_MS, ["one", "other"])
    assert [endpoint for endpoint, _ in shards.asked] == ["lane-0", "lane-1"]
    for _, request in shards.asked:
        assert (request.rule, request.as_of_ms, request.mode, request.last_partition) == ("age > 5", AS_OF_MS, shard_pb2.EVALUATE_MODE_COUNT, 3)


def test_all_shards_count_as_of_one_moment_and_who_asks_as_of_now_hears_nothing_of_events_of_that_moment() -> None:
    early = "AS_OF_EARLY: events after 5 are counted"
    shards, map_ = Shards(part([0], [1], [early]), part([1], [1], [early, "other"])), map_of([0, 1])
    now = counted(shards, map_, None)
    assert now is not None
    assert {request.as_of_ms for _, request in shards.asked} == {now.as_of_ms}
    assert [*now.warnings] == ["other"]
    then = counted(shards, map_)
    assert then is not None
    assert [*then.warnings] == [early, "other"]


@pytest.mark.parametrize(
    "map_", [map_of([0, 1], down=[1]), map_of([*range(SHARDS_MAX + 1)])], ids=["a shard is down", "more shards than a client asks by itself"]
)
def test_the_gateway_is_to_be_asked_and_no_shard_is(map_: Map) -> None:
    shards = Shards(*[part([shard], [1]) for shard in range(SHARDS_MAX + 1)])
    assert counted(shards, map_) is None
    assert shards.asked == []


@pytest.mark.parametrize("partitions", [[1], [1, 2, 0], [1, 3]], ids=["one is missing", "one is there twice", "of another grid"])
def test_parts_that_are_not_every_partition_once_are_no_count(partitions: list[int]) -> None:
    shards = Shards(part([0], [1]), part(partitions, [1] * len(partitions)))
    with pytest.raises(Unavailable, match="moved"):
        counted(shards, map_of([0, 1, 1]))


@pytest.mark.parametrize("refused", [InvalidRequest("age is unknown", "RULE_INVALID"), Unavailable("it restarts", "SHARD_RECOVERING")])
def test_what_a_shard_refuses_with_is_raised(refused: ProfilegridError) -> None:
    with pytest.raises(type(refused), match=refused.message):
        counted(Shards(part([0], [1]), refused), map_of([0, 1]))
