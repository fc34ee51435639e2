"""Reads, over the lanes to shards. What is asked while a message is under way goes together with the next.

Batches grow with load by themselves, and a shard works on one while the client takes the one before apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from profilegrid import tracing
from profilegrid.columns import Strings, ids_of, now_ms, time_ms, user_id_text
from profilegrid.connections import CALL_TIMEOUT_S, Connections
from profilegrid.errors import Overloaded, Unavailable
from profilegrid.lanes import READ, Lane, fail_all
from profilegrid.results import Part, Profile, Table
from profilegrid.routes import Map, partitions_of
from profilegrid.v1 import profiles_pb2, profiles_pb2_grpc

# Measured with 64 callers and 2 shards on 2 cores: with two messages under way they carry 12 users each, with one 18, with one and three turns
# of the loop for those just answered to ask again 30: 25, 30 and 45 k reads/s. Who reads alone waits for nobody.
IN_FLIGHT_MAX, TURNS_TO_ASK_AGAIN = 1, 3
SINGLES_MAX = 1_000
READ_USERS_MAX = 10_000
Key = tuple[tuple[str, ...], int | None]
Single = tuple[bytes, str, asyncio.Future[Profile]]


class ReadQueue:
    """Reads of one shard. Those of single users with the same fields and time share messages."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._singles: dict[Key, list[Single]] = {}
        self._under_way = 0
        self._is_planned = False
        self._sent_before = 0

    def ask_one(self, key: Key, raw_id: bytes, user_id: str) -> asyncio.Future[Profile]:
        """One user's profile."""
        future: asyncio.Future[Profile] = self.lane.loop.create_future()
        waiting = self._singles.get(key)
        if waiting is None:
            waiting = self._singles[key] = []
        waiting.append((raw_id, user_id, future))
        if self._under_way < IN_FLIGHT_MAX and not self._is_planned:
            self._plan()
        return future

    def ask_many(self, ids: Strings, fields: tuple[str, ...], as_of: int) -> asyncio.Future[bytes]:
        """Profiles of many users, as a message of their own: a BatchGetProfilesResponse."""
        return self.lane.ask(READ, _request(ids, fields, as_of).SerializeToString())

    def _plan(self) -> None:
        self._is_planned = True
        self.lane.loop.call_soon(self._turn, TURNS_TO_ASK_AGAIN if self._sent_before > 1 else 0)

    def _turn(self, left: int) -> None:
        if left:
            self.lane.loop.call_soon(self._turn, left - 1)
        else:
            self._is_planned = False
            self._send()

    def _send(self) -> None:
        """The next message; what it answers is under way from now on."""
        key = next(iter(self._singles))
        waiting = self._singles.pop(key)
        if len(waiting) > SINGLES_MAX:
            self._singles[key] = waiting[SINGLES_MAX:]
            waiting = waiting[:SINGLES_MAX]
        self._under_way += 1
        self._sent_before = len(waiting)
        request = _request(Strings.of([raw for raw, _, _ in waiting]), key[0], now_ms() if key[1] is None else key[1])
        self.lane.ask(READ, request.SerializeToString()).add_done_callback(lambda answer: self._settle(waiting, answer))

    def _settle(self, waiting: list[Single], answer: asyncio.Future[bytes]) -> None:
        self._under_way -= 1
        if self._singles and not self._is_planned:
            self._plan()
        try:
            part = Part(np.arange(len(waiting)), _columns(answer.result()))
            for (_, _, future), profile in zip(waiting, part.profiles([user_id for _, user_id, _ in waiting]), strict=True):
                if not future.done():
                    future.set_result(profile)
        except Exception as error:  # also an answer that cannot be read: whoever waits must hear of it
            fail_all([future for _, _, future in waiting], error)


def _columns(payload: bytes) -> profiles_pb2.ProfileColumns:
    return profiles_pb2.BatchGetProfilesResponse.FromString(payload).columns


def _request(ids: Strings, fields: tuple[str, ...], as_of: int) -> profiles_pb2.BatchGetProfilesRequest:
    return profiles_pb2.BatchGetProfilesRequest(
        fields=fields, as_of_ms=as_of, format=profiles_pb2.PROFILE_FORMAT_COLUMNS, user_id_data=ids.data.tobytes(), user_id_ends=ids.ends.tobytes()
    )


