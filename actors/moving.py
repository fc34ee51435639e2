"""Partitions that move from one shard to another while both serve. The controller leads; this is both shards' part of it.

    source                                                      target
                                                                expects them under a token
    each: its pages at one moment; from then it is followed     in memory
    log closed, history files        --lane-->                  durable, pages as checkpoints
    what was committed since         --lane-->                  logged, fsynced, applied
    sealed: writes of them wait      --the rest-->              has all; writes that come already wait
        (the controller persists the new owner)
    released: no read any more; writes are sent there
                                                                takes over: serves
    forgets them

Whoever crashes before the controller has persisted leaves the source the owner, which has everything; after it, the target, which has
everything on its disk. Nothing is taken back once it is released.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
from profilegrid.errors import ProfilegridError
from profilegrid.lanes import MOVE, Lane

from actors.calls import in_thread
from actors.committing import stop_at_once
from actors.replaying import finish_open_plan
from grid.errors import MoveFailed, WriteFailed
from grid.failpoints import failpoint
from grid.group import Group
from grid.storage.copying import PartitionCopy
from grid.storage.history import PastFile
from grid.transferring import Arrival, packed, shared_facts, take_shared

if TYPE_CHECKING:
    from actors.serving import ShardServer

log = logging.getLogger("profilegrid")
LANE_TIMEOUT_S, DRAIN_TIMEOUT_S = 30.0, 60.0
# Of a source that sends nothing for so long another may take the place.
SILENT_S = 5.0
CHUNK_BYTES = 4 << 20
MOVING_FOLDER = "moving"
PAGES_UNDER_WAY_MAX, LETTERS_A_MESSAGE = 2, 1_000
TAIL_BYTES_MAX, TAIL_MESSAGE_BYTES = 256 << 20, 1 << 20


class Times:
    """How long each part of something took, for the log."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def end(self, part: str) -> None:
        """A part has ended; the next begins."""
        now = time.monotonic()
        self.seconds[part], self._since = round(now - self._since, 3), now


