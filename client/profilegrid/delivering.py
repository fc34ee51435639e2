"""Batches on their way: cut into pieces, numbered once, sent to their owners, sent again until every row is acknowledged."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from profilegrid import tracing
from profilegrid.columns import Batch, EventRow, events_batch, now_ms
from profilegrid.connections import BACKOFF_S, BACKOFF_S_MAX, CALL_TIMEOUT_S, Connections
from profilegrid.errors import DeliveryUnknown, Overloaded, ProfilegridError, Unavailable
from profilegrid.few import cut, kinds_of
from profilegrid.lanes import INGEST
from profilegrid.results import Rejection, Report
from profilegrid.routes import Map, Parcel, chunks, partitions_of, split
from profilegrid.v1 import events_pb2 as pb
from profilegrid.v1 import events_pb2_grpc

# What a batch is cut into: of some of its rows, a frame for each owner by the map of the moment.
Parcels = Callable[[NDArray[np.int64], Map], list[Parcel]]
IN_FLIGHT_MAX = 64
SENDING_MAX = 8
# Larger frames have a lane of their own: a read would wait for a millisecond behind each.
NARROW_ROWS_MAX = 2_000
# A producer is used for a day at most: the grid forgets one after 7 days of silence.
PRODUCER_LIFE_MS = 86_400_000


class Producer(NamedTuple):
    """Who numbers batches, and since when (ms)."""

    id: bytes
    started_ms: int


class Deliveries:
    """Writes of one client. `timeout` s that they are retried before DeliveryUnknown."""

    def __init__(self, connections: Connections, timeout: float, acks: Literal["durable", "fast"], producer_id: bytes | None) -> None:
        self._connections, self.timeout = connections, timeout
        self._acks = pb.ACKS_FAST if acks == "fast" else pb.ACKS_DURABLE
        self._producer = Producer(producer_id or secrets.token_bytes(16), now_ms())
        self._has_own_producer = producer_id is None
        self._is_expired = False
        self._next_batch = 1
        self._in_flight: set[int] = set()
        self._window_moved: asyncio.Event | None = None
        self._sending: asyncio.Semaphore | None = None

    async def deliver(self, batch: Batch | list[EventRow], *, producer_id: bytes | None = None, first_batch: int | None = None, started_ms: int = 0) -> Report:
        """As AsyncClient.deliver; also of a few events as rows."""
        self._connections.check_open()
        if isinstance(batch, Batch) and batch.rows == 0:
            return Report()
        self._sending = self._sending or asyncio.Semaphore(SENDING_MAX)
        map_ = self._connections.known_map
        if map_ is None:
            map_ = await self._connections.retrying(self._connections.map, self.timeout)
        if not isinstance(batch, Batch) and (kinds := kinds_of(batch)) is not None:
            pieces, parcels = [np.arange(len(batch))], partial(cut, batch, kinds)
        else:
            whole = batch if isinstance(batch, Batch) else events_batch(batch)
            pieces, parcels = chunks(whole), partial(split, whole, partitions_of(whole.ids, map_.partitions))
        producer = None if producer_id is None else Producer(producer_id, started_ms)
        numbers = [None if first_batch is None else first_batch + i for i in range(len(pieces))]
        if len(pieces) == 1:
            outcomes = [await self._deliver_piece(parcels, pieces[0], producer, numbers[0])]
        else:
            async with asyncio.TaskGroup() as group:
                calls = (self._deliver_piece(parcels, rows, producer, number) for rows, number in zip(pieces, numbers, strict=True))
                tasks = [group.create_task(call) for call in calls]
            outcomes = [task.result() for task in tasks]
        report = Report()
        unknown: list[int] = []
        for outcome in outcomes:
            if isinstance(outcome, DeliveryUnknown):
                unknown += list(outcome.rows)
            elif isinstance(outcome, ProfilegridError):
                raise outcome
            else:
                report.add(outcome)
        if unknown:
            raise DeliveryUnknown(f"{len(unknown)} rows were not acknowledged within {self.timeout:g} s; they may or may not be counted", unknown)
        report.rejections.sort(key=lambda rejection: rejection.row)
        return report

    async def _deliver_piece(self, parcels: Parcels, rows: NDArray[np.int64], producer: Producer | None, number: int | None) -> Report | ProfilegridError:
        """One numbered batch on the wire. Errors are returned: the other pieces go on."""
        assert self._sending is not None
        async with self._sending:
            if number is not None:
                return await self._deliver_numbered(parcels, rows, producer or self._producer, number)
            number = await self._take_number()
            self._in_flight.add(number)
            try:
                return await self._deliver_rows(parcels, rows, self._producer, number)
            except ProfilegridError as error:
                return error
            finally:
                self._in_flight.discard(number)
                if self._window_moved is not None:
                    self._window_moved.set()

    async def _deliver_numbered(self, parcels: Parcels, rows: NDArray[np.int64], producer: Producer, number: int) -> Report | ProfilegridError:
        try:
            return await self._deliver_rows(parcels, rows, producer, number)
        except ProfilegridError as error:
            return error

    async def _take_number(self) -> int:
        """The next batch number, when it is less than 64 above the oldest in flight: what shards remember."""
        while self._in_flight and self._next_batch - min(self._in_flight) >= IN_FLIGHT_MAX:
            self._window_moved = self._window_moved or asyncio.Event()
            self._window_moved.clear()
            await self._window_moved.wait()
        is_old = self._is_expired or now_ms() - self._producer.started_ms > PRODUCER_LIFE_MS
        if self._has_own_producer and not self._in_flight and is_old:
            self._is_expired = False
            self._producer, self._next_batch = Producer(secrets.token_bytes(16), now_ms()), 1
        number = self._next_batch
        self._next_batch += 1
        return number

    async def _deliver_rows(self, parcels: Parcels, rows: NDArray[np.int64], producer: Producer, number: int) -> Report:
        """Send rows until every one is acknowledged, by the map of the moment."""
        report = Report()
        left = rows
        deadline = time.monotonic() + self.timeout
        backoff, has_moved = BACKOFF_S, False
        while left.size:
            retry, delay_s = left, backoff
            try:
                map_ = await self._connections.map()
                outcomes = await self._sent(parcels(left, map_), producer, number, map_)
                retry, delay_s = self._sort_outcomes(outcomes, report, backoff)
                if not has_moved and all(isinstance(outcome, pb.IngestResponse) or outcome.reason == "PARTITION_MOVED" for _, outcome in outcomes):
                    has_moved, delay_s = True, 0.0  # the new map has its new owner, who serves
            except (Unavailable, Overloaded):
                self._connections.forget_map()
            if not retry.size:
                break
            left = np.sort(retry)
            if time.monotonic() + delay_s > deadline:
                raise DeliveryUnknown(f"{left.size} rows were not acknowledged within {self.timeout:g} s", left.tolist())
            await asyncio.sleep(random.uniform(0.5, 1.0) * delay_s)
            backoff = min(backoff * 2, BACKOFF_S_MAX)
        return report

    def _sort_outcomes(
        self, outcomes: Sequence[tuple[Parcel, pb.IngestResponse | ProfilegridError]], report: Report, backoff: float
    ) -> tuple[NDArray[np.int64], float]:
        """Count what was acknowledged; returns the rows to send again and after how long. Raises what no retry helps."""
        again, delay_s = [np.empty(0, dtype=np.int64)], backoff
        fatal: ProfilegridError | None = None
        for parcel, outcome in outcomes:
            if isinstance(outcome, pb.IngestResponse):
                report.accepted += outcome.accepted
                report.duplicates += outcome.duplicates
                report.rejections += [Rejection(int(parcel.rows[r.row]), r.reason, r.field, r.value, r.expected) for r in outcome.rejected]
            elif outcome.retriable:
                again.append(parcel.rows)
                if isinstance(outcome, Overloaded):
                    delay_s = max(delay_s, outcome.delay_ms / 1000)
                else:
                    self._connections.forget_map()
            else:
                fatal = outcome
        if fatal is not None:
            # The grid has forgotten us: after a week of silence, or when its clock leapt. Batches that come go under a new number.
            self._is_expired |= fatal.reason == "PRODUCER_EXPIRED"
            raise fatal
        return np.concatenate(again), delay_s

    async def _sent(self, parcels: list[Parcel], producer: Producer, number: int, map_: Map) -> list[tuple[Parcel, pb.IngestResponse | ProfilegridError]]:
        """Send all, then wait for each: by lanes without a task for each, which would cost as much as making its frame."""
        asked = [self._ask(parcel, producer, number, map_) for parcel in parcels]
        try:
            return [(parcel, await _outcome(answer)) for parcel, answer in zip(parcels, asked, strict=True)]
        finally:
            for answer in asked:
                answer.cancel()  # nobody waits for it any more; one that came is as it is

    def _ask(self, parcel: Parcel, producer: Producer, number: int, map_: Map) -> asyncio.Future[Any]:
        frame = parcel.frame
        frame.producer_id, frame.producer_started_ms, frame.batch_number, frame.acks = producer.id, producer.started_ms, number, self._acks
        endpoint, lane = map_.endpoints.get(parcel.shard, ""), map_.lanes.get(parcel.shard, "")
        try:
            if not endpoint:
                raise Unavailable(f"shard {parcel.shard} is down", "SHARD_DOWN")
            if lane and not tracing.is_traced():
                return self._connections.lane(lane, is_wide=parcel.rows.size > NARROW_ROWS_MAX).ask(INGEST, frame.SerializeToString())
            stub = events_pb2_grpc.EventServiceStub(self._connections.channel(endpoint))  # type: ignore[no-untyped-call]
            return asyncio.ensure_future(self._connections.call(stub.Ingest, pb.IngestRequest(frame=frame), CALL_TIMEOUT_S))
        except ProfilegridError as error:
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed


async def _outcome(answer: asyncio.Future[Any]) -> pb.IngestResponse | ProfilegridError:
    """What a shard said of a frame: by a lane as bytes."""
    try:
        said = await answer
    except ProfilegridError as error:
        return error
    return pb.IngestResponse.FromString(said) if isinstance(said, bytes) else said
