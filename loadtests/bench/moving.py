"""Rows about a layout that changes under load: rescale and replicate, with _write and _read each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from profilegrid.sync import Client

from loadtests.bench import work
from loadtests.bench.rows import ROUNDS, Row, measures, median
from loadtests.bench.sides import Bench, Grid

USERS, BATCH, STEADY_S = 1_000_000, 100_000, 8.0
WRITE_EVERY_S, WRITE_EVENTS, READ_EVERY_S = 0.01, 50, 0.002


@measures("rescale", "rescale_write", "rescale_read")
def rescale(bench: Bench) -> list[Row]:
    """A million users with their columns from one shard to another, half of them each way, under a steady load of small writes and reads."""
    rows = _while_it_changes(bench, "rescale", {}, [{"drained": (0,)}, {"drained": ()}])
    rows[0].unit, rows[0].target = "s for 1M users", "≤ 10 s"
    return rows


@measures("replicate", "replicate_write", "replicate_read")
def replicate(bench: Bench) -> list[Row]:
    """A million users lose their second copies and get them again, under the same load."""
    rows = _while_it_changes(bench, "replicate", {"replicas": 2}, [{"replicas": 1}, {"replicas": 2}])
    rows[0].unit, rows[0].target = "s for 1M users, 2 → 1 → 2 copies", "≤ 10 s"
    return rows


def _while_it_changes(bench: Bench, name: str, rest: dict[str, Any], layouts: list[dict[str, Any]]) -> list[Row]:
    """How long some changes of the layout take, one after the other and back to rest, and what calls meanwhile take against those at rest."""
    changed = Row(name, "s", peer_name="–", is_cost=True, reason="there is nothing to compare with")
    writes = Row(f"{name}_write", "ms p99", peer_name="ours, nothing moving", is_cost=True, target="≤ 3× steady")
    reads = Row(f"{name}_read", "ms p99", peer_name="ours, nothing moving", is_cost=True, target="≤ 3× steady")
    bench.clear()
    grid = bench.started(Grid(bench.folder / name, work.INGEST))
    with grid.client() as client:
        for first in range(0, USERS, BATCH):
            ids = [f"user-{number}" for number in range(first, first + BATCH)]
            for category in ("c0", "c1", "c2"):
                client.track_many("view", user_id=ids, time=[work.FIRST_MS] * BATCH, category=[category] * BATCH)
        _arrange(client, rest)
        grid.settle()
        with Load(grid) as load:
            time.sleep(1.0)
            before = load.during(lambda: time.sleep(STEADY_S))
            seconds, pauses, during = [], [], []
            for number in range(ROUNDS):
                started = time.monotonic()
                for layout in layouts:
                    during.append(load.during(lambda layout=layout: _arrange(client, layout)))  # type: ignore[misc]
                    pauses.append(client.layout().pause_ms_max)
                seconds.append(time.monotonic() - started)
                bench.say(f"{name} {number + 1}/{ROUNDS}")
    bench.stop(grid)
    changed.ours, changed.spread = median(seconds)
    changed.is_met = changed.ours <= 10 and max(pauses) <= 100
    if max(pauses):  # of handovers; between epochs of copies nobody counts
        changed.notes = [f"writes of a partition waited {max(pauses):.0f} ms at most (≤ 100)"]
    for row, kind in ((writes, 0), (reads, 1)):
        row.ours, row.peer = _p99([value for part in during for value in part[kind]]), _p99(before[kind])
        row.is_met = row.ours <= 3 * row.peer
    return [changed, writes, reads]


def _arrange(client: Client, layout: dict[str, Any]) -> None:
    if layout:
        client.set_layout(**layout)
    while not client.layout().is_done:
        time.sleep(0.05)


def _p99(values: list[float]) -> float:
    return float(np.percentile(values, 99)) * 1000


class Load:
    """A writer and a reader at a steady pace, while the block runs; keeps when each call began and how long it took."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._calls: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number, every_s)) for number, every_s in enumerate((WRITE_EVERY_S, READ_EVERY_S))]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kind: int, every_s: float) -> None:
        rng = np.random.default_rng(kind)
        with self._grid.client() as client:
            while not self._stopping.wait(every_s):
                started = time.monotonic()
                if kind == 0:
                    ids = [f"user-{number}" for number in rng.integers(0, USERS, WRITE_EVENTS)]
                    client.track_many("view", user_id=ids, time=[work.FIRST_MS] * WRITE_EVENTS, category=["c1"] * WRITE_EVENTS)
                else:
                    client.get(f"user-{rng.integers(0, USERS)}")
                self._calls[kind].append((started, time.monotonic() - started))

    def during(self, work_: Callable[[], None]) -> tuple[list[float], list[float]]:
        """How long the writes and the reads took that were begun while `work_` ran, s."""
        first = time.monotonic()
        work_()
        last = time.monotonic()
        time.sleep(0.2)  # those that are under way end
        writes, reads = ([took for began, took in calls if first <= began <= last] for calls in self._calls)
        return writes, reads
