"""Ours and Redis side by side in one run: the same work, warm, alternating rounds, medians with spread.

    python -m loadtests.bench [--only NAME] [--json]

Our side is a real grid (`profilegrid up`): its own processes, real sockets, fsync before every acknowledgement. Redis runs with
`appendonly yes, appendfsync everysec`, its weaker promise; without redis-server or redis-py its rows are skipped, and say so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import profilegrid
import pyarrow as pa
from rich.console import Console
from rich.table import Table

USERS, BATCH, ROUNDS = 1_000_000, 25_000, 3
OUR_EVENTS, REDIS_EVENTS = 4_000_000, 50_000
READS, BULK_IDS = 20_000, 1_000
CATALOG = {
    "events": {"view": {"category": "category"}},
    "features": {
        "heat_fast": {"decayed_count": "view", "half_life": "10m"},
        "heat": {"decayed_count": "view", "half_life": "7d"},
        "views_1h": {"window_count": "view", "window": "1h", "hop": "5m"},
        "interest": {"decayed_count": "view", "by": "category", "half_life": "7d", "top": 3},
        "last_seen": {"last_time": "view"},
        "active_days": {"days_active": "view", "window": "30d"},
    },
}
# The same six values per event, kept in one hash a user; decay is folded as ours is, in forward form.
LUA = """
local h, t, c = KEYS[1], tonumber(ARGV[1]), ARGV[2]
redis.call('HINCRBYFLOAT', h, 'f', 2 ^ ((t - 1.7e12) / 6e5 / 1e3))
redis.call('HINCRBYFLOAT', h, 's', 2 ^ ((t - 1.7e12) / 6.048e8))
local b = math.floor(t / 300000)
redis.call('HINCRBY', h, 'w' .. (b % 12), 1)
redis.call('HINCRBYFLOAT', h, 'k' .. c, 2 ^ ((t - 1.7e12) / 6.048e8))
redis.call('HSET', h, 'l', t)
redis.call('SETBIT', 'day:' .. math.floor(t / 86400000), ARGV[3], 1)
return 1
"""


@dataclass
class Row:
    """One line of the table. A ratio of 1 or more means ours is better."""

    name: str
    unit: str
    ours: float | None
    peer: float | None
    peer_name: str
    reason: str = ""
    spread: float = 0.0

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.ours and self.peer else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def events(seed: int, count: int) -> dict[str, Any]:
    """Zipf users, 30 categories, an hour of times: Arrow columns."""
    rng = np.random.default_rng(seed)
    users = (rng.zipf(1.2, count) - 1) % USERS
    times = 1_700_000_000_000 + np.sort(rng.integers(0, 3_600_000, count))
    categories = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 30, count)), pa.array([f"c{i}" for i in range(30)]))
    return {"user_id": pa.array(np.char.add("user-", users.astype("U8"))), "time": pa.array(times), "category": categories}


class Ours:
    """A grid in its own processes."""

    def __init__(self, folder: Path) -> None:
        self._folder, port = folder / "grid", free_port()
        self.target = f"127.0.0.1:{port}"
        self._command = [sys.executable, "-c", "from profilegrid.cli import main; main()"]
        subprocess.run([*self._command, "up", "--detach", "--data", str(self._folder), "--port", str(port)], check=True, capture_output=True)
        with profilegrid.Client(self.target) as grid:
            grid.apply_catalog(CATALOG)

    def ingest(self, seed: int) -> float:
        """Events a second, batches of 25k, eight in flight."""
        batches = [events(seed * 1000 + i, BATCH) for i in range(OUR_EVENTS // BATCH)]

        async def send() -> float:
            async with profilegrid.AsyncClient(self.target) as grid:
                await grid.track_many("view", **batches[0])
                started = time.perf_counter()
                room = asyncio.Semaphore(8)

                async def one(batch: dict[str, Any]) -> None:
                    async with room:
                        report = await grid.track_many("view", **batch)
                        assert report.accepted == BATCH

                await asyncio.gather(*(one(batch) for batch in batches))
                return OUR_EVENTS / (time.perf_counter() - started)

        return asyncio.run(send())

    def read_64(self, seed: int) -> float:
        """Single reads a second from 64 concurrent callers."""
        ids = [f"user-{i}" for i in (np.random.default_rng(seed).zipf(1.2, READS) - 1) % USERS]

        async def read() -> float:
            async with profilegrid.AsyncClient(self.target) as grid:
                await asyncio.gather(*(grid.get(user_id) for user_id in ids[:64]))

                async def get(user_id: str) -> dict[str, Any]:
                    return dict(await grid.get(user_id))  # values are made when asked for; HGETALL makes them all

                return await timed_callers(ids, get)

        return asyncio.run(read())

    def read_bulk(self, seed: int) -> float:
        """Profiles a second, 1,000 ids a call, all columns as Arrow arrays."""
        ids = pa.array([f"user-{i}" for i in np.random.default_rng(seed).integers(0, 5000, BULK_IDS)])
        with profilegrid.Client(self.target) as grid:
            grid.get_many(ids).to_arrow()
            started = time.perf_counter()
            for _ in range(50):
                grid.get_many(ids).to_arrow()  # every column made
            return 50 * BULK_IDS / (time.perf_counter() - started)

    def stop(self) -> None:
        subprocess.run([*self._command, "down", "--data", str(self._folder)], check=False, capture_output=True)


class Redis:
    """A Redis with AOF everysec, in its own process."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        options = ["--port", str(self._port), "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        import redis

        self._redis = redis.Redis(port=self._port)
        deadline = time.monotonic() + 10
        while True:
            try:
                self._redis.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def ingest(self, seed: int) -> float:
        """Events a second through a Lua script, pipelines of 1,000."""
        sha = self._redis.script_load(LUA)
        columns = events(seed, REDIS_EVENTS)
        rows = list(zip(columns["user_id"].to_pylist(), columns["time"].to_pylist(), columns["category"].to_pylist(), strict=True))
        started = time.perf_counter()
        for first in range(0, len(rows), 1000):
            pipeline = self._redis.pipeline(transaction=False)
            for user, moment, category in rows[first : first + 1000]:
                pipeline.evalsha(sha, 1, user, moment, category, user[5:])
            pipeline.execute()
        return REDIS_EVENTS / (time.perf_counter() - started)

    def read_64(self, seed: int) -> float:
        """HGETALL a second from 64 concurrent callers of redis.asyncio."""
        import redis.asyncio

        ids = [f"user-{i}" for i in (np.random.default_rng(seed).zipf(1.2, READS) - 1) % USERS]

        async def read() -> float:
            client = redis.asyncio.Redis(port=self._port)
            await asyncio.gather(*(client.hgetall(user_id) for user_id in ids[:64]))
            rate = await timed_callers(ids, client.hgetall)
            await client.aclose()
            return rate

        return asyncio.run(read())

    def read_bulk(self, seed: int) -> float:
        """Profiles a second, HGETALL in pipelines of 1,000."""
        ids = [f"user-{i}" for i in np.random.default_rng(seed).integers(0, 5000, BULK_IDS)]
        started = time.perf_counter()
        for _ in range(10):
            pipeline = self._redis.pipeline(transaction=False)
            for user_id in ids:
                pipeline.hgetall(user_id)
            pipeline.execute()
        return 10 * BULK_IDS / (time.perf_counter() - started)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