class Outgoing:
    """Partitions on their way out: copied, then followed until they are sealed."""

    def __init__(self, shard: ShardServer, token: str, partitions: list[int], lane: str, bytes_per_s: float, *, copy_of: str = "") -> None:
        """`copy_of`: the member whose copy it is; the target keeps it as another, and is told by its replicas what is committed since."""
        self._copy_of = copy_of
        self._shard, self.token, self.partitions, self._bytes_per_s = shard, token, partitions, bytes_per_s
        self._lane = Lane(lane, LANE_TIMEOUT_S)
        # Of its own: copies for several members may be under way, and what an earlier life left is removed at any time.
        self._folder = shard.store.folder / MOVING_FOLDER / token
        shard.moves.sending.add(token)
        self._is_moving = np.zeros(shard.engine.partitions, dtype=bool)  # those whose copy has begun
        self._tail: deque[Group] = deque()
        self._tail_bytes = 0
        self._is_drained, self._has_tail = asyncio.Event(), asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._files: list[PastFile] = []
        self._letters: list[tuple[bytes, bytes]] = []
        self._paced_s, self._in_pieces = 0.0, asyncio.Lock()
        self._catalog_version = 0
        self.pages_done = self.pages_total = self.bytes_sent = 0
        self.failed: MoveFailed | None = None
        self.is_released = self._is_ended = False

    # --- the copy ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send all there is, then go on with what is committed meanwhile. Returns when the target has nearly everything. Raises MoveFailed."""
        self._running = asyncio.create_task(self._run())
        try:
            await asyncio.wait([self._running])
            if self._running.cancelled():
                raise MoveFailed("the move was given up")
            self._running.result()
        except BaseException:
            await self.end()
            raise

    async def _run(self) -> None:
        shard, times = self._shard, Times()
        if self._copy_of:
            try:
                await self._lane.ask(MOVE, msgpack.packb([self.token, "copy", self.partitions, self._copy_of]))
            except ProfilegridError as error:
                raise MoveFailed(f"the target: {error}") from None
        await finish_open_plan(shard)
        await shard.rememberer.catch_up(shard.store.log.next_sequence - 1)
        times.end("history")
        self._catalog_version = shard.engine.catalog.version
        self.pages_total = sum(int(shard.engine.users.pages_of(partition).size) for partition in self.partitions)
        if not self._copy_of:
            shard.committer.followers.append(self.follow)
        async with shard.checkpointing:  # it copies pages too
            for partition in self.partitions:
                await self._copy(partition)
        times.end("pages")
        facts = await self._close_past()
        times.end("past")
        for file in self._files:
            await self._send_file(file)
        for first in range(0, len(self._letters), LETTERS_A_MESSAGE):
            await self._ask("letters", self._letters[first : first + LETTERS_A_MESSAGE])
        times.end("files")
        await self._ask("commit", facts)
        times.end("durable")
        if not self._copy_of:
            self._following = asyncio.create_task(self._follow())
            await self.drained()
            times.end("tail")
        log.info("partitions copied to another shard", extra={"facts": {"partitions": self.partitions, "bytes": self.bytes_sent, "seconds": times.seconds}})

    async def _copy(self, partition: int) -> None:
        """A partition as it is at one moment; what is committed in it after that follows."""
        shard = self._shard
        async with shard.committer.quiet():
            self._check_catalog()
            copy = shard.store.begin_copy(partition, is_whole=True)
            self._is_moving[partition] = True
        try:
            await self._ask("begin", partition, shard.engine.catalog.version, copy.dump.facts)
            await self._send_pages(copy)
        finally:
            shard.engine.copying = None

    def _check_catalog(self) -> None:
        """Raise MoveFailed unless every feature is whole and was when the copy began: of one that is not, nothing would come along."""
        self._shard.moves.check_quiet()
        if self._shard.engine.catalog.version != self._catalog_version:
            raise MoveFailed("the catalog has changed")

    async def _close_past(self) -> dict[str, Any]:
        """The history files of what was committed up to a moment, kept aside, and what belongs to no partition, as of then."""
        shard, store, engine = self._shard, self._shard.store, self._shard.engine
        await in_thread(store.log.prepare_segment)
        async with shard.rememberer.still():
            async with shard.committer.quiet():
                self._check_catalog()
                # Before the thread comes to it: what is held from now on goes into the next segment.
                logged = {partition: max(int(engine.positions[partition]), store.held.last(partition)) for partition in self.partitions}
                await shard.committer.call(store.log.roll)
                facts = {
                    "dropped_ms": store.history.dropped_ms, **shared_facts(engine),
                }  # fmt: skip
                if not self._copy_of:  # a copy's stay where the rows were refused
                    self._letters = await asyncio.to_thread(store.letters_of, self.partitions, shard.config.shard)
                closed = max((last for _, last in store.log.closed()), default=0)
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while store.held.first_sequence() <= closed:  # it is committed in a moment, or dead
                if time.monotonic() > deadline:
                    raise MoveFailed("history waits for what is not committed yet")
                await asyncio.sleep(0.01)
            # All of the closed log goes into files, so the target leaves out of its own what lies up to there.
            facts["floors"] = {partition: store.held.known_through(partition, closed, position) for partition, position in logged.items()}
            await shard.rememberer.convert_closed(closed)
            self._files = [file for partition in self.partitions for file in store.history.of_partition(partition)]
            await in_thread(shutil.rmtree, self._folder, ignore_errors=True)
            await in_thread(store.history.link_to, self._files, self._folder)
        return facts

    async def _send_pages(self, copy: PartitionCopy) -> None:
        """One page after another, some under way at a time."""
        partition, pages = copy.dump.partition, copy.dump.pages
        under_way: deque[asyncio.Task[None]] = deque()
        try:
            while copy.copy_next() or pages:
                await asyncio.sleep(0)
                for number in sorted({number for _, number in pages}):
                    mine = {key: pages.pop((key, number)) for key in copy.dump.columns if (key, number) in pages}
                    under_way.append(asyncio.create_task(self._send_page(partition, number, mine)))
                    self.pages_done += 1
                    while len(under_way) >= PAGES_UNDER_WAY_MAX:
                        await under_way.popleft()
            while under_way:
                await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()

    async def _send_page(self, partition: int, number: int, blobs: dict[str, bytes]) -> None:
        columns, dictionaries = self._shard.store.columns_by_key(), self._shard.engine.dictionaries
        parts = []
        for key, blob in blobs.items():
            self._check_catalog()
            parts.append(packed(key, blob, None if key == "ids" else columns[key], dictionaries))
            await asyncio.sleep(0)
        await self._ask("page", partition, number, parts)

    async def _send_file(self, file: PastFile) -> None:
        path, sent = self._folder / file.name, 0
        with path.open("rb") as source:
            while sent < file.nbytes:
                chunk = await asyncio.to_thread(source.read, CHUNK_BYTES)
                is_first, sent = sent == 0, sent + len(chunk)
                await self._ask("file", list(file), chunk, is_first, sent >= file.nbytes)

    async def _ask(self, what: str, *arguments: Any) -> None:
        """One step of the target's. A message that is too large goes in pieces. Raises MoveFailed."""
        raw = msgpack.packb([what, *arguments])
        try:
            if len(raw) > CHUNK_BYTES * 2:
                async with self._in_pieces:  # of one message at a time
                    for at in range(0, len(raw), CHUNK_BYTES):
                        await self._lane.ask(MOVE, msgpack.packb([self.token, "piece", raw[at : at + CHUNK_BYTES], at + CHUNK_BYTES >= len(raw)]))
            else:
                await self._lane.ask(MOVE, msgpack.packb([self.token, "whole", raw]))
        except ProfilegridError as error:
            raise MoveFailed(f"the target: {error}") from None
        self.bytes_sent += len(raw)
        self._paced_s = max(self._paced_s, time.monotonic()) + len(raw) / self._bytes_per_s
        await asyncio.sleep(self._paced_s - time.monotonic())

    # --- the tail ---------------------------------------------------------------------------------------------------------

    def follow(self, group: Group) -> None:
        """A group was committed: what of it is on its way goes after it."""
        part = group.part_of(self._is_moving)
        if part is None or self.failed is not None:
            return
        self._tail.append(part)
        self._tail_bytes += part.nbytes
        self._is_drained.clear()
        self._has_tail.set()
        if self._tail_bytes > TAIL_BYTES_MAX:
            self._fail(MoveFailed(f"{self._tail_bytes >> 20} MB wait for the target: it does not keep up with what is written"))

    async def _follow(self) -> None:
        self._bytes_per_s = math.inf  # what is committed meanwhile keeps its own pace
        try:
            while True:
                if not self._tail:
                    self._is_drained.set()
                    self._has_tail.clear()
                    await self._has_tail.wait()
                taken = [self._tail.popleft()]
                nbytes = taken[0].nbytes
                while self._tail and nbytes < TAIL_MESSAGE_BYTES and self._tail[0].catalog_version == taken[0].catalog_version:
                    nbytes += self._tail[0].nbytes
                    taken.append(self._tail.popleft())
                header, body = Group.joined(taken).encode()
                await self._ask("tail", msgpack.packb(header), b"".join(body))
                self._tail_bytes -= nbytes
        except MoveFailed as error:
            self._fail(error)

    async def drained(self) -> None:
        """Return when the target has all that was committed. Raises MoveFailed."""
        if self._tail or self._following is None:
            self._is_drained.clear()
        try:
            await asyncio.wait_for(self._is_drained.wait(), DRAIN_TIMEOUT_S)
        except TimeoutError:
            raise MoveFailed(f"the target did not catch up within {DRAIN_TIMEOUT_S:g} s") from None
        if self.failed is not None:
            raise self.failed

    def _fail(self, error: MoveFailed) -> None:
        self.failed = error
        self._tail.clear()
        self._is_drained.set()

    async def end(self) -> None:
        """Copy and follow no more. May be called twice."""
        if self._running is not None and not self._running.done():
            self._running.cancel()
            await asyncio.wait([self._running])
        if self.follow in self._shard.committer.followers:
            self._shard.committer.followers.remove(self.follow)
        if self._following is not None:
            self._following.cancel()
        self._lane.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._shard.moves.sending.discard(self.token)
        if not self._is_ended:
            self._is_ended = True
            self._shard.replaying.release()


