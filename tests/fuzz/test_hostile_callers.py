"""Callers that mean harm or are broken, against a running grid: it answers the others meanwhile, and is what it was before."""

from __future__ import annotations

import asyncio
import os
import socket
import urllib.request
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profilegrid.columns import events_batch
from profilegrid.errors import ProfilegridError
from profilegrid.lanes import EVALUATE, HELLO, INGEST, READ, Lane, message
from profilegrid.routes import partitions_of, split
from profilegrid.v1 import events_pb2, events_pb2_grpc, profiles_pb2, profiles_pb2_grpc, segments_pb2, segments_pb2_grpc, shard_pb2

from tests.grids import RunningGrid

UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
GROWTH_MAX = 120 << 20
EXAMPLES = 100 * int(os.environ.get("FUZZ_EXAMPLES", "1"))


@pytest.fixture
def unharmed(grid: RunningGrid, user: str) -> Iterator[RunningGrid]:
    """The grid; afterwards the same processes serve the same values in about the same memory."""
    with grid.client() as client:
        client.track_many("e", user_id=[f"{user}-{n}" for n in range(64)], n=[1.0] * 64)
    before = grid.shards()
    yield grid
    grid.wait_until(lambda: len(grid.shards()) == 2)
    assert [shard["pid"] for shard in grid.shards()] == [shard["pid"] for shard in before]
    used = [shard["memory_bytes"] + GROWTH_MAX for shard in before]
    # What status tells is from the last heartbeat, half a second ago: of the midst of the call.
    grid.wait_until(lambda: all(shard["memory_bytes"] < most for shard, most in zip(grid.shards(), used, strict=True)), 10.0)
    with grid.client() as client:
        assert set(client.get_many([f"{user}-{n}" for n in range(64)])["count"]) == {1}


def endpoints(grid: RunningGrid) -> list[str]:
    return [grid.target, *(shard["endpoint"] for shard in grid.shards())]


@pytest.mark.parametrize("ends", [bytes(7), b"\x09\0\0\0"])
def test_packed_ids_that_cannot_be_are_refused_by_the_gateway_too_and_others_are_answered(unharmed: RunningGrid, user: str, ends: bytes) -> None:
    with grpc.insecure_channel(unharmed.target) as channel:
        stub = profiles_pb2_grpc.ProfileServiceStub(channel)
        packed = profiles_pb2.BatchGetProfilesRequest(
            user_id_data=f"{user}-0{user}-1".encode(), user_id_ends=np.array([len(user) + 2, 2 * len(user) + 4], dtype=np.uint32).tobytes()
        )
        assert [profile.features["count"].int_value for profile in stub.BatchGetProfiles(packed, timeout=10).profiles] == [1, 1]
        with pytest.raises(grpc.RpcError, match="user_id_ends") as caught:
            stub.BatchGetProfiles(profiles_pb2.BatchGetProfilesRequest(user_id_data=b"abc", user_id_ends=ends), timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_messages_of_100_mb_are_refused_by_size(unharmed: RunningGrid) -> None:
    huge = bytes(100 << 20)
    for endpoint in endpoints(unharmed):
        with grpc.insecure_channel(endpoint, options=UNBOUNDED) as channel:
            calls = [
                lambda ch: events_pb2_grpc.EventServiceStub(ch).Ingest(events_pb2.IngestRequest(frame=events_pb2.Frame(user_id_data=huge)), timeout=30),
                lambda ch: profiles_pb2_grpc.ProfileServiceStub(ch).BatchGetProfiles(profiles_pb2.BatchGetProfilesRequest(user_id_data=huge), timeout=30),
            ]
            for call in calls:
                with pytest.raises(grpc.RpcError) as caught:
                    call(channel)
                assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)  # cut off while it was sent


def test_a_rule_and_a_bitmap_of_many_megabytes_are_refused(unharmed: RunningGrid) -> None:
    with grpc.insecure_channel(unharmed.target, options=UNBOUNDED) as channel:
        stub = segments_pb2_grpc.SegmentServiceStub(channel)
        for request in (
            segments_pb2.CountRequest(rule="count > 0 OR " * 1_000_000 + "count > 1"),
            segments_pb2.CountRequest(rule="count > 0", within=b"\1" * (8 << 20)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Count(request, timeout=30)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_connections_that_never_finish_a_request_keep_nobody_waiting(unharmed: RunningGrid, user: str) -> None:
    """Slow loris: half a preface, a preface and no more, streams that say nothing."""
    held = []
    for endpoint in endpoints(unharmed):
        host, port = endpoint.rsplit(":", 1)
        for number in range(100):
            connection = socket.create_connection((host, int(port)), timeout=5)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: 10 if number % 2 else None])
            held.append(connection)

    async def silent() -> None:
        channels, calls = [], []
        for endpoint in endpoints(unharmed):
            channel = grpc.aio.insecure_channel(endpoint)
            channels.append(channel)
            calls += [events_pb2_grpc.EventServiceStub(channel).IngestStream() for _ in range(200)]
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        with unharmed.client(read_timeout=5.0) as client:
            for number in range(20):
                profile = await loop.run_in_executor(None, client.get, f"{user}-{number}")
                assert profile["count"] == 1
        for call in calls:
            call.cancel()
        for channel in channels:
            await channel.close()

    asyncio.run(silent())
    for connection in held:
        connection.close()


def lanes(grid: RunningGrid) -> list[tuple[str, int]]:
    with grid.client() as client:
        found = client._run(client._core.map()).lanes.values()
    return [(host, int(port)) for host, _, port in (lane.rpartition(":") for lane in found)]


