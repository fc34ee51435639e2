"""Reads of one shard over one stream. What is asked while a message is under way goes together with the next.

Batches grow with load by themselves, and a shard works on one while the client takes the one before apart.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from profilegrid import tracing
from profilegrid.columns import Strings, ids_of, now_ms, time_ms, user_id_text
from profilegrid.connections import CALL_TIMEOUT_S, Connections
from profilegrid.errors import Overloaded, Unavailable, from_status
from profilegrid.lanes import Lane, fail_all, typed
from profilegrid.results import Part, Profile, Table
from profilegrid.routes import Map, partitions_of
from profilegrid.v1 import profiles_pb2, profiles_pb2_grpc

# Measured with 64 callers and 2 shards on 2 cores: with two messages under way they carry 12 users each, 25 k reads/s; with one, 18 users
# and 30 k; with one, and three turns of the loop for those just answered to ask again, 30 users and 45 k.
IN_FLIGHT_MAX, TURNS_TO_ASK_AGAIN = 1, 3
SINGLES_MAX = 1_000
READ_USERS_MAX = 10_000
Key = tuple[tuple[str, ...], int | None]
Settle = Callable[[Any], None]


class ReadLane(Lane):
    """The stream of reads to one endpoint."""

    def __init__(self, method: Any, timeout_s: float) -> None:
        self._singles: dict[Key, list[tuple[bytes, str, asyncio.Future[Profile]]]] = {}
        self._batches: deque[tuple[profiles_pb2.BatchGetProfilesRequest, asyncio.Future[Part]]] = deque()
        self._under_way: deque[tuple[float, list[asyncio.Future[Any]], Settle]] = deque()
        self._wake = asyncio.Event()
        super().__init__(method, timeout_s)
        self._tasks.append(asyncio.create_task(self._write()))

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask_one(self, key: Key, raw_id: bytes, user_id: str) -> asyncio.Future[Profile]:
        """One user's profile; travels with others of the same fields and time."""
        future: asyncio.Future[Profile] = self._loop.create_future()
        if self.failed is not None:
            future.set_exception(self.failed)
            return future
        waiting = self._singles.get(key)
        if waiting is None:
            waiting = self._singles[key] = []
        waiting.append((raw_id, user_id, future))
        self._wake.set()
        return future

    def ask_many(self, ids: Strings, fields: tuple[str, ...], as_of: int) -> asyncio.Future[Part]:
        """Profiles of many users, as a message of their own."""
        future: asyncio.Future[Part] = self._loop.create_future()
        if self.failed is not None:
            future.set_exception(self.failed)
            return future
        self._batches.append((_request(ids, fields, as_of), future))
        self._wake.set()
        return future

    # --- the stream ---------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                for _ in range(TURNS_TO_ASK_AGAIN):
                    await asyncio.sleep(0)
                if len(self._under_way) >= IN_FLIGHT_MAX or not (self._singles or self._batches):
                    self._wake.clear()
                    continue
                await self._call.write(profiles_pb2.StreamProfilesRequest(read=self._next()))
        except Exception as error:
            self._fail(typed(error))

    def _next(self) -> profiles_pb2.BatchGetProfilesRequest:
        """The next message; what it answers is under way from now on."""
        started = self._loop.time()
        if self._batches:
            request, future = self._batches.popleft()
            self._under_way.append((started, [future], lambda columns: _settle_many(future, columns, len(request.user_id_ends) // 4)))
            return request
        key = next(iter(self._singles))
        waiting = self._singles.pop(key)
        if len(waiting) > SINGLES_MAX:
            self._singles[key] = waiting[SINGLES_MAX:]
            waiting = waiting[:SINGLES_MAX]
        self._under_way.append((started, [future for _, _, future in waiting], lambda columns: _settle_singles(waiting, columns)))
        return _request(Strings.of([raw for raw, _, _ in waiting]), key[0], now_ms() if key[1] is None else key[1])

    def _receive(self, response: profiles_pb2.StreamProfilesResponse) -> None:
        _, futures, settle = self._under_way.popleft()
        self._wake.set()
        if response.error:
            fail_all(futures, from_status(response.error))
        else:
            settle(response.profiles.columns)

    def _oldest(self) -> float | None:
        return self._under_way[0][0] if self._under_way else None

    def _take_waiting(self) -> Iterable[asyncio.Future[Any]]:
        waiting = [future for _, futures, _ in self._under_way for future in futures]
        waiting += [future for singles in self._singles.values() for _, _, future in singles]
        waiting += [future for _, future in self._batches]
        self._under_way.clear()
        self._singles.clear()
        self._batches.clear()
        return waiting


def _request(ids: Strings, fields: tuple[str, ...], as_of: int) -> profiles_pb2.BatchGetProfilesRequest:
    return profiles_pb2.BatchGetProfilesRequest(
        fields=fields, as_of_ms=as_of, format=profiles_pb2.PROFILE_FORMAT_COLUMNS, user_id_data=ids.data.tobytes(), user_id_ends=ids.ends.tobytes()
    )


def _settle_singles(waiting: list[tuple[bytes, str, asyncio.Future[Profile]]], columns: profiles_pb2.ProfileColumns) -> None:
    part = Part(np.arange(len(waiting)), columns)
    for (_, _, future), profile in zip(waiting, part.profiles([user_id for _, user_id, _ in waiting]), strict=True):
        if not future.done():
            future.set_result(profile)


def _settle_many(future: asyncio.Future[Part], columns: profiles_pb2.ProfileColumns, users: int) -> None:
    if not future.done():
        future.set_result(Part(np.arange(users), columns))


class Reads:
    """Reads of one client. `timeout` s that they are retried."""

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections, self.timeout = connections, timeout
        self._lanes: dict[str, ReadLane] = {}

    def close(self) -> None:
        """Give every stream up."""
        for lane in self._lanes.values():
            lane.close()

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
            return await self._lane_of(connections.known_map or await connections.map(), raw).ask_one(key, raw, name)
        except (Unavailable, Overloaded):
            connections.forget_map()

        async def attempt(left: float) -> Profile:
            return await self._lane_of(await self._connections.map(left), raw).ask_one(key, raw, name)

        return await self._connections.retrying(attempt, self.timeout - (time.monotonic() - started))

    async def _get_traced(self, raw: bytes, name: str, fields: tuple[str, ...], as_of: int | None) -> Profile:
        """As `get`, by a call of its own: a stream's messages carry no trace."""

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

    def _lane_of(self, map_: Map, raw_id: bytes) -> ReadLane:
        """The stream to the owner of a user."""
        return self._lane(map_, map_.shard_of(raw_id))

    def _lane(self, map_: Map, shard: int) -> ReadLane:
        endpoint = map_.endpoints.get(shard, "")
        lane = self._lanes.get(endpoint)
        if lane is None or lane.failed is not None:
            if not endpoint:
                raise Unavailable(f"shard {shard} is down", "SHARD_DOWN")
            stub = profiles_pb2_grpc.ProfileServiceStub(self._connections.channel(endpoint))  # type: ignore[no-untyped-call]
            lane = self._lanes[endpoint] = ReadLane(stub.StreamProfiles, min(self.timeout, CALL_TIMEOUT_S))
        return lane

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
            asked = []
            for shard in np.unique(shards).tolist():
                rows = np.flatnonzero(shards == shard)
                asked.append((rows, self._lane(map_, shard).ask_many(ids.take(rows), fields, as_of)))
            for rows, future in asked:
                (await future).rows = rows
            return [future.result() for _, future in asked]

        return await self._connections.retrying(attempt, self.timeout)
