"""The real client under gevent, which locust runs on: AsyncClient in a native thread with a loop of its own, called from greenlets.

gevent replaces threads, sockets and selectors, so that neither the sync client's thread nor asyncio's own loop would be what they are for
users. uvloop in a thread that gevent does not know stays real; what grpc.aio takes from `threading` and `socket` (a poller thread, a pair
of sockets that wakes the loop) is given back to it. A greenlet waits for its answer without stopping the others.
"""

from __future__ import annotations

import _socket
import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar

import gevent
import uvloop
from gevent.monkey import get_original
from grpc._cython import cygrpc
from profilegrid import AsyncClient

Result = TypeVar("Result")


class _RealThread:
    """As much of threading.Thread as grpc.aio uses, as a thread of the system."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...] = (), daemon: bool = True) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        """Run it."""
        get_original("_thread", "start_new_thread")(self._target, self._args)


def _real_pair() -> tuple[Any, ...]:
    real = get_original("socket", "socket")
    return tuple(real(end.family, end.type, end.proto, fileno=end.detach()) for end in _socket.socketpair())


cygrpc.threading = SimpleNamespace(**{**vars(threading), "Thread": _RealThread})
cygrpc.socket = SimpleNamespace(socketpair=_real_pair)


class Driver:
    """One client of a process, as a service has: what its users ask at the same time shares messages."""

    def __init__(self, target: str) -> None:
        self._loop = uvloop.new_event_loop()
        _RealThread(self._loop.run_forever).start()
        self.client = self.run(self._made(target))

    @staticmethod
    async def _made(target: str) -> AsyncClient:
        return AsyncClient(target, read_timeout=10.0, delivery_timeout=30.0)

    def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Wait for a call from a greenlet."""
        hub = gevent.get_hub()
        done = hub.loop.async_()
        tasks: list[asyncio.Task[Result]] = []

        def begin() -> None:
            task = self._loop.create_task(call)
            tasks.append(task)
            task.add_done_callback(lambda _: done.send())

        self._loop.call_soon_threadsafe(begin)
        hub.wait(done)
        return tasks[0].result()


@cache
def driver_of(target: str) -> Driver:
    """The process's driver of a grid."""
    return Driver(target)
