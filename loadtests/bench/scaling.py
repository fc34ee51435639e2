"""Rows about size and start: scale_out, start."""

from __future__ import annotations

import time

import numpy as np
from profilegrid.sync import Client

from loadtests.bench import work
from loadtests.bench.rows import ROUNDS, Row, measures, median
from loadtests.bench.sides import Bench, Grid, cpu_seconds
from loadtests.bench.writing import send_views

SHARDS, EVENTS, COUNTS = (1, 2, 4), 2_000_000, 100


@measures("scale_out")
def scale_out(bench: Bench) -> list[Row]:
    """The same work over 1, 2 and 4 shards: CPU an event and a count, whoever shares it."""
    ingest = Row("scale_out", "events/CPU-s", peer_name="ours, 1 shard", target="flat within 15 %")
    counts = Row("scale_out_count", "CPU-ms/count", peer_name="ours, 1 shard", target="flat within 15 %", is_cost=True)
    rates, costs = [], []
    for shards in SHARDS:
        bench.say(f"scale_out, {shards} shards")
        grid = bench.started(Grid(bench.folder / f"shards-{shards}", work.INGEST, "--shards", str(shards)))
        send_views(grid.target, 1, EVENTS)  # warm: users are there, kernels are loaded
        grid.settle()
        before = _cpu(grid)
        send_views(grid.target, 2, EVENTS)
        rates.append(EVENTS / (_cpu(grid) - before))
        grid.settle()
        with grid.client() as client:
            costs.append(_count_cost(grid, client))
        bench.stop(grid)
    for row, values in ((ingest, rates), (counts, costs)):
        row.ours, row.peer = values[-1], values[0]
        row.is_met = max(values) / min(values) <= 1.15
        row.notes = [", ".join(f"{shards} shards {value:,.4g}" for shards, value in zip(SHARDS, values, strict=True))]
    return [ingest, counts]


def _cpu(grid: Grid) -> float:
    return sum(cpu_seconds(pid) for pid in grid.pids())


def _count_cost(grid: Grid, client: Client) -> float:
    as_of = work.FIRST_MS + work.SPAN_MS
    client.count("heat > 1", as_of=as_of)
    before = _cpu(grid)
    for number in range(COUNTS):
        client.count(f"heat > {1 + number / 100} AND last_seen > TIMESTAMP '2023-11-14'", as_of=as_of)
    return (_cpu(grid) - before) / COUNTS * 1000


@measures("start")
def start(bench: Bench) -> list[Row]:
    """The second `up` of a local grid to serving, and one read as a whole process."""
    up = Row("start", "s", peer_name="–", is_cost=True, target="≤ 8 s", reason="there is nothing to compare with")
    get = Row("start_get", "s", peer_name="–", is_cost=True, target="≤ 0.5 s", reason="there is nothing to compare with")
    grid = bench.started(Grid(bench.folder / "start", work.INGEST))
    send_views(grid.target, 1, 100_000)
    ups = []
    for number in range(ROUNDS):
        grid.down()
        ups.append(grid.up())
        bench.say(f"start {number + 1}/{ROUNDS}")
    gets = []
    for _ in range(ROUNDS * 2):
        started = time.perf_counter()
        grid.run("get", "user-1", "--json")
        gets.append(time.perf_counter() - started)
    bench.stop(grid)
    up.ours, up.spread = median(ups)
    get.ours, get.spread = median(gets)
    up.is_met, get.is_met = float(np.median(ups)) <= 8, float(np.median(gets)) <= 0.5
    return [up, get]
