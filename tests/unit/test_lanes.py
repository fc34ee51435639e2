"""Lanes: messages survive any cut of their bytes, answers reach who asked, and neither end waits or grows for ever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profilegrid.errors import InvalidRequest, ServerFailed, Unavailable
from profilegrid.lanes import COUNT, EVALUATE, FAILED, HELLO, INGEST, LARGE_BYTES_MIN, READ, Lane, LaneBroken, Lanes, Splitter, message
from profilegrid.reading import ReadQueue
from profilegrid.v1 import events_pb2, profiles_pb2, segments_pb2

from actors.lanes import UNDER_WAY_MAX, GatewayLane, LaneConnection, LaneServer, ShardLane
from actors.metrics import Meter
from grid.engine import Reply
from grid.errors import FieldInvalid, Overloaded

MESSAGES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=12)


def bring(data: bytes, buffer: Callable[[], memoryview], received: Callable[[int], Any]) -> Iterator[Any]:
    """Bytes come, as an event loop brings them; what `received` says of each piece."""
    while data:
        room = buffer()
        step = min(len(room), len(data))
        room[:step] = data[:step]
        yield received(step)
        data = data[step:]


def split(splitter: Splitter, data: bytes) -> list[tuple[int, int, bytes]]:
    return [each for messages in bring(data, splitter.buffer, splitter.received) for each in messages]


def cut_up(messages: list[tuple[int, int, bytes]], cuts: list[int], splitter: Splitter) -> list[tuple[int, int, bytes]]:
    """What comes out of a stream of messages that is cut in places."""
    stream = b"".join(message(*each) for each in messages)
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    return [each for first, last in itertools.pairwise(bounds) for each in split(splitter, stream[first:last])]


@given(MESSAGES, st.lists(st.integers(0, 4000), max_size=8))
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(messages: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    assert cut_up(messages, cuts, Splitter(1000)) == messages


@given(MESSAGES, st.sets(st.integers(0, 11)), st.lists(st.integers(0, 4000), max_size=8))
def test_a_payload_that_is_not_wanted_is_read_over_and_nothing_else_is(messages: list[tuple[int, int, bytes]], unwanted: set[int], cuts: list[int]) -> None:
    messages = [(kind, number, payload * 100) for number, (kind, _, payload) in enumerate(messages)]
    refused: set[int] = set()

    def refuses(kind: int, tag: int, nbytes: int) -> bool:
        assert (kind, nbytes) == (messages[tag][0], len(messages[tag][2]))
        refused.update({tag} & unwanted)
        return tag in unwanted

    found = cut_up(messages, [100 * cut for cut in cuts], Splitter(1 << 20, refuses))
    assert found == [each for each in messages if each[1] not in refused]
    assert refused == {tag for _, tag, payload in messages if tag in unwanted and len(payload) >= LARGE_BYTES_MIN}


@pytest.mark.parametrize("length", [0, 4, 1001, 2**32 - 1])
def test_a_length_that_cannot_be_is_refused_before_anything_is_kept(length: int) -> None:
    with pytest.raises(LaneBroken, match=str(length)):
        split(Splitter(1000), length.to_bytes(4, "little") + bytes(5))


# --- the client's end -------------------------------------------------------------------------------------------------


def with_server(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], use: Callable[[Lane], Awaitable[None]]) -> None:
    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        lane = Lane(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 0.4)
        try:
            async with asyncio.timeout(10):
                await use(lane)
        finally:
            lane.close()
            server.close()

    asyncio.run(run())


async def next_message(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    head = await reader.readexactly(9)
    return head[4], int.from_bytes(head[5:9], "little"), await reader.readexactly(int.from_bytes(head[:4], "little") - 5)


def test_answers_out_of_order_reach_who_asked_and_a_refusal_is_typed() -> None:
    async def answer_backwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(HELLO)) == HELLO
        asked = [await next_message(reader) for _ in range(3)]
        from actors.services.errors import status_of

        writer.write(message(FAILED, asked[2][1], status_of(FieldInvalid("f", "v", "w")).SerializeToString()))
        for kind, tag, payload in reversed(asked[:2]):
            writer.write(message(kind, tag, payload.upper()))

    async def use(lane: Lane) -> None:
        one, two, three = lane.ask(READ, b"one"), lane.ask(INGEST, b"two"), lane.ask(READ, b"three")  # before it is connected
        assert (await one, await two) == (b"ONE", b"TWO")
        with pytest.raises(InvalidRequest):
            await three

    with_server(answer_backwards, use)


@pytest.mark.parametrize("bytes_sent", [b"", b"\xff" * 40])
def test_a_connection_that_ends_or_breaks_fails_all_that_wait_and_all_that_come(bytes_sent: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(HELLO) + 9)
        writer.write(bytes_sent)
        writer.close()

    async def use(lane: Lane) -> None:
        outcomes = await asyncio.gather(lane.ask(READ, b"x"), lane.ask(INGEST, b"y"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
        with pytest.raises(Unavailable):
            await lane.ask(READ, b"z")

    with_server(hang_up, use)


def test_an_answer_that_cannot_be_read_is_told_to_everybody_who_waits() -> None:
    async def answer_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(HELLO))
        while True:
            kind, tag, _ = await next_message(reader)
            writer.write(message(kind, tag, b"\xff\xff"))

    async def use(lane: Lane) -> None:
        queue = ReadQueue(lane)
        outcomes = await asyncio.gather(*(queue.ask_one(((), None), user.encode(), user) for user in "abc"), return_exceptions=True)
        assert all(isinstance(outcome, Exception) for outcome in outcomes)

    with_server(answer_nonsense, use)


def test_a_shard_that_hangs_is_given_up() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def use(lane: Lane) -> None:
        with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
            await lane.ask(READ, b"x")

    with_server(say_nothing, use)


def test_a_shard_that_hangs_is_left_as_soon_as_others_serve_what_it_served_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profilegrid.lanes.DOUBT_S", 0.1)
    asked: list[int] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> None:
        server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def serving() -> set[str]:
            asked.append(len(asked))
            if len(asked) == 1:
                raise Unavailable("nobody can say", "CONTROLLER_DOWN")
            return {endpoint} if len(asked) == 2 else set()

        lanes = Lanes(serving)
        with pytest.raises(Unavailable, match="others serve what it served"):
            async with asyncio.timeout(5):
                await lanes.to(endpoint, 60.0).ask(READ, b"x")
        lanes.close()
        server.close()

    asyncio.run(run())
    assert len(asked) == 3


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    async def run() -> None:
        with pytest.raises(Unavailable, match="CONNECT_FAILED"):
            await Lane("127.0.0.1:1", 5.0).ask(READ, b"x")

    asyncio.run(run())


# --- the shard's end --------------------------------------------------------------------------------------------------


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written, self.is_reading, self.is_closed = b"", True, False

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def abort(self) -> None:
        self.is_closed = True

    close = abort

    def is_closing(self) -> bool:
        return self.is_closed

    def answers(self) -> list[tuple[int, int, bytes]]:
        return split(Splitter(1 << 20), self.written)


class Shard:
    """Takes frames, and settles them when it is told."""

    def __init__(self) -> None:
        self.replies: list[asyncio.Future[Reply]] = []
        self.committer = self
        self.refusal: Exception | None = None

    def check_serving(self) -> None: ...

    def check_room(self, nbytes: int) -> None:
        if self.refusal is not None:
            raise self.refusal

    def offer(self, frame: Any, nbytes: int) -> asyncio.Future[Reply]:
        self.replies.append(asyncio.get_running_loop().create_future())
        return self.replies[-1]


def take(connection: LaneConnection, data: bytes) -> None:
    """Bytes come to a connection, until it ends."""
    for _ in bring(data, partial(connection.get_buffer, -1), connection.buffer_updated):
        if connection._transport.is_closing():
            return


FRAME = events_pb2.Frame(kind=events_pb2.FRAME_KIND_EVENTS, batch_number=1).SerializeToString()


def served(check: Callable[[LaneConnection, Wire, Shard], Awaitable[None]], hello: bytes = HELLO) -> None:
    async def run() -> None:
        shard, wire = Shard(), Wire()
        connection = ShardLane(shard, dict, Meter(), set())  # type: ignore[arg-type]
        connection.connection_made(wire)  # type: ignore[arg-type]
        take(connection, hello)
        await check(connection, wire, shard)
        connection.connection_lost(None)

    asyncio.run(run())


async def settle(reply: asyncio.Future[Reply]) -> None:
    reply.set_result(SimpleNamespace(accepted=1, duplicates=0, rejections=[]))  # type: ignore[arg-type]
    await asyncio.sleep(0)


async def turns() -> None:
    """Work that was cut, so that others have a turn, goes on."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_a_frame_is_answered_when_it_is_committed() -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        take(connection, message(INGEST, 7, FRAME))
        await asyncio.sleep(0)
        assert wire.answers() == []
        await settle(shard.replies[0])
        ((kind, tag, payload),) = wire.answers()
        assert (kind, tag, events_pb2.IngestResponse.FromString(payload).accepted) == (INGEST, 7, 1)

    served(check)


