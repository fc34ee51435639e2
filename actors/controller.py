"""The controller: the partition map, epochs, catalogs, and the life of shards and coordinator. One per grid, by a lock on its folder.

Its fsynced file is the authority; Ray only restarts processes. Every new life of a shard gets raised epochs, persisted before the
shard hears of them, so that a stale owner's frames are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash
from prometheus_client.metrics_core import Metric

from actors.calls import awaited
from actors.configs import SHARDS_DEFAULT, GridConfig, ShardConfig
from actors.copies import Copies
from actors.heartbeats import HEALTH_TIMEOUT_S, Heartbeats
from actors.logs import log_to
from actors.metrics import Gauges, Meter, MetricsServer, gauge, total
from actors.names import COORDINATOR, NAMESPACE, TEMPORARY, shard_name
from actors.nodes import Nodes, clear_retired, pinned_to
from actors.rescaling import LOOK_S, Rescaler
from actors.snapshots import Snapshots
from actors.spares import Spares
from grid.catalog import Catalog, Change, compare, load_catalog
from grid.errors import CatalogWouldLose, DataFolderForeign, NodeGone, ShardRecovering
from grid.failpoints import failpoint
from grid.storage.files import own, replace_file

log = logging.getLogger("profilegrid")
FORMAT = 4
HEARTBEAT_S, CALM_S = 0.25, 0.5  # the second where all is as it shall be
INSTALL_TIMEOUT_S, REPAIR_TIMEOUT_S = 60.0, 300.0
# Those that hold their writes still do when the last one that may has been waited for, and shards begin to go over.
HOLD_S, HOLD_WAIT_S = 8.0, 2.0


@dataclass(slots=True)
class State:
    """What survives: written whole, fsynced, before anyone acts on it.

    targets    the shard where each partition shall lie; the same as `owners` when nothing is to be moved
    handovers  partitions that have a new owner, and the one before, which may not know it yet
    replicas   how many copies of each partition there shall be; `backups` the shard of the second
    placed     partitions that have several copies: the config in force (as `grid.replication` has it) and the members it shall have
    members    the data folder of each shard
    homes      the node of each shard, where the grid runs on a cluster
    """

    partitions: int
    shards: int
    seed: int
    owners: list[int]
    epochs: list[int]
    map_version: int = 1
    catalog_version: int = 0
    catalogs: dict[int, str] = field(default_factory=dict)
    targets: list[int] = field(default_factory=list)
    handovers: dict[int, int] = field(default_factory=dict)
    shards_wanted: int = 0
    drained: list[int] = field(default_factory=list)
    move_bytes_per_s: float = 0.0
    replicas: int = 1
    backups: list[int] = field(default_factory=list)
    placed: dict[int, tuple[Any, list[str]]] = field(default_factory=dict)
    members: dict[int, str] = field(default_factory=dict)
    homes: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.targets = self.targets or list(self.owners)
        self.shards_wanted = self.shards_wanted or self.shards

    def pack(self) -> bytes:
        """For the disk."""
        return msgpack.packb(
            [
                FORMAT, self.partitions, self.shards, self.seed, self.owners, self.epochs, self.map_version, self.catalog_version, self.catalogs,
                self.targets, self.handovers, self.shards_wanted, self.drained, self.move_bytes_per_s,
                self.replicas, self.backups, self.placed, self.members, self.homes,
            ]
        )  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes) -> State:
        """Inverse of `pack`. Raises ValueError for another format."""
        version, *fields = msgpack.unpackb(raw, strict_map_key=False)
        if not 1 <= version <= FORMAT:
            raise ValueError(f"format {version}, this version reads 1 to {FORMAT}")
        return cls(*fields)


@cache
def shard_class() -> Any:
    """Ray's form of the shard. Made once: made at each heartbeat it took 2 % of a core."""
    import ray

    from actors.shard import Shard

    return ray.remote(concurrency_groups={"control": 4})(Shard)


