"""A bulk load into one shard: its partitions are closed meanwhile, so tables are taken in a thread; one checkpoint makes them durable.

start (empty? closed) --tables--> columns --commit--> checkpoint of all partitions at once --> open again
                              \\--fault, or the caller is gone--> columns emptied --> open again
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pyarrow as pa

from actors.calls import in_thread, to_the_end
from actors.clock import now_ms
from actors.committing import stop_at_once
from grid.errors import FieldInvalid, NotEmpty, WriteFailed
from grid.loading import Load
from grid.state.memory import trim_heap

if TYPE_CHECKING:
    from actors.serving import ShardServer


class BulkLoad:
    """One load. `start`, then `add`s, then `commit`; `abandon` unless committed."""

    def __init__(self, server: ShardServer, load_id: str, as_of_ms: int) -> None:
        self._server, self._load_id = server, load_id
        self._load = Load(server.engine, as_of_ms)
        self._is_open = False
        self.is_done = False

    @property
    def users(self) -> int:
        """Users taken so far."""
        return self._load.rows

    async def start(self) -> None:
        """Close the partitions. Sets `is_done` instead when this load was committed before. Raises NotEmpty."""
        server = self._server
        server.check_serving()
        done = server.store.checkpoints.loads().get(self._load_id)
        if done is not None:
            self.is_done, self._load.rows = True, done
            return
        await server.checkpointing.acquire()
        try:
            async with server.committer.quiet():
                server.check_partitions_open()
                if server.replication.replicas:
                    raise FieldInvalid("replicas", "2", "1 while users are loaded in bulk: the second copies are made after it")
                if users := int(server.engine.users.next_ordinal.sum()):
                    raise NotEmpty(users)
                server.engine.is_loading = self._is_open = True
        finally:
            if not self._is_open:
                server.checkpointing.release()

    async def add(self, table_bytes: bytes) -> None:
        """Take a table. Raises LoadRefused, MemoryExhausted."""
        if self._server.engine.memory is not None:
            self._server.engine.memory.draw(4 * len(table_bytes))
        await in_thread(self._add, table_bytes)  # it fills columns

    def _add(self, table_bytes: bytes) -> None:
        try:
            table = pa.ipc.open_stream(table_bytes).read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # damaged metadata is an OSError, a damaged name the last
            raise FieldInvalid("users", str(error).splitlines()[0][:200], "an Arrow IPC stream") from None
        self._load.add(table)

    async def commit(self) -> None:
        """Make it durable and open the partitions."""
        await to_the_end(self._commit())

    async def _commit(self) -> None:
        server = self._server
        received_ms = max(server.engine.received_ms, now_ms())
        server.store.checkpoints.is_paced = False
        try:
            await asyncio.to_thread(server.store.write_load, self._load_id, self._load.rows, received_ms)
        except WriteFailed as error:
            stop_at_once(error)
        finally:
            server.store.checkpoints.is_paced = True
        server.engine.received_ms = received_ms
        trim_heap()
        self._open()
        self.is_done = True

    def abandon(self) -> None:
        """Leave nothing, unless it is committed."""
        if self._is_open:
            self._server.engine.forget_users()
            self._open()

    def _open(self) -> None:
        self._server.engine.is_loading = self._is_open = False
        self._server.checkpointing.release()
