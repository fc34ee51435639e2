"""The grid's end of lanes (client/profilegrid/lanes.py tells the protocol). A shard answers reads where they are parsed, frames when committed,
its part of queries in turns; the gateway counts.

Bounded: a connection that does not greet is closed, one that does not take its answers or has 64 messages under way is not read from.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any, cast

import msgpack
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from profilegrid.lanes import COUNT, EVALUATE, FAILED, HELLO, INGEST, MOVE, READ, REPLICATE, STATUS, LaneBroken, Splitter, message
from profilegrid.options import MESSAGE_BYTES_MAX
from profilegrid.v1 import events_pb2, profiles_pb2, segments_pb2, shard_pb2

from actors.logs import request_id
from actors.metrics import Meter
from actors.services import convert
from actors.services.calls import SLOW_S
from actors.services.errors import status_of
from actors.services.shard import answer_evaluate, answer_read
from actors.serving import ShardServer
from grid.engine import Reply
from grid.errors import FrameInvalid, Overloaded

log = logging.getLogger("profilegrid")
GREETING_S, GRACE_S = 10.0, 5.0
UNDER_WAY_MAX = 64
# Messages that came together are worked on for so long, then others have a turn.
TURN_S = 0.002


class LaneServer:
    """Listens for lanes, in the loop that it is started in."""

    def __init__(self, made: Callable[[set[LaneConnection]], LaneConnection]) -> None:
        """`made` gives a connection's end, which keeps itself in the set while it is open."""
        self._made = made
        self._connections: set[LaneConnection] = set()
        self._server: asyncio.Server

    async def start(self, host: str) -> int:
        """Bind any port and serve. Returns the port."""
        self._server = await asyncio.get_running_loop().create_server(partial(self._made, self._connections), host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Take no more messages, give the answers that are due, close."""
        self._server.close()
        for connection in self._connections:
            connection.hold("the server stops")
        started = time.monotonic()
        while any(connection.under_way for connection in self._connections) and time.monotonic() - started < GRACE_S:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.close()


class LaneConnection(asyncio.BufferedProtocol):
    """One client's lane. What each kind of message does is said by `_handlers`."""

    def __init__(self, meter: Meter, connections: set[LaneConnection]) -> None:
        self._meter, self._connections = meter, connections
        self._handlers: dict[int, Callable[[int, bytes], None]] = {}
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter(MESSAGE_BYTES_MAX, self._refuses)
        self._messages: deque[tuple[int, int, bytes]] = deque()
        self._hello, self._hello_bytes = bytearray(len(HELLO)), 0
        self._held: set[str] = set()
        self._transport: asyncio.Transport
        self._greeting: asyncio.TimerHandle
        self.under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the connection ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the greeting, not for ever."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._connections.add(self)
        self._greeting = self._loop.call_later(GREETING_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Frames under way are committed all the same; a retry is told so."""
        self._greeting.cancel()
        self._connections.discard(self)
        self._messages.clear()

    def pause_writing(self) -> None:
        """The client does not take its answers: it is not read from."""
        self.hold("answers wait")

    def resume_writing(self) -> None:
        """It does again."""
        self._release("answers wait")

    def hold(self, why: str) -> None:
        """Read no more for now; what is read already waits."""
        self._held.add(why)
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _release(self, why: str) -> None:
        self._held.discard(why)
        if not self._held and not self._transport.is_closing():
            self._transport.resume_reading()
            self._work()

    def close(self) -> None:
        """Send what is written, then end."""
        self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where what comes is put; the greeting by itself."""
        if self._hello_bytes < len(HELLO):
            return memoryview(self._hello)[self._hello_bytes :]
        return self._splitter.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Messages came, or parts of them; the greeting first."""
        if self._hello_bytes < len(HELLO):
            self._greeted(nbytes)
            return
        try:
            self._messages.extend(self._splitter.received(nbytes))
        except LaneBroken as error:
            log.warning("a lane is closed", extra={"facts": {"why": str(error)}})
            self._transport.abort()
            return
        if not self._held:
            self._work()

    def _greeted(self, nbytes: int) -> None:
        if not HELLO.startswith(bytes(self._hello[: self._hello_bytes + nbytes])):
            self._transport.abort()
            return
        self._hello_bytes += nbytes
        if self._hello_bytes == len(HELLO):
            self._greeting.cancel()

    def _refuses(self, kind: int, tag: int, nbytes: int) -> bool:
        """Whether a payload that is coming is not wanted; who sends it was told then."""
        return False

    # --- the messages -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        started = time.perf_counter()
        while self._messages and not self._held:
            kind, tag, payload = self._messages.popleft()
            handler = self._handlers.get(kind)
            if handler is None:
                log.warning("a lane is closed", extra={"facts": {"why": f"a message of kind {kind}"}})
                self._transport.abort()
                return
            handler(tag, payload)
            if self._messages and time.perf_counter() - started > TURN_S:
                self.hold("others have a turn")
                self._loop.call_soon(self._release, "others have a turn")

    def _asked(self, what: str, kind: int, answer: Callable[[bytes], Awaitable[bytes]]) -> Callable[[int, bytes], None]:
        """The handler of messages that take turns: what `answer` returns or raises is told."""

        async def told(tag: int, payload: bytes) -> None:
            started = time.perf_counter()
            try:
                said = await answer(payload)
            except Exception as error:
                self._refuse(what, tag, error, started)
            else:
                self._answer(what, kind, tag, said, started)
            finally:
                self._end()

        def begin(tag: int, payload: bytes) -> None:
            self._begin()
            task = self._loop.create_task(told(tag, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return begin

    def _begin(self) -> None:
        self.under_way += 1
        if self.under_way >= UNDER_WAY_MAX:
            self.hold("much is under way")

    def _end(self) -> None:
        self.under_way -= 1
        if "much is under way" in self._held:
            self._release("much is under way")

    def _answer(self, what: str, kind: int, tag: int, payload: bytes, started: float, code: str = "OK") -> None:
        self._meter.called(f"Lane/{what}", code, time.perf_counter() - started)
        if not self._transport.is_closing():
            self._transport.write(message(kind, tag, payload))

    def _refuse(self, what: str, tag: int, error: BaseException, started: float) -> None:
        if isinstance(error, Overloaded):
            self._answer(what, FAILED, tag, _status_of_full(error.what, error.used, error.bound, error.delay_ms), started, "RESOURCE_EXHAUSTED")
            return
        if isinstance(error, DecodeError):
            error = FrameInvalid("message", "bytes that are no protobuf", f"the message of a lane's {what}")
        made = request_id.set(secrets.token_hex(8))  # a lane's messages have none of their own; what failed can be found in the log
        try:
            status = status_of(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            if status.code == code_pb2.INTERNAL:
                log.error("call failed", exc_info=error, extra={"facts": {"method": f"Lane/{what}"}})
        finally:
            request_id.reset(made)
        self._answer(what, FAILED, tag, status.SerializeToString(), started, code_pb2.Code.Name(status.code))


class ShardLane(LaneConnection):
    """A client's lane to a shard; also the coordinator's, and other shards'."""

    def __init__(self, shard: ShardServer, facts: Callable[[], dict[str, Any]], meter: Meter, connections: set[LaneConnection]) -> None:
        """`facts` of the shard, for the controller."""
        super().__init__(meter, connections)
        self._shard, self._facts = shard, facts
        self._handlers = {
            READ: self._read, INGEST: self._ingest, REPLICATE: self._replicate, STATUS: self._status,
            EVALUATE: self._asked("Evaluate", EVALUATE, self._evaluate), MOVE: self._asked("Move", MOVE, self._move),
        }  # fmt: skip

    def _read(self, tag: int, payload: bytes) -> None:
        started = time.perf_counter()
        try:
            request = profiles_pb2.BatchGetProfilesRequest.FromString(payload)
            answer = answer_read(self._shard, request)
        except Exception as error:
            self._refuse("Read", tag, error, started)
            return
        self._answer("Read", READ, tag, answer, started)

    def _refuses(self, kind: int, tag: int, nbytes: int) -> bool:
        """A frame that there is no room for is not even received: under five times the load, most are refused."""
        if kind != INGEST:
            return False
        started = time.perf_counter()
        try:
            self._shard.check_serving()
            self._shard.committer.check_room(nbytes)
        except Exception as error:
            self._refuse("Ingest", tag, error, started)
            return True
        return False

    def _ingest(self, tag: int, payload: bytes) -> None:
        if self._refuses(INGEST, tag, len(payload)):
            return
        started = time.perf_counter()
        try:
            reply = self._shard.committer.offer(convert.frame(events_pb2.Frame.FromString(payload)), len(payload))
        except Exception as error:
            self._refuse("Ingest", tag, error, started)
            return
        self._begin()
        reply.add_done_callback(partial(self._committed, tag, started))

    def _committed(self, tag: int, started: float, reply: asyncio.Future[Reply]) -> None:
        self._end()
        if reply.cancelled():
            return
        error = reply.exception()
        if error is None:
            self._answer("Ingest", INGEST, tag, convert.ingest_response(reply.result()).SerializeToString(), started)
        else:
            self._refuse("Ingest", tag, error, started)

    def _replicate(self, tag: int, payload: bytes) -> None:
        started = time.perf_counter()
        try:
            self._shard.check_serving()
            self._shard.replication.take(payload)
        except Exception as error:
            self._refuse("Replicate", tag, error, started)
            return
        self._answer("Replicate", REPLICATE, tag, b"", started)

    def _status(self, tag: int, payload: bytes) -> None:
        started = time.perf_counter()
        try:
            facts = msgpack.packb(self._facts())
        except Exception as error:
            self._refuse("Status", tag, error, started)
            return
        self._answer("Status", STATUS, tag, facts, started)

    async def _evaluate(self, payload: bytes) -> bytes:
        started = time.perf_counter()
        answer = (await answer_evaluate(self._shard, shard_pb2.EvaluateRequest.FromString(payload))).SerializeToString()
        _tell_slow("Evaluate", time.perf_counter() - started)
        return answer

    async def _move(self, payload: bytes) -> bytes:
        await self._shard.moves.take(payload)
        return b""


class GatewayLane(LaneConnection):
    """A client's lane to the gateway."""

    def __init__(
        self, count: Callable[[segments_pb2.CountRequest], Awaitable[segments_pb2.CountResponse]], meter: Meter, connections: set[LaneConnection]
    ) -> None:
        super().__init__(meter, connections)
        self._count = count
        self._handlers = {COUNT: self._asked("Count", COUNT, self._counted)}

    async def _counted(self, payload: bytes) -> bytes:
        response = await self._count(segments_pb2.CountRequest.FromString(payload))
        _tell_slow("Count", response.elapsed_ms / 1000)
        return response.SerializeToString()


@lru_cache(maxsize=64)
def _status_of_full(what: str, used: int, bound: int, delay_ms: int) -> bytes:
    """Made once: whoever is overloaded says it hundreds of times a second."""
    return status_of(Overloaded(what, used, bound, delay_ms)).SerializeToString()


def _tell_slow(what: str, seconds: float) -> None:
    if seconds > SLOW_S:
        log.warning("slow call", extra={"facts": {"method": f"Lane/{what}", "seconds": round(seconds, 3)}})
