"""Connections to a grid: channels by endpoint, the partition map, retries. What writes and reads share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Container
from typing import Any, TypeVar

import grpc

from profilegrid import tracing
from profilegrid.errors import ClientClosed, Overloaded, Unavailable, from_rpc
from profilegrid.forking import forks
from profilegrid.lanes import DOUBT_S, Lane, Lanes
from profilegrid.options import CLIENT_OPTIONS
from profilegrid.routes import Map
from profilegrid.v1 import admin_pb2, admin_pb2_grpc

Result = TypeVar("Result")
BACKOFF_S, BACKOFF_S_MAX = 0.02, 0.4
CALL_TIMEOUT_S = 15.0


class Connections:
    """Belongs to one event loop of one process, until it is closed."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.known_map: Map | None = None
        self.is_closed = False
        self._forks = forks()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._lanes = Lanes(self._serving)
        self._map_lock: asyncio.Lock | None = None

    def check_open(self) -> None:
        """Raise ClientClosed after `close`, and in a forked child."""
        if self.is_closed:
            raise ClientClosed("the client is closed", "CLIENT_CLOSED")
        if forks() != self._forks:
            raise ClientClosed("the client belongs to the parent process; make a new one after fork", "CLIENT_FORKED")

    async def close(self) -> None:
        """Close every channel."""
        self.is_closed = True
        self._lanes.close()
        for channel in self._channels.values():
            await channel.close()

    def forget_map(self) -> None:
        """The map proved stale: the next who needs it fetches it anew."""
        self.known_map = None

    def channel(self, endpoint: str) -> grpc.aio.Channel:
        """The connection to an endpoint, kept while the client is open."""
        self.check_open()
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = grpc.aio.insecure_channel(endpoint, options=CLIENT_OPTIONS)
        return channel

    def lane(self, endpoint: str, timeout_s: float = CALL_TIMEOUT_S, *, is_wide: bool = False) -> Lane:
        """The lane to a shard whose answers take no longer than `timeout_s`; a wide one is for what others should not wait behind."""
        self.check_open()
        return self._lanes.to(endpoint, timeout_s, is_wide=is_wide)

    @property
    def gateway(self) -> grpc.aio.Channel:
        """The connection to the gateway."""
        return self.channel(self.target)

    async def call(self, method: Any, request: Any, timeout: float) -> Any:
        """One unary call; what goes wrong comes out typed."""
        try:
            return await method(request, timeout=timeout, metadata=tracing.metadata())
        except grpc.aio.UsageError as error:  # a channel that `close` took away under the call
            raise ClientClosed(str(error), "CLIENT_CLOSED") from error
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def retrying(self, attempt: Callable[[float], Awaitable[Result]], timeout: float) -> Result:
        """Repeat an attempt while its error is retriable and time is left; backoff doubles, with full jitter."""
        deadline = time.monotonic() + timeout
        backoff = BACKOFF_S
        while True:
            left = deadline - time.monotonic()
            try:
                return await attempt(max(min(left, CALL_TIMEOUT_S), 0.1))
            except (Unavailable, Overloaded) as error:
                wait = max(random.uniform(0.5, 1.0) * backoff, error.delay_ms / 1000 if isinstance(error, Overloaded) else 0.0)
                if left <= wait:
                    raise
                if error.reason == "PARTITION_MOVED" or isinstance(error, Unavailable):
                    self.forget_map()
                await asyncio.sleep(wait)
                backoff = min(backoff * 2, BACKOFF_S_MAX)

    async def _serving(self) -> Container[str]:
        """Lanes of the shards that serve something by the map of now."""
        self.known_map = await self._fetch_map(DOUBT_S)
        return self.known_map.serving

    async def map(self, timeout: float = CALL_TIMEOUT_S) -> Map:
        """The partition map, fetched once and again after it proved stale."""
        if self.known_map is None:
            self._map_lock = self._map_lock or asyncio.Lock()
            async with self._map_lock:
                if self.known_map is None:
                    self.known_map = await self._fetch_map(timeout)
        return self.known_map

    async def _fetch_map(self, timeout: float) -> Map:
        stub = admin_pb2_grpc.AdminServiceStub(self.gateway)  # type: ignore[no-untyped-call]
        return Map.of(await self.call(stub.GetMap, admin_pb2.GetMapRequest(), timeout))
