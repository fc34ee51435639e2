"""Nodes of the Ray cluster that a grid runs on, and which of them is each shard's home: its data lies on the home's disk, and stays there.

    folder/NODE      the node's name, made once: Ray's own ids change with each start of a raylet
    folder/shard-N   the data of the shards whose home it is

`folder` is the one that `up` was given, or what PROFILEGRID_NODE_DATA says where the node's raylet was started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import socket
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from actors.calls import awaited
from grid.errors import GridError, NodeGone, NoRoom
from grid.storage.files import replace_file

log = logging.getLogger("profilegrid")
NODE_FILE, RETIRED = "NODE", "RETIRED"
LOOK_TIMEOUT_S, MEET_S, ROOM_TIMEOUT_S, AGAIN_S = 180.0, 2.0, 10.0, 10.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is there: its lasting name, Ray's id of now, its address, its folder."""

    name: str
    ray_id: str
    host: str
    folder: str


def look_at_node(folder: str, shards: int) -> dict[str, Any]:
    """Runs on a node: make it ready for shards, say what it is. Folders of shards that are no more go."""
    from ray.util import get_node_ip_address

    from actors.local import warm_kernels

    home = Path(os.environ.get("PROFILEGRID_NODE_DATA") or folder)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    warm_kernels(lambda text: None)
    clear_retired(home, shards)
    return {"name": name_of(home), "host": get_node_ip_address(), "folder": str(home), "version": version("profilegrid-server")}


def name_of(folder: Path) -> str:
    """A node's lasting name, made when its folder has none."""
    path = folder / NODE_FILE
    if not path.exists():
        replace_file(path, f"{socket.gethostname()}-{secrets.token_hex(2)}".encode())
    return path.read_text().strip()


def clear_retired(folder: Path, shards: int) -> None:
    """Remove the folders of shards that ended, where a crash came between."""
    for path in folder.glob("shard-*"):
        number = path.name.removeprefix("shard-")
        if number.isdigit() and int(number) >= shards and (path / RETIRED).exists():
            shutil.rmtree(path, ignore_errors=True)


class Nodes:
    """What the controller knows of the nodes. `homes` is the controller's: the node's name by shard."""

    def __init__(self, folder: str, homes: dict[int, str], resources: dict[str, float]) -> None:
        self._folder, self._homes, self._resources = folder, homes, resources
        self._by_ray_id: dict[str, Node] = {}
        self._alive: dict[str, Node] = {}
        self._not_again: dict[str, float] = {}
        self._meeting: dict[str, asyncio.Task[None]] = {}
        self.problems: dict[str, str] = {}

    async def look(self, shards: int) -> None:
        """See which nodes are there. A node that is new, or was started again, is made ready first."""
        import ray

        found = {node["NodeID"] for node in await asyncio.to_thread(ray.nodes) if node["Alive"]}
        now = asyncio.get_running_loop().time()
        for ray_id in found - self._by_ray_id.keys() - self._meeting.keys():
            if self._not_again.get(ray_id, 0.0) <= now:
                self._meeting[ray_id] = asyncio.create_task(self._meet(ray_id, shards))
        if self._meeting:  # for a while: one that does not answer keeps nobody else from being seen
            await asyncio.wait(self._meeting.values(), timeout=MEET_S)
        self._meeting = {ray_id: task for ray_id, task in self._meeting.items() if not task.done()}
        self._alive = {node.name: node for ray_id, node in self._by_ray_id.items() if ray_id in found}
        self.problems = {ray_id: problem for ray_id, problem in self.problems.items() if ray_id in found}

    async def _meet(self, ray_id: str, shards: int) -> None:
        import ray

        task = ray.remote(look_at_node).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned_to(ray_id))
        try:
            facts = await asyncio.wait_for(awaited(task.remote(self._folder, shards)), LOOK_TIMEOUT_S)
            if facts["version"] != version("profilegrid-server"):
                raise GridError(f"it has profilegrid {facts['version']}, the controller {version('profilegrid-server')}")
        except Exception as error:
            self._not_again[ray_id] = asyncio.get_running_loop().time() + AGAIN_S
            self.problems[ray_id] = f"Ray node {ray_id[:12]} cannot take shards: {error}".splitlines()[0]
            log.warning("%s", self.problems[ray_id])
            return
        self.problems.pop(ray_id, None)
        self._by_ray_id[ray_id] = Node(facts["name"], ray_id, facts["host"], facts["folder"])
        log.info("node", extra={"facts": {"name": facts["name"], "host": facts["host"], "folder": facts["folder"]}})

    def home(self, shard: int) -> Node:
        """Where a shard's data is. Raises NodeGone."""
        name = self._homes.get(shard, "")
        if name not in self._alive:
            raise NodeGone(shard, name or "of its own")
        return self._alive[name]

    async def settle(self, shards: list[int]) -> None:
        """Give shards a home: where their data is already, else spread over the nodes that have room. Raises NoRoom, NodeGone."""
        new = [shard for shard in shards if shard not in self._homes]
        for shard in list(new):
            if (Path(self._folder) / f"shard-{shard}").exists():  # the grid was one machine's until now
                self._homes[shard] = name_of(Path(self._folder))
                new.remove(shard)
        if new:
            self._homes |= dict(zip(new, await self._room(len(new)), strict=True))

    async def _room(self, count: int) -> list[str]:
        """Names of nodes for so many shards. Ray's scheduler finds them, by a placement group that lasts as long as the question: a group that
        lived on would be put elsewhere when a node dies, and the data is not there."""
        from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

        group = placement_group([self._resources] * count, strategy="SPREAD")
        try:
            await asyncio.wait_for(awaited(group.ready()), ROOM_TIMEOUT_S)
            places = placement_group_table(group)["bundles_to_node_id"]
        except TimeoutError:
            raise NoRoom(count, self._resources) from None
        finally:
            remove_placement_group(group)
        found = [self._by_ray_id.get(places[bundle]) for bundle in range(count)]
        if None in found:
            raise NoRoom(count, self._resources)
        return [node.name for node in found if node is not None]

    @property
    def problem(self) -> str:
        """Why a node that is there cannot take shards; empty: all can."""
        return next(iter(self.problems.values()), "")

    def status(self) -> list[dict[str, Any]]:
        """Each node: name, host, folder, whether it is there, its shards. Also those that are gone and have data."""
        rows = []
        for name in sorted({*self._alive, *self._homes.values()}):
            node = self._alive.get(name)
            rows.append(
                {
                    "name": name, "host": node.host if node else "", "folder": node.folder if node else "", "is_alive": node is not None,
                    "shards": sorted(shard for shard, home in self._homes.items() if home == name),
                }
            )  # fmt: skip
        return rows


def pinned_to(ray_id: str) -> Any:
    """The scheduling strategy of what must run on one node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray_id, soft=False)
