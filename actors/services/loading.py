"""AdminService as shards serve it: bulk loads, which are too much for the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from profilegrid.v1 import admin_pb2, admin_pb2_grpc

from actors.loading import BulkLoad
from actors.serving import ShardServer
from grid.errors import FieldInvalid


class LoadService(admin_pb2_grpc.AdminServiceServicer):
    """LoadUsers of this shard's partitions. Other calls go to the gateway."""

    def __init__(self, shard: ShardServer) -> None:
        self._shard = shard

    async def LoadUsers(self, requests: AsyncIterator[admin_pb2.LoadUsersRequest], context: Any) -> AsyncIterator[admin_pb2.LoadUsersResponse]:
        load: BulkLoad | None = None
        try:
            async for request in requests:
                step = request.WhichOneof("step")
                if (step == "start") != (load is None):
                    raise FieldInvalid("step", str(step), "start first, then users, then commit")
                if step == "start":
                    load = BulkLoad(self._shard, request.start.load_id, request.start.as_of_ms)
                    await load.start()
                elif step == "users" and load is not None:
                    await load.add(request.users)
                elif load is not None:
                    await load.commit()
                assert load is not None
                yield admin_pb2.LoadUsersResponse(users=load.users, is_done=load.is_done)
                if load.is_done:
                    return
        finally:
            if load is not None:
                load.abandon()
