"""The buffer behind `track`: filled from any thread, sent from the client's loop, by size and by time, in bounded memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from profilegrid.columns import ROW_ENTRIES, EventRow
from profilegrid.errors import DeliveryUnknown, ProfilegridError
from profilegrid.results import Report


class TrackBuffer:
    """Rows waiting to be sent, and the outcome of those that were.

    Rows lie flat in one list. A tuple for each, with its dict, would stay with the garbage collector, whose full looks took as long as all else that
    `track` does. The list is the same for ever and each change of it is one call, so that threads need no lock.

    Invariant: rows that are buffered or in flight never pass `rows_bound` by more than one row a thread.
    """

    def __init__(
        self, rows_max: int, delay_s: float, rows_bound: int, send: Callable[[list[Any]], Awaitable[Report]], on_report: Callable[[Report], None] | None
    ) -> None:
        self._entries_max, self._entries_bound, self._delay_s = rows_max * ROW_ENTRIES, rows_bound * ROW_ENTRIES, delay_s
        self._send, self._on_report = send, on_report
        self._flat: list[Any] = []
        self._in_flight = 0  # entries
        # The loop was asked to send: after the delay, at once.
        self._is_armed = self._is_due = False
        self._room = threading.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._report = Report()
        self._failures: list[tuple[Exception, list[EventRow]]] = []

    # --- filling --------------------------------------------------------------------------------------------------------

    async def add_async(self, row: EventRow) -> None:
        """Add a row from the loop; waits while the buffer is full."""
        while len(self._flat) + self._in_flight >= self._entries_bound and self._tasks:
            self.start_sending()
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._flat.extend(row)
        if len(self._flat) >= self._entries_max:
            self.start_sending()
        elif self._timer is None:
            self.arm()

    def add_threadsafe(self, row: EventRow, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Add a row from another thread; blocks while the buffer is full."""
        flat = self._flat
        if len(flat) + self._in_flight >= self._entries_bound:
            self._wait_for_room(row, timeout_s)
        flat.extend(row)
        if len(flat) >= self._entries_max:
            if not self._is_due:
                self._is_due = True
                loop.call_soon_threadsafe(self.start_sending)
        elif not self._is_armed:
            self._is_armed = True
            loop.call_soon_threadsafe(self.arm)

    def _wait_for_room(self, row: EventRow, timeout_s: float) -> None:
        with self._room:
            while len(self._flat) + self._in_flight >= self._entries_bound:
                if not self._room.wait(timeout_s):
                    raise DeliveryUnknown(f"the buffer stayed full for {timeout_s:g} s; the event was not added", events=[row])

    # --- sending (in the loop) --------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Send what is there after the delay, unless it is sent before."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self.start_sending)

    def start_sending(self) -> None:
        """Send all buffered rows now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Before the rows are taken: who adds one after that asks anew.
        self._is_armed = self._is_due = False
        count = len(self._flat)
        if count:
            self._in_flight += count
            taken = self._flat[:count]
            del self._flat[:count]
            task = asyncio.get_running_loop().create_task(self._deliver(taken))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, flat: list[Any]) -> None:
        try:
            report = await self._send(flat)
            self._report.add(report)
            if self._on_report is not None:
                self._on_report(report)
        except DeliveryUnknown as error:
            rows = _rows(flat)
            self._failures.append((error, [rows[number] for number in error.rows]))
        except Exception as error:  # also a bug's: `flush` must tell of rows that were not sent
            self._failures.append((error, _rows(flat)))
        finally:
            self._in_flight -= len(flat)
            with self._room:
                self._room.notify_all()

    async def drain(self) -> None:
        """Wait until everything added so far has an outcome."""
        self.start_sending()
        if self._tasks:
            await asyncio.gather(*self._tasks)

    async def flush(self) -> Report:
        """Drain, then hand over the report since the last flush. Raises for rows that were not acknowledged."""
        await self.drain()
        report, self._report = self._report, Report()
        failures, self._failures = self._failures, []
        if failures:
            events = [row for _, rows in failures for row in rows]
            first = failures[0][0]
            if all(isinstance(error, DeliveryUnknown) for error, _ in failures):
                raise DeliveryUnknown(f"{len(events)} tracked events were not acknowledged; they may or may not be counted", events=events)
            if isinstance(first, ProfilegridError):
                first.facts.setdefault("events", str(len(events)))
            raise first
        return report


def _rows(flat: list[Any]) -> list[EventRow]:
    """Rows that were kept flat."""
    return list(zip(*[iter(flat)] * ROW_ENTRIES, strict=True))
