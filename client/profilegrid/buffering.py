"""The buffer behind `track`: filled from any thread, sent from the client's loop, by size and by time, in bounded memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from profilegrid.columns import EventRow
from profilegrid.errors import DeliveryUnknown, ProfilegridError
from profilegrid.results import Report


class TrackBuffer:
    """Rows waiting to be sent, and the outcome of those that were.

    Invariant: `_held` rows are buffered or in flight; it never passes `rows_bound` by more than one row a thread.
    """

    def __init__(
        self, rows_max: int, delay_s: float, rows_bound: int, send: Callable[[list[EventRow]], Awaitable[Report]], on_report: Callable[[Report], None] | None
    ) -> None:
        self._rows_max, self._delay_s, self._rows_bound = rows_max, delay_s, rows_bound
        self._send, self._on_report = send, on_report
        self._rows: list[EventRow] = []
        self._held = 0
        self._mutex = threading.Lock()
        self._room = threading.Condition(self._mutex)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._report = Report()
        self._failures: list[tuple[Exception, list[EventRow]]] = []

    # --- filling --------------------------------------------------------------------------------------------------------

    async def add_async(self, row: EventRow) -> None:
        """Add a row from the loop; waits while the buffer is full."""
        while self._held >= self._rows_bound and self._tasks:
            self.start_sending()
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._append(row)
        if len(self._rows) >= self._rows_max:
            self.start_sending()
        elif self._timer is None:
            self.arm()

    def add_threadsafe(self, row: EventRow, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Add a row from another thread; blocks while the buffer is full."""
        with self._mutex:  # not the condition: that takes it in Python, half a microsecond an event
            while self._held >= self._rows_bound:
                if not self._room.wait(timeout_s):
                    raise DeliveryUnknown(f"the buffer stayed full for {timeout_s:g} s; the event was not added", events=[row])
            self._rows.append(row)
            self._held += 1
            count = len(self._rows)
        if count == self._rows_max:
            loop.call_soon_threadsafe(self.start_sending)
        elif count == 1:
            loop.call_soon_threadsafe(self.arm)

    def _append(self, row: EventRow) -> None:
        with self._mutex:
            self._rows.append(row)
            self._held += 1

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
        with self._mutex:
            rows, self._rows = self._rows, []
        if rows:
            task = asyncio.get_running_loop().create_task(self._deliver(rows))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, rows: list[EventRow]) -> None:
        try:
            report = await self._send(rows)
            self._report.add(report)
            if self._on_report is not None:
                self._on_report(report)
        except DeliveryUnknown as error:
            self._failures.append((error, [rows[number] for number in error.rows]))
        except Exception as error:  # also a bug's: `flush` must tell of rows that were not sent
            self._failures.append((error, rows))
        finally:
            with self._mutex:
                self._held -= len(rows)
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