def test_lanes_that_say_nothing_half_a_message_or_nonsense_keep_nobody_waiting(unharmed: RunningGrid, user: str) -> None:
    whole = message(READ, 1, profiles_pb2.BatchGetProfilesRequest(user_ids=[f"{user}-1"]).SerializeToString())
    sayings = [
        b"", HELLO[:4], b"GET / HTTP/1.1\r\n\r\n", HELLO + whole[:7], HELLO + whole[:-1], HELLO + (16 << 20).to_bytes(4, "little") + b"\1" + bytes(100_000),
        HELLO + b"\xff" * 64, HELLO + message(77, 1, b"x"), HELLO + message(INGEST, 1, bytes(range(256))), HELLO + message(EVALUATE, 1, b"\xff"),
    ]  # fmt: skip
    held = []
    for address in lanes(unharmed):
        for number in range(400):
            connection = socket.create_connection(address, timeout=5)
            connection.sendall(sayings[number % len(sayings)])
            held.append(connection)
    with unharmed.client(read_timeout=5.0) as client:
        for number in range(20):
            assert client.get(f"{user}-{number}")["count"] == 1
    for connection in held:
        connection.close()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([READ, INGEST, EVALUATE]), cut=st.integers(0, 200), noise=st.binary(max_size=20), seed=st.integers(0, 2**32 - 1))
def test_mutated_messages_of_a_lane_are_answered_with_typed_errors(unharmed_lanes: LaneFuzz, kind: int, cut: int, noise: bytes, seed: int) -> None:
    good = unharmed_lanes.good[kind]
    at = seed % (len(good) + 1)
    code = unharmed_lanes.code_of(kind, good[: min(at, cut)] + noise + good[at:])
    assert code in ("", "INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION", "ABORTED", "UNAVAILABLE", "RESOURCE_EXHAUSTED")


class LaneFuzz:
    """A lane, and a good message of each kind."""

    def __init__(self, grid: RunningGrid, user: str) -> None:
        self._runner = asyncio.Runner()
        with grid.client() as client:
            self._map = client._run(client._core.map())
        batch = events_batch([(f"{user}-1", "e", 1_700_000_000_000, {"n": 1.0}, None)])
        (parcel,) = split(batch, partitions_of(batch.ids, self._map.partitions), np.arange(1), self._map)
        parcel.frame.producer_id, parcel.frame.batch_number = b"f" * 16, 1
        self.good = {
            READ: profiles_pb2.BatchGetProfilesRequest(
                user_ids=[f"{user}-1"], fields=["count"], format=profiles_pb2.PROFILE_FORMAT_COLUMNS
            ).SerializeToString(),
            INGEST: parcel.frame.SerializeToString(),
            EVALUATE: shard_pb2.EvaluateRequest(
                rule="count > 1", as_of_ms=1_700_000_000_000, mode=shard_pb2.EVALUATE_MODE_COUNT, last_partition=63
            ).SerializeToString(),
        }
        self._endpoint = self._map.lanes[parcel.shard]

    def code_of(self, kind: int, payload: bytes) -> str:
        """The status code that a message is answered with; empty for none."""

        async def ask() -> str:
            lane = Lane(self._endpoint, 10.0)
            try:
                await lane.ask(kind, payload)
            except ProfilegridError as error:
                return error.code or error.reason
            finally:
                lane.close()
            return ""

        return self._runner.run(ask())


@pytest.fixture
def unharmed_lanes(grid: RunningGrid, user: str) -> Iterator[LaneFuzz]:
    before = [shard["pid"] for shard in grid.shards()]
    fuzz = LaneFuzz(grid, f"lane-{user}")
    yield fuzz
    fuzz._runner.close()
    assert [shard["pid"] for shard in grid.shards()] == before


def test_ten_thousand_streams_that_are_opened_and_left_leave_nothing_behind(unharmed: RunningGrid, user: str) -> None:
    async def leave(endpoint: str, count: int) -> None:
        async with grpc.aio.insecure_channel(endpoint) as channel:
            reads, events = profiles_pb2_grpc.ProfileServiceStub(channel), events_pb2_grpc.EventServiceStub(channel)
            for first in range(0, count, 100):
                calls = []
                for number in range(first, first + 100):
                    match number % 3:
                        case 0:
                            call = reads.StreamProfiles()
                            await call.write(profiles_pb2.StreamProfilesRequest(read=profiles_pb2.BatchGetProfilesRequest(user_ids=[f"{user}-1"])))
                        case 1:
                            call = reads.WatchProfile(profiles_pb2.WatchProfileRequest(user_id=f"{user}-1"))
                        case _:
                            call = events.IngestStream()
                    calls.append(call)
                await asyncio.sleep(0.01)
                for call in calls:
                    call.cancel()

    shards = [endpoint for endpoint in endpoints(unharmed) if endpoint != unharmed.target]

    async def run() -> None:
        await asyncio.gather(*(leave(endpoint, 5_000) for endpoint in shards))

    asyncio.run(run())

    def watchers() -> float:
        total = 0.0
        for shard in unharmed.shards():
            text = urllib.request.urlopen(f"http://{shard['metrics']}/metrics", timeout=5).read().decode()
            total += next(float(line.split()[1]) for line in text.splitlines() if line.startswith("profilegrid_watchers "))
        return total

    unharmed.wait_until(lambda: watchers() == 0)
