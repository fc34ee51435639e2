"""Rows about two copies of each partition: copies, copies_ack, failover."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
from profilegrid.sync import Client

from loadtests.bench import work
from loadtests.bench.rows import ROUNDS, Row, measures, median
from loadtests.bench.sides import Bench, Grid
from loadtests.bench.writing import send_views

EVENTS, ACKS, ACK_EVENTS, PROBES = 2_000_000, 200, 100, 64


@measures("copies", "copies_ack", "failover")
def copies(bench: Bench) -> list[Row]:
    """Ingest and small batches with one copy and with two; then a shard is killed, and what it served is asked for."""
    ingest = Row("copies", "events/s, two copies", peer_name="ours, one copy", target="≥ 0.45×")
    ack = Row("copies_ack", "ms (p50), two copies", peer_name="ours, one copy", is_cost=True, target="–", reason="")
    failover = Row("failover", "s until served", peer_name="–", is_cost=True, target="≤ 3 s", reason="there is nothing to compare with")
    bench.clear()
    grid = bench.started(Grid(bench.folder / "copies", work.INGEST))
    with grid.client() as client:
        send_views(grid.target, 99, EVENTS)
        rates: list[list[float]] = [[], []]
        acks: list[list[float]] = [[], []]
        for number, replicas in enumerate((1, 2)):
            _have(client, replicas)
            grid.settle()
            for round_ in range(ROUNDS):
                rates[number].append(send_views(grid.target, 10 * number + round_, EVENTS))
                acks[number].append(_ack_ms(client, round_))
                bench.say(f"copies {replicas}: {round_ + 1}/{ROUNDS}")
        (ingest.peer, _), (ingest.ours, ingest.spread) = median(rates[0]), median(rates[1])
        (ack.peer, _), (ack.ours, ack.spread) = median(acks[0]), median(acks[1])
        ingest.is_met, ack.is_met = ingest.ours >= 0.45 * ingest.peer, True
        seconds = [_killed(grid, client, round_ % 2) for round_ in range(ROUNDS)]
        failover.ours, failover.spread = median(seconds)
        failover.is_met = max(seconds) <= 3
    bench.stop(grid)
    return [ingest, ack, failover]


def _have(client: Client, replicas: int) -> None:
    client.set_layout(replicas=replicas)
    _in_sync(client)


def _in_sync(client: Client) -> None:
    while not client.layout().is_done:
        time.sleep(0.1)


def _ack_ms(client: Client, seed: int) -> float:
    batches = [work.views(seed * 1000 + number, ACK_EVENTS) for number in range(ACKS)]
    times = []
    for batch in batches:
        started = time.perf_counter()
        client.track_many("view", **batch)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def _killed(grid: Grid, client: Client, shard: int) -> float:
    """Seconds from kill -9 of a shard until users of all partitions are written and read again; then all is in sync before the next."""
    ids = [f"probe-{number}" for number in range(PROBES)]
    os.kill(grid.pids()[shard], signal.SIGKILL)
    started = time.monotonic()
    client.track_many("view", user_id=ids, time=[work.FIRST_MS] * PROBES, category=["c1"] * PROBES)
    client.get_many(ids)
    took = time.monotonic() - started
    time.sleep(1.0)
    _in_sync(client)
    return took
