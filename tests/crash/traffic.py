"""Traffic whose every outcome is known: producers that count what was acknowledged, readers that check each answer against it.

Every event adds 1 to its user's `hits` and 3 to `weight` and 1 under some key: an answer in which these disagree shows half an
event. A producer's users are its own, so that what it was told is all there is to know of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import threading
import time
from collections import Counter
from typing import Any, Protocol

import grpc
import numpy as np
import profilegrid
from profilegrid.columns import events_batch
from profilegrid.errors import ProfilegridError
from profilegrid.routes import Map, frame_of, partitions_of
from profilegrid.v1 import admin_pb2, admin_pb2_grpc, events_pb2, events_pb2_grpc

CATALOG: dict[str, Any] = {
    "grid": "torture",
    "events": {"hit": {"weight": "int", "key": "category"}},
    "attributes": {"mark": "int"},
    "features": {
        "hits": {"count": "hit"},
        "weight": {"sum": "hit.weight"},
        "by_key": {"count": "hit", "by": "key"},
        "day": {"window_count": "hit", "window": "24h", "hop": "1h"},
        "heat": {"decayed_count": "hit", "half_life": "7d"},
        "latest": {"last": "hit.weight"},
    },
}
USERS_EACH, ROWS_MAX = 40, 60
ALL_FEATURES = ("hits", "weight", "by_key", "day")


class Book(Protocol):
    """Where workers write down their calls: before each what it will do, after it what became of it."""

    def sending(self, users: list[str]) -> Any:
        """Before a batch of one event for each of `users` goes out. Returns what `took` is to be told."""

    def took(self, call: Any) -> None:
        """A batch was acknowledged."""

    def reading(self, users: list[str]) -> Any:
        """Before a read. Returns what `saw` is to be told."""

    def saw(self, reader: str, call: Any, found: dict[str, Any]) -> None:
        """A profile of each user was read."""

    def fault(self, text: str) -> None:
        """Something that must never happen."""


class Ledger:
    """What was sent and what was acknowledged, by user; a read is judged at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.seen: dict[str, Counter[str]] = {}
        self.batches = 0
        self.faults: list[str] = []

    def sending(self, users: list[str]) -> list[str]:
        with self._lock:
            self.sent.update(users)
        return users

    def took(self, call: list[str]) -> None:
        with self._lock:
            self.acknowledged.update(call)
            self.batches += 1

    def reading(self, users: list[str]) -> dict[str, int]:
        """What a read that begins now must see at least."""
        with self._lock:
            return {user: self.acknowledged[user] for user in users}

    def saw(self, reader: str, call: dict[str, int], found: dict[str, Any]) -> None:
        """Never behind an acknowledgement or what this reader saw before, never ahead of what was sent, never half an event."""
        with self._lock:
            seen, ceiling = self.seen.setdefault(reader, Counter()), {user: self.sent[user] for user in found}
        for user, profile in found.items():
            hits = profile["hits"]
            if not max(call[user], seen[user]) <= hits <= ceiling[user]:
                self.fault(f"{user} reads {hits}; acknowledged {call[user]}, seen before {seen[user]}, sent {ceiling[user]}")
            if not is_whole(profile):
                self.fault(f"{user} shows half an event: { ({name: profile[name] for name in ALL_FEATURES}) }")
            seen[user] = max(seen[user], hits)

    def fault(self, text: str) -> None:
        """Something that must never happen."""
        with self._lock:
            self.faults.append(text)


def is_whole(profile: Any) -> bool:
    """Whether every feature of a profile tells of as many events. A shard whose clock is slow has no event of its future in a window."""
    hits = profile["hits"]
    return profile["weight"] == 3 * hits and sum(profile["by_key"].values()) == hits and profile["day"] <= hits


def rows_of(rng: random.Random, users: list[str], now_ms: int, new_words: float = 0.0) -> list[tuple[str, str, int, dict[str, Any], None]]:
    """Some events of some users; `new_words`: how many of them bring a word that shards may learn at the same time, each by itself."""
    chosen = rng.choices(users, k=rng.randint(1, ROWS_MAX))
    keys = [f"k{rng.randint(0, 3)}" if rng.random() >= new_words else f"n{rng.randint(0, 300)}" for _ in chosen]
    return [(user, "hit", now_ms - rng.randint(0, 60_000), {"weight": 3, "key": key}, None) for user, key in zip(chosen, keys, strict=True)]