async def timed_callers(ids: list[str], get: Callable[[str], Any], callers: int = 64) -> float:
    """Reads a second of `callers` tasks that each read one after another."""
    waiting = iter(ids)

    async def caller() -> None:
        for user_id in waiting:
            await get(user_id)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(ids) / (time.perf_counter() - started)


def run(only: str | None, console: Console) -> list[Row]:
    """Every row, rounds alternating between the sides, so that noise hits both."""
    names = {"ingest": "events/s", "read_64": "reads/s", "read_bulk": "profiles/s"}
    chosen = {name: unit for name, unit in names.items() if only in (None, name)}
    folder = Path(tempfile.mkdtemp(prefix="pg-bench-"))
    ours, peer, reason = Ours(folder), None, ""
    try:
        peer = Redis(folder)
    except (FileNotFoundError, ImportError) as error:
        reason = f"Redis is not here: {error}"
    rows = []
    try:
        for name, unit in chosen.items():
            our_rates, peer_rates = [], []
            for number in range(ROUNDS):
                our_rates.append(getattr(ours, name)(number + 1))
                if peer is not None:
                    peer_rates.append(getattr(peer, name)(number + 1))
                console.print(f"… {name} {number + 1}/{ROUNDS}", highlight=False)
            median = statistics.median(our_rates)
            spread = (max(our_rates) - min(our_rates)) / median
            rows.append(Row(name, unit, median, statistics.median(peer_rates) if peer_rates else None, "Redis, AOF everysec", reason, spread))
    finally:
        ours.stop()
        if peer is not None:
            peer.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def main() -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["ingest", "read_64", "read_bulk"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = run(arguments.only, Console(stderr=True))
    if arguments.json:
        fields = [
            {"name": r.name, "unit": r.unit, "ours": r.ours, "peer": r.peer, "peer_name": r.peer_name, "ratio": r.ratio, "reason": r.reason} for r in rows
        ]
        print(json.dumps(fields))
        return 0
    table = Table("row", "unit", "ours (durable)", "spread", "peer", "peer's", "ratio")
    for row in rows:
        peer, ratio = f"{row.peer:,.0f}" if row.peer else row.reason, f"{row.ratio:.1f}×" if row.ratio else "–"
        table.add_row(row.name, row.unit, f"{row.ours:,.0f}", f"± {row.spread / 2:.0%}", row.peer_name, peer, ratio)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