class Controller:
    """Decides who owns what and which catalog holds; never sees a user or an event. A restart reads its file and goes on."""

    def __init__(self, config: GridConfig) -> None:
        self.config = config
        self._folder = Path(config.folder) / "controller"
        self.state: State
        # Held while partitions move, by whoever needs them to stay.
        self.layout_lock = asyncio.Lock()
        self._lives: dict[int, int] = {}
        self._life_ends: dict[int, asyncio.Event] = {}
        self._rescaler = Rescaler(self)
        self.nodes: Nodes | None = None
        self._shard_watches: dict[int, asyncio.Task[None]] = {}
        self._down_since: dict[int, float] = {}
        self._health: dict[int, dict[str, Any]] = {}
        self._heartbeats = Heartbeats()
        self._pids: dict[int, int] = {}
        self._starting: dict[int, asyncio.Task[None]] = {}
        self._installing: dict[int, asyncio.Task[None]] = {}
        self._started: asyncio.Task[None] | None = None
        self._coordinator_port = 0
        self._is_stopping = False
        self._problem = ""
        self._metrics_endpoint = ""
        self._metrics: Any = None
        self._starts = 0
        self._snapshots = Snapshots(self)
        self._spares = Spares(self)

    # --- life ---------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the folder, read or make the state, look after the actors from now on. Safe to call again; every call does so."""
        if self._started is None:
            self._started = asyncio.create_task(self._start())
        try:
            await asyncio.shield(self._started)
        except Exception:
            self._started = None
            raise

    async def _start(self) -> None:
        self._owner = await asyncio.to_thread(own, self._folder, timeout_s=30.0)
        log_to(Path(self.config.folder), "controller")
        path = self._folder / "state.bin"
        if path.exists():
            try:
                self.state = State.unpack(path.read_bytes())
            except (ValueError, TypeError) as error:
                raise DataFolderForeign(str(path), str(error)) from error
        else:
            shards = self.config.shards or SHARDS_DEFAULT
            owners = [partition % shards for partition in range(self.config.partitions)]
            self.state = State(self.config.partitions, shards, secrets.randbits(63), owners, [0] * self.config.partitions)
            if self.config.replicas > 1 and not self.config.is_cluster:
                self.state.targets, self.state.backups = self._rescaler.targets_for(shards, [], self.config.replicas)
                self.state.replicas = self.config.replicas
            self.save()
        clear_retired(Path(self.config.folder), self.state.shards)
        if self.config.is_cluster:
            self.nodes = Nodes(self.config.folder, self.state.homes, self.config.shard_resources)
        self.copies = Copies(self)
        meter = Meter()
        meter.registry.register(Gauges(self._gauges))
        self._metrics = MetricsServer(meter.registry, self.config.host, 0)
        # Each by itself: a shard that recovers for long, or does not answer, keeps no other waiting to be started.
        looks: list[Callable[[], Awaitable[bool | None]]] = [self._look_after_coordinator]
        if self.nodes is not None:
            looks.append(self._look_after_nodes)
        elif self.config.spares and TEMPORARY in os.environ:
            looks.append(self._spares.keep)
        if self.config.snapshots_url:
            looks.append(self._snapshots.keep)
        self._watches = [asyncio.create_task(self._look_forever(look)) for look in looks]
        self._watches.append(asyncio.create_task(self._look_forever(self._look_after_layout, LOOK_S)))

    def _gauges(self) -> Iterator[Metric]:
        """What the controller knows, for Prometheus."""
        states = [health["state"] for health in self._health.values()]
        yield gauge("map_version", "Version of the partition map.", self.state.map_version)
        yield gauge("catalog_version", "Version of the catalog.", self.state.catalog_version)
        yield gauge("shards", "Shards of the grid.", self.state.shards)
        yield gauge("shards_serving", "Shards that serve.", states.count("serving"))
        yield gauge("moves_left", "Partitions that are not where they shall be.", self._rescaler.left)
        if self.nodes is None:
            yield gauge("spares", "Processes that stand ready for shards that die.", self._spares.ready)
            yield gauge("spares_wanted", "How many of them there shall be.", self._spares.wanted)
        yield total("shard_starts", "Lives of shards that were begun.", self._starts)

    async def metrics_targets(self) -> list[str]:
        """Where shards and controller serve their metrics."""
        await self.start()
        shards = [health.get("metrics", "") for health in self._health.values()]
        return [endpoint for endpoint in (self._metrics.endpoint, *shards) if endpoint]

    def save(self) -> None:
        """Persist the state. Raises OSError: what is on the disk is then unknown."""
        failpoint("controller.before_save")
        replace_file(self._folder / "state.bin", self.state.pack())
        failpoint("controller.saved")

    def save_or_end(self) -> None:
        """As `save`, where an owner changes: if it fails the process ends, and its next life looks what is on the disk."""
        try:
            self.save()
        except OSError:
            log.critical("a change of owners could not be persisted", exc_info=True)
            os._exit(70)

    async def _look_forever(self, look: Callable[[], Awaitable[bool | None]], every_s: float = HEARTBEAT_S) -> None:
        """Heartbeats of one actor: when it is new it gets started, when it is gone it is started by Ray and then by us. True from `look`: all is calm."""
        while not self._is_stopping:
            is_calm = False
            try:
                is_calm = bool(await look())
            except Exception as error:
                self._problem = _cause(error)
                log.error("looking after the actors: %s", self._problem)
            await asyncio.sleep(CALM_S if is_calm else every_s)

    async def _look_after_nodes(self) -> None:
        """Which nodes are there; then a home for every shard that has none."""
        assert self.nodes is not None
        await self.nodes.look(self.state.shards)
        is_new = not self.state.homes and not any(self.state.epochs)
        homeless = [shard for shard in range(self.state.shards) if shard not in self.state.homes]
        if homeless:
            await self.nodes.settle(homeless)
            self.save()
            self._problem = ""
            if is_new and self.config.replicas > 1:  # where they shall be follows from the nodes
                self._rescaler.aim(self.state.shards, [], self.config.replicas, 0.0)

    async def _look_after_layout(self) -> None:
        """A watch for every shard that there shall be; then the next step of a move."""
        for shard in range(self.state.shards):
            if shard not in self._shard_watches and (self.nodes is None or shard in self.state.homes):
                self._shard_watches[shard] = asyncio.create_task(self._look_forever(partial(self._look_after, shard)))
        self._rescaler.replace(self._long_down(), set(self._health))
        self.copies.go_on()
        await self._rescaler.go_on()

    def _long_down(self) -> set[int]:
        """Shards that are down for so long that others shall have their copies."""
        before = time.monotonic() - self.config.replace_after_s
        return {shard for shard, since in self._down_since.items() if since < before}

    async def _look_after(self, shard: int) -> bool:
        try:
            health = await self._heartbeats.of(shard, self.health(shard).get("lane", ""), lambda: self.shard_actor(shard).health.remote())
        except Exception:
            self._health.pop(shard, None)
            self._down_since.setdefault(shard, time.monotonic())
            return False
        self._down_since.pop(shard, None)
        if self._pids.setdefault(shard, health["pid"]) != health["pid"]:
            self._life_ends.pop(shard, asyncio.Event()).set()
            self._pids[shard] = health["pid"]
        # Beside the heartbeats: what waits for a life hears from them that it is over, as Ray may never say so.
        if health["state"] == "new":
            self._beside(self._starting, shard, self._start_shard)
            return False
        self._hear(shard, health)
        if health["state"] == "serving" and health["catalog_version"] < self.state.catalog_version:
            self._beside(self._installing, shard, self._install_late)
        if health["state"] == "serving" and health["moving"]["tokens"]:
            await self._rescaler.reconcile(shard, health["moving"])
        return health["state"] == "serving" and not (health["moving"]["tokens"] or health.get("backfilling") or shard in self._installing)

    def _hear(self, shard: int, health: dict[str, Any]) -> None:
        """What a shard says of itself; a new endpoint makes a new map."""
        if self._health.get(shard, {}).get("endpoint") != health["endpoint"]:
            self.state.map_version += 1
        self._health[shard] = health

    @staticmethod
    def _beside(busy: dict[int, asyncio.Task[None]], shard: int, work: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Do something for a shard in a task of its own, unless it is being done."""
        if shard not in busy:
            busy[shard] = asyncio.create_task(work(shard))
            busy[shard].add_done_callback(lambda _: busy.pop(shard, None))

    async def _start_shard(self, shard: int) -> None:
        """A new life: raise its epochs, persist them, then let it recover and serve."""
        self._starts += 1
        self._lives[shard] = self._lives.get(shard, 0) + 1
        log.info("starting shard %d", shard)
        try:
            alone = [p for p, owner in enumerate(self.state.owners) if owner == shard and p not in self.state.placed]
            for partition in alone:
                self.state.epochs[partition] += 1
            self.state.map_version += 1
            self.save()
            epochs = {p: self.state.epochs[p] for p in alone}
            is_dispensable = not alone and self.copies.is_dispensable(shard)
            facts = await self.of_shard(shard, "start", epochs, self.state.seed, self.copies.copied_by(shard), is_dispensable)
            if self.state.members.get(shard) != facts["member"]:
                self.state.members[shard] = facts["member"]
                self.save()
            if self.state.catalog_version:
                await self._install(shard)
            self._hear(shard, await asyncio.wait_for(self.of_shard(shard, "health"), HEALTH_TIMEOUT_S))  # now, not with the next heartbeat
            self._problem = ""
        except Exception as error:
            self._problem = f"shard {shard} does not start: {_cause(error)}"
            log.error("%s", self._problem)
            await asyncio.sleep(1.0)

    async def _install_late(self, shard: int) -> None:
        """A shard that serves under a former catalog is brought to the current one, while nothing moves."""
        async with self.layout_lock:
            try:
                await self._install(shard)
            except Exception as error:
                log.warning("shard %d does not go over to the catalog: %s; it is tried again", shard, _cause(error))

    async def say(self, member: str, reports: list[list[Any]]) -> dict[str, Any]:
        """What a shard's replicas report; returns what they have to know."""
        await self.start()
        return self.copies.say(member, reports)

    async def replicas(self) -> list[dict[str, Any]]:
        """Each partition that has several copies: where, and how far each is."""
        await self.start()
        return self.copies.status()

    async def compare_replicas(self, partition: int) -> dict[str, Any]:
        """Whether the copies of a partition are the same. Raises FieldInvalid, MoveFailed."""
        await self.start()
        return await self.copies.compare(partition)

    async def renew_replicas(self, partition: int) -> None:
        """Make the other copies of a partition anew. Raises FieldInvalid, MoveFailed."""
        await self.start()
        self.copies.renew(partition)

    async def _install(self, shard: int) -> None:
        """Bring a shard to the current catalog, one version after another: the log refers to each."""
        for version in sorted(self.state.catalogs):
            await asyncio.wait_for(self.of_shard(shard, "install_catalog", version, self.state.catalogs[version]), INSTALL_TIMEOUT_S)

    async def _look_after_coordinator(self) -> bool:
        import ray

        coordinator = ray.get_actor(COORDINATOR, namespace=NAMESPACE)
        with contextlib.suppress(Exception):
            health = await asyncio.wait_for(awaited(coordinator.health.remote()), HEALTH_TIMEOUT_S)
            self._metrics_endpoint = health["metrics"]
            if health["state"] != "new":
                return True
            try:
                start = coordinator.start.remote(self.config.host, self.config.port, self.config.metrics_port, self.config.folder)
                await asyncio.wait_for(awaited(start), 30.0)
            except Exception as error:
                self._problem = _cause(error)
        return False

    def lives(self, *shards: int) -> list[int]:
        """How often each of some shards was started by this controller."""
        return [self._lives.get(shard, 0) for shard in shards]

    def health(self, shard: int) -> dict[str, Any]:
        """What a shard said last; empty when it is down."""
        return self._health.get(shard, {})

    def is_ready(self, shard: int) -> bool:
        """Whether a shard serves under the current catalog."""
        health = self.health(shard)
        return health.get("state") == "serving" and health["catalog_version"] == self.state.catalog_version and shard not in self._starting

    async def end_shard(self, shard: int) -> None:
        """A shard that is no more: stopped, its data removed, and not started again."""
        import ray

        if (watch := self._shard_watches.pop(shard, None)) is not None:
            watch.cancel()
        self._health.pop(shard, None)
        self._heartbeats.forget(shard)
        self._down_since.pop(shard, None)
        actor = self.shard_actor(shard)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(awaited(actor.stop.remote()), 120.0)
            await asyncio.wait_for(awaited(actor.remove_data.remote()), 120.0)
        ray.kill(actor, no_restart=True)
        self.state.homes.pop(shard, None)
        self.save()

    def shard_actor(self, shard: int) -> Any:
        """The shard's actor, made when it does not exist. Raises NodeGone."""
        folder, host, where = self.config.folder, self.config.host, dict[str, Any](name=shard_name(shard), num_cpus=0)
        if self.nodes is not None:
            node = self.nodes.home(shard)
            folder, host = node.folder, node.host
            cpus, others = self.config.shard_resources["CPU"], {name: n for name, n in self.config.shard_resources.items() if name not in ("CPU", "memory")}
            where = {
                "name": shard_name(shard, node.ray_id), "scheduling_strategy": pinned_to(node.ray_id), "num_cpus": cpus,
                "memory": self.config.shard_resources.get("memory"), "resources": others,
            }  # fmt: skip
        config = ShardConfig(
            shard, str(Path(folder) / f"shard-{shard}"), self.state.partitions, host, self.config.memory_bytes_max,
            self.config.keep_log, self.config.checkpoint_every_s, self.config.segment_bytes,
        )  # fmt: skip
        remote = shard_class().options(
            namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_restarts=-1, max_task_retries=0, max_concurrency=1000, **where
        )
        return remote.remote(config)

    async def node(self) -> str:
        """Ray's id of the node where it runs."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def stop(self) -> list[str]:
        """Let every shard drain and checkpoint; nobody is started again. Returns what went wrong."""
        await self.start()
        self._is_stopping = True
        calls = (asyncio.wait_for(self.of_shard(shard, "stop"), 120.0) for shard in range(self.state.shards))
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [(shard, result) for shard, result in enumerate(results) if isinstance(result, BaseException)]
        return [f"shard {shard} did not stop cleanly; what it acknowledged is in its log: {_cause(error)}" for shard, error in failed]

    async def end_actors(self) -> None:
        """After `stop`, on a cluster: nothing of the shards stays in Ray."""
        import ray

        for shard in range(self.state.shards):
            with contextlib.suppress(NodeGone):
                ray.kill(self.shard_actor(shard), no_restart=True)

    # --- what is asked of it ----------------------------------------------------------------------------------------------------

    async def map(self) -> dict[str, Any]:
        """The partition map as clients route by it."""
        await self.start()
        state = self.state
        endpoints, lanes = ({shard: self._health.get(shard, {}).get(name, "") for shard in range(state.shards)} for name in ("endpoint", "lane"))
        return {
            "map_version": state.map_version, "partitions": state.partitions, "catalog_version": state.catalog_version, "endpoints": endpoints, "lanes": lanes,
            "owners": np.array(state.owners, dtype=np.uint16).tobytes(), "epochs": np.array(state.epochs, dtype=np.uint64).tobytes(),
            "holding": sorted(set(state.owners)), "grid_id": xxhash.xxh3_64_hexdigest(state.seed.to_bytes(8, "little")),
        }  # fmt: skip

    async def status(self) -> dict[str, Any]:
        """The map's version, each shard's health, and what keeps the grid from serving."""
        await self.start()
        shards = []
        for shard in range(self.state.shards):
            health = self._health.get(shard, {"state": "recovering" if shard in self._starting else "down", "endpoint": ""})
            is_behind = health["state"] == "serving" and health.get("catalog_version", 0) < self.state.catalog_version
            home = self.state.homes.get(shard, "")
            shards.append(
                {**health, "id": shard, "node": home, "state": "recovering" if is_behind else health["state"], "partitions": self.state.owners.count(shard)}
            )
        return {
            "map_version": self.state.map_version,
            "catalog_version": self.state.catalog_version,
            "shards": shards,
            "problem": self._problem or (self.nodes.problem if self.nodes is not None else ""),
            "nodes": self.nodes.status() if self.nodes is not None else [],
            "metrics": self._metrics_endpoint,
        }

    async def catalog(self) -> tuple[int, str]:
        """(version, source) of the current catalog."""
        await self.start()
        return self.state.catalog_version, self.state.catalogs.get(self.state.catalog_version, "")

    async def features(self) -> tuple[dict[str, int], dict[str, int]]:
        """(percent of every feature that some shard is still backfilling, ms since when others are complete), asked of the shards now."""
        await self.start()
        calls = [asyncio.wait_for(self.of_shard(shard, "health"), HEALTH_TIMEOUT_S) for shard in range(self.state.shards)]
        percents: dict[str, int] = {}
        since: dict[str, int] = {}
        for health in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(health, dict):
                for name, percent in health.get("backfilling", {}).items():
                    percents[name] = min(percents.get(name, 100), percent)
                for name, ms in health.get("complete_since", {}).items():
                    since[name] = max(since.get(name, 0), ms)
        return percents, since

    async def apply_catalog(self, source: str, *, force: bool, dry_run: bool) -> tuple[int, Change]:
        """Validate a catalog whole, then make it the grid's: fsynced here first, then installed in every shard that is up.

        Raises CatalogInvalid with every fault, CatalogWouldLose unless forced. A shard that is down installs it before it serves.
        """
        await self.start()
        async with self.layout_lock:
            version, current = self.state.catalog_version, self.state.catalogs.get(self.state.catalog_version, "")
            old = load_catalog(current, version) if version else Catalog()
            new = load_catalog(source, version + 1)
            change = compare(old, new)
            if version and change.is_empty:
                return version, change
            if change.losses and not force and not dry_run:
                raise CatalogWouldLose(change.losses)
            if dry_run:
                return version, change
            self.state.catalogs[version + 1] = source
            self.state.catalog_version = version + 1
            self.state.map_version += 1
            self.save()
            await self._look_at_unknown()
            up = [shard for shard, health in self._health.items() if health["state"] == "serving"]
            async with self._writes_held(up):
                results = await asyncio.gather(*(self._install(shard) for shard in up), return_exceptions=True)
            for shard, result in zip(up, results, strict=True):
                if isinstance(result, BaseException):
                    log.warning("shard %d installs catalog %d when it is back: %s", shard, version + 1, _cause(result))
                elif shard in self._health:
                    self._health[shard]["catalog_version"] = version + 1
            return version + 1, change

    @contextlib.asynccontextmanager
    async def _writes_held(self, shards: list[int]) -> AsyncIterator[None]:
        """While copies of one partition go over to a catalog nothing is written: all do it at the same position."""
        if not self.state.placed:
            yield
            return

        async def each(method: str, *arguments: Any) -> None:
            calls = (asyncio.wait_for(self.of_shard(shard, method, *arguments), HOLD_WAIT_S) for shard in shards)
            for shard, result in zip(shards, await asyncio.gather(*calls, return_exceptions=True), strict=True):
                if isinstance(result, BaseException):
                    log.warning("shard %d, asked to %s: %s", shard, method.replace("_", " "), _cause(result))

        await each("hold_writes", HOLD_S)
        try:
            yield
        finally:
            await each("let_writes")

    async def _look_at_unknown(self) -> None:
        """Whether shards serve that no heartbeat has told of yet: a controller that has just restarted would take them for down."""

        async def look(shard: int) -> None:
            health = await asyncio.wait_for(self.of_shard(shard, "health"), HEALTH_TIMEOUT_S)
            if health["state"] == "serving" and shard not in self._starting:
                self._health[shard] = health

        unknown = [shard for shard in range(self.state.shards) if shard not in self._health and shard not in self._starting]
        await asyncio.gather(*(look(shard) for shard in unknown), return_exceptions=True)

    async def of_every_shard(self, method: str, *arguments: Any) -> list[Any]:
        """One call a shard; all must be up."""
        await self.start()
        return list(await asyncio.gather(*(self.of_shard(shard, method, *arguments) for shard in range(self.state.shards))))

    async def of_shard(self, shard: int, method: str, *arguments: Any) -> Any:
        """One call of a shard. Raises NodeGone, ShardRecovering when its life ends meanwhile (Ray may never say so), and what Ray or the shard raises."""
        call = asyncio.ensure_future(awaited(getattr(self.shard_actor(shard), method).remote(*arguments)))
        over = asyncio.ensure_future(self._life_ends.setdefault(shard, asyncio.Event()).wait())
        try:
            await asyncio.wait((call, over), return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ShardRecovering()
            return call.result()
        finally:
            call.cancel()
            over.cancel()

    async def checkpoint(self) -> tuple[int, float]:
        """Checkpoint every shard. Returns (partitions, seconds)."""
        started = time.monotonic()
        return sum(await self.of_every_shard("checkpoint")), time.monotonic() - started

    # --- snapshots ------------------------------------------------------------------------------------------------------------

    async def snapshot(self, url: str) -> dict[str, Any]:
        """Make a snapshot of all shards at a URL, and tell it who was erased. Returns id, users, bytes. Raises SnapshotFailed."""
        await self.start()
        return await self._snapshots.make(url)

    async def tell_erasures(self, url: str) -> int:
        """Tell the snapshots at a URL who was erased, so that no restore brings them back. Returns how many."""
        await self.start()
        return await self._snapshots.tell_erasures(url)

    async def snapshot_progress(self) -> tuple[int, int]:
        """(bytes done, bytes in all) of the snapshot that is being made."""
        done = await self.of_every_shard("snapshot_bytes")
        return sum(d for d, _ in done), sum(t for _, t in done)

    # --- layout ---------------------------------------------------------------------------------------------------------------

    async def plan_layout(self, shards: int, drained: list[int] | None, replicas: int) -> dict[str, Any]:
        """What a layout would take. shards, replicas 0: as many as now; drained None: those that are now."""
        await self.start()
        shards, drained, replicas = self._layout(shards, drained, replicas)
        targets, _ = self._rescaler.targets_for(shards, drained, replicas)
        moves = self._rescaler.moves_to(targets)
        users = [self.health(shard).get("users", 0) for shard in range(self.state.shards)]
        held = [max(self.state.owners.count(shard), 1) for shard in range(self.state.shards)]
        return {
            "shards": shards, "drained": drained, "moves": moves, "users": sum(users[owner] // held[owner] for _, owner, _ in moves),
            "partitions": [targets.count(shard) for shard in range(max(shards, self.state.shards))],
        }  # fmt: skip

    async def set_layout(self, shards: int, drained: list[int] | None, bytes_per_s: float, replicas: int) -> None:
        """Go to a layout, over restarts if need be. Raises FieldInvalid."""
        await self.start()
        shards, drained, replicas = self._layout(shards, drained, replicas)
        if self.nodes is not None:
            self._rescaler.targets_for(shards, drained, replicas)  # whether it is possible, before new shards get homes
            await self.nodes.settle([shard for shard in range(shards) if shard not in self.state.homes])
        self._rescaler.aim(shards, drained, replicas, bytes_per_s)

    def _layout(self, shards: int, drained: list[int] | None, replicas: int) -> tuple[int, list[int], int]:
        wanted = shards or self.state.shards_wanted
        return wanted, [shard for shard in self.state.drained if shard < wanted] if drained is None else drained, replicas or self.state.replicas

    async def keep_layout(self) -> None:
        """Move nothing any more; partitions stay where they are."""
        await self.start()
        await self._rescaler.stay()

    async def layout(self) -> dict[str, Any]:
        """How far the moves are."""
        await self.start()
        return self._rescaler.status()

    async def erasures(self) -> list[dict[str, Any]]:
        """Deletions whose bytes still lie on some disk, oldest first."""
        found = [erasure for mine in await self.of_every_shard("erasures") for erasure in mine]
        return sorted(found, key=lambda erasure: erasure["erased"])

    async def finish_erasures(self) -> tuple[int, float]:
        """Take every deletion to the disks now. Returns (deletions, seconds)."""
        started = time.monotonic()
        return sum(await self.of_every_shard("finish_erasures")), time.monotonic() - started

    async def replay_dead_letters(self, reason: str) -> tuple[int, int, int]:
        """Ingest refused rows once more. Returns (replayed, accepted, rejected)."""
        counts = await self.of_every_shard("replay_dead_letters", reason)
        return sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)

    async def repair(self) -> list[tuple[int, str]]:
        """Have every shard with stopped partitions start over without what is damaged. Returns (shard, what was lost)."""
        await self.start()
        damaged = [shard for shard, health in self._health.items() if health.get("stopped")]
        lives = {shard: self._health[shard]["incarnation"] for shard in damaged}
        for shard in damaged:
            with contextlib.suppress(Exception):  # it ends under the call
                await asyncio.wait_for(self.of_shard(shard, "restart_accepting_loss"), 5.0)
        deadline = time.monotonic() + REPAIR_TIMEOUT_S
        while any(not self._is_back(shard, life) for shard, life in lives.items()):
            if time.monotonic() > deadline:
                raise ShardRecovering()
            await asyncio.sleep(HEARTBEAT_S)
        return [(shard, text) for shard in damaged for text in self._health[shard]["lost"]]

    def _is_back(self, shard: int, life: str) -> bool:
        health = self._health.get(shard)
        return health is not None and health["state"] == "serving" and health["incarnation"] != life

    async def dead_letters(self, limit: int) -> list[bytes]:
        """The newest refused rows of all shards that are up."""
        await self.start()
        calls = [self.of_shard(shard, "dead_letters", limit) for shard in self._health]
        lists = await asyncio.gather(*(asyncio.wait_for(call, 10.0) for call in calls), return_exceptions=True)
        letters = [letter for found in lists if isinstance(found, list) for letter in found]
        return sorted(letters, key=lambda raw: -msgpack.unpackb(raw)["time"])[:limit]


def _cause(error: BaseException) -> str:
    """The message of what a Ray call failed with, without Ray's traceback."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
