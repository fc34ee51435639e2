"""Rows about size and start: scale_out, start."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from loadtests import population
from loadtests.bench import work
from loadtests.bench.audiences import constants, rule_of
from loadtests.bench.rows import ROUNDS, Row, measures, median
from loadtests.bench.sides import Bench, Grid, cpu_seconds
from loadtests.bench.writing import send_batches, send_views, view_batches

SHARDS, EVENTS, COUNTS = (1, 2, 4), 2_000_000, 100


@measures("scale_out", "scale_out_count")
def scale_out(bench: Bench) -> list[Row]:
    """The same work over 1, 2 and 4 shards: CPU an event, and a count over ten million users, whoever shares it."""
    ingest = Row("scale_out", "events/CPU-s", peer_name="ours, 1 shard", target="flat within 15 %")
    counts = Row("scale_out_count", "CPU-ms/count", peer_name="ours, 1 shard", target="flat within 15 %", is_cost=True)
    bench.clear()
    rates, small = _ingest_rates(bench)
    costs = _big_count_costs(bench)
    for row, rounds in ((ingest, rates), (counts, costs)):
        values = [median(values)[0] for values in rounds]
        row.ours, row.peer = values[-1], values[0]
        row.is_met = max(values) / min(values) <= 1.15
        row.notes, row.spread = [_by_shards(values)], max(median(values)[1] for values in rounds)
    counts.notes.append(f"over the 350k users of `scale_out`, where a query's fixed cost is most of it: {_by_shards(small)}")
    return [ingest, counts]


def _by_shards(values: list[float]) -> str:
    return ", ".join(f"{shards} shards {value:,.4g}" for shards, value in zip(SHARDS, values, strict=True))


def _ingest_rates(bench: Bench) -> tuple[list[list[float]], list[float]]:
    """(events a CPU-second of the shards, of each round, CPU-ms of a count over their users) for each number of shards. Rounds alternate."""
    grids = [bench.started(Grid(bench.folder / f"shards-{shards}", work.INGEST, "--shards", str(shards))) for shards in SHARDS]
    for grid in grids:
        send_views(grid.target, 1, EVENTS)  # warm: users are there, kernels are loaded
        grid.settle()
    rates: list[list[float]] = [[] for _ in SHARDS]
    for number in range(ROUNDS):
        batches = view_batches(2 + number, EVENTS)  # made before the clock starts: Ray's processes take CPU while they wait
        for grid, values in zip(grids, rates, strict=True):
            pids = grid.pids()  # before the clock starts: asking for them takes half a second, in which shards at rest take CPU too
            before = _cpu(pids)
            send_batches(grid.target, batches)
            values.append(EVENTS / (_cpu(pids) - before))
            grid.settle()
        bench.say(f"scale_out {number + 1}/{ROUNDS}")
    as_of = work.FIRST_MS + work.SPAN_MS
    small = [_count_cost(grid, lambda n: f"heat > {1 + n / 100} AND last_seen > TIMESTAMP '2023-11-14'", as_of) for grid in grids]
    for grid in grids:
        bench.stop(grid)
    return rates, small


def _big_count_costs(bench: Bench) -> list[list[float]]:
    """CPU-ms of a count over ten million users, of each round, for each number of shards. Rounds alternate."""
    grids = []
    for shards in SHARDS:
        bench.say(f"scale_out_count, loading {shards} shards")
        grids.append(bench.started(Grid(bench.folder / f"counting-{shards}", work.CITIZENS, "--shards", str(shards))))
        grids[-1].run("load", str(bench.citizens_file), "--as-of", str(population.AS_OF_MS))
        grids[-1].settle()
    costs: list[list[float]] = [[] for _ in SHARDS]
    for seed in range(ROUNDS):
        for grid, values in zip(grids, costs, strict=True):
            values.append(_count_cost(grid, lambda number: rule_of(*constants(seed, number)), population.AS_OF_MS))  # noqa: B023
        bench.say(f"scale_out_count {seed + 1}/{ROUNDS}")
    for grid in grids:
        bench.stop(grid)
    return costs


def _cpu(pids: list[int]) -> float:
    return sum(cpu_seconds(pid) for pid in pids)


def _count_cost(grid: Grid, rule: Callable[[int], str], as_of: int) -> float:
    with grid.client() as client:
        for number in range(5):
            client.count(rule(1000 + number), as_of=as_of)
        pids = grid.pids()
        before = _cpu(pids)
        for number in range(COUNTS):
            client.count(rule(number), as_of=as_of)
        return (_cpu(pids) - before) / COUNTS * 1000


@measures("start")
def start(bench: Bench) -> list[Row]:
    """The second `up` of a local grid to serving, and one read as a whole process."""
    up = Row("start", "s", peer_name="–", is_cost=True, target="≤ 8 s", reason="there is nothing to compare with")
    get = Row("start_get", "s", peer_name="–", is_cost=True, target="≤ 0.5 s", reason="there is nothing to compare with")
    bench.clear()
    grid = bench.started(Grid(bench.folder / "start", work.INGEST))
    send_views(grid.target, 1, 100_000)
    ups = []
    for number in range(ROUNDS):
        grid.down()
        ups.append(grid.up())
        bench.say(f"start {number + 1}/{ROUNDS}")
    grid.settle()
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