def test_who_has_too_much_under_way_is_not_read_from_until_something_is_answered() -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        take(connection, b"".join(message(INGEST, tag, FRAME) for tag in range(UNDER_WAY_MAX + 3)))
        await turns()
        assert (len(shard.replies), wire.is_reading) == (UNDER_WAY_MAX, False)
        await settle(shard.replies[0])
        await turns()
        assert (len(shard.replies), wire.is_reading) == (UNDER_WAY_MAX + 1, False)
        for reply in list(shard.replies)[1:]:
            await settle(reply)
        await turns()
        assert wire.is_reading
        assert len(shard.replies) == UNDER_WAY_MAX + 3

    served(check)


def test_who_does_not_take_answers_is_not_read_from() -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        connection.pause_writing()
        take(connection, message(INGEST, 1, FRAME))
        assert (shard.replies, wire.is_reading) == ([], False)
        connection.resume_writing()
        assert (len(shard.replies), wire.is_reading) == (1, True)

    served(check)


@pytest.mark.parametrize(
    ("kind", "payload", "reason"), [(INGEST, b"\xff\xff", b"FRAME_INVALID"), (READ, b"\xff\xff", b"FRAME_INVALID"), (EVALUATE, b"\xff\xff", b"FRAME_INVALID")]
)
def test_bytes_that_are_no_protobuf_are_refused_by_name_and_the_lane_goes_on(kind: int, payload: bytes, reason: bytes) -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        take(connection, message(kind, 3, payload) + message(INGEST, 4, FRAME))
        await asyncio.sleep(0.01)
        await settle(shard.replies[0])
        (refused, answered) = sorted(wire.answers(), key=lambda each: each[1])
        assert refused[:2] == (FAILED, 3)
        assert reason in refused[2]
        assert answered[:2] == (INGEST, 4)

    served(check)


