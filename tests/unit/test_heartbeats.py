"""A shard is asked how it is over its lane; by Ray where that says nothing, or something of another."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors import heartbeats
from actors.heartbeats import Heartbeats
from actors.lanes import LaneServer, ShardLane
from actors.metrics import Meter


class Life:
    """One life of a shard: its lane, and its actor as Ray has it."""

    def __init__(self, incarnation: str) -> None:
        self.facts: dict[str, Any] = {"incarnation": incarnation, "state": "serving", "copies": [[1, "primary", 2, 3, 4]]}
        self.asked_by_ray = 0
        self._server = LaneServer(partial(ShardLane, cast(Any, SimpleNamespace()), lambda: self.facts, Meter()))

    async def start(self) -> str:
        return f"127.0.0.1:{await self._server.start('127.0.0.1')}"

    async def end(self) -> None:
        await self._server.stop()

    async def by_ray(self) -> dict[str, Any]:
        self.asked_by_ray += 1
        return self.facts


def test_a_heartbeat_goes_over_the_lane_and_now_and_then_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        beats, life = Heartbeats(), Life("a")
        endpoint = await life.start()
        for _ in range(5):
            assert await beats.of(0, endpoint, life.by_ray) == life.facts
        assert life.asked_by_ray == 1, "only Ray knows of another life"
        monkeypatch.setattr(heartbeats, "RAY_EVERY_S", 0.0)
        assert await beats.of(0, endpoint, life.by_ray) == life.facts
        assert life.asked_by_ray == 2
        beats.forget(0)
        await life.end()

    asyncio.run(run())


def test_a_shard_that_ended_is_asked_for_by_ray_at_once_and_its_port_in_other_hands_is_not_taken_for_it() -> None:
    async def run() -> None:
        beats, life, other = Heartbeats(), Life("a"), Life("b")
        endpoint = await life.start()
        for _ in range(2):
            await beats.of(0, endpoint, life.by_ray)
        await life.end()
        await beats.of(0, endpoint, life.by_ray)
        assert life.asked_by_ray == 2
        theirs = await other.start()
        assert (await beats.of(0, theirs, life.by_ray))["incarnation"] == "a"
        assert life.asked_by_ray == 3
        beats.forget(0)
        await other.end()

    asyncio.run(run())


def test_a_loop_that_is_busy_for_long_is_asked_for_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr(heartbeats, "LANE_TIMEOUT_S", 0.05)
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
        endpoint = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        beats, life = Heartbeats(), Life("a")
        for _ in range(2):
            assert await beats.of(0, endpoint, life.by_ray) == life.facts
        assert life.asked_by_ray == 2
        silent.close()

    asyncio.run(run())
