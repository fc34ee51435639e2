"""The endpoint as a stranger's client sees it: rows, streams, reflection, health, hostile frames."""

from __future__ import annotations

import os
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from profilegrid.columns import Strings, events_batch
from profilegrid.options import CLIENT_OPTIONS
from profilegrid.routes import Map, frame_of, partitions_of
from profilegrid.v1 import admin_pb2, admin_pb2_grpc, events_pb2, events_pb2_grpc, profiles_pb2, profiles_pb2_grpc, segments_pb2, segments_pb2_grpc

from tests.grids import RunningGrid

Value = events_pb2.Value


@pytest.fixture(scope="module")
def channel(grid: RunningGrid) -> Any:
    with grpc.insecure_channel(grid.target, options=CLIENT_OPTIONS) as opened:
        yield opened


def event(user: str, **properties: Any) -> events_pb2.Event:
    return events_pb2.Event(user_id=user, name="e", properties=properties)


def test_a_generic_tool_can_list_and_describe_every_service(channel: Any) -> None:
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    ours = {f"profilegrid.v1.{name}Service" for name in ("Event", "Profile", "Segment", "Catalog", "Admin")}
    assert ours <= services


def test_health_says_serving(channel: Any) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "profilegrid.v1.EventService"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING


def test_rows_come_in_and_profiles_go_out_without_our_client(channel: Any, user: str) -> None:
    rows = [event(user, n=Value(float_value=1.5), c=Value(text_value="x")), event(user, n=Value(text_value="bad")), event("", n=Value(int_value=1))]
    batch = events_pb2.EventRows(events=rows, producer_id=os.urandom(16), batch_number=1)
    stub = events_pb2_grpc.EventServiceStub(channel)
    for _ in range(2):  # the second is a retry
        reply = stub.Ingest(events_pb2.IngestRequest(rows=batch))
        assert reply.accepted == 1
        assert [(r.row, r.reason) for r in reply.rejected] == [(1, "WRONG_TYPE"), (2, "USER_ID_MISSING")]
    profiles = profiles_pb2_grpc.ProfileServiceStub(channel)
    updates = [profiles_pb2.ProfileUpdate(user_id=user, set={"city": Value(text_value="Rome"), "hobbies": Value(text_list=events_pb2.TextList(values=["a"]))})]
    assert profiles.UpdateProfile(profiles_pb2.UpdateProfileRequest(updates=updates)).accepted == 1
    profile = profiles.GetProfile(profiles_pb2.GetProfileRequest(user_id=user)).profile
    assert profile.features["count"].int_value == 1
    assert profile.features["count_by"].number_map.values == {"x": 1.0}
    assert list(profile.attributes["hobbies"].text_list.values) == ["a"]
    assert profile.features["last_time"].null_value
    several = profiles.BatchGetProfiles(profiles_pb2.BatchGetProfilesRequest(user_ids=["nobody", user], fields=["count"]))
    assert [p.exists for p in several.profiles] == [False, True]
    assert profiles.DeleteProfile(profiles_pb2.DeleteProfileRequest(user_ids=[user])).accepted == 1
    assert not profiles.GetProfile(profiles_pb2.GetProfileRequest(user_id=user)).profile.exists


def test_a_stream_answers_each_batch_and_goes_on_after_a_refused_one(channel: Any, user: str) -> None:
    producer = os.urandom(16)

    def requests() -> Any:
        for number in range(1, 11):
            name = b"short" if number == 5 else producer
            yield events_pb2.IngestStreamRequest(rows=events_pb2.EventRows(events=[event(user)], producer_id=name, batch_number=number))

    replies = {reply.batch_number: reply for reply in events_pb2_grpc.EventServiceStub(channel).IngestStream(requests())}
    assert set(replies) == set(range(1, 11))
    assert replies[5].error_reason == "FIELD_INVALID"
    assert sum(reply.accepted for reply in replies.values()) == 9


def good_frame(channel: Any, user: str) -> tuple[events_pb2.Frame, str]:
    """A frame for one user, and its owner's endpoint."""
    map_ = Map.of(admin_pb2_grpc.AdminServiceStub(channel).GetMap(admin_pb2.GetMapRequest()))
    batch = events_batch([(user, "e", 1, {"n": 1.0, "c": "x"}, None)])
    partitions = partitions_of(batch.ids, map_.partitions)
    frame = frame_of(batch, np.arange(1), partitions, map_)
    frame.producer_id, frame.batch_number = os.urandom(16), 1
    return frame, map_.endpoints[int(map_.owners[partitions[0]])]


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("producer_id", b"short", "producer_id"),
        ("batch_number", 0, "batch_number"),
        ("kind", 0, "kind"),
        ("partitions", b"\xff\xff", "partitions"),
        ("partitions", b"\x01", "partitions"),
        ("partition_rows", b"\x07\0\0\0", "partition_rows"),
        ("user_id_ends", b"\xff\0\0\0", "user_id_ends"),
        ("user_id_data", b"\xff\xfe\xfd", "user_id"),
        ("times_ms", b"", "times_ms"),
        ("events", b"\x09\0", "events"),
        ("user_id_ends", b"", "rows"),
    ],
)
def test_a_hostile_frame_is_refused_by_the_name_of_its_field(channel: Any, user: str, field: str, value: Any, where: str) -> None:
    frame, endpoint = good_frame(channel, user)
    setattr(frame, field, value)
    _refused(endpoint, frame, where)