def test_a_refusal_of_the_inbox_keeps_its_delay() -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        shard.refusal = Overloaded("the shard's inbox", 9, 8, 250)
        take(connection, message(INGEST, 5, FRAME))
        ((kind, _, payload),) = wire.answers()
        from profilegrid.errors import Overloaded as Told
        from profilegrid.errors import from_status

        told = from_status(payload)
        assert kind == FAILED
        assert isinstance(told, Told)
        assert told.delay_ms == 250

    served(check)


def test_a_frame_that_there_is_no_room_for_is_refused_by_its_head_and_its_bytes_are_read_over() -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        shard.refusal = Overloaded("the shard's inbox", 9, 8, 250)
        sent = message(INGEST, 5, FRAME + bytes(2_000_000))
        take(connection, sent[:12])
        assert [(kind, tag) for kind, tag, _ in wire.answers()] == [(FAILED, 5)]
        shard.refusal = None
        take(connection, sent[12:] + message(INGEST, 6, FRAME))
        await settle(shard.replies[0])
        assert [(kind, tag) for kind, tag, _ in wire.answers()] == [(FAILED, 5), (INGEST, 6)]

    served(check)


@pytest.mark.parametrize("hello", [b"GET / HTTP", b"PGLANE2\n", b"\0"])
def test_who_greets_otherwise_is_sent_away(hello: bytes) -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        assert wire.is_closed

    served(check, hello)


@pytest.mark.parametrize("sent", [message(99, 1, b""), b"\xff" * 9])
def test_a_kind_or_a_length_that_is_not_known_ends_the_lane(sent: bytes) -> None:
    async def check(connection: LaneConnection, wire: Wire, shard: Shard) -> None:
        take(connection, sent)
        assert wire.is_closed

    served(check)


def test_a_bug_is_told_as_internal_and_the_lane_goes_on() -> None:
    """The shard of these tests cannot read: the error is one that nobody expected."""

    async def run() -> None:
        server = LaneServer(partial(ShardLane, Shard(), dict, Meter()))  # type: ignore[arg-type]
        lane = Lane(f"127.0.0.1:{await server.start('127.0.0.1')}", 5.0)
        request = profiles_pb2.BatchGetProfilesRequest(user_ids=["a"]).SerializeToString()
        for _ in range(2):
            with pytest.raises(ServerFailed, match="INTERNAL"):
                await lane.ask(READ, request)
        await server.stop()
        with pytest.raises(Unavailable):
            await lane.ask(READ, request)

    asyncio.run(run())


def test_the_gateway_counts_on_a_lane_and_tells_a_wrong_rule_from_a_right_one() -> None:
    async def count(request: segments_pb2.CountRequest) -> segments_pb2.CountResponse:
        await asyncio.sleep(0)
        if request.rule == "wrong":
            raise FieldInvalid("rule", "wrong", "a rule")
        return segments_pb2.CountResponse(count=len(request.rule))

    async def run() -> None:
        server = LaneServer(partial(GatewayLane, count, Meter()))
        lane = Lane(f"127.0.0.1:{await server.start('127.0.0.1')}", 5.0)
        right, wrong, other = (lane.ask(COUNT, segments_pb2.CountRequest(rule=rule).SerializeToString()) for rule in ("age > 5", "wrong", "a = 1"))
        assert [segments_pb2.CountResponse.FromString(await answer).count for answer in (right, other)] == [7, 5]
        with pytest.raises(InvalidRequest, match="rule"):
            await wrong
        with pytest.raises(Unavailable):  # not a gateway's
            await lane.ask(INGEST, FRAME)
        await server.stop()

    asyncio.run(run())