class Worker(threading.Thread):
    """A thread that does one thing until it is told to stop."""

    def __init__(self, name: str, target: str, ledger: Book, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.target, self.ledger, self.rng = target, ledger, random.Random(seed)
        self.stopping = threading.Event()

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:  # a worker that dies silently would prove nothing
            self.ledger.fault(f"{self.name} died: {type(error).__name__}: {error}")

    def work(self) -> None:
        """Until `stopping`."""
        raise NotImplementedError


class Producer(Worker):
    """Has users of its own."""

    # With some, lists of one group's entries come in an order of their own where it is folded in turns: the same values, other bits.
    new_words = 0.0

    def __init__(self, name: str, target: str, ledger: Book, seed: int) -> None:
        super().__init__(name, target, ledger, seed)
        self.users = [f"{name}-{number}" for number in range(USERS_EACH)]


class SyncProducer(Producer):
    """The sync client: batches, and single events that it buffers."""

    def work(self) -> None:
        with profilegrid.Client(self.target, delivery_timeout=120.0) as grid:
            while not self.stopping.is_set():
                rows = rows_of(self.rng, self.users, int(time.time() * 1000), self.new_words)
                users = [row[0] for row in rows]
                call = self.ledger.sending(users)
                if self.rng.random() < 0.5:
                    for user, event, moment, properties, _ in rows:
                        grid.track(user, event, properties, time=moment)
                    report = grid.flush()
                else:
                    report = grid.track_many("hit", user_id=users, time=[row[2] for row in rows], weight=[3] * len(rows), key=[row[3]["key"] for row in rows])
                if report.accepted != len(rows):
                    self.ledger.fault(f"{self.name}: accepted {report.accepted} of {len(rows)}: {report.rejections[:2]}")
                self.ledger.took(call)


class AsyncProducer(Producer):
    """The async client: several batches in flight."""

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        async with profilegrid.AsyncClient(self.target, delivery_timeout=120.0) as grid:
            await asyncio.gather(*(self._produce(grid, number) for number in range(4)))

    async def _produce(self, grid: profilegrid.AsyncClient, lane: int) -> None:
        users = self.users[lane::4]
        while not self.stopping.is_set():
            rows = rows_of(self.rng, users, int(time.time() * 1000), self.new_words)
            names = [row[0] for row in rows]
            call = self.ledger.sending(names)
            report = await grid.track_many("hit", user_id=names, time=[row[2] for row in rows], weight=[3] * len(rows), key=[row[3]["key"] for row in rows])
            if report.accepted != len(rows):
                self.ledger.fault(f"{self.name}: accepted {report.accepted} of {len(rows)}")
            self.ledger.took(call)


class StreamProducer(Producer):
    """No client at all: frames over IngestStream to the owner, repeated under their number until they are acknowledged."""

    def work(self) -> None:
        producer, number = self.rng.randbytes(16), 0
        self._map: Map | None = None
        while not self.stopping.is_set():
            number += 1
            batch = events_batch(rows_of(self.rng, self.users, int(time.time() * 1000), self.new_words))
            names = batch.ids.to_list()
            call = self.ledger.sending(names)
            waiting = None
            while waiting is None or waiting:  # partitions whose shard has not acknowledged
                try:
                    waiting = self._send(batch, producer, number, waiting)
                except (grpc.RpcError, queue.Empty):
                    self._map = None
                    time.sleep(0.05)
            self.ledger.took(call)
            if self.rng.random() < 0.1:  # the network has its acknowledged frames once more
                with contextlib.suppress(grpc.RpcError, queue.Empty):
                    self._send(batch, producer, number, None)

    def _send(self, batch: Any, producer: bytes, number: int, only: set[int] | None) -> set[int]:
        if self._map is None:
            with grpc.insecure_channel(self.target) as gateway:
                self._map = Map.of(admin_pb2_grpc.AdminServiceStub(gateway).GetMap(admin_pb2.GetMapRequest(), timeout=5))  # type: ignore[no-untyped-call]
        map_ = self._map
        partitions = partitions_of(batch.ids, map_.partitions)
        left = set(partitions.tolist()) if only is None else set(only)
        for shard in {int(map_.owners[partition]) for partition in left}:
            mine = [i for i, partition in enumerate(partitions.tolist()) if partition in left and map_.owners[partition] == shard]
            order = sorted(mine, key=lambda i: int(partitions[i]))
            frame = frame_of(batch, np.array(order), partitions[order], map_)
            frame.producer_id, frame.batch_number = producer, number
            if not map_.endpoints[shard]:
                raise queue.Empty
            with grpc.insecure_channel(map_.endpoints[shard]) as channel:
                requests = iter([events_pb2.IngestStreamRequest(frame=frame)])
                for response in events_pb2_grpc.EventServiceStub(channel).IngestStream(requests, timeout=3):  # type: ignore[no-untyped-call]
                    if response.error_code:
                        raise queue.Empty
                    if response.accepted != len(mine):
                        self.ledger.fault(f"{self.name}: accepted {response.accepted} of {len(mine)}")
                    left -= {int(partitions[i]) for i in mine}
        return left


class Reader(Worker):
    """Reads users of all producers."""

    def __init__(self, name: str, target: str, ledger: Book, seed: int, users: list[str]) -> None:
        super().__init__(name, target, ledger, seed)
        self.users = users

    def work(self) -> None:
        with profilegrid.Client(self.target, read_timeout=3.0) as grid:
            while not self.stopping.is_set():
                users = self.rng.sample(self.users, min(8, len(self.users)))
                call = self.ledger.reading(users)
                try:
                    found = {user: grid.get(user) for user in users}
                except ProfilegridError:  # a shard is down
                    time.sleep(0.05)
                    continue
                self.ledger.saw(self.name, call, found)