@pytest.mark.parametrize(
    ("field", "value"),
    [("values", b"\1"), ("type", 0), ("presence", b"\1\1\1"), ("dictionary_ends", b"\xff\xff\xff\xff"), ("values", b"\xff\xff\xff\xff\0\0\0\0")],
)
def test_a_hostile_column_is_refused_by_name(channel: Any, user: str, field: str, value: Any) -> None:
    frame, endpoint = good_frame(channel, user)
    (column,) = [column for column in frame.columns if column.name == "c"]
    setattr(column, field, value)
    _refused(endpoint, frame, "columns.c")


def test_a_user_in_the_wrong_partition_is_refused(channel: Any, user: str) -> None:
    frame, endpoint = good_frame(channel, user)
    partition = partitions_of(Strings.of([user]), 64)[0]
    other = next(name for name in (f"{user}-{number}" for number in range(100)) if partitions_of(Strings.of([name]), 64)[0] != partition)
    frame.user_id_data = other.encode()
    frame.user_id_ends = len(frame.user_id_data).to_bytes(4, "little")
    _refused(endpoint, frame, "user_id[0]")


def _refused(endpoint: str, frame: events_pb2.Frame, where: str) -> None:
    with grpc.insecure_channel(endpoint) as shard:
        with pytest.raises(grpc.RpcError) as caught:
            events_pb2_grpc.EventServiceStub(shard).Ingest(events_pb2.IngestRequest(frame=frame))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        status = rpc_status.from_call(caught.value)
        bad = error_details_pb2.BadRequest()
        assert any(detail.Unpack(bad) for detail in status.details)
        assert bad.field_violations[0].field.startswith(where)


def test_a_frame_of_an_older_epoch_or_another_owner_is_told_to_refresh_its_map(channel: Any, user: str) -> None:
    frame, endpoint = good_frame(channel, user)
    frame.epochs = (999).to_bytes(8, "little")
    with grpc.insecure_channel(endpoint) as shard, pytest.raises(grpc.RpcError) as caught:
        events_pb2_grpc.EventServiceStub(shard).Ingest(events_pb2.IngestRequest(frame=frame))
    assert caught.value.code() is grpc.StatusCode.ABORTED
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    assert (info.reason, info.metadata["epoch_sent"]) == ("PARTITION_MOVED", "999")


def test_a_message_over_16_mb_is_refused_and_the_server_lives(channel: Any) -> None:
    huge = events_pb2.IngestRequest(rows=events_pb2.EventRows(events=[event("x" * (17 << 20))]))
    options = [("grpc.max_send_message_length", 64 << 20)]
    with grpc.insecure_channel(channel._channel.target().decode(), options=options) as big, pytest.raises(grpc.RpcError) as caught:
        events_pb2_grpc.EventServiceStub(big).Ingest(huge)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert segments_pb2_grpc.SegmentServiceStub(channel).Count(segments_pb2.CountRequest(rule="count >= 0")).count >= 0


def test_a_stream_of_reads_answers_in_order_and_goes_on_after_a_wrong_one(channel: Any, user: str, grid: RunningGrid) -> None:
    """Through the gateway as rows, and straight to a shard as columns."""
    reads = [
        profiles_pb2.StreamProfilesRequest(read=profiles_pb2.BatchGetProfilesRequest(user_ids=[user], fields=[field])) for field in ("count", "cuont", "sum")
    ]
    endpoint = next(shard["endpoint"] for shard in grid.shards() if _owns(channel, shard["id"], user))
    with grpc.insecure_channel(endpoint) as straight:
        for stub in (profiles_pb2_grpc.ProfileServiceStub(channel), profiles_pb2_grpc.ProfileServiceStub(straight)):
            first, wrong, last = stub.StreamProfiles(iter(reads))
            assert list(first.profiles.profiles[0].features) == ["count"]
            assert list(last.profiles.profiles[0].features) == ["sum"]
            status = status_pb2.Status.FromString(wrong.error)
            assert status.code == code_pb2.INVALID_ARGUMENT
            assert "cuont" in status.message
            assert "count" in status.message


def _owns(channel: Any, shard: int, user: str) -> bool:
    map_ = Map.of(admin_pb2_grpc.AdminServiceStub(channel).GetMap(admin_pb2.GetMapRequest()))
    return map_.shard_of(user.encode()) == shard
