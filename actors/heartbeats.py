"""Heartbeats of shards, as the controller asks for them: over a lane, and now and then by Ray.

A call of Ray's takes 5 ms of CPU at both ends together, a message of a lane some 0.3. But only Ray knows of a shard's next life on another node while
the one before still answers, and only its control group answers while the data loop is busy.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import msgpack
from profilegrid.errors import ProfilegridError
from profilegrid.lanes import STATUS, Lane

from actors.calls import first_answer

LANE_TIMEOUT_S, RAY_EVERY_S = 0.5, 5.0
HEALTH_TIMEOUT_S, HEALTH_AGAIN_S = 2.0, 0.3


class Heartbeats:
    """Of the shards of one controller. Lives in its loop."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        # Of each shard which life answered by Ray last, and when.
        self._lives: dict[int, tuple[str, float]] = {}

    async def of(self, shard: int, endpoint: str, by_ray: Callable[[], Any]) -> dict[str, Any]:
        """What a shard says of itself. `endpoint` of its lane, empty where none is known; `by_ray` asks its actor. Raises where nobody answers."""
        incarnation, asked_s = self._lives.get(shard, ("", -math.inf))
        if endpoint and time.monotonic() - asked_s < RAY_EVERY_S:
            with contextlib.suppress(ProfilegridError):
                facts: dict[str, Any] = msgpack.unpackb(await self._lane(shard, endpoint).ask(STATUS, b""), strict_map_key=False)
                if facts["incarnation"] == incarnation:  # its port may have come to another
                    return facts
            self.forget(shard)
        facts = await first_answer(by_ray, HEALTH_AGAIN_S, HEALTH_TIMEOUT_S)
        self._lives[shard] = facts["incarnation"], time.monotonic()
        return facts

    def _lane(self, shard: int, endpoint: str) -> Lane:
        lane = self._lanes.get(shard)
        if lane is None or lane.failed is not None or lane.endpoint != endpoint:
            self.forget(shard)
            lane = self._lanes[shard] = Lane(endpoint, LANE_TIMEOUT_S)
        return lane

    def forget(self, shard: int) -> None:
        """The shard is no more, or listens elsewhere."""
        if (lane := self._lanes.pop(shard, None)) is not None:
            lane.close()
