"""The buffer of `track`: nothing that threads add is lost, doubled or left lying, and it stays within its bound."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from profilegrid.buffering import TrackBuffer
from profilegrid.columns import ROW_ENTRIES, EventRow
from profilegrid.errors import DeliveryUnknown, Unavailable
from profilegrid.results import Report

THREADS, EACH, ROWS_MAX, BOUND = 4, 5_000, 50, 200


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that are stopped between any two steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def row(user: str, number: int = 0) -> EventRow:
    return user, "e", number, {"n": number}, None


def rows_of(flat: list[Any]) -> list[EventRow]:
    return list(zip(*[iter(flat)] * ROW_ENTRIES, strict=True))


@pytest.mark.usefixtures("hasty_threads")
def test_what_threads_add_is_sent_once_in_each_one_s_order_within_the_bound() -> None:
    sent: list[EventRow] = []
    held = most = 0

    async def send(flat: list[Any]) -> Report:
        nonlocal held, most
        held += len(flat) // ROW_ENTRIES
        most = max(most, held)
        await asyncio.sleep(0)
        sent.extend(rows_of(flat))
        held -= len(flat) // ROW_ENTRIES
        return Report(len(flat) // ROW_ENTRIES)

    async def run() -> Report:
        loop = asyncio.get_running_loop()
        buffer = TrackBuffer(ROWS_MAX, 60.0, BOUND, send, None)

        def fill(name: str) -> None:
            for number in range(EACH):
                buffer.add_threadsafe(row(name, number), loop, 60.0)

        threads = [threading.Thread(target=fill, args=(f"u{n}",)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        return await buffer.flush()

    report = asyncio.run(run())
    assert report.accepted == THREADS * EACH
    for n in range(THREADS):
        assert [number for user, _, number, _, _ in sent if user == f"u{n}"] == list(range(EACH))
    assert most <= BOUND + THREADS


def test_a_row_is_sent_after_the_delay_though_nobody_flushes_and_so_is_the_next() -> None:
    async def run() -> list[str]:
        came: asyncio.Queue[str] = asyncio.Queue()

        async def send(flat: list[Any]) -> Report:
            came.put_nowait(flat[0])
            return Report(1)

        buffer = TrackBuffer(ROWS_MAX, 0.001, BOUND, send, None)
        loop = asyncio.get_running_loop()
        found = []
        for user in ("ann", "bob", "carl"):
            await asyncio.to_thread(buffer.add_threadsafe, row(user), loop, 1.0)
            found.append(await asyncio.wait_for(came.get(), 30))
        await buffer.add_async(row("dora"))
        return [*found, await asyncio.wait_for(came.get(), 30)]

    assert asyncio.run(run()) == ["ann", "bob", "carl", "dora"]


@pytest.mark.parametrize(
    ("error", "events"), [(DeliveryUnknown("late", [1]), [row("bob", 1)]), (DeliveryUnknown("late", [0, 2]), [row("ann"), row("carl", 2)])]
)
def test_rows_that_were_not_acknowledged_are_given_back_as_they_were_tracked(error: DeliveryUnknown, events: list[EventRow]) -> None:
    async def send(flat: list[Any]) -> Report:
        raise error

    async def run() -> None:
        buffer = TrackBuffer(ROWS_MAX, 60.0, BOUND, send, None)
        for number, user in enumerate(("ann", "bob", "carl")):
            await buffer.add_async(row(user, number))
        await buffer.flush()

    with pytest.raises(DeliveryUnknown) as caught:
        asyncio.run(run())
    assert list(caught.value.events) == events


def test_a_thread_that_finds_the_buffer_full_waits_and_is_told_when_it_stays_so() -> None:
    async def run() -> None:
        is_free = asyncio.Event()

        async def send(flat: list[Any]) -> Report:
            await is_free.wait()
            raise Unavailable("the shard is down", "SHARD_DOWN")

        buffer = TrackBuffer(2, 60.0, 2, send, None)
        loop = asyncio.get_running_loop()
        for user in ("ann", "bob"):
            await asyncio.to_thread(buffer.add_threadsafe, row(user), loop, 1.0)
        with pytest.raises(DeliveryUnknown, match="stayed full") as caught:
            await asyncio.to_thread(buffer.add_threadsafe, row("carl"), loop, 0.01)
        assert list(caught.value.events) == [row("carl")]
        waiting = asyncio.create_task(asyncio.to_thread(buffer.add_threadsafe, row("dora"), loop, 60.0))
        is_free.set()
        await waiting  # those that failed made room
        with pytest.raises(Unavailable) as refused:
            await buffer.flush()
        assert refused.value.facts["events"] == "3"

    asyncio.run(run())
