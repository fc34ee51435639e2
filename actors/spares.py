"""Processes that stand ready for shards that die: the controller's part. `preloading.py` says what they have loaded.

They are idle workers of Ray's own, started by the call by which Ray itself starts some ahead (`PrestartWorkers` of its node manager, no part of its public
interface: an integration test tells when another version has it no more, and a grid without it only recovers later). Ray gives one to an actor that it
restarts. Only where Ray is the grid's own: on a cluster other jobs would take them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.names import TEMPORARY
from actors.preloading import LOADED, SERVING

if TYPE_CHECKING:
    from actors.controller import Controller

# One comes after the other, and not at once: each takes a core for 3–5 s, and shards that have just recovered have other things to do. On a busy machine one may
# take long; asked for again too soon, there are more than wanted, for a day. Ray gives up what has not come in a minute.
CALM_S, LOOK_EVERY_S, COME_S = 2.0, 5.0, 60.0
CALL_TIMEOUT_S, KEPT_S = 5.0, 86_400
# Idle ones that have nothing loaded: Ray starts four with a grid, of which one with one shard needs three. More, and something is wrong with loading.
BARE_MAX = 2
IDLE = b"ray::IDLE"


class Spares:
    """Leaves to the controller: which shards serve."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._look_s = self._ask_again_s = 0.0
        self._came: set[int] = set()
        self._stub: Any = None
        self.ready = 0

    @property
    def wanted(self) -> int:
        """How many there shall be."""
        return min(self._controller.config.spares, self._controller.state.shards)

    async def keep(self) -> None:
        """When all shards serve: have one more process started, if some are wanting. Raises what the call of Ray's raises."""
        controller, now = self._controller, time.monotonic()
        if now < self._look_s:
            return
        self._look_s = now + CALM_S
        if not all(controller.is_ready(shard) for shard in range(controller.state.shards)):
            return
        from ray.core.generated.node_manager_pb2 import GetWorkerPIDsRequest, PrestartWorkersRequest

        folder = Path(os.environ[TEMPORARY])
        if self._stub is None:
            (folder / SERVING).touch()
            import grpc
            from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

            self._stub = NodeManagerServiceStub(grpc.aio.insecure_channel(await asyncio.to_thread(_node_manager)))
        idle = [pid for pid in (await self._call("GetWorkerPIDs", GetWorkerPIDsRequest())).pids if _is_idle(pid)]
        came = _loaded(folder)
        self.ready = len(came.intersection(idle))
        if self.ready >= self.wanted:
            self._look_s, self._ask_again_s = now + LOOK_EVERY_S, 0.0
        # The one asked for may have come and be a shard's by now.
        elif (came - self._came or now >= self._ask_again_s) and len(idle) < self.wanted + BARE_MAX:
            self._came, self._ask_again_s = came, now + COME_S
            await self._call("PrestartWorkers", PrestartWorkersRequest(num_workers=1, keep_alive_duration_secs=KEPT_S))

    async def _call(self, method: str, request: Any) -> Any:
        authorization = ("authorization", f"Bearer {os.environ.get('RAY_AUTH_TOKEN', '')}")
        return await getattr(self._stub, method)(request, timeout=CALL_TIMEOUT_S, metadata=[authorization])


def _node_manager() -> str:
    """Where that of the node where this runs listens."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def _loaded(folder: Path) -> set[int]:
    """Pids of all that ever loaded all, whosever they are now."""
    return {int(file.name.removeprefix(LOADED)) for file in folder.glob(f"{LOADED}*")}


def _is_idle(pid: int) -> bool:
    """Whether a worker has never been anyone's: Ray names processes."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(IDLE)
    return False