class Incoming:
    """Partitions on their way in."""

    def __init__(self, shard: ShardServer, token: str, partitions: list[int], copy_of: str = "") -> None:
        self.copy_of = copy_of
        self._shard, self.token, self.partitions = shard, token, partitions
        self._pieces: list[bytes] = []
        self._arrival = Arrival(shard.engine, shard.store.columns_by_key())
        self._files: list[PastFile] = []
        self._letters: list[tuple[bytes, bytes]] = []
        self.received: set[str] = set()
        self.is_whole = self.is_over = False
        self._is_written = asyncio.Event()
        self._is_written.set()
        self._under_way = 0
        self._heard_s = time.monotonic()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def take(self, step: list[Any]) -> None:
        """One step that the source asks for. Raises MoveFailed, also when the move is given up meanwhile."""
        self._under_way += 1
        self._is_idle.clear()
        try:
            await self._take(step)
        finally:
            self._heard_s = time.monotonic()
            self._under_way -= 1
            if self._under_way == 0:
                self._is_idle.set()

    @property
    def is_alive(self) -> bool:
        """Whether it is going on: something of it came not long ago."""
        return not self.is_over and (self._under_way > 0 or time.monotonic() < self._heard_s + SILENT_S)

    async def end(self) -> None:
        """Take nothing more; returns when no step is under way, so that what came can be dropped."""
        self.is_over = True
        await self._is_idle.wait()

    async def give_up(self) -> None:
        """Take nothing more; returns when what is being made durable is."""
        self.is_over = True
        await self._is_written.wait()

    def _check_open(self) -> None:
        if self.is_over:
            raise MoveFailed("the move was given up")

    async def _take(self, step: list[Any]) -> None:
        self._check_open()
        if step[0] == "piece":
            self._pieces.append(step[1])
            if not step[2]:
                return
            step, self._pieces = ["whole", b"".join(self._pieces)], []
        what, *arguments = msgpack.unpackb(step[1], strict_map_key=False)
        steps: dict[str, Callable[..., Awaitable[None]]] = {
            "begin": self._begin, "page": self._page, "file": self._file, "letters": self._letter, "commit": self._commit, "tail": self._follow,
        }  # fmt: skip
        await steps[what](*arguments)

    async def _begin(self, partition: int, catalog_version: int, facts: dict[str, Any]) -> None:
        engine = self._shard.engine
        if catalog_version != engine.catalog.version:
            raise MoveFailed(f"the source has catalog {catalog_version}, this shard {engine.catalog.version}")
        if partition not in self.partitions:
            raise MoveFailed(f"partition {partition} is not expected")
        self._arrival.begin(partition, facts)

    async def _page(self, partition: int, number: int, parts: list[list[Any]]) -> None:
        """A page into the columns, and aside for the disk."""
        if self._shard.engine.memory is not None:
            self._shard.engine.memory.draw(2 * sum(len(blob) for _, blob, _, _ in parts))
        for _ in self._arrival.page(partition, number, parts):
            await asyncio.sleep(0)
            self._check_open()

    async def _file(self, facts: list[Any], chunk: bytes, is_first: bool, is_last: bool) -> None:
        file = PastFile(*facts)
        self.received.add(file.name)
        await in_thread(self._shard.store.history.receive, file, chunk, is_first=is_first, is_last=is_last)
        if is_last:
            self._files.append(file)

    async def _letter(self, letters: list[list[bytes]]) -> None:
        self._letters += [(key, value) for key, value in letters]

    async def _commit(self, facts: dict[str, Any]) -> None:
        """All that came is durable, and counts."""
        shard, store, dumps = self._shard, self._shard.store, list(self._arrival.dumps.values())
        take_shared(shard.engine, facts)
        try:
            async with shard.checkpointing:
                async with shard.committer.quiet():
                    self._check_open()
                    self._is_written.clear()  # no catalog in between
                    dumped, sequence = store.dump_shard(), store.log.next_sequence - 1
                for dump in dumps:
                    dump.facts |= {"sequence": sequence, "floor": facts["floors"][dump.partition], "epoch": 0, "cuts": []}
                await in_thread(store.write_arrived, dumped, dumps, self._files, facts["dropped_ms"], self._letters)
            self._arrival.settle()
            self.is_whole = True
        except WriteFailed as error:
            stop_at_once(error)
        finally:  # whatever came of it, a catalog waits no longer
            self._is_written.set()
        if self.copy_of:
            shard.moves.incoming = None
            shard.replication.refilling.came(self.copy_of, self.partitions)

    async def _follow(self, header: bytes, body: bytes) -> None:
        """What was committed since, into our log and columns."""
        group = Group.decode(msgpack.unpackb(header, strict_map_key=False), memoryview(body), 0)
        if not self.is_whole or group.catalog_version not in self._shard.engine.catalogs:
            raise MoveFailed(f"what follows came too early, or is of catalog {group.catalog_version}, which this shard does not have")
        await self._shard.committer.adopt(group)


