"""A shard without Ray: engine, store, commit pipeline, checkpoints, backfill and gRPC server, in one loop.

Owns a set of partitions and their folder. Never decides placement (the controller does) or rules (the grid does). A restart loses
nothing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import Metric

from actors.audiences import Audiences
from actors.backfilling import Backfill
from actors.calls import in_thread
from actors.clock import clock_problem, now_ms
from actors.committing import Committer, stop_at_once
from actors.configs import ShardConfig
from actors.metrics import Gauges, Meter, gauge, gauges, total
from actors.moving import Moves
from actors.promises import Promises
from actors.remembering import SEGMENTS_BEHIND_MAX, Rememberer
from actors.replicating import Replication, Report, nobody
from actors.snapshotting import send
from grid.catalog import Catalog, load_catalog
from grid.engine import Engine
from grid.errors import CheckpointCorrupt, GridError, HistoryCorrupt, MemoryExhausted, PartitionUnavailable, ShardRecovering, SnapshotFailed, WriteFailed
from grid.reading import Profiles, read_profiles, user_ids
from grid.state.dictionary import Strings
from grid.state.memory import MemoryBudget, resident_bytes, trim_heap
from grid.state.users import Slots
from grid.storage.files import replace_file, sync_folder
from grid.storage.history import release_memory
from grid.storage.renewing import folder_aside
from grid.storage.snapshots import stage
from grid.storage.store import Recovery, Store

log = logging.getLogger("profilegrid")
# About 3 s of replay at 0.9 µs an event of 60 bytes.
CHECKPOINT_LOG_BYTES = 256 << 20
DISK_BYTES_FREE_MIN = 512 << 20
TRIM_EVERY_MS = 3_600_000
_HOUSEKEEPING_S = 1.0


@dataclass(slots=True, eq=False)
class Watcher:
    """One WatchProfile stream."""

    user: Strings
    slot: int = -1
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class ShardServer:
    """Everything of one shard that runs in its loop."""

    def __init__(self, config: ShardConfig) -> None:
        self.config = config
        self.incarnation = uuid.uuid4().hex
        self.state = "new"
        self.last_tick = time.monotonic()
        self.recovery = Recovery()
        self.engine: Engine
        self.store: Store
        self.committer: Committer
        self.rememberer: Rememberer
        self.replication: Replication
        self.problems: list[str] = []
        self.progress = ""
        self.meter = Meter()
        self.meter.registry.register(Gauges(self._gauges))
        self.profiles_read = 0
        self._checkpointed_s = time.monotonic()
        self._trimmed_ms = 0
        self._watchers: set[Watcher] = set()
        self._tasks: list[asyncio.Task[Any]] = []
        self.checkpointing = asyncio.Lock()
        self._snapshotting = asyncio.Lock()
        # Held while dead letters are ingested once more, and while partitions leave with theirs.
        self.replaying = asyncio.Lock()
        self.moves = Moves(self)
        self._installing, self._let, self._is_held = asyncio.Lock(), asyncio.Event(), False
        # (done, in all) of a snapshot that is being made.
        self.snapshot_bytes = (0, 0)
        self.audiences = Audiences(self)

    # --- life -------------------------------------------------------------------------------------------------------------

    async def recover(
        self, epochs: dict[int, int], seed: int, copied: Iterable[int] = (), report: Report = nobody, *, is_dispensable: bool = False
    ) -> Recovery:  # fmt: skip
        """Open the folder and bring back all that was acknowledged. The loop stays free: `status` answers meanwhile.

        epochs          partitions that this shard serves alone
        copied          those that it has a copy of: who serves them, its replicas and `report`, which tells the controller, find out
        is_dispensable  others have all that was acknowledged, without this folder: where it cannot be opened it is set aside, for an empty one
        """
        self.state = "recovering"
        self._begin_engine(epochs, seed, copied)
        try:
            self.recovery = await asyncio.to_thread(self._recover)
        except CheckpointCorrupt as error:
            if not is_dispensable:
                raise
            await asyncio.to_thread(self._set_aside, str(error))
            self._begin_engine(epochs, seed, copied)
            self.recovery = await asyncio.to_thread(self._recover)
        await asyncio.to_thread(release_memory)
        self.committer = Committer(self.engine, self.store, self._notify, self.meter)
        self.committer.start()
        self.rememberer = Rememberer(self.engine, self.store, self.committer, self.checkpoint, self.meter)
        promises = await asyncio.to_thread(Promises, Path(self.config.folder), self.config.shard)
        self.replication = Replication(self, promises, report)
        self.committer.replication = self.replication
        self.replication.start(copied)
        self._tasks = [
            asyncio.create_task(self._keep_house()),
            asyncio.create_task(self.rememberer.keep_forever()),
            asyncio.create_task(self.rememberer.verify_forever()),
        ]
        if self.recovery.incomplete:
            self._tasks.append(asyncio.create_task(self._backfill_recovered(self.recovery.incomplete)))
        self._tasks.append(asyncio.create_task(self.moves.drop_foreign()))
        self.state = "serving"
        facts = {"users": self.recovery.users, "groups": self.recovery.groups, "seconds": round(self.recovery.seconds, 3)}
        log.info("recovered", extra={"facts": facts | ({"stopped": self.recovery.stopped} if self.recovery.stopped else {})})
        return self.recovery

    def _begin_engine(self, epochs: dict[int, int], seed: int, copied: Iterable[int]) -> None:
        self.engine = Engine(partitions=self.config.partitions, seed=seed)
        self.engine.memory = MemoryBudget(self.config.memory_bytes_max, resident_bytes)
        for partition, epoch in epochs.items():
            self.engine.epochs[partition] = epoch
        self.engine.copied[list(copied)] = True

    def _set_aside(self, why: str) -> None:
        """Begin with an empty folder, as another member; the damaged one stays for a look, in the place of an earlier one."""
        folder = Path(self.config.folder)
        aside = folder_aside(folder)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        sync_folder(folder.parent)
        log.warning("the data of this shard is damaged (%s) and is copied anew from the other shards; the damaged files are kept in %s", why, aside)

    def _recover(self) -> Recovery:
        self.store = Store(Path(self.config.folder), self.engine, keep_log=self.config.keep_log, segment_bytes=self.config.segment_bytes)
        self.problems += [f"the database of checkpoints was damaged and is made anew, without {what}" for what in self.store.left_out]
        gc.disable()  # each full collection would look at all that was imported: a twelfth of a recovery
        try:
            return self._recovered()
        except BaseException:
            self.store.close()
            raise
        finally:
            gc.enable()

    def _recovered(self) -> Recovery:
        marker = self._accept_loss_marker
        recovery = self.store.recover(self._tell_progress, accept_loss=marker.exists())
        if marker.exists():  # what is damaged is never looked at again; a crash before this begins anew
            self.store.settle_loss()
            for text in recovery.lost:
                log.warning("accepted the loss: %s", text)
            marker.unlink()
            sync_folder(marker.parent)
        return recovery

    @property
    def _accept_loss_marker(self) -> Path:
        return Path(self.config.folder) / "ACCEPT_LOSS"

    def restart_accepting_loss(self) -> None:
        """Start over, this time leaving out what is damaged. Only for an operator who said so."""
        replace_file(self._accept_loss_marker, b"")
        log.warning("restarting to leave out what is damaged, as the operator asked")
        os._exit(72)

    def _tell_progress(self, what: str, done: int, total: int) -> None:
        self.progress = f"{what} {100 * done // max(total, 1)} %"

    async def stop(self) -> None:
        """Commit what arrived, checkpoint, release the folder."""
        self.state = "down"
        self.store.checkpoints.is_paced = False
        async with self.checkpointing:  # one that is under way ends first
            for task in self._tasks:
                task.cancel()
        await self.committer.stop()
        self.replication.stop()
        self.store.checkpoint_all()
        self.store.close()

    async def _keep_house(self) -> None:
        """Ticks, memory, checkpoints when due, old segments."""
        checkpointed = time.monotonic()
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.last_tick = time.monotonic()
            self.engine.exhausted = self._exhaustion()
            is_long = self.store.log.bytes_from(self.store.covered_sequence + 1) > CHECKPOINT_LOG_BYTES
            if is_long or time.monotonic() - checkpointed > self.config.checkpoint_every_s:
                await self._checkpoint_in_its_time()
                checkpointed = time.monotonic()

    async def _checkpoint_in_its_time(self) -> None:
        try:
            await self.checkpoint()
        except Exception:
            log.exception("a checkpoint failed; the one before stands, the next is tried in its time")
            self.problems.append("a checkpoint failed; the one before stands")

    def _gauges(self) -> Iterator[Metric]:
        """What is there to be read, for Prometheus."""
        yield gauges("state", "1 for the state that the shard is in.", "state", {self.state: 1.0})
        yield gauge("memory_bytes", "Anonymous memory of the process.", resident_bytes())
        yield gauge("memory_bytes_max", "Its bound.", self.config.memory_bytes_max)
        yield gauge("recovery_seconds", "How long the last recovery took.", self.recovery.seconds)
        if self.state != "serving":
            return
        engine, store, history = self.engine, self.store, self.store.history.status()
        yield total("events", "Events accepted.", self.committer.events)
        yield total("groups", "Groups committed.", self.committer.groups)
        yield total("profiles_read", "Profiles read.", self.profiles_read)
        yield total("queries", "Rules evaluated.", self.audiences.queries)
        yield gauge("users", "Users that exist.", engine.users_served)
        yield gauge("inbox_bytes", "Frames that wait to be committed.", self.committer.inbox_bytes)
        yield gauge("turn_seconds_max", "The longest turn of the loop since the last status.", self.committer.turn_ms_max / 1000)
        yield gauge("checkpoint_age_seconds", "Since the last checkpoint of all partitions.", time.monotonic() - self._checkpointed_s)
        yield gauge("log_bytes_to_replay", "What a recovery would read.", store.log.bytes_from(store.covered_sequence + 1))
        yield gauge("segments_behind", "Closed log segments that are not in history yet.", self.rememberer.segments_behind)
        yield gauge("history_events", "Past events that are kept.", history["rows"])
        yield gauge("history_bytes", "Their size.", history["bytes"])
        yield gauge("erasures_pending", "Deletions whose bytes still lie on disk.", len(engine.erasures.pending))
        yield gauge("stopped_partitions", "Partitions that damage keeps from serving.", len(engine.stopped))
        yield gauge("watchers", "Open WatchProfile streams.", len(self._watchers))
        yield gauges("column_bytes", "Memory of each feature, attribute and of the ids.", "column", engine.column_bytes())
        yield gauges("backfill_percent", "Features that are being backfilled.", "feature", self._backfilling)

    def _exhaustion(self) -> MemoryExhausted | None:
        """What keeps the shard from taking anything: history that does not keep up, or a disk that is nearly full."""
        behind = self.rememberer.segments_behind
        if behind > SEGMENTS_BEHIND_MAX:
            return MemoryExhausted("log segments that wait for history", behind, SEGMENTS_BEHIND_MAX)
        disk = shutil.disk_usage(self.config.folder)
        if disk.free < DISK_BYTES_FREE_MIN:
            return MemoryExhausted("disk of the shard", disk.used, disk.total - DISK_BYTES_FREE_MIN)
        return None

    def check_serving(self) -> None:
        """Raise ShardRecovering until the log is replayed."""
        if self.state != "serving":
            raise ShardRecovering()

    def check_readable(self, partitions: NDArray[np.integer[Any]]) -> None:
        """Raise PartitionMoved, PartitionUnavailable or ShardRecovering unless partitions may be read here now."""
        self.engine.check_owned(partitions)
        self.replication.check_readable(partitions)

    def check_still_readable(self, owned: NDArray[np.integer[Any]]) -> None:
        """As `check_readable`, of partitions that are owned: where there is one copy of each, all of them whole, that is all."""
        if self.engine.is_limited or self.replication.replicas:
            self.check_readable(owned)

    def check_partitions_open(self) -> None:
        """Raise PartitionUnavailable when a partition of this shard is stopped."""
        for partition, why in self.engine.stopped.items():
            raise PartitionUnavailable(partition, why)

    def status(self) -> dict[str, Any]:
        """Plain facts for the controller. Safe from another thread."""
        facts: dict[str, Any] = {
            "state": self.state,
            "incarnation": self.incarnation,
            "pid": os.getpid(),
            "users": 0,
            "memory_bytes": resident_bytes(),
            "progress": self.progress,
        }
        if self.state == "serving":
            turn, self.committer.turn_ms_max = self.committer.turn_ms_max, 0.0
            facts |= {
                "users": self.engine.users_served, "events": self.committer.events, "dead_letters": self.committer.dead_letters,
                "turn_ms_max": turn, "problems": [*filter(None, [clock_problem()]), *(["users are being loaded"] if self.engine.is_loading else []), *(f"partition {p}: {why}" for p, why in self.engine.stopped.items()), *self.problems, *self._history_problems()],
                "catalog_version": self.engine.catalog.version, "recovered_users": self.recovery.users,
                "recovered_seconds": self.recovery.seconds, "lost": self.recovery.lost, "stopped": len(self.engine.stopped), "tick_age_s": time.monotonic() - self.last_tick,
                "backfilling": self._backfilling,
                "history": self.store.history.status(),
                "segments_behind": self.rememberer.segments_behind,
                "profiles_read": self.profiles_read, "queries": self.audiences.queries, "groups": self.committer.groups,
                "ack_ms": self.meter.recent_ack.percentiles(50, 99),
                "fsync_ms": self.meter.recent_fsync.percentiles(50, 99),
                "inbox_bytes": self.committer.inbox_bytes, "checkpoint_age_s": time.monotonic() - self._checkpointed_s,
                "complete_since": {name: state.complete_since_ms for name, state in self.engine.features.items() if state.complete_since_ms},
                "moving": self.moves.status(), "member": self.replication.me, "copies": self.replication.status(),
            }  # fmt: skip
        return facts

    @property
    def _backfilling(self) -> dict[str, int]:
        """Percent of every feature that is not complete."""
        return {name: state.percent for name, state in self.engine.features.items() if not state.is_complete}

    def _history_problems(self) -> list[str]:
        waiting = [self.rememberer.problem] if self.rememberer.problem else []
        return waiting + [f"history lacks a damaged record: {fault}" for fault in self.store.history.damaged] + self.rememberer.damage

    # --- catalog ------------------------------------------------------------------------------------------------------------

    async def install_catalog(self, version: int, source: str) -> None:
        """Go over to a catalog between two groups; log it for every partition; backfill what it adds."""
        if version <= self.engine.catalog.version:
            return
        catalog = load_catalog(source, version)
        async with self._installing:
            await self.moves.give_up_copies()
            await self._install_catalog(version, catalog)

    @property
    def is_installing(self) -> bool:
        """Whether the shard goes over to another catalog."""
        return self._installing.locked()

    async def _install_catalog(self, version: int, catalog: Catalog) -> None:
        async with self.replication.still(), self.committer.folding if self._is_held else self.committer.quiet():
            if version <= self.engine.catalog.version:
                return  # the controller's heartbeat asked for it too, and came first: twice would backfill twice
            backfilling = [name for name, state in self.engine.features.items() if not state.is_complete]
            await self.committer.call(partial(self.store.append_catalog, catalog, self.engine.received_ms), writes=True)
            missing = self.engine.install_catalog(catalog)
            self.replication.catalog_installed()
            for name in backfilling:
                if name in catalog.features and name not in missing:
                    self.engine.reset_feature(name)
                    missing.append(name)
            if missing:
                self._start_backfill(missing)

    async def hold_writes(self, seconds: float) -> None:
        """Commit nothing from when this returns: until `let_writes`, or so long."""
        self.let_writes()
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def hold(let: asyncio.Event) -> None:
            async with self.committer.held_back():
                self._is_held = True
                held.set_result(None)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(let.wait(), seconds)
                async with self._installing:  # a catalog that is being installed relies on it
                    self._is_held = False

        self._let = asyncio.Event()
        self._tasks.append(asyncio.create_task(hold(self._let)))
        await held

    def let_writes(self) -> None:
        """Commit again."""
        self._let.set()

    async def _backfill_recovered(self, names: list[str]) -> None:
        """Features whose past a crash took. What is held of a former catalog feeds none of them: it must be in history's part, or dead, when that begins."""
        version = self.engine.catalog.version
        while self.store.held.oldest_catalog() < version:
            await asyncio.sleep(0.01)
        async with self.committer.quiet():
            if self.engine.catalog.version == version:  # else the newer catalog took them over
                for name in names:
                    self.engine.reset_feature(name)
                self._start_backfill(names)

    def _start_backfill(self, names: list[str]) -> None:
        backfill = Backfill(self.engine, self.store, self.committer, self.rememberer, names)
        self._tasks.append(asyncio.create_task(self._backfill(backfill)))

    async def _backfill(self, backfill: Backfill) -> None:
        try:
            await backfill.run()
            await self.checkpoint()
            backfill.finish()
        except Exception as error:
            if isinstance(error, HistoryCorrupt):
                self.rememberer.mend({error.partition}, str(error))
            log.exception("backfill of %s failed; it starts anew with the shard", ", ".join(backfill.names))
            self.problems.append(f"backfill of {', '.join(backfill.names)} failed; it starts anew when the shard does")

    # --- checkpoints ----------------------------------------------------------------------------------------------------------

    async def checkpoint(self) -> int:
        """Checkpoint every partition in turn; commits go on between the copies. Returns how many.

        A failed write stops the shard, whoever asked: what RocksDB holds is then unknown until it is opened again.
        """
        started = time.monotonic()
        try:
            partitions = await self._checkpoint_partitions()
        except WriteFailed as error:
            stop_at_once(error)
        self._checkpointed_s = time.monotonic()
        seconds = self._checkpointed_s - started
        self.meter.checkpoint_seconds.observe(seconds)
        log.info("checkpoint written", extra={"facts": {"partitions": partitions, "seconds": round(seconds, 3)}})
        return partitions

    # --- snapshots ------------------------------------------------------------------------------------------------------------

    async def snapshot(self, url: str) -> dict[str, Any]:
        """Store this shard as it is at one moment at a URL. Returns its part of the manifest as plain data. Raises SnapshotFailed.

        A checkpoint first, so that little log is in it. Commits wait for as long as it takes to link files, some 10 ms.
        """
        self.check_serving()
        if self.engine.stopped:
            raise SnapshotFailed(url, f"partitions {sorted(self.engine.stopped)} are stopped; repair them first")
        if self._snapshotting.locked():
            raise SnapshotFailed(url, "another is being made")
        async with self._snapshotting:
            await self.checkpoint()
            folder = self.store.folder / "snapshot"
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            try:
                async with self.rememberer.still(), self.checkpointing, self.committer.quiet():
                    await self.committer.call(self.store.log.roll)
                    positions = {partition: int(self.engine.positions[partition]) for partition in self.store.owned()}
                    part = {"shard": self.config.shard, "positions": positions, "users": self.engine.users_served}
                    await in_thread(stage, self.store, folder)
                self.snapshot_bytes = (0, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
                part["files"] = await send(folder, url, self._snapshot_went_on)
                return part
            finally:
                self.snapshot_bytes = (0, 0)
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _snapshot_went_on(self, nbytes: int) -> None:
        done, total = self.snapshot_bytes
        self.snapshot_bytes = (done + nbytes, total)

    async def note_erased(self, erased: list[tuple[int, int]]) -> None:
        """Remember the erased users of a shard that is about to end, durably. May be repeated."""
        self.check_serving()
        await asyncio.to_thread(self.store.checkpoints.note_erased, erased)

    async def erased_users(self) -> list[tuple[int, int]]:
        """(when, hash of the id) of everybody who was ever erased here."""
        self.check_serving()
        noted = await asyncio.to_thread(self.store.checkpoints.noted_erased)
        return sorted({*noted, *((erasure.received_ms, erasure.id_hash) for erasure in self.engine.erasures.pending)})

    async def _checkpoint_partitions(self) -> int:
        async with self.checkpointing:
            partitions = self.store.kept()
            with self.engine.event_ids.telling_new_ones_apart():  # those that come between two partitions' moments go with the later one
                for number, partition in enumerate(partitions):
                    shard = None
                    async with self.committer.quiet():
                        if number == 0:  # in one moment with the first partition: no word lies between them
                            shard = self.store.dump_shard()
                        copy = self.store.begin_copy(partition)
                    try:
                        while copy.copy_next():
                            await asyncio.sleep(0)
                        if shard is not None:
                            await in_thread(self.store.write_shard, shard)
                        await in_thread(self.store.write_partition, copy.dump)
                    except BaseException:
                        copy.abandon()
                        raise
                    finally:
                        self.engine.copying = None
            moment = now_ms()
            await in_thread(self.store.drop_old_segments)
            if moment - self._trimmed_ms > TRIM_EVERY_MS:
                await in_thread(self.store.trim_dead_letters, moment)
                self._trimmed_ms = moment
            self.engine.producers.forget_old(self.engine.received_ms)
            await asyncio.to_thread(trim_heap)  # what a copy took lies scattered among what stays: 2 MB a minute under small writes
            return len(partitions)

    # --- reads ----------------------------------------------------------------------------------------------------------------

    def find(self, ids: Strings) -> Slots:
        """Slots of ids; raises PartitionMoved for ids of other shards."""
        self.check_serving()
        self.committer.read_at = time.monotonic()
        slots, partitions, are_owned = self.engine.users.locate(ids, self.engine.epochs)
        (self.check_still_readable if are_owned else self.check_readable)(partitions)
        return slots

    def read(self, ids: Strings, fields: list[str], as_of_ms: int | None) -> Profiles:
        """Profiles of ids, as of now when no time is given."""
        moment = now_ms() if as_of_ms is None else as_of_ms
        self.profiles_read += len(ids)
        return read_profiles(self.engine, self.find(ids), fields or None, moment)

    def ids_of_handles(self, handles: np.ndarray[Any, np.dtype[np.uint64]]) -> Strings:
        """Ids of user handles, in their order; an erased user's is empty."""
        self.check_serving()
        slots = np.empty(handles.size, dtype=np.int64)
        partitions = (handles >> np.uint64(32)).astype(np.int64)
        self.check_readable(np.unique(partitions).astype(np.uint16))
        for partition in np.unique(partitions).tolist():
            here = partitions == partition
            slots[here] = self.engine.users.slots_of_ordinals(partition, (handles[here] & np.uint64(0xFFFFFFFF)).astype(np.int64))
        return user_ids(self.engine, slots)

    # --- watching -----------------------------------------------------------------------------------------------------------

    async def watch(self, user: Strings, fields: list[str]) -> AsyncIterator[Profiles]:
        """The user's profile now, then after each change."""
        watcher = Watcher(user, int(self.find(user)[0]))
        self._watchers.add(watcher)
        try:
            while True:
                watcher.changed.clear()
                yield self.read(user, fields, None)
                await watcher.changed.wait()
        finally:
            self._watchers.discard(watcher)

    def wake_watchers(self) -> None:
        """Streams of users that have moved away end, so that they are begun anew where the user is."""
        for watcher in self._watchers:
            watcher.changed.set()

    def _notify(self, touched: Slots) -> None:
        """Wake the watchers of touched slots; one of an unknown user looks whether it is known now."""
        if not self._watchers:
            return
        touched = np.unique(touched)
        for watcher in self._watchers:
            if watcher.slot < 0 or not self.engine.users.exists(np.array([watcher.slot]))[0]:
                try:
                    slot = int(self.find(watcher.user)[0])
                except GridError:
                    watcher.changed.set()  # its stream is told so
                    continue
                if slot != watcher.slot:
                    watcher.slot = slot
                    watcher.changed.set()
                continue
            at = int(np.searchsorted(touched, watcher.slot))
            if at < touched.size and touched[at] == watcher.slot:
                watcher.changed.set()
