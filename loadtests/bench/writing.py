"""Rows of writing: ingest, ingest_track, ack_latency, checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import numpy as np
import profilegrid

from loadtests.bench import work
from loadtests.bench.rows import ROUNDS, Row, beside, measures
from loadtests.bench.sides import Bench, Grid, Missing, Redis

OUR_EVENTS, REDIS_EVENTS = 4_000_000, 50_000
TRACKED, ACKS, ACK_EVENTS = 200_000, 300, 100


_loop: list[asyncio.Runner] = []


def run(call: Coroutine[Any, Any, float]) -> float:
    """Run in the one event loop of this process: gRPC's aio keeps to the loop that it first saw."""
    if not _loop:
        _loop.append(asyncio.Runner())
    return _loop[0].run(call)


def send_views(target: str, seed: int, count: int = OUR_EVENTS) -> float:
    """Events a second: batches of 25k, eight in flight, made before the clock starts."""
    return send_batches(target, view_batches(seed, count))


def view_batches(seed: int, count: int) -> list[dict[str, Any]]:
    """Batches of `work.views`."""
    return [work.views(seed * 1000 + number, work.BATCH) for number in range(count // work.BATCH)]


def send_batches(target: str, batches: list[dict[str, Any]]) -> float:
    """Events a second of batches, eight in flight."""

    async def send() -> float:
        async with profilegrid.AsyncClient(target) as grid:
            await grid.track_many("view", **batches[0])
            started = time.perf_counter()
            room = asyncio.Semaphore(work.IN_FLIGHT)

            async def one(batch: dict[str, Any]) -> None:
                async with room:
                    report = await grid.track_many("view", **batch)
                    assert report.accepted == work.BATCH

            await asyncio.gather(*(one(batch) for batch in batches))
            return len(batches) * work.BATCH / (time.perf_counter() - started)

    return run(send())


def redis_views(redis: Redis, seed: int, count: int = REDIS_EVENTS) -> float:
    """Events a second through the Lua script, pipelines of 1,000."""
    sha = redis.client.script_load(work.LUA)
    rows = work.view_rows(seed, count)
    started = time.perf_counter()
    for first in range(0, len(rows), 1000):
        pipeline = redis.client.pipeline(transaction=False)
        for user, moment, category in rows[first : first + 1000]:
            pipeline.evalsha(sha, 1, user, moment, category, user[5:])
        pipeline.execute()
    return count / (time.perf_counter() - started)


def redis_or_reason(bench: Bench, row: Row) -> Redis | None:
    """The peer; None, and the reason in the row, where it is not here."""
    try:
        return bench.redis
    except Missing as error:
        row.reason = str(error)
        return None


@measures("ingest")
def ingest(bench: Bench) -> list[Row]:
    """Arrow columns, 25k events a batch."""
    row = Row("ingest", "events/s", peer_name="Redis, Lua, AOF everysec", target="≥ 1.5 M/s, ≥ 20×")
    redis, target = redis_or_reason(bench, row), bench.shop.target
    beside(row, bench, lambda seed: send_views(target, seed), None if redis is None else lambda seed: redis_views(redis, seed))
    row.is_met = bool(row.ours and row.ours >= 1.5e6 and (row.ratio is None or row.ratio >= 20))
    row.notes = [f"batches of {work.BATCH:,}, at most {work.IN_FLIGHT} in flight, acks durable"]
    return [row]


@measures("ingest_track")
def ingest_track(bench: Bench) -> list[Row]:
    """`track()` one by one from one process."""
    row = Row("ingest_track", "events/s", peer_name="Redis, Lua, pipelined call by call", target="≥ 250 k/s, ≥ 3×")
    redis, target = redis_or_reason(bench, row), bench.shop.target

    def ours(seed: int) -> float:
        rows = work.view_rows(seed, TRACKED)
        with profilegrid.Client(target) as grid:
            started = time.perf_counter()
            for user, moment, category in rows:
                grid.track(user, "view", {"category": category}, time=moment)
            assert grid.flush().accepted == TRACKED
            return TRACKED / (time.perf_counter() - started)

    beside(row, bench, ours, None if redis is None else lambda seed: redis_views(redis, seed))
    row.is_met = bool(row.ours and row.ours >= 250e3 and (row.ratio is None or row.ratio >= 3))
    return [row]


@measures("ack_latency")
def ack_latency(bench: Bench) -> list[Row]:
    """One batch of 100 at a time, durable; Redis fsyncs each as well."""
    row = Row("ack_latency", "ms (p50)", peer_name="Redis, Lua, appendfsync always", is_cost=True, target="p50 ≤ 2 ms, p99 ≤ 10 ms")
    target, tails = bench.shop.target, []

    def ours(seed: int) -> float:
        batches = [work.views(seed * 1000 + number, ACK_EVENTS) for number in range(ACKS)]
        with profilegrid.Client(target) as grid:
            grid.track_many("view", **batches[0])
            times = [_timed(lambda batch=batch: grid.track_many("view", **batch)) for batch in batches]
        tails.append(float(np.percentile(times, 99)))
        return float(np.median(times))

    try:
        redis: Redis | None = bench.started(Redis(bench.folder / "redis-always", "always"))
    except Missing as error:
        redis, row.reason = None, str(error)

    def peer(seed: int) -> float:
        assert redis is not None
        sha, rows = redis.client.script_load(work.LUA), work.view_rows(seed, ACKS * ACK_EVENTS)

        def one(first: int) -> None:
            pipeline = redis.client.pipeline(transaction=False)
            for user, moment, category in rows[first : first + ACK_EVENTS]:
                pipeline.evalsha(sha, 1, user, moment, category, user[5:])
            pipeline.execute()

        return float(np.median([_timed(lambda first=first: one(first)) for first in range(0, len(rows), ACK_EVENTS)]))

    beside(row, bench, ours, None if redis is None else peer)
    if redis is not None:
        bench.stop(redis)
    tail = float(np.median(tails))
    row.notes = [f"p99 {tail:.1f} ms"]
    row.is_met = bool(row.ours and row.ours <= 2 and tail <= 10)
    return [row]


def _timed(call: Any) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


@measures("checkpoint")
def checkpoint(bench: Bench) -> list[Row]:
    """Ingest while checkpoints follow one another, against ingest without any; both with history on, which has caught up before each round. A round is
    longer than a checkpoint, so that all of it is counted: copies, flushes, merges."""
    row = Row("checkpoint", "events/s", peer_name="ours, no checkpoint meanwhile", target="≥ 0.85×")
    grid = bench.shop
    count = 4 * OUR_EVENTS
    made: list[int] = []

    def ingest(seed: int, beside_it: contextlib.AbstractContextManager[None]) -> float:
        batches = view_batches(seed, count)
        grid.settle()
        with beside_it:
            return send_batches(grid.target, batches)

    beside(row, bench, lambda seed: ingest(seed, _checkpoints(grid, made)), lambda seed: ingest(seed + 50, contextlib.nullcontext()))
    row.notes = [f"{len(made)} checkpoints of all partitions in {ROUNDS} rounds of {count:,} events"]
    row.is_met = bool(row.ratio and row.ratio >= 0.85)
    return [row]


@contextlib.contextmanager
def _checkpoints(grid: Grid, made: list[int]) -> Iterator[None]:
    """One checkpoint after another, in a thread, while the block runs."""
    is_over = threading.Event()

    def make() -> None:
        with grid.client() as client:
            while not is_over.is_set():
                made.append(client.checkpoint().partitions)

    thread = threading.Thread(target=make)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