class Moves:
    """Both parts for one shard, in its loop. What the controller asks may come twice or late: the token, or the epoch, tells."""

    def __init__(self, shard: ShardServer) -> None:
        self._shard = shard
        self.outgoing: Outgoing | None = None
        self.incoming: Incoming | None = None
        self.dropping = asyncio.Lock()
        self._expecting = asyncio.Lock()
        # Tokens of what is on its way out: their files are needed.
        self.sending: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def status(self) -> dict[str, Any]:
        """The moves that are under way, and how far the one that leaves is. Safe from another thread."""
        leaving, coming = self.outgoing, self.incoming
        led = [leaving, coming if coming is not None and not coming.copy_of else None]  # copies are not the controller's to lead
        facts = {"tokens": [move.token for move in led if move is not None]}
        return facts | ({"pages": [leaving.pages_done, leaving.pages_total]} if leaving is not None else {})

    def check_quiet(self) -> None:
        """Raise MoveFailed while something is under way that a partition must not be moved under."""
        engine = self._shard.engine
        self._shard.check_serving()
        backfilling = [name for name, state in engine.features.items() if not state.is_complete]
        if self._shard.is_installing:
            raise MoveFailed("a catalog is being installed")
        if backfilling:
            raise MoveFailed(f"features are being backfilled: {', '.join(backfilling)}")
        if engine.is_loading:
            raise MoveFailed("users are being loaded")
        if engine.exhausted is not None:
            raise MoveFailed(str(engine.exhausted))
        if engine.stopped:
            raise MoveFailed(f"partitions {sorted(engine.stopped)} are stopped by damage; repair them first")

    async def give_up_copies(self) -> None:
        """A catalog comes: a copy that is on its way here would lack its features. The source begins again."""
        if self.incoming is not None and self.incoming.copy_of:
            await self.incoming.give_up()

    def is_expected(self, partition: int) -> bool:
        """Whether a partition is on its way here."""
        return self.incoming is not None and partition in self.incoming.partitions

    # --- the target's ---------------------------------------------------------------------------------------------------------

    async def expect(self, token: str, partitions: list[int]) -> None:
        """Be ready for partitions, which a source sends under a token. Whatever is left of them here goes first. Raises MoveFailed."""
        async with self._expecting:
            self.check_quiet()
            if self.incoming is not None:
                await self.cancel(self.incoming.token)
            if self._shard.engine.kept[partitions].any():
                raise MoveFailed(f"of partitions {partitions} some are here already")
            await self._drop(partitions)
            self.incoming = Incoming(self._shard, token, partitions)

    async def _expect_copy(self, token: str, partitions: list[int], copy_of: str) -> None:
        """Be ready for copies of another member's partitions, in the place of what is here of them. One source at a time: two that took each
        other's place would never end. Raises MoveFailed."""
        refilling = self._shard.replication.refilling
        async with self._expecting:
            if self.incoming is not None:
                if self.incoming.copy_of not in ("", copy_of) and self.incoming.is_alive:
                    raise MoveFailed(f"copies of member {self.incoming.copy_of}'s partitions are on their way here")
                await self.cancel(self.incoming.token)
            if not refilling.is_behind(partitions):
                raise MoveFailed(f"of partitions {partitions} some are no copies here that lack something")
            # First: what is held of them may be what a backfill waits for, and with it we.
            refilling.forget_state(partitions)
            self.check_quiet()
            await self._drop(partitions)
            self.incoming = Incoming(self._shard, token, partitions, copy_of)

    async def take(self, payload: bytes) -> None:
        """A message of a source. Raises MoveFailed, MemoryExhausted."""
        try:
            token, *step = msgpack.unpackb(payload)
        except (ValueError, TypeError):
            raise MoveFailed("a message that cannot be read") from None
        if step[0] == "copy":
            await self._expect_copy(token, step[1], step[2])
            return
        if self.incoming is None or token != self.incoming.token:
            raise MoveFailed("nothing is expected under this token")
        await self.incoming.take(step)

    def take_over(self, epochs: dict[int, int]) -> None:
        """Serve partitions from now on, in these epochs. Raises MoveFailed when they are not here whole."""
        engine = self._shard.engine
        for partition in epochs:
            if not engine.kept[partition]:
                raise MoveFailed(f"partition {partition} is not here")
        for partition, epoch in epochs.items():
            engine.epochs[partition] = max(int(engine.epochs[partition]), epoch)
            engine.arriving[partition] = False
        self._shard.committer.let_go()
        if self.incoming is not None and set(self.incoming.partitions) <= set(epochs):
            self.incoming = None

    # --- the source's ---------------------------------------------------------------------------------------------------------

    async def send(self, token: str, partitions: list[int], lane: str, bytes_per_s: float) -> None:
        """Copy partitions to a target and follow it up. Returns when it has nearly everything. Raises MoveFailed."""
        self.check_quiet()
        if self.outgoing is not None:
            raise MoveFailed("other partitions are on their way")
        if (self._shard.engine.epochs[partitions] == 0).any():
            raise MoveFailed(f"of partitions {partitions} some are not here")
        if self._shard.replaying.locked():
            raise MoveFailed("dead letters are being replayed")
        await self._shard.replaying.acquire()
        self.outgoing = Outgoing(self._shard, token, partitions, lane, bytes_per_s)
        await self.outgoing.run()

    async def seal(self, token: str) -> None:
        """Let writes of the partitions wait, and return when the target has all that was committed. Raises MoveFailed."""
        leaving = self.outgoing
        if leaving is None or leaving.token != token:
            raise MoveFailed("no such move is under way")
        async with self._shard.committer.quiet():
            self._shard.engine.sealed[leaving.partitions] = True
        await leaving.drained()
        failpoint("move.sealed")

    def release(self, epochs: dict[int, int]) -> None:
        """Answer no read of partitions any more, and send writes that waited on: they are another's, in these epochs. Cannot be taken back."""
        engine = self._shard.engine
        if self.outgoing is not None and set(self.outgoing.partitions) & set(epochs):
            self.outgoing.is_released = True
        for partition, epoch in epochs.items():
            if int(engine.epochs[partition]) < epoch:
                engine.epochs[partition] = 0
                engine.sealed[partition] = False
        self._shard.committer.let_go()
        self._shard.wake_watchers()

    async def forget(self, epochs: dict[int, int]) -> None:
        """Another serves the partitions: drop what is here of them."""
        engine = self._shard.engine
        self.release(epochs)
        gone = [partition for partition in epochs if not engine.kept[partition]]
        if self.outgoing is not None and self.outgoing.is_released:
            leaving, self.outgoing = self.outgoing, None
            await leaving.end()
        self._in_background(self._drop(gone))

    async def cancel(self, token: str) -> None:
        """Give a move up: the source serves as before, the target drops what came. Nothing when it is another's token, or too late."""
        engine = self._shard.engine
        if self.outgoing is not None and self.outgoing.token == token and not self.outgoing.is_released:
            leaving, self.outgoing = self.outgoing, None
            await leaving.end()
            engine.sealed[leaving.partitions] = False
            self._shard.committer.let_go()
        if self.incoming is not None and self.incoming.token == token:
            coming, self.incoming = self.incoming, None
            await coming.end()
            await in_thread(self._shard.store.history.forget_received, coming.received)
            engine.arriving[coming.partitions] = False
            self._shard.committer.let_go()
            await self._drop([partition for partition in coming.partitions if not engine.kept[partition]])

    # --- what has left ----------------------------------------------------------------------------------------------------------

    async def drop_foreign(self) -> None:
        """What the disk still has of partitions that are another's, or were on their way."""
        for left in (self._shard.store.folder / MOVING_FOLDER).glob("*"):
            if left.name not in self.sending:
                await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        await self._drop(self._shard.store.foreign())

    async def _drop(self, partitions: list[int]) -> None:
        """Partitions from memory and disk, as far as they are there; others are served meanwhile."""
        shard = self._shard
        on_disk = set(shard.store.foreign())
        partitions = [p for p in partitions if p in on_disk or shard.engine.users.page_table[p].any()]
        if not partitions:
            return
        log.info("dropping what is left of partitions that moved", extra={"facts": {"partitions": len(partitions)}})
        async with self.dropping, shard.rememberer.still(), shard.checkpointing:
            async with shard.committer.quiet():
                shard.store.forget_slots()
            expected = set() if self.incoming is None else set(self.incoming.partitions)
            partitions = [p for p in partitions if p not in expected and not shard.engine.kept[p]]
            for partition in partitions:
                for _ in shard.engine.drop_in_steps(partition):
                    await asyncio.sleep(0)
            try:
                await in_thread(partial(shard.store.discard, partitions, anew=shard.replication.replicas))
            except WriteFailed as error:
                stop_at_once(error)
        if any(erasure.partition in partitions for erasure in shard.engine.erasures.pending):
            # They must be gone from this disk too, also where their partition is another's now.
            self._in_background(shard.rememberer.erase())

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("what has left could not be dropped; it is tried again at the next start", exc_info=task.exception())
