"""What a shard serves: its own partitions' events, profiles and rule evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from profilegrid.columns import Batch, now_ms
from profilegrid.errors import ProfilegridError
from profilegrid.routes import Map, frame_of, partitions_of
from profilegrid.v1 import events_pb2, events_pb2_grpc, profiles_pb2, profiles_pb2_grpc, segments_pb2, shard_pb2, shard_pb2_grpc

from actors.services import convert
from actors.services.errors import status_of
from actors.serving import ShardServer
from grid.errors import FieldInvalid, GridError
from grid.kernels.ids import are_ends
from grid.state.dictionary import Strings

Context = Any  # grpc.aio.ServicerContext: grpc ships no types
STREAM_IN_FLIGHT_MAX = 64
_COLUMNS = profiles_pb2.BatchGetProfilesResponse.DESCRIPTOR.fields_by_name["columns"].number


class EventService(events_pb2_grpc.EventServiceServicer):
    """Events, attribute updates and deletes of this shard's partitions."""

    def __init__(self, shard: ShardServer) -> None:
        self._shard = shard

    async def Ingest(self, request: events_pb2.IngestRequest, context: Context) -> events_pb2.IngestResponse:
        self._shard.check_serving()
        frame = request.frame if request.HasField("frame") else self._framed(request.rows)
        return convert.ingest_response(await self._shard.committer.commit(convert.frame(frame), request.ByteSize()))

    async def IngestStream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[events_pb2.IngestStreamResponse]:
        async for response in answer_stream(requests, self.Ingest):
            yield response

    def _framed(self, rows: events_pb2.EventRows) -> events_pb2.Frame:
        """Rows that were sent to the shard itself; those of other shards make it answer PARTITION_MOVED."""
        return own_frame(self._shard, convert.rows_batch(rows, now_ms()), rows.producer_id, rows.batch_number, rows.acks)


def own_frame(shard: ShardServer, batch: Batch, producer: bytes, number: int, acks: int = 0) -> events_pb2.Frame:
    """The frame of a batch in the row form that came straight to a shard."""
    if not producer or not number:
        raise FieldInvalid("producer_id", "none", "a producer id and batch number; without them send to the gateway")
    engine = shard.engine
    map_ = Map(0, engine.catalog.version, np.zeros(shard.config.partitions, dtype=np.uint16), engine.epochs, {})
    partitions = partitions_of(batch.ids, shard.config.partitions)
    order = np.argsort(partitions, kind="stable")
    frame = frame_of(batch, order, partitions[order], map_)
    frame.producer_id, frame.batch_number, frame.acks = producer, number, acks  # type: ignore[assignment]
    return frame


async def answer_stream(requests: AsyncIterator[Any], ingest: Any) -> AsyncIterator[events_pb2.IngestStreamResponse]:
    """Answer each batch of a stream as it completes, at most 64 at once, by the unary call `ingest`."""
    done: asyncio.Queue[Any] = asyncio.Queue()
    room = asyncio.Semaphore(STREAM_IN_FLIGHT_MAX)
    end = object()

    async def one(request: Any) -> None:
        try:
            await done.put(await _answered(request, ingest))
        finally:
            room.release()

    async def read() -> None:
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await room.acquire()
                group.create_task(one(request))
        await done.put(end)

    reader = asyncio.create_task(read())
    try:
        while (response := await done.get()) is not end:
            yield response
    finally:
        reader.cancel()


async def _answered(request: events_pb2.IngestStreamRequest, ingest: Any) -> events_pb2.IngestStreamResponse:
    """One batch's answer. A whole batch's error stays inside the stream: the stream goes on."""
    is_frame = request.HasField("frame")
    number = request.frame.batch_number if is_frame else request.rows.batch_number
    try:
        unary = events_pb2.IngestRequest(frame=request.frame) if is_frame else events_pb2.IngestRequest(rows=request.rows)
        response = await ingest(unary, None)
    except (GridError, ProfilegridError) as error:
        status, reason = status_of(error), error.reason or "INTERNAL"
        return events_pb2.IngestStreamResponse(batch_number=number, error_code=status.code, error_reason=reason, error_message=status.message)
    return events_pb2.IngestStreamResponse(batch_number=number, accepted=response.accepted, duplicates=response.duplicates, rejected=response.rejected)


async def answer_reads(requests: AsyncIterator[Any], read: Any) -> AsyncIterator[profiles_pb2.StreamProfilesResponse]:
    """Answer each read of a stream in its turn, by the unary call `read`. A read's error stays inside the stream."""
    async for request in requests:
        try:
            response = profiles_pb2.StreamProfilesResponse(profiles=await read(request.read, None))
        except (GridError, ProfilegridError) as error:
            response = profiles_pb2.StreamProfilesResponse(error=status_of(error).SerializeToString())
        yield response