class Reads:
    """Reads of one client. `timeout` s that they are retried."""

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections, self.timeout = connections, timeout
        self._queues: dict[str, ReadQueue] = {}

    async def get(self, user_id: str | int, fields: Iterable[str] = (), *, as_of: Any = None) -> Profile:
        """A user's profile: all fields or some. Calls made at the same time share one message a shard."""
        self._connections.check_open()
        connections, name = self._connections, user_id_text(user_id)
        raw = name.encode()
        key = (tuple(fields), None if as_of is None else time_ms(as_of))
        if tracing.is_traced():
            return await self._get_traced(raw, name, *key)
        started = time.monotonic()
        try:
            return await self._queue_of(connections.known_map or await connections.map(), raw).ask_one(key, raw, name)
        except (Unavailable, Overloaded):
            connections.forget_map()
        return await self._get_again(key, raw, name, self.timeout - (time.monotonic() - started))

    async def _get_again(self, key: Key, raw: bytes, name: str, left: float) -> Profile:
        """With a new map. A method of its own: what an inner function uses would be made a cell by every `get`, and few come here."""

        async def attempt(left: float) -> Profile:
            return await self._queue_of(await self._connections.map(left), raw).ask_one(key, raw, name)

        return await self._connections.retrying(attempt, left)

    async def _get_traced(self, raw: bytes, name: str, fields: tuple[str, ...], as_of: int | None) -> Profile:
        """As `get`, by a call of its own: a lane's messages carry no trace."""

        async def attempt(left: float) -> Profile:
            map_ = await self._connections.map(left)
            endpoint = map_.endpoints.get(map_.shard_of(raw), "")
            if not endpoint:
                raise Unavailable("the shard is down", "SHARD_DOWN")
            stub = profiles_pb2_grpc.ProfileServiceStub(self._connections.channel(endpoint))  # type: ignore[no-untyped-call]
            request = _request(Strings.of([raw]), fields, now_ms() if as_of is None else as_of)
            response = await self._connections.call(stub.BatchGetProfiles, request, left)
            return next(iter(Part(np.arange(1), response.columns).profiles([name])))

        return await self._connections.retrying(attempt, self.timeout)

    def _queue_of(self, map_: Map, raw_id: bytes) -> ReadQueue:
        """The reads of the owner of a user."""
        return self._queue(map_, map_.shard_of(raw_id))

    def _queue(self, map_: Map, shard: int) -> ReadQueue:
        endpoint = map_.lanes.get(shard, "")
        queue = self._queues.get(endpoint)
        if queue is None or queue.lane.failed is not None:
            if not endpoint:
                raise Unavailable(f"shard {shard} is down", "SHARD_DOWN")
            queue = self._queues[endpoint] = ReadQueue(self._connections.lane(endpoint, min(self.timeout, CALL_TIMEOUT_S)))
        return queue

    async def get_many(self, user_ids: Any, fields: Iterable[str] = (), *, as_of: Any = None) -> Table:
        """Profiles of many users as columns, in the order asked for."""
        self._connections.check_open()
        ids = ids_of("user_ids", user_ids)
        moment = now_ms() if as_of is None else time_ms(as_of)
        names = tuple(fields)
        parts: list[Part] = []
        for first in range(0, len(ids), READ_USERS_MAX):
            some = ids if len(ids) <= READ_USERS_MAX else ids.take(np.arange(first, min(first + READ_USERS_MAX, len(ids))))
            for part in await self._read_parts(some, names, moment):
                part.rows = part.rows + first
                parts.append(part)
        return Table(ids, parts)

    async def _read_parts(self, ids: Strings, fields: tuple[str, ...], as_of: int) -> list[Part]:
        """One message a shard; all answer as of one time."""

        async def attempt(left: float) -> list[Part]:
            map_ = await self._connections.map(left)
            shards = map_.owners[partitions_of(ids, map_.partitions)]
            order = np.argsort(shards, kind="stable")
            sorted_ids, last, asked = ids.take(order), 0, []
            for shard, count in enumerate(np.bincount(shards).tolist()):
                first, last = last, last + count
                if count:
                    asked.append((order[first:last], self._queue(map_, shard).ask_many(sorted_ids.part(first, last), fields, as_of)))
            payloads = await asyncio.gather(*(answer for _, answer in asked))
            return [Part(rows, _columns(payload)) for (rows, _), payload in zip(asked, payloads, strict=True)]

        return await self._connections.retrying(attempt, self.timeout)
