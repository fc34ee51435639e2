"""Rows of reading: read_64, read_1, read_bulk, mixed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import profilegrid
import pyarrow as pa
from profilegrid.v1 import profiles_pb2, profiles_pb2_grpc

from loadtests.bench import work
from loadtests.bench.rows import Row, beside, measures
from loadtests.bench.sides import Bench, Grid, Redis
from loadtests.bench.writing import redis_or_reason, redis_views, run, send_views

READS, ONE_READS, CALLERS = 20_000, 1_000, 64
BULK_IDS, BULK_CALLS, BULK_CALLERS = 1_000, 200, 4
MIXED_CALLS, WARM_CALLS = 40_000, 4_000


def warmed(bench: Bench) -> str:
    """The grid, its most read users with all ten features."""
    if not getattr(bench, "is_warmed", False):
        bench.is_warmed = True  # type: ignore[attr-defined]
        fill(bench.shop)
    return bench.shop.target


def fill(grid: Grid) -> None:
    """Views of a million events, and a purchase of each of the most read users."""
    send_views(grid.target, 99, 1_000_000)
    with grid.client() as client:
        ids = [f"user-{number}" for number in range(20_000)]
        times = np.full(len(ids), work.FIRST_MS)
        client.track_many("purchase", user_id=ids, time=times, price=np.ones(len(ids)))


def seeded(redis: Redis) -> None:
    """The same users in Redis."""
    if not redis.client.exists("user-0"):
        redis_views(redis, 99)
    pipeline = redis.client.pipeline(transaction=False)
    for number in range(20_000):
        pipeline.hset(f"user-{number}", mapping={"c": 1, "a": 1.0, "ft": work.FIRST_MS, "lt": work.FIRST_MS})
    pipeline.execute()


async def called(ids: list[str], get: Callable[[str], Awaitable[Any]], times: list[float]) -> float:
    """Calls a second of 64 callers that each call one after another; ms of each call are added to `times`."""
    waiting = iter(ids)

    async def caller() -> None:
        for user_id in waiting:
            started = time.perf_counter()
            await get(user_id)
            times.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(ids) / (time.perf_counter() - started)


def our_reads(target: str, seed: int, times: list[float], count: int = READS) -> float:
    """Single reads a second from 64 concurrent callers."""

    async def read() -> float:
        async with profilegrid.AsyncClient(target) as grid:
            ids = work.read_ids(seed, count)
            await asyncio.gather(*(grid.get(user_id) for user_id in ids[:CALLERS]))
            return await called(ids, grid.get, times)

    return run(read())


def redis_reads(redis: Redis, seed: int) -> float:
    """HGETALL a second from 64 concurrent callers of redis.asyncio."""
    import redis.asyncio as aio

    async def read() -> float:
        client = aio.Redis(port=redis.port)
        ids = work.read_ids(seed, READS)
        await asyncio.gather(*(client.hgetall(user_id) for user_id in ids[:CALLERS]))
        rate = await called(ids, client.hgetall, [])
        await client.aclose()
        return rate

    return run(read())


@measures("read_64")
def read_64(bench: Bench) -> list[Row]:
    """64 concurrent callers, each one profile of ten features at a time."""
    row = Row("read_64", "reads/s", peer_name="redis.asyncio HGETALL", target="≥ 60 k/s, ≥ 3×, p99 ≤ 5 ms")
    target, redis = warmed(bench), redis_or_reason(bench, row)
    times: list[float] = []
    if redis is not None:
        seeded(redis)
    beside(row, bench, lambda seed: our_reads(target, seed, times), None if redis is None else lambda seed: redis_reads(redis, seed))
    tail = float(np.percentile(times, 99))
    row.notes = [f"p99 {tail:.1f} ms"]
    row.is_met = bool(row.ours and row.ours >= 60e3 and tail <= 5 and (row.ratio is None or row.ratio >= 3))
    return [row]


@measures("read_1")
def read_1(bench: Bench) -> list[Row]:
    """One read at a time, against a bare call that carries the same bytes."""
    row = Row("read_1", "ms (p50)", peer_name="bare grpcio echo", is_cost=True, target="≤ 1.3 × the echo")
    target = warmed(bench)
    with bench.shop.client() as grid:
        map_ = grid._run(grid._core.map())
        endpoint = map_.endpoints[map_.shard_of(b"user-1")]
    with grpc.insecure_channel(endpoint) as channel:
        request = profiles_pb2.BatchGetProfilesRequest(user_ids=["user-1"], format=profiles_pb2.PROFILE_FORMAT_COLUMNS)
        size = profiles_pb2_grpc.ProfileServiceStub(channel).BatchGetProfiles(request).ByteSize()  # type: ignore[no-untyped-call]
    server = subprocess.Popen([sys.executable, "-m", "loadtests.bench.echo", str(size)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = server.stdout.readline().strip()

    async def ours() -> float:
        async with profilegrid.AsyncClient(target) as grid:
            return await _one_by_one(lambda: grid.get("user-1"))

    async def echo() -> float:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/echo.Echo/Call")
            payload = request.SerializeToString()
            return await _one_by_one(lambda: call(payload))

    try:
        beside(row, bench, lambda seed: run(ours()), lambda seed: run(echo()))
    finally:
        server.kill()
        server.wait()
    row.notes = [f"{size} bytes an answer"]
    row.is_met = bool(row.ratio and row.ratio >= 1 / 1.3)
    return [row]


async def _one_by_one(call: Callable[[], Awaitable[Any]]) -> float:
    for _ in range(20):
        await call()
    times = []
    for _ in range(ONE_READS):
        started = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started) * 1000)
    return float(np.median(times))


@measures("read_bulk")
def read_bulk(bench: Bench) -> list[Row]:
    """1,000 ids a call, four calls at a time, ten features, every column as an Arrow array."""
    row = Row("read_bulk", "profiles/s", peer_name="Redis, pipelined HGETALL", target="≥ 1 M/s, ≥ 10×")
    target, redis = warmed(bench), redis_or_reason(bench, row)
    if redis is not None:
        seeded(redis)

    async def read_all(ids: Any) -> float:
        async with profilegrid.AsyncClient(target) as grid:

            async def caller(calls: int) -> None:
                for _ in range(calls):
                    (await grid.get_many(ids)).to_arrow()

            await caller(BULK_CALLERS)
            started = time.perf_counter()
            await asyncio.gather(*(caller(BULK_CALLS // BULK_CALLERS) for _ in range(BULK_CALLERS)))
            return BULK_CALLS * BULK_IDS / (time.perf_counter() - started)

    def ours(seed: int) -> float:
        return run(read_all(pa.array([f"user-{number}" for number in np.random.default_rng(seed).integers(0, 5000, BULK_IDS)])))

    def peer(seed: int) -> float:
        assert redis is not None
        ids = [f"user-{number}" for number in np.random.default_rng(seed).integers(0, 5000, BULK_IDS)]

        def call(number: int) -> None:
            pipeline = redis.client.pipeline(transaction=False)
            for user_id in ids:
                pipeline.hgetall(user_id)
            pipeline.execute()

        with ThreadPoolExecutor(BULK_CALLERS) as callers:
            started = time.perf_counter()
            list(callers.map(call, range(BULK_CALLS // 5)))
            return BULK_CALLS // 5 * BULK_IDS / (time.perf_counter() - started)

    beside(row, bench, ours, None if redis is None else peer)
    row.is_met = bool(row.ours and row.ours >= 1e6 and (row.ratio is None or row.ratio >= 10))
    return [row]


def everybody(grid: Grid) -> None:
    """Each of a million users once: the counts go over all of them."""
    with grid.client() as client:
        for first in range(0, work.USERS, work.BATCH):
            ids = pa.array(np.char.add("user-", np.arange(first, first + work.BATCH).astype("U8")))
            client.track_many("view", user_id=ids, time=np.full(work.BATCH, work.FIRST_MS), category=["c1"] * work.BATCH)
    grid.settle()


async def called_warm(call: Callable[[str], Awaitable[Any]]) -> float:
    """Calls a second of `call`, which gets numbers of calls, once connections and caches are warm."""
    numbers = [str(number) for number in range(MIXED_CALLS)]
    await called(numbers[:WARM_CALLS], call, [])
    return await called(numbers[WARM_CALLS:], call, [])


async def our_mix(target: str, seed: int) -> float:
    """Calls a second."""
    kinds, ids = np.random.default_rng(seed).random(MIXED_CALLS).tolist(), work.read_ids(seed, MIXED_CALLS)
    as_of = work.FIRST_MS + work.SPAN_MS
    async with profilegrid.AsyncClient(target) as grid:

        async def call(number: str) -> None:
            kind, user_id = kinds[int(number)], ids[int(number)]
            if kind < 0.8:
                await grid.get(user_id)
            elif kind < 0.99:
                await grid.track_many("view", user_id=[user_id], time=[work.FIRST_MS], category=["c1"])
            else:
                await grid.count(f"heat > {kind} AND last_seen >= TIMESTAMP '2023-11-14 22:{int(number) % 60:02d}:00'", as_of=as_of)

        return await called_warm(call)


async def redis_mix(redis: Redis, seed: int) -> float:
    """The same calls a second."""
    import redis.asyncio as aio

    client = aio.Redis(port=redis.port)
    sha = await client.script_load(work.LUA)
    kinds, ids = np.random.default_rng(seed).random(MIXED_CALLS).tolist(), work.read_ids(seed, MIXED_CALLS)

    async def call(number: str) -> None:
        kind, user_id = kinds[int(number)], ids[int(number)]
        if kind < 0.8:
            await client.hgetall(user_id)
        elif kind < 0.99:
            await client.evalsha(sha, 1, user_id, work.FIRST_MS, "c1", user_id[5:])
        else:
            await client.bitop("AND", "both", f"audience-{int(number) % 3}", f"audience-{(int(number) + 1) % 3}")
            await client.bitcount("both")

    rate = await called_warm(call)
    await client.aclose()
    return rate


@measures("mixed", "mixed_two_shards")
def mixed(bench: Bench) -> list[Row]:
    """80 % reads, 19 % single events, 1 % counts over a million users, from 64 asyncio callers: one process, which keeps one core and one shard busy; and
    on two shards."""
    peer_name, target = "redis.asyncio: HGETALL, Lua, BITOP + BITCOUNT", "≥ 3×; p99 of reads under full ingest ≤ 10 ms"
    row, two = Row("mixed", "calls/s", peer_name=peer_name, target=target), Row("mixed_two_shards", "calls/s", peer_name=peer_name)
    redis = redis_or_reason(bench, row)
    two.reason = row.reason
    if redis is not None:
        seeded(redis)
        for number in range(3):
            redis.client.set(f"audience-{number}", np.random.default_rng(number).bytes(work.USERS // 8))
    peer = None if redis is None else lambda seed: run(redis_mix(redis, seed))
    bench.shop.down()  # one grid at a time: one that does nothing takes a tenth of a core
    single = bench.started(Grid(bench.folder / "single", work.SHOP, "--shards", "1"))
    fill(single)
    tail = mixed_on(single, bench, row, peer)
    row.is_met = tail <= 10 and (row.ratio is None or row.ratio >= 3)
    bench.stop(single)
    bench.shop.up()
    warmed(bench)
    mixed_on(bench.shop, bench, two, peer)
    return [row, two]


def mixed_on(grid: Grid, bench: Bench, row: Row, peer: Callable[[int], float] | None) -> float:
    """Both sides of a row on a grid. Returns p99 (ms) of reads while it ingests as fast as it can."""
    everybody(grid)
    turns = []

    def ours(seed: int) -> float:
        rate = run(our_mix(grid.target, seed))
        with grid.client() as client:
            turns.append(max(shard.turn_ms_max for shard in client.status().shards))
        return rate

    beside(row, bench, ours, peer)
    tail = reads_under_ingest(grid.target)
    row.notes = [f"longest turn of a shard's loop {max(turns):.1f} ms", f"p99 of reads under full ingest {tail:.1f} ms"]
    return tail


def reads_under_ingest(target: str) -> float:
    """p99 (ms) of single reads, one after another, while another process ingests as fast as it can."""
    code = f"from loadtests.bench.writing import send_views\nwhile True: send_views({target!r}, 7, 1_000_000)"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        time.sleep(4)  # until it has made its events and sends

        async def read() -> float:
            async with profilegrid.AsyncClient(target) as grid:
                times = []
                for user_id in work.read_ids(3, 2_000):
                    started = time.perf_counter()
                    await grid.get(user_id)
                    times.append((time.perf_counter() - started) * 1000)
                return float(np.percentile(times, 99))

        return run(read())
    finally:
        writer.kill()
        writer.wait()
