"""Group commit. The order is the promise: verdict, log, columns, acknowledgement.

    inbox --take--> prepare --(one group ahead)--> append in a thread, and to who has copies --(some under way)--> apply --> acknowledge

While groups are being fsynced, here and elsewhere, the loop applies those before and prepares the next. A small group that nothing is before takes
the same steps without the queues between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, cast

import numpy as np

from actors.clock import now_ms
from actors.metrics import Meter
from grid.engine import Engine, Reply
from grid.errors import GridError, Overloaded, WriteFailed
from grid.failpoints import failpoint
from grid.frame import ROWS_MAX, Frame
from grid.group import Group, Judged
from grid.state.users import Slots
from grid.storage.store import Store
from grid.verdict import Reserved

if TYPE_CHECKING:
    from actors.replicating import Replication

log = logging.getLogger("profilegrid")
GROUP_BYTES_MAX = 1 << 20
GROUP_ROWS_MAX = 20_000
# With copies larger ones: what members tell each other costs as much for a small group, a quarter of the shards' CPU where each had one frame. They are
# applied in turns of 3 ms, as the other shard waits for the loop; uncut a quarter of two cores was idle.
JOINED_BYTES_MAX, JOINED_ROWS_MAX, JOINED_TURN_ROWS_MAX = 4 << 20, 80_000, 12_000
# Groups that are logged and not applied yet. With copies a group waits 10 ms and more for the other shard, which is busy too: one at a time left a third
# of two cores idle (ingest 0.72 M events/s).
LOGGED_AHEAD_MAX = 4
# Without copies: one group that is written while another is applied; frames wait meanwhile, and are one group then. With up to six groups
# under way each was one frame, and four shards on two cores took a quarter more CPU an event.
UNDER_WAY_MAX = 2
# A second of work: who waits longer is told to come again.
INBOX_BYTES_MAX = 32 << 20
RETRY_MS = 250
# A group of so few rows that finds the pipeline empty takes no turns: written in the loop, synced in the thread, applied. Of 20 rows' 4.7 ms by the
# pipeline, with 64 callers, 2 were waits for the loop and for the thread to get the GIL. Synced in the loop as well, calls were a third fewer: fdatasync
# takes 0.2 ms alone, 1 on average in a busy machine.
STRAIGHT_ROWS_MAX, STRAIGHT_BYTES_MAX = 512, 64 << 10
# About 2 ms of apply; readers are taken to stay so long after a read.
TURN_ROWS_MAX, READERS_STAY_S = 3_000, 0.2


@dataclass(slots=True)
class Work:
    """A frame that waits for its acknowledgement, since when."""

    frame: Frame
    nbytes: int
    reply: asyncio.Future[Reply]
    arrived: float


# A group, the frames that wait for it, and who else does.
Step = tuple[Group, list[Work], "asyncio.Future[None] | None"]


class Writer:
    """The thread that writes the log. Groups that wait for it are written one after another and synced together: with copies two shards' groups come
    to each disk. asyncio.to_thread would add 80 µs to each: futures of two kinds, a copied context.

    Invariant: behind a record that did not get to the log none does. Positions would be missing before it, which a recovery takes for loss."""

    def __init__(self, store: Store) -> None:
        self._store, self._loop = store, asyncio.get_running_loop()
        self._failed: BaseException | None = None
        # What the next record that is asked for will be: those before it may still wait.
        self.next_sequence = store.log.next_sequence
        self._calls: queue.SimpleQueue[tuple[Callable[[], object] | Group, bool, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._asked = 0  # and not settled
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def append(self, group: Group, *, is_durable: bool) -> asyncio.Future[None]:
        """Done when the group is in the log, fsynced if it is to be durable; fails with WriteFailed."""
        self.next_sequence += 1
        return self._ask(group, is_durable)

    @property
    def takes_now(self) -> bool:
        """Whether `append_now` may be called: the thread does nothing, and the record fits into the open segment."""
        return not self._asked and self._store.log.room >= 2 * STRAIGHT_BYTES_MAX

    def append_now(self, group: Group, *, is_durable: bool) -> asyncio.Future[None] | None:
        """As `append`, written already when it returns; None when that is all. Raises WriteFailed."""
        self.next_sequence += 1
        self._failed = self._failed or _raised(lambda: self._store.append(group, is_durable=False))
        if self._failed is not None:
            raise self._failed
        return self._ask(self._store.log.sync, True) if is_durable else None

    def call(self, function: Callable[[], object], *, writes: bool = False) -> asyncio.Future[None]:
        """Done when the function has run, between two records, or has written one; fails as it does."""
        self.next_sequence += writes
        return self._ask(function, writes)

    def stop(self) -> None:
        """End after what was asked for."""
        self._calls.put(None)

    def _ask(self, what: Callable[[], object] | Group, is_durable: bool) -> asyncio.Future[None]:
        done: asyncio.Future[None] = self._loop.create_future()
        self._asked += 1
        self._calls.put((what, is_durable, done))
        return done

    def _run(self) -> None:
        while True:
            waiting = [self._calls.get()]
            while not self._calls.empty():
                waiting.append(self._calls.get())
            for is_groups, asked in itertools.groupby(waiting, key=lambda one: one is not None and isinstance(one[0], Group)):
                if is_groups:
                    self._write([one for one in asked if one is not None])
                    continue
                for one in asked:
                    if one is None:
                        return
                    function, writes, done = one
                    error = self._failed or _raised(cast(Callable[[], object], function))
                    if writes:
                        self._failed = error
                    self._settle([done], error)

    def _write(self, asked: list[tuple[Callable[[], object] | Group, bool, asyncio.Future[None]]]) -> None:
        def write() -> None:
            for group, _, _ in asked:
                self._store.append(cast(Group, group), is_durable=False)
            if any(is_durable for _, is_durable, _ in asked):
                self._store.log.sync()

        self._failed = self._failed or _raised(write)
        self._settle([done for _, _, done in asked], self._failed)

    def _settle(self, waiting: list[asyncio.Future[None]], error: BaseException | None) -> None:
        self._loop.call_soon_threadsafe(self._finish, waiting, error)

    def _finish(self, waiting: list[asyncio.Future[None]], error: BaseException | None) -> None:
        self._asked -= len(waiting)
        for done in waiting:
            if done.done():  # the pipeline was cancelled
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)


def _raised(function: Callable[[], object]) -> BaseException | None:
    """What a function raises: whoever waits must hear of it."""
    try:
        function()
    except BaseException as error:
        return error
    return None


class Committer:
    """Commits frames of one shard. Lives in the shard's loop; `quiet` gives others a moment when nothing is under way."""

    def __init__(self, engine: Engine, store: Store, on_applied: Callable[[Slots], None], meter: Meter) -> None:
        self._engine, self._store, self._on_applied, self._meter = engine, store, on_applied, meter
        self._inbox: deque[Work] = deque()
        self._inbox_bytes = 0
        self.groups = 0
        self._arrived = asyncio.Event()
        self._prepared: asyncio.Queue[Step] = asyncio.Queue(maxsize=1)
        self._begun: asyncio.Queue[tuple[Step, float, asyncio.Future[None] | None]] = asyncio.Queue(maxsize=LOGGED_AHEAD_MAX)
        # Frames of partitions that are about to be another's: they wait until it is known whose.
        self._held: list[Work] = []
        # Of partitions with several copies: whose groups it commits.
        self.replication: Replication | None = None
        self.groups_under_way: list[Group] = []
        self._opened: list[Work] = []  # being prepared
        self._reserving: list[Reserved] = []
        # Told of every group that is applied.
        self.followers: list[Callable[[Group], None]] = []
        self._preparing = asyncio.Lock()
        self.folding = asyncio.Lock()  # held while a group that another shard leads goes into the columns
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: Writer
        self._loop: asyncio.AbstractEventLoop
        self.events = 0
        self.dead_letters = 0
        self.turn_ms_max = 0.0
        self.read_at = 0.0
        self.committed_at = 0.0

    def start(self) -> None:
        """Begin to commit."""
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(self._store)
        self._tasks = [asyncio.create_task(work()) for work in (self._prepare_forever, self._log_forever, self._apply_forever)]
        for task in self._tasks:
            task.add_done_callback(_die_of_bugs)

    async def stop(self) -> None:
        """Commit what has arrived, then end."""
        while self._inbox:
            await asyncio.sleep(0.005)
        async with self.quiet():
            for task in self._tasks:
                task.remove_done_callback(_die_of_bugs)
                task.cancel()
            self._writer.stop()

    async def commit(self, frame: Frame, nbytes: int) -> Reply:
        """Returns when the frame is durable and applied. Raises Overloaded at once when the inbox is full, GridError when refused."""
        return await self.offer(frame, nbytes)

    def offer(self, frame: Frame, nbytes: int) -> asyncio.Future[Reply]:
        """As `commit`: done then. Raises Overloaded."""
        self.check_room(nbytes)
        work = Work(frame, nbytes, self._loop.create_future(), time.perf_counter())
        self._inbox.append(work)
        self._inbox_bytes += nbytes
        self._arrived.set()
        return work.reply

    async def adopt(self, group: Group) -> None:
        """Commit what another shard decided: returns when it is durable and applied."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with self._preparing:
            self._engine.adopt(group)
            self._under_way += 1
            self._idle.clear()
            await self._prepared.put((group, [], done))
        await done

    async def fold(self, take: Callable[[], list[Group]]) -> None:
        """Apply groups that are in the log and committed, taken from what is held once nobody is quiet: a checkpoint finds them here or there."""
        async with self.folding:
            for group in take():
                self._engine.restore(group)
                group.is_part = True  # its record may not be written yet: where its rows went is not kept for history
                await self._applied(group, [])
                await asyncio.sleep(0)  # whoever leads the next ones waits for our word

    @property
    def is_idle(self) -> bool:
        """Whether nothing is between inbox and columns."""
        return self._under_way == 0 and not self._preparing.locked()

    def unlogged_words(self) -> list[Reserved]:
        """Words that got codes and are not in the log yet, in the order of their codes."""
        groups = [group.reserved for group in self.groups_under_way if group.sequence == 0]
        return [word for reserved in groups for word in reserved] + (self._reserving if self._opened else [])

    def has_under_way(self, partition: int) -> bool:
        """Whether something of a partition was let in and is not committed."""
        frames = (judged.frame for group in self.groups_under_way for judged in group.judged)
        return any((frame.partitions == partition).any() for frame in (*frames, *(work.frame for work in self._opened)))

    @property
    def is_last(self) -> bool:
        """Whether no group comes behind the one that is being committed."""
        return self._under_way == 1

    def append(self, group: Group, *, is_durable: bool) -> asyncio.Future[None]:
        """Write a group to the log behind those that were asked for before. Fails with WriteFailed."""
        return self._writer.append(group, is_durable=is_durable)

    def call(self, function: Callable[[], object], *, writes: bool = False) -> asyncio.Future[None]:
        """Run something in the thread that writes the log, between two records; or what `writes` one itself."""
        return self._writer.call(function, writes=writes)

    @property
    def next_sequence(self) -> int:
        """What the next record of the log will be; those before it may not be written yet."""
        return self._writer.next_sequence

    def let_go(self) -> None:
        """Frames that were held are taken, or refused, now."""
        self._inbox.extendleft(reversed(self._held))
        self._held.clear()
        self._arrived.set()

    def _open(self, works: list[Work]) -> list[Work]:
        """Those of works that are not to be held: no partition of theirs is about to leave, or to be ours."""
        is_waiting = self._engine.sealed | self._engine.arriving
        if not is_waiting.any():
            return works
        is_held = [bool(is_waiting[work.frame.partitions].any()) for work in works]
        for work, held in zip(works, is_held, strict=True):
            if held:
                self._held.append(work)
                self._inbox_bytes += work.nbytes
        return [work for work, held in zip(works, is_held, strict=True) if not held]

    def check_room(self, nbytes: int) -> None:
        """Raise Overloaded when the inbox is full: before a message is parsed, so that refusing takes little from what is accepted."""
        if self._inbox_bytes + nbytes > INBOX_BYTES_MAX:
            raise Overloaded("the shard's inbox", self._inbox_bytes >> 20 << 20, INBOX_BYTES_MAX, RETRY_MS)  # whole MB: one answer for many

    @property
    def inbox_bytes(self) -> int:
        """Bytes of frames that wait."""
        return self._inbox_bytes

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Nothing between inbox and columns: catalog changes, checkpoint dumps and backfills happen here. Keep it short."""
        async with self.held_back(), self.folding:
            yield

    @contextlib.asynccontextmanager
    async def held_back(self) -> AsyncIterator[None]:
        """As `quiet`, but what is committed elsewhere goes on to be folded."""
        async with self._preparing:
            await self._idle.wait()
            yield

    # --- the pipeline -----------------------------------------------------------------------------------------------------

    async def _take(self) -> list[Work]:
        """Waiting frames up to a group's size, at least one."""
        while not self._inbox or (self._under_way >= UNDER_WAY_MAX and not self._has_copies):
            self._arrived.clear()
            await self._arrived.wait()
        taken: list[Work] = []
        nbytes = rows = 0
        bytes_max, rows_max = (JOINED_BYTES_MAX, JOINED_ROWS_MAX) if self._has_copies else (GROUP_BYTES_MAX, GROUP_ROWS_MAX)
        while self._inbox and (not taken or (nbytes + self._inbox[0].nbytes <= bytes_max and rows + self._inbox[0].frame.rows <= rows_max)):
            work = self._inbox.popleft()
            nbytes += work.nbytes
            rows += work.frame.rows
            taken.append(work)
        self._inbox_bytes -= nbytes
        return taken

    async def _prepare_forever(self) -> None:
        while True:
            works = await self._take()
            async with self._preparing:
                self._opened = self._open(works)
                group, admitted = await self._prepare(self._opened)
                self._opened = []
                if admitted:
                    self.groups_under_way.append(group)
                    self._under_way += 1
                    self._idle.clear()
                    if self._goes_straight(group, admitted):
                        await self._commit_straight(group, admitted)
                    else:
                        await self._prepared.put((group, admitted, None))

    def _goes_straight(self, group: Group, works: list[Work]) -> bool:
        if self._under_way > 1 or group.rows > STRAIGHT_ROWS_MAX or sum(work.nbytes for work in works) > STRAIGHT_BYTES_MAX:
            return False
        return self._writer.takes_now and not (self.replication is not None and self.replication.has_copies_of(group))

    async def _commit_straight(self, group: Group, works: list[Work]) -> None:
        """What the pipeline does, of a group that nothing is before."""
        began, has_news = time.perf_counter(), group.has_news
        try:
            synced = self._writer.append_now(group, is_durable=any(work.frame.is_durable for work in works)) if has_news else None
            self._turn(began)
            await (synced or asyncio.sleep(0))
        except WriteFailed as error:
            stop_at_once(error)
        if has_news:
            self._logged(group, began)
        await self._finish(group, works)

    async def _prepare(self, works: list[Work]) -> tuple[Group, list[Work]]:
        """The group of the frames that may be taken; the others are refused, each with its own error."""
        judged: list[Judged] = []
        reserved = self._reserving = list[Reserved]()
        admitted = []
        received_ms = now_ms()
        for work in works:
            started = time.perf_counter()
            try:
                self._engine.admit(work.frame)
            except GridError as error:
                _settle(work, error)
                continue
            # One at a time: what a frame reserves must be seen by the next.
            group = self._engine.prepare([work.frame], received_ms)
            judged += group.judged
            reserved += group.reserved
            admitted.append(work)
            self._turn(started)
            if len(works) > 1 or work.frame.rows > STRAIGHT_ROWS_MAX:
                await self._let_others_in()
        return Group(self._engine.received_ms, self._engine.catalog.version, judged, reserved), admitted

    async def _log_forever(self) -> None:
        while True:
            step = await self._prepared.get()
            group, works, _ = step
            began, committed = time.perf_counter(), None
            if group.has_news:
                if self.replication is not None and self.replication.has_copies_of(group):
                    committed = await self.replication.begin(group)
                else:
                    is_durable = group.is_adopted or any(work.frame.is_durable for work in works)
                    committed = self._writer.append(group, is_durable=is_durable)
            if committed is not None:
                committed.add_done_callback(_stop_if_failed)  # at once, whatever those before still wait for
            await self._begun.put((step, began, committed))

    async def _apply_forever(self) -> None:
        while True:
            (group, works, done), began, committed = await self._begun.get()
            if committed is not None:
                await committed
                self._logged(group, began)
            await self._finish(group, works)
            if done is not None and not done.done():
                done.set_result(None)
            await asyncio.sleep(0)

    def _logged(self, group: Group, began: float) -> None:
        self.groups += 1
        self._meter.synced(time.perf_counter() - began, group.rows)

    async def _finish(self, group: Group, works: list[Work]) -> None:
        """What is logged goes into the columns and is acknowledged: it is under way no more."""
        failpoint("group.logged")
        await self._applied(group, works)
        if works:
            self.groups_under_way.pop(0)
        self._under_way -= 1
        self._arrived.set()
        if self._under_way == 0:
            self._idle.set()

    async def _applied(self, group: Group, works: list[Work]) -> None:
        """A group is committed: into the columns, then everybody who waits for it is told."""
        touched = await self._apply(group)
        failpoint("group.applied")
        self.committed_at = time.monotonic()
        started = time.perf_counter()
        if not group.is_part:
            self._store.applied.keep(group)
        for follow in self.followers:
            follow(group)
        for judged, work in zip(group.judged, works, strict=bool(works)):
            reply = self._engine.reply(judged)
            self.events += reply.accepted if judged.frame.kind == "events" else 0
            self._meter.acknowledged(time.perf_counter() - work.arrived)
            _settle(work, reply)
        if any(judged.rejections for judged in group.judged):
            self.dead_letters += self._store.keep_dead_letters(group)
            for judged in group.judged:
                for reason, count in Counter(rejection.reason for rejection in judged.rejections).items():
                    self._meter.dead_letters.labels(reason).inc(count)
        if group.entries:  # journals keep it a while
            for judged in group.judged:
                judged.rows, judged.updates = None, []
        self._turn(started)
        if touched.size:
            self._on_applied(touched)

    async def _apply(self, group: Group) -> Slots:
        """Fold a group, in turns of about 2 ms while someone reads: a cut costs a tenth of the apply, so bulk loads go uncut."""
        touched = []
        rows_max = TURN_ROWS_MAX if self._is_read else JOINED_TURN_ROWS_MAX if self._has_copies else ROWS_MAX
        started = time.perf_counter()
        for slots in self._engine.apply_in_steps(group, rows_max):
            touched.append(slots)
            self._turn(started)
            failpoint("group.applied_in_part")
            if group.rows > STRAIGHT_ROWS_MAX:
                await self._let_others_in()
            started = time.perf_counter()
        return np.concatenate(touched) if touched else np.empty(0, dtype=np.int64)

    @property
    def _is_read(self) -> bool:
        return time.monotonic() - self.read_at < READERS_STAY_S

    @property
    def _has_copies(self) -> bool:
        return self.replication is not None and bool(self.replication.replicas)

    async def _let_others_in(self) -> None:
        if self._is_read or self._has_copies:
            await asyncio.sleep(0)

    def _turn(self, started: float) -> None:
        self.turn_ms_max = max(self.turn_ms_max, (time.perf_counter() - started) * 1000)


def _settle(work: Work, outcome: Reply | GridError) -> None:
    if work.reply.done():  # the caller went away
        return
    if isinstance(outcome, Reply):
        work.reply.set_result(outcome)
    else:
        work.reply.set_exception(outcome)


def stop_at_once(error: Exception) -> NoReturn:
    """After a failed write its outcome is unknown: nothing may be acknowledged, the process starts over and recovers."""
    log.critical("%s", error)
    os._exit(70)


def _stop_if_failed(logged: asyncio.Future[None]) -> None:
    if not logged.cancelled() and isinstance(error := logged.exception(), WriteFailed):
        stop_at_once(error)


def _die_of_bugs(task: asyncio.Task[None]) -> None:
    """A pipeline that ended would leave callers waiting for ever; a restart recovers."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("the commit pipeline failed", exc_info=task.exception())
        os._exit(71)