class ProfileService(profiles_pb2_grpc.ProfileServiceServicer):
    """Profiles of this shard's users."""

    def __init__(self, shard: ShardServer) -> None:
        self._shard = shard

    async def GetProfile(self, request: profiles_pb2.GetProfileRequest, context: Context) -> profiles_pb2.GetProfileResponse:
        return profiles_pb2.GetProfileResponse(profile=_rows(self._shard, [request.user_id], list(request.fields), convert.as_of(request))[0])

    async def BatchGetProfiles(self, request: profiles_pb2.BatchGetProfilesRequest, context: Context) -> profiles_pb2.BatchGetProfilesResponse:
        return profiles_pb2.BatchGetProfilesResponse.FromString(answer_read(self._shard, request))

    async def StreamProfiles(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[profiles_pb2.StreamProfilesResponse]:
        async for response in answer_reads(requests, self.BatchGetProfiles):
            yield response

    async def UpdateProfile(self, request: profiles_pb2.UpdateProfileRequest, context: Context) -> profiles_pb2.UpdateProfileResponse:
        self._shard.check_serving()
        frame = own_frame(self._shard, convert.updates_batch(request), request.producer_id, request.batch_number)
        response = convert.ingest_response(await self._shard.committer.commit(convert.frame(frame), request.ByteSize()))
        return profiles_pb2.UpdateProfileResponse(accepted=response.accepted, rejected=response.rejected)

    async def DeleteProfile(self, request: profiles_pb2.DeleteProfileRequest, context: Context) -> profiles_pb2.DeleteProfileResponse:
        self._shard.check_serving()
        frame = own_frame(self._shard, convert.deletes(request), request.producer_id, request.batch_number)
        reply = await self._shard.committer.commit(convert.frame(frame), request.ByteSize())
        return profiles_pb2.DeleteProfileResponse(accepted=reply.accepted)

    async def WatchProfile(self, request: profiles_pb2.WatchProfileRequest, context: Context) -> AsyncIterator[profiles_pb2.WatchProfileResponse]:
        async for profiles in self._shard.watch(Strings.of([request.user_id]), list(request.fields)):
            catalog = self._shard.engine.catalog
            columns = convert.profile_columns(profiles, catalog)
            profile = convert.row_profiles([request.user_id], columns)[0]
            yield profiles_pb2.WatchProfileResponse(profile=convert.wire_profile(profile, catalog))


def answer_read(shard: ShardServer, request: profiles_pb2.BatchGetProfilesRequest) -> bytes:
    """Profiles in the form that is asked for: a serialized BatchGetProfilesResponse."""
    if request.format != profiles_pb2.PROFILE_FORMAT_COLUMNS and not request.user_id_ends:
        rows = _rows(shard, list(request.user_ids), list(request.fields), convert.as_of(request))
        return profiles_pb2.BatchGetProfilesResponse(profiles=rows).SerializeToString()
    profiles = shard.read(asked_ids(request), list(request.fields), convert.as_of(request))
    return convert.wire_field(_COLUMNS, convert.profile_bytes(profiles, shard.engine.catalog))


def _rows(shard: ShardServer, user_ids: list[str], fields: list[str], as_of_ms: int | None) -> list[profiles_pb2.Profile]:
    catalog = shard.engine.catalog
    columns = convert.profile_columns(shard.read(Strings.of(user_ids), fields, as_of_ms), catalog)
    return [convert.wire_profile(profile, catalog) for profile in convert.row_profiles(user_ids, columns)]


def asked_ids(request: profiles_pb2.BatchGetProfilesRequest) -> Strings:
    """The ids of a request, in either form."""
    if not request.user_id_ends:
        return Strings.of(list(request.user_ids))
    ids = convert.strings("user_id", request.user_id_data, request.user_id_ends)
    if not are_ends(ids.ends, ids.data.size):
        raise FieldInvalid("user_id_ends", "offsets that fall or leave the data", f"ascending, at most {ids.data.size}")
    return ids


async def answer_evaluate(shard: ShardServer, request: shard_pb2.EvaluateRequest) -> shard_pb2.EvaluateResponse:
    """The shard's part of a query."""
    if request.mode == shard_pb2.EVALUATE_MODE_EXPLAIN:
        users, matched, clauses, warnings = await shard.audiences.explain(request.rule, request.as_of_ms)
        reports = [segments_pb2.ClauseReport(matched=m, unknown=u) for m, u in clauses]
        partitions, counts = np.array([*matched], dtype=np.uint16), np.array([*matched.values()], dtype=np.uint64)
        return shard_pb2.EvaluateResponse(users=users, clauses=reports, partitions=partitions.tobytes(), counts=counts.tobytes(), warnings=warnings)
    found = await shard.audiences.evaluate(
        request.rule, request.as_of_ms, request.first_partition, request.last_partition, request.limit,
        with_bitmaps=request.mode == shard_pb2.EVALUATE_MODE_BITMAPS,
    )  # fmt: skip
    return shard_pb2.EvaluateResponse(
        partitions=found.partitions.tobytes(), counts=found.counts.tobytes(), positions=found.positions.tobytes(),
        bitmaps=found.bitmaps, warnings=found.warnings,
    )  # fmt: skip


class ShardService(shard_pb2_grpc.ShardServiceServicer):
    """The shard's part of a query."""

    def __init__(self, shard: ShardServer) -> None:
        self._shard = shard

    async def Evaluate(self, request: shard_pb2.EvaluateRequest, context: Context) -> shard_pb2.EvaluateResponse:
        return await answer_evaluate(self._shard, request)

    async def ResolveHandles(self, request: shard_pb2.ResolveHandlesRequest, context: Context) -> shard_pb2.ResolveHandlesResponse:
        ids = self._shard.ids_of_handles(np.frombuffer(request.handles, dtype=np.uint64))
        return shard_pb2.ResolveHandlesResponse(user_id_data=ids.data.tobytes(), user_id_ends=ids.ends.astype(np.uint32).tobytes())

    async def TestUsers(self, request: shard_pb2.TestUsersRequest, context: Context) -> shard_pb2.TestUsersResponse:
        contained, warnings = self._shard.audiences.contains(request.rule, Strings.of(list(request.user_ids)), request.as_of_ms)
        return shard_pb2.TestUsersResponse(contained=contained, warnings=warnings)
