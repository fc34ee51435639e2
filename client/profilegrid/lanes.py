"""A lane: one plain TCP connection to a shard or the gateway, for what makes up most traffic: reads, frames and counts.

    hello     8 bytes from the client
    message   uint32 length of what follows | uint8 kind | uint32 tag | protobuf; little-endian
    answer    the same, with the tag of what it answers; kind FAILED carries a google.rpc.Status

Reads ask with BatchGetProfilesRequest, frames are sent as Frame (large ones on a second, wide lane, so that no read waits behind one). Counts
ask each shard for its part with EvaluateRequest, as the gateway does for every query, or the gateway for the whole with CountRequest. Shards send each
other partitions that move, and what is written to their copies; the controller asks them how they are. Answers are the messages of the same gRPC calls; gRPC carries everything else, and
all of this for other clients. A large frame that a shard has no room for is refused by its head, and the rest read over. A message costs 30 µs a side;
on a gRPC stream it is 160, as an event crosses three threads there. Frames of 6,000 rows cost a shard a tenth to a quarter less than by gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import struct
import threading
from collections.abc import Awaitable, Callable, Container, Iterable
from typing import Any, cast

from profilegrid.errors import ProfilegridError, Unavailable, from_status
from profilegrid.options import MESSAGE_BYTES_MAX

HELLO = b"PGLANE1\n"
READ, INGEST, EVALUATE, MOVE, REPLICATE, COUNT, STATUS, FAILED = 1, 2, 3, 4, 5, 6, 7, 255
_HEAD = struct.Struct("<IBI")
_HEAD_REST = _HEAD.size - 4
SCRATCH_BYTES, LARGE_BYTES_MIN = 1 << 18, 1 << 14
_NOBODY: tuple[float, None] = 0.0, None
# s: who waits for longer asks whether the shard is still the one to ask, then after twice the time again.
DOUBT_S = 1.0


class LaneBroken(Exception):
    """What came is no message."""


def message(kind: int, tag: int, payload: bytes) -> bytes:
    """One message as bytes."""
    return _HEAD.pack(_HEAD_REST + len(payload), kind, tag) + payload


class _Scratch(threading.local):
    """What a thread's connections receive into, one after another: it stays in the processor's cache. At the start of a page, as the kernel copies to
    odd addresses at half the speed; before it is room for the head of a message that came in part."""

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, mmap.PAGESIZE + SCRATCH_BYTES))[mmap.PAGESIZE - _HEAD.size :]
        self.room = self.view[_HEAD.size :]


_SCRATCH = _Scratch()


class Splitter:
    """A stream of bytes to messages, in the thread that made it. Holds at most one that is not whole, and of it what has come; one that is not wanted is
    read over."""

    def __init__(self, bytes_max: int, refuses: Callable[[int, int, int], bool] | None = None) -> None:
        """`refuses` is asked about the kind, tag and bytes of each large payload, before it is kept."""
        self._bytes_max, self._refuses = bytes_max, refuses
        self._view, self._room = _SCRATCH.view, _SCRATCH.room
        self._head = b""
        # Of the payload that is coming: what has come, unless it is not wanted, and how many bytes have not.
        self._kind = self._tag = self._missing = 0
        self._body: bytearray | None = None

    def buffer(self) -> memoryview:
        """Where the next bytes go; good until `received` is called."""
        if self._head:
            self._view[_HEAD.size - len(self._head) : _HEAD.size] = self._head
        return self._room

    def received(self, nbytes: int) -> list[tuple[int, int, bytes]]:
        """The (kind, tag, payload) that are whole with `nbytes` more. Raises LaneBroken for a length that cannot be."""
        view, at, stop = self._view, _HEAD.size - len(self._head), _HEAD.size + nbytes
        messages: list[tuple[int, int, bytes]] = []
        if self._missing:
            at += self._go_on(view[at:stop], messages)
        while stop - at >= _HEAD.size:
            length, kind, tag = _HEAD.unpack_from(view, at)
            if not _HEAD_REST <= length <= self._bytes_max:
                raise LaneBroken(f"a message of {length} bytes, expected {_HEAD_REST} to {self._bytes_max}")
            at += _HEAD.size
            wanted = length - _HEAD_REST
            end = at + wanted
            if end <= stop and wanted < LARGE_BYTES_MIN:
                messages.append((kind, tag, view[at:end].tobytes()))
            else:
                self._kind, self._tag, self._missing = kind, tag, wanted
                is_unwanted = wanted >= LARGE_BYTES_MIN and self._refuses is not None and self._refuses(kind, tag, wanted)
                self._body = None if is_unwanted else bytearray()
                self._go_on(view[at:stop], messages)
            at = min(end, stop)
        self._head = view[at:stop].tobytes() if at < stop else b""
        return messages

    def _go_on(self, came: memoryview, messages: list[tuple[int, int, bytes]]) -> int:
        """More of a large payload, or of one in parts. Returns how many bytes of it."""
        step = min(self._missing, len(came))
        self._missing -= step
        if self._body is not None:
            self._body += came[:step]
            if not self._missing:
                messages.append((self._kind, self._tag, bytes(self._body)))
                self._body = None
        return step


class Lane(asyncio.BufferedProtocol):
    """The client's end. Connects when it is made; what is asked meanwhile goes when it is there. When it fails, all that waits fails."""

    def __init__(self, endpoint: str, timeout_s: float, doubt: Callable[[], None] | None = None) -> None:
        """`endpoint` is host:port; `timeout_s` bounds the wait for an answer; `doubt` hears of one that takes long."""
        self.endpoint, self._timeout_s, self._doubt = endpoint, timeout_s, doubt
        self._doubt_s = DOUBT_S
        # Kept: asking for the running loop is a system call (getpid), 2 µs a read.
        self.loop = asyncio.get_running_loop()
        self._splitter = Splitter(4 * MESSAGE_BYTES_MAX)
        self._waiting: dict[int, tuple[float, asyncio.Future[bytes]]] = {}
        self._tag = 0
        self._transport: asyncio.Transport | None = None
        self._unsent = [HELLO]
        self.failed: ProfilegridError | None = None
        self._connecting = self.loop.create_task(self._connect())
        self._watch_s = min(timeout_s / 4, DOUBT_S / 2)
        self._timer = self.loop.call_later(self._watch_s, self._watch)

    def ask(self, kind: int, payload: bytes) -> asyncio.Future[bytes]:
        """The answer's payload; fails with what the shard refused with, or Unavailable when the connection ends first."""
        answer: asyncio.Future[bytes] = self.loop.create_future()
        if self.failed is not None:
            answer.set_exception(self.failed)
            return answer
        self._tag = self._tag + 1 & 0xFFFFFFFF
        self._waiting[self._tag] = self.loop.time(), answer
        if self._transport is None:
            self._unsent.append(message(kind, self._tag, payload))
        else:
            self._transport.write(message(kind, self._tag, payload))
        return answer

    async def _connect(self) -> None:
        host, _, port = self.endpoint.rpartition(":")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.loop.create_connection(lambda: self, host.strip("[]"), int(port))
        except OSError as error:  # a timeout is one
            self._fail(f"no connection to {self.endpoint}: {error!r}", "CONNECT_FAILED")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what was asked meanwhile."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where answers go."""
        return self._splitter.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Answers came, or parts of them."""
        try:
            messages = self._splitter.received(nbytes)
        except LaneBroken as error:
            self._fail(str(error), "STREAM_ENDED")
            return
        for kind, tag, payload in messages:
            _, answer = self._waiting.pop(tag, _NOBODY)
            if answer is None or answer.done():  # its caller went away
                continue
            if kind == FAILED:
                answer.set_exception(from_status(payload))
            else:
                answer.set_result(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        """The shard ended, or the network."""
        self._fail(f"the shard ended the connection: {exc!r}" if exc else "the shard ended the connection", "STREAM_ENDED")

    def _watch(self) -> None:
        """A shard that hangs answers nothing: its lane is given up. Answers come in any order, but the first asked is the oldest."""
        waited_s = self.waited_s
        if waited_s > self._timeout_s:
            self._fail(f"no answer within {self._timeout_s:g} s", "DEADLINE_EXCEEDED")
            return
        self._timer = self.loop.call_later(self._watch_s, self._watch)
        if waited_s < DOUBT_S:
            self._doubt_s = DOUBT_S
        elif waited_s >= self._doubt_s and self._doubt is not None:
            self._doubt_s *= 2
            self._doubt()

    @property
    def waited_s(self) -> float:
        """For how long an answer is waited for."""
        oldest = next(iter(self._waiting.values()), _NOBODY)[0]
        return self.loop.time() - oldest if oldest else 0.0

    def close(self) -> None:
        """Give the connection up."""
        self._fail("the client was closed", "CLIENT_CLOSED")

    def leave(self) -> None:
        """Others have taken over: what waits is to be asked there."""
        self._fail(f"{self.endpoint} does not answer, and others serve what it served", "STREAM_ENDED")

    def _fail(self, why: str, reason: str) -> None:
        if self.failed is not None:
            return
        self.failed = Unavailable(why, reason)
        self._timer.cancel()
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting = [answer for _, answer in self._waiting.values()]
        self._waiting.clear()
        fail_all(waiting, self.failed)


class Lanes:
    """The lanes of one event loop. A shard that dies is noticed by its connection; one that hangs, or whose machine is gone, says nothing: so where
    an answer takes long, `serving` is asked who serves now, and lanes to others are given up."""

    def __init__(self, serving: Callable[[], Awaitable[Container[str]]]) -> None:
        """`serving` gives the endpoints of now; it raises Unavailable where nobody can say."""
        self._lanes: dict[tuple[str, float, bool], Lane] = {}
        self._serving = serving
        self._asking: asyncio.Task[None] | None = None

    def to(self, endpoint: str, timeout_s: float, *, is_wide: bool = False) -> Lane:
        """The lane to a shard whose answers take no longer than `timeout_s`; made anew when it failed. A wide one is another connection."""
        lane = self._lanes.get((endpoint, timeout_s, is_wide))
        if lane is None or lane.failed is not None:
            lane = self._lanes[endpoint, timeout_s, is_wide] = Lane(endpoint, timeout_s, self._doubt)
        return lane

    def _doubt(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._leave_others())

    async def _leave_others(self) -> None:
        with contextlib.suppress(ProfilegridError):
            serving = await self._serving()
            for lane in list(self._lanes.values()):
                if lane.waited_s >= DOUBT_S and lane.endpoint not in serving:
                    lane.leave()

    def close(self) -> None:
        """Give every connection up."""
        for lane in self._lanes.values():
            lane.close()


def fail_all(futures: Iterable[asyncio.Future[Any]], error: BaseException) -> None:
    """Tell everybody who waits."""
    for future in futures:
        if not future.done():
            future.set_exception(error)
            future.exception()  # a caller that went away is not told that nobody looked
