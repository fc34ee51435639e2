"""Five times the load that a shard can take, for a minute: the shard pinned to one core, generators of ready-made frames to the other.

    python -m loadtests.overload [--seconds 60] [--by lane|grpc]      as our client sends (eight connections), or as other languages do

First the peak is measured (few calls in flight, for as long), then calls are made at five times that rate whether answered or not. Printed: goodput
against the peak, how refusals looked, memory. Then what was refused is sent again until all is acknowledged, and the grid is asked what it
counted: each event once. Ends with 1 when goodput is below 80 %, a refusal is not RESOURCE_EXHAUSTED with a delay, or a count is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from profilegrid.columns import event_columns
from profilegrid.errors import Overloaded, ProfilegridError, from_rpc
from profilegrid.lanes import INGEST, Lane
from profilegrid.options import CLIENT_OPTIONS
from profilegrid.routes import Map, frame_of, partitions_of
from profilegrid.v1 import admin_pb2, admin_pb2_grpc, events_pb2
from rich.console import Console

from loadtests.bench import work
from loadtests.bench.sides import Grid, anonymous_bytes

ROWS, FRAMES, FACTOR = 8_000, 64, 5
# Before the peak so long that history has begun: it is made on the same core from then on, in the peak as under the overload.
WARM_S, IN_FLIGHT = 20.0, 6
OVERLOADED_IN_FLIGHT_MAX = 1_500
LANES, TIMEOUT_S = 8, 60.0


@dataclass
class Outcome:
    """What became of the calls of one phase."""

    accepted: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    without_delay: int = 0
    left: list[int] = field(default_factory=list)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class Generator:
    """Ready-made bytes; each call only puts its number behind them. A producer for each 64 calls, so that none is too old to be repeated."""

    def __init__(self, channel: grpc.aio.Channel, map_: Map, by: str) -> None:
        self._ingest = channel.unary_unary("/profilegrid.v1.EventService/Ingest", response_deserializer=events_pb2.IngestResponse.FromString)
        self._lanes = [Lane(map_.lanes[0], TIMEOUT_S) for _ in range(LANES)] if by == "lane" else []
        self._frames = [self._frame(seed, map_).SerializeToString() for seed in range(FRAMES)]
        self._producers: dict[int, bytes] = {}
        self.sent = 0

    @staticmethod
    def _frame(seed: int, map_: Map) -> events_pb2.Frame:
        columns = work.views(seed, ROWS)
        batch = event_columns("view", columns["user_id"], columns["time"], None, {"category": columns["category"]})
        partitions = partitions_of(batch.ids, map_.partitions)
        order = np.argsort(partitions, kind="stable")
        return frame_of(batch, order, partitions[order], map_)

    def frame(self, number: int) -> bytes:
        """Frame `number`: always the same rows under the same producer and batch number. Protobuf merges what stands one after another."""
        producer = self._producers.setdefault(number // 64, secrets.token_bytes(16))
        return events_pb2.Frame(producer_id=producer, batch_number=number % 64 + 1).SerializeToString() + self._frames[number % FRAMES]

    async def _send(self, number: int) -> events_pb2.IngestResponse:
        frame = self.frame(number)
        if self._lanes:
            return events_pb2.IngestResponse.FromString(await self._lanes[number % LANES].ask(INGEST, frame))
        try:
            return await self._ingest(b"\x12" + _varint(len(frame)) + frame, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def call(self, number: int, outcome: Outcome) -> float:
        """One call. Returns the delay that a refusal asked for, s."""
        try:
            response = await self._send(number)  # not in one line: `+=` reads before it waits
            outcome.accepted += response.accepted
        except ProfilegridError as typed:
            outcome.refusals[f"{typed.code} {typed.reason}"] += 1
            outcome.left.append(number)
            if isinstance(typed, Overloaded) and typed.delay_ms:
                return typed.delay_ms / 1000
            outcome.without_delay += 1
        return 0.1

    async def closed(self, seconds: float, outcome: Outcome) -> float:
        """Events a second with a few calls in flight."""
        started = time.monotonic()

        async def lane() -> None:
            while time.monotonic() - started < seconds:
                self.sent += 1
                await self.call(self.sent, outcome)

        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
        return outcome.accepted / (time.monotonic() - started)

    async def open(self, rate: float, seconds: float, outcome: Outcome) -> float:
        """Events a second accepted while `rate` are offered, answered or not."""
        started, calls = time.monotonic(), 0
        waiting: set[asyncio.Task[float]] = set()
        while (now := time.monotonic() - started) < seconds:
            while calls * ROWS < now * rate and len(waiting) < OVERLOADED_IN_FLIGHT_MAX:
                calls += 1
                self.sent += 1
                task = asyncio.create_task(self.call(self.sent, outcome))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
            await asyncio.sleep(0.002)
        goodput = outcome.accepted / (time.monotonic() - started)
        await asyncio.gather(*waiting)
        return goodput

    async def drain(self, left: list[int]) -> int:
        """Send again what was refused, as a client does, until all is acknowledged."""
        waiting = list(left)
        while waiting:
            outcome = Outcome()
            delays = []
            for first in range(0, len(waiting), IN_FLIGHT):
                delays += await asyncio.gather(*(self.call(number, outcome) for number in waiting[first : first + IN_FLIGHT]))
            waiting = outcome.left
            if waiting:
                await asyncio.sleep(max(delays))
        return len(left)


async def with_memory(pid: int, phase: Coroutine[Any, Any, float]) -> tuple[float, int]:
    """What a phase returns, and the most memory that the shard took in it: it comes and goes by hundreds of MB with each segment that becomes history."""
    running, most = asyncio.create_task(phase), 0
    while not running.done():
        most = max(most, anonymous_bytes(pid))
        await asyncio.wait([running], timeout=0.5)
    return running.result(), most


async def measure(grid: Grid, seconds: float, by: str, console: Console) -> list[str]:
    """Both phases. Returns what is wrong."""
    (pid,) = grid.pids()
    tasks = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib would block no less
    endpoint = grid.shards()[0]["endpoint"]
    async with grpc.aio.insecure_channel(grid.target) as gateway:
        map_ = Map.of(await admin_pb2_grpc.AdminServiceStub(gateway).GetMap(admin_pb2.GetMapRequest()))  # type: ignore[no-untyped-call]
    for task in tasks:
        with contextlib.suppress(ProcessLookupError):  # a thread that has ended
            os.sched_setaffinity(int(task), {0})
    os.sched_setaffinity(0, {1})
    async with grpc.aio.insecure_channel(endpoint, options=CLIENT_OPTIONS) as channel:
        generator = Generator(channel, map_, by)
        warm, peak_phase, over = Outcome(), Outcome(), Outcome()
        await generator.closed(WARM_S, warm)
        peak, before = await with_memory(pid, generator.closed(seconds, peak_phase))
        console.print(f"peak {peak:,.0f} events/s on one core; now {FACTOR} times that for {seconds:g} s", highlight=False)
        goodput, most = await with_memory(pid, generator.open(FACTOR * peak, seconds, over))
        grown = most - before
        refused = len(over.left)
        offered = (over.accepted + refused * ROWS) / seconds
        console.print(
            f"offered {offered:,.0f} events/s, goodput {goodput:,.0f} ({goodput / peak:.0%} of the peak), {refused:,} calls refused: {dict(over.refusals)}; "
            "now they are sent again",
            highlight=False,
        )
        again = await generator.drain(warm.left + peak_phase.left + over.left)
    with grid.client(read_timeout=60.0) as client:
        counted = int(np.sum(client.get_many([f"user-{n}" for n in range(work.USERS)], ["all_views"])["all_views"]))
    console.print(
        f"most memory {before >> 20:,} MB, then {most >> 20:,}; {again:,} calls sent again; {generator.sent * ROWS:,} events sent, {counted:,} counted",
        highlight=False,
    )
    wrong = []
    if goodput < 0.8 * peak:
        wrong.append(f"goodput is {goodput / peak:.0%} of the peak")
    if over.without_delay:
        wrong.append(f"{over.without_delay} refusals without RESOURCE_EXHAUSTED and a delay: {dict(over.refusals)}")
    if counted != generator.sent * ROWS:
        wrong.append(f"{generator.sent * ROWS} events were sent, {counted} are counted")
    if grown > 512 << 20:
        wrong.append(f"memory grew by {grown >> 20} MB")
    return wrong


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--by", choices=("lane", "grpc"), default="lane")
    arguments = parser.parse_args()
    console = Console()
    catalog = {**work.INGEST, "features": {**work.INGEST["features"], "all_views": {"count": "view"}}}
    with tempfile.TemporaryDirectory(prefix="pg-overload-") as name:
        grid = Grid(Path(name) / "grid", catalog, "--shards", "1")
        try:
            wrong = uvloop.run(measure(grid, arguments.seconds, arguments.by, console))
        except ProfilegridError as error:
            wrong = [str(error)]
        finally:
            os.sched_setaffinity(0, set(range(os.cpu_count() or 1)))
            grid.down()
    for text in wrong:
        console.print(f"[red]{text}[/]")
    console.print("all as it should be" if not wrong else f"{len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
