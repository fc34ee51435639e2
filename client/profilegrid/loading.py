"""Users in bulk: a Parquet file, split by shard, straight to the shards, committed once every shard has taken its part."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from profilegrid.columns import Strings
from profilegrid.connections import Connections
from profilegrid.errors import InvalidRequest, Unavailable, from_rpc
from profilegrid.routes import Map, partitions_of
from profilegrid.v1 import admin_pb2, admin_pb2_grpc

BATCH_ROWS = 65_536
BATCHES_AHEAD = 2
OPEN_TIMEOUT_S = 30.0
Progress = Callable[[int, int], None]


async def load_users(connections: Connections, path: str | os.PathLike[str], as_of_ms: int, progress: Progress) -> dict[str, Any]:
    """Load a file. Returns {"users", "seconds"}. Repeated after a crash, it goes on: shards that have committed are left alone."""
    import pyarrow.parquet as pq

    from profilegrid.ingesting.files import digest_of

    started = time.monotonic()
    file = pq.ParquetFile(path)
    if "user_id" not in file.schema_arrow.names:
        raise InvalidRequest(f"{Path(path).name} has no column user_id", "LOAD_REFUSED", {"field": "user_id"}, "INVALID_ARGUMENT")
    total = file.metadata.num_rows
    start = admin_pb2.LoadStart(load_id=(await asyncio.to_thread(digest_of, Path(path))).hex(), as_of_ms=as_of_ms)
    map_, lanes = await connections.retrying(lambda left: _opened(connections, start, left), OPEN_TIMEOUT_S)
    try:
        waiting = {shard for shard, lane in lanes.items() if not lane.is_done}
        parts = _parts(file, map_, waiting)
        while waiting and (part := await asyncio.to_thread(next, parts, None)) is not None:
            done, tables = part
            for shard, table in tables.items():
                await lanes[shard].send(table)
            progress(done, total)
        for lane in lanes.values():
            await lane.settle()
        for shard in waiting:
            await lanes[shard].commit()
    finally:
        for lane in lanes.values():
            lane.cancel()
    return {"users": sum(lane.users for lane in lanes.values()), "seconds": time.monotonic() - started}


async def _opened(connections: Connections, start: admin_pb2.LoadStart, left: float) -> tuple[Map, dict[int, _Lane]]:
    """A stream to every shard; all must be up. Nothing was sent yet, so that this may be repeated."""
    map_ = await connections.map(left)
    if not all(map_.endpoints.values()):
        raise Unavailable("a shard is down", "SHARD_DOWN")
    lanes = {shard: _Lane(connections.channel(endpoint), start) for shard, endpoint in map_.endpoints.items()}
    try:
        for lane in lanes.values():
            await lane.open()
    except BaseException:
        for lane in lanes.values():
            lane.cancel()
        raise
    return map_, lanes


class _Lane:
    """One shard's stream; a few tables are under way at once."""

    def __init__(self, channel: grpc.aio.Channel, start: admin_pb2.LoadStart) -> None:
        self._stub, self._start = admin_pb2_grpc.AdminServiceStub(channel), start  # type: ignore[no-untyped-call]
        self._call: Any = None
        self._requests: asyncio.Queue[admin_pb2.LoadUsersRequest | None] = asyncio.Queue()
        self._unanswered = 0
        self.users = 0
        self.is_done = False

    async def open(self) -> None:
        self._call = self._stub.LoadUsers(self._outgoing())
        await self._ask(admin_pb2.LoadUsersRequest(start=self._start))
        await self.settle()

    async def _outgoing(self) -> AsyncIterator[admin_pb2.LoadUsersRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _ask(self, request: admin_pb2.LoadUsersRequest) -> None:
        self._requests.put_nowait(request)
        self._unanswered += 1

    async def _answered(self) -> None:
        try:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                raise InvalidRequest(await self._call.details() or "the shard ended the load", "LOAD_REFUSED")
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        self._unanswered -= 1
        self.users, self.is_done = response.users, response.is_done

    async def send(self, table: bytes) -> None:
        await self._ask(admin_pb2.LoadUsersRequest(users=table))
        while self._unanswered > BATCHES_AHEAD:
            await self._answered()

    async def settle(self) -> None:
        """Until everything sent was taken."""
        while self._unanswered:
            await self._answered()

    async def commit(self) -> None:
        await self._ask(admin_pb2.LoadUsersRequest(commit=True))
        await self.settle()

    def cancel(self) -> None:
        self._requests.put_nowait(None)
        if self._call is not None:
            self._call.cancel()


def _parts(file: Any, map_: Map, shards: set[int]) -> Iterator[tuple[int, dict[int, bytes]]]:
    """(rows so far, Arrow IPC stream of each shard's users). Pulled in a thread."""
    import pyarrow as pa

    done = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        owners = map_.owners[partitions_of(_ids(batch.column("user_id")), map_.partitions)]
        tables = {}
        for shard in shards & set(np.unique(owners).tolist()):
            rows = np.flatnonzero(owners == shard)
            mine = batch.take(pa.array(rows)).append_column("@row", pa.array(rows + done))
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, mine.schema) as writer:
                writer.write_batch(mine)
            tables[shard] = sink.getvalue()
        done += batch.num_rows
        yield done, tables


def _ids(array: Any) -> Strings:
    """The ids, packed; a NULL is empty: the shard names its row."""
    from profilegrid.arrow import ids_of_arrow

    try:
        return ids_of_arrow("user_id", array)
    except TypeError as error:
        raise InvalidRequest(str(error), "LOAD_REFUSED", {"field": "user_id"}, "INVALID_ARGUMENT") from None
