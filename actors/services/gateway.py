"""The gateway's services: thin clients' calls forwarded to the owners, audiences, catalog, administration."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import msgpack
import numpy as np
import xxhash
from profilegrid.aio import AsyncClient
from profilegrid.columns import Batch
from profilegrid.counting import said_once
from profilegrid.errors import Unavailable, from_rpc
from profilegrid.results import Report
from profilegrid.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    profiles_pb2,
    profiles_pb2_grpc,
    segments_pb2,
    segments_pb2_grpc,
)

from actors.calls import CONTROLLER_TIMEOUT_S, ask
from actors.clock import now_ms
from actors.coordinator import EXPORT_IDS, PageToken, Queries, rule_hash
from actors.lanes import GatewayLane, LaneServer
from actors.metrics import Meter
from actors.servers import GrpcServer
from actors.services import convert
from actors.services.shard import answer_reads, answer_stream, asked_ids
from grid.errors import FieldInvalid

Context = Any  # grpc.aio.ServicerContext: grpc ships no types
PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 1_000, 100_000
LONG_TIMEOUT_S, MAP_TIMEOUT_S = 600.0, 1.0
SNAPSHOT_TIMEOUT_S, PROGRESS_EVERY_S = 86_400.0, 0.3


async def add_services(server: GrpcServer, meter: Meter, controller: Any, host: str, target: str) -> LaneServer:
    """All public services on one server. Returns the lanes that count beside it, on a port of their own."""
    queries = Queries(controller)
    forward = Forwarder(target)
    segments = SegmentService(queries, forward)
    lanes = LaneServer(partial(GatewayLane, lambda request: segments.Count(request, None), meter))
    admin = AdminService(controller, f"{host}:{await lanes.start(host)}")
    server.add(events_pb2.DESCRIPTOR, "EventService", events_pb2_grpc.add_EventServiceServicer_to_server, EventService(forward))
    server.add(profiles_pb2.DESCRIPTOR, "ProfileService", profiles_pb2_grpc.add_ProfileServiceServicer_to_server, ProfileService(forward, queries))
    server.add(segments_pb2.DESCRIPTOR, "SegmentService", segments_pb2_grpc.add_SegmentServiceServicer_to_server, segments)
    server.add(catalog_pb2.DESCRIPTOR, "CatalogService", catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogService(controller))
    server.add(admin_pb2.DESCRIPTOR, "AdminService", admin_pb2_grpc.add_AdminServiceServicer_to_server, admin)
    return lanes


class Forwarder:
    """The client's own core, inside the gateway: it routes what thin clients send."""

    def __init__(self, target: str) -> None:
        self.client = AsyncClient(target, delivery_timeout=60.0)

    async def deliver(self, batch: Batch, producer: bytes, number: int) -> Report:
        """Send a thin client's batch under its own number; without one, under ours."""
        if not producer:
            return await self.client.deliver(batch)
        if len(producer) != 16 or not number:
            raise FieldInvalid("producer_id", f"{len(producer)} bytes, batch_number {number}", "16 random bytes and a batch number from 1 up")
        return await self.client.deliver(batch, producer_id=producer, first_batch=number)


class EventService(events_pb2_grpc.EventServiceServicer):
    """Rows are turned into frames and routed. Frames go to their owners directly: only there their directory means something."""

    def __init__(self, forward: Forwarder) -> None:
        self._forward = forward

    async def Ingest(self, request: events_pb2.IngestRequest, context: Context) -> events_pb2.IngestResponse:
        if request.HasField("frame"):
            return await self._frame(request.frame)
        rows = request.rows
        return convert.ingest_response(await self._forward.deliver(convert.rows_batch(rows, now_ms()), rows.producer_id, rows.batch_number))

    async def _frame(self, wire: events_pb2.Frame) -> events_pb2.IngestResponse:
        """A frame for one owner; one that spans owners is for the client library to split."""
        client = self._forward.client
        map_ = await client.map()
        partitions = convert.frame(wire).partitions
        shards = np.unique(map_.owners[partitions[partitions < map_.partitions]])
        if shards.size != 1:
            raise FieldInvalid("partitions", f"partitions of {shards.size} shards", "those of one shard, by AdminService.GetMap; or send rows")
        stub = events_pb2_grpc.EventServiceStub(client.channel(map_.endpoints[int(shards[0])]))  # type: ignore[no-untyped-call]
        try:
            response: events_pb2.IngestResponse = await stub.Ingest(events_pb2.IngestRequest(frame=wire), timeout=30.0)
            return response
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def IngestStream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[events_pb2.IngestStreamResponse]:
        async for response in answer_stream(requests, self.Ingest):
            yield response


class ProfileService(profiles_pb2_grpc.ProfileServiceServicer):
    """Profiles for thin clients."""

    def __init__(self, forward: Forwarder, queries: Queries) -> None:
        self._forward, self._queries = forward, queries

    async def GetProfile(self, request: profiles_pb2.GetProfileRequest, context: Context) -> profiles_pb2.GetProfileResponse:
        profiles = await self._profiles([request.user_id], list(request.fields), convert.as_of(request))
        return profiles_pb2.GetProfileResponse(profile=profiles[0])

    async def BatchGetProfiles(self, request: profiles_pb2.BatchGetProfilesRequest, context: Context) -> profiles_pb2.BatchGetProfilesResponse:
        if request.format == profiles_pb2.PROFILE_FORMAT_COLUMNS:
            raise FieldInvalid("format", "PROFILE_FORMAT_COLUMNS", "PROFILE_FORMAT_ROWS here; columns come from the shards themselves (AdminService.GetMap)")
        profiles = await self._profiles(asked_ids(request).to_list(), list(request.fields), convert.as_of(request))
        return profiles_pb2.BatchGetProfilesResponse(profiles=profiles)

    async def StreamProfiles(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[profiles_pb2.StreamProfilesResponse]:
        async for response in answer_reads(requests, self.BatchGetProfiles):
            yield response

    async def _profiles(self, user_ids: list[str], fields: list[str], as_of: int | None) -> list[profiles_pb2.Profile]:
        catalog = await self._queries.current_catalog()
        found = await asyncio.gather(*(self._forward.client.get(user_id, fields, as_of=as_of) for user_id in user_ids))
        return [convert.wire_profile(profile, catalog) for profile in found]

    async def UpdateProfile(self, request: profiles_pb2.UpdateProfileRequest, context: Context) -> profiles_pb2.UpdateProfileResponse:
        response = convert.ingest_response(await self._forward.deliver(convert.updates_batch(request), request.producer_id, request.batch_number))
        return profiles_pb2.UpdateProfileResponse(accepted=response.accepted, rejected=response.rejected)

    async def DeleteProfile(self, request: profiles_pb2.DeleteProfileRequest, context: Context) -> profiles_pb2.DeleteProfileResponse:
        report = await self._forward.deliver(convert.deletes(request), request.producer_id, request.batch_number)
        return profiles_pb2.DeleteProfileResponse(accepted=report.accepted)

    async def WatchProfile(self, request: profiles_pb2.WatchProfileRequest, context: Context) -> AsyncIterator[profiles_pb2.WatchProfileResponse]:
        async for profile in self._forward.client.watch(request.user_id, list(request.fields)):
            catalog = await self._queries.current_catalog()
            yield profiles_pb2.WatchProfileResponse(profile=convert.wire_profile(profile, catalog))


def _moment(request: Any) -> int:
    return request.as_of_ms if request.HasField("as_of_ms") else now_ms()


def _said(request: Any, warnings: list[str]) -> list[str]:
    """Warnings that concern the caller."""
    return said_once(warnings, is_of_now=not request.HasField("as_of_ms"))


class SegmentService(segments_pb2_grpc.SegmentServiceServicer):
    """Audiences."""

    def __init__(self, queries: Queries, forward: Forwarder) -> None:
        self._queries, self._forward = queries, forward

    async def Count(self, request: segments_pb2.CountRequest, context: Context) -> segments_pb2.CountResponse:
        started, as_of = time.perf_counter(), _moment(request)
        if request.HasField("within"):
            audience = await self._queries.audience(request.rule, as_of, within=request.within)
            count, warnings = audience.size, audience.warnings
        else:
            count, warnings = await self._queries.count(request.rule, as_of)
        elapsed_ms = (time.perf_counter() - started) * 1000
        return segments_pb2.CountResponse(count=count, as_of_ms=as_of, elapsed_ms=elapsed_ms, warnings=_said(request, warnings))

    async def List(self, request: segments_pb2.ListRequest, context: Context) -> segments_pb2.ListResponse:
        size = min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        token = PageToken.decode(request.page_token, request.rule) if request.page_token else PageToken(rule_hash(request.rule), _moment(request), -1)
        first = max(token.last_handle, 0) >> 32
        # A page needs `size` users after the last handle; those before it lie in its own partition only.
        handles = np.empty(0, dtype=np.uint64)
        limit = size + 1
        while True:
            audience = await self._queries.audience(request.rule, token.as_of_ms, first=first, limit=limit)
            handles = audience.handles()
            handles = handles[handles > token.last_handle] if token.last_handle >= 0 else handles
            is_last = not audience.bitmaps or max(audience.bitmaps) == (await self._queries.map())["partitions"] - 1
            if handles.size > size or is_last:
                break
            limit *= 4
        page = handles[:size]
        user_ids = (await self._queries.ids(page)).to_list() if page.size else []
        next_token = PageToken(token.rule_hash, token.as_of_ms, int(page[-1])).encode() if handles.size > size else ""
        warnings = _said(request, audience.warnings)
        return segments_pb2.ListResponse(user_ids=user_ids, next_page_token=next_token, as_of_ms=token.as_of_ms, warnings=warnings)

    async def Export(self, request: segments_pb2.ExportRequest, context: Context) -> AsyncIterator[segments_pb2.ExportResponse]:
        within = request.within if request.HasField("within") else None
        audience = await self._queries.audience(request.rule, _moment(request), within=within)
        handles, warnings = audience.handles(), _said(request, audience.warnings)
        if handles.size == 0:
            yield segments_pb2.ExportResponse(total=0, as_of_ms=audience.as_of_ms, warnings=warnings)
        following = asyncio.create_task(self._queries.ids(handles[:EXPORT_IDS])) if handles.size else None
        for first in range(EXPORT_IDS, handles.size + EXPORT_IDS, EXPORT_IDS):
            assert following is not None
            ids = await following  # the next are looked up while these are sent
            following = asyncio.create_task(self._queries.ids(handles[first : first + EXPORT_IDS])) if first < handles.size else None
            yield segments_pb2.ExportResponse(
                user_id_data=ids.data.tobytes(), user_id_ends=ids.ends.tobytes(), total=handles.size, as_of_ms=audience.as_of_ms, warnings=warnings
            )

    async def Sample(self, request: segments_pb2.SampleRequest, context: Context) -> segments_pb2.SampleResponse:
        audience = await self._queries.audience(request.rule, _moment(request))
        handles = audience.handles()
        drawn = sorted(random.Random(request.seed).sample(range(handles.size), min(request.size or 10, handles.size)))
        ids = (await self._queries.ids(handles[drawn])).to_list() if drawn else []
        return segments_pb2.SampleResponse(user_ids=ids, total=handles.size, as_of_ms=audience.as_of_ms, warnings=_said(request, audience.warnings))

    async def Contains(self, request: segments_pb2.ContainsRequest, context: Context) -> segments_pb2.ContainsResponse:
        as_of = _moment(request)
        contained, warnings = await self._queries.contains(request.rule, as_of, list(request.user_ids))
        return segments_pb2.ContainsResponse(contained=contained, as_of_ms=as_of, warnings=_said(request, warnings))

    async def Explain(self, request: segments_pb2.ExplainRequest, context: Context) -> segments_pb2.ExplainResponse:
        started, as_of = time.perf_counter(), _moment(request)
        users, matched, partitions, clauses, warnings = await self._queries.explain(request.rule, as_of)
        reports = [segments_pb2.ClauseReport(text=text, matched=m, unknown=u) for text, m, u in clauses]
        hints = [f"{u} of {users} users have no value for `{text}` and are left out; add OR … IS NULL to keep them" for text, _, u in clauses if u]
        return segments_pb2.ExplainResponse(
            clauses=reports, users=users, matched=matched, as_of_ms=as_of, elapsed_ms=(time.perf_counter() - started) * 1000,
            hints=hints, partitions=partitions, warnings=_said(request, warnings),
        )  # fmt: skip

    async def GetBitmap(self, request: segments_pb2.GetBitmapRequest, context: Context) -> segments_pb2.GetBitmapResponse:
        audience = await self._queries.audience(request.rule, _moment(request))
        blob = audience.portable()
        return segments_pb2.GetBitmapResponse(
            bitmap=blob, cardinality=audience.size, as_of_ms=audience.as_of_ms, checksum=xxhash.xxh3_64_intdigest(blob),
            warnings=_said(request, audience.warnings),
        )  # fmt: skip


class CatalogService(catalog_pb2_grpc.CatalogServiceServicer):
    """Declarations."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    async def ApplyCatalog(self, request: catalog_pb2.ApplyCatalogRequest, context: Context) -> catalog_pb2.ApplyCatalogResponse:
        version, change = await ask(self._controller.apply_catalog.remote(request.source, force=request.force, dry_run=request.dry_run), 120.0)
        message = catalog_pb2.CatalogChange(added=change.added, changed=change.changed, losses=change.losses, backfills=change.backfills)
        return catalog_pb2.ApplyCatalogResponse(version=version, change=message)

    async def GetCatalog(self, request: catalog_pb2.GetCatalogRequest, context: Context) -> catalog_pb2.GetCatalogResponse:
        version, source = await ask(self._controller.catalog.remote())
        percents, since = await ask(self._controller.features.remote())
        statuses = [catalog_pb2.FeatureStatus(name=name, percent=percent) for name, percent in sorted(percents.items())]
        limits = [catalog_pb2.FeatureSince(name=name, complete_since_ms=ms) for name, ms in sorted(since.items())]
        return catalog_pb2.GetCatalogResponse(source=source, version=version, backfilling=statuses, complete_since=limits)


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """The map, states, checkpoints, dead letters. Map and status are answered from the last known while the controller is down."""

    def __init__(self, controller: Any, lane: str) -> None:
        self._controller, self._lane = controller, lane
        self._last_map: dict[str, Any] | None = None
        self._asking: asyncio.Future[dict[str, Any]] | None = None
        self._last_status: dict[str, Any] | None = None

    async def GetMap(self, request: admin_pb2.GetMapRequest, context: Context) -> admin_pb2.GetMapResponse:
        try:
            self._last_map = await self._current_map()
        except Unavailable:
            if self._last_map is None:
                raise
        assert self._last_map is not None
        known = self._last_map
        return admin_pb2.GetMapResponse(
            map_version=known["map_version"], partitions=known["partitions"], catalog_version=known["catalog_version"],
            shards=[admin_pb2.ShardAddress(id=shard, endpoint=endpoint, lane=known["lanes"][shard]) for shard, endpoint in known["endpoints"].items()],
            owners=known["owners"], epochs=known["epochs"], grid_id=known["grid_id"], lane=self._lane,
        )  # fmt: skip

    def _current_map(self) -> asyncio.Future[dict[str, Any]]:
        """One call of the controller for all who ask meanwhile: while a shard is away each client does several times a second."""
        if self._asking is None or self._asking.done():
            # A client that begins while the controller is away needs a map soon; one that is out of date is found out by the shards.
            timeout_s = CONTROLLER_TIMEOUT_S if self._last_map is None else MAP_TIMEOUT_S
            self._asking = asyncio.ensure_future(ask(self._controller.map.remote(), timeout_s))
        return asyncio.shield(self._asking)

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Context) -> admin_pb2.GetStatusResponse:
        try:
            self._last_status = await ask(self._controller.status.remote())
        except Unavailable:
            if self._last_status is None:
                raise
        assert self._last_status is not None
        known = self._last_status
        return admin_pb2.GetStatusResponse(
            map_version=known["map_version"],
            catalog_version=known["catalog_version"],
            shards=[_shard_status(shard) for shard in known["shards"]],
            metrics=known.get("metrics", ""),
            nodes=[admin_pb2.Node(**node) for node in known.get("nodes", [])],
            problem=known.get("problem", ""),
        )

    async def Checkpoint(self, request: admin_pb2.CheckpointRequest, context: Context) -> admin_pb2.CheckpointResponse:
        partitions, seconds = await ask(self._controller.checkpoint.remote(), LONG_TIMEOUT_S)
        return admin_pb2.CheckpointResponse(partitions=partitions, seconds=seconds)

    async def ListDeadLetters(self, request: admin_pb2.ListDeadLettersRequest, context: Context) -> admin_pb2.ListDeadLettersResponse:
        letters = await ask(self._controller.dead_letters.remote(request.limit or 100), 15.0)
        return admin_pb2.ListDeadLettersResponse(letters=[_dead_letter(msgpack.unpackb(raw)) for raw in letters])

    async def ReplayDeadLetters(self, request: admin_pb2.ReplayDeadLettersRequest, context: Context) -> admin_pb2.ReplayDeadLettersResponse:
        replayed, accepted, rejected = await ask(self._controller.replay_dead_letters.remote(request.reason), LONG_TIMEOUT_S)
        return admin_pb2.ReplayDeadLettersResponse(replayed=replayed, accepted=accepted, rejected=rejected)

    async def ListErasures(self, request: admin_pb2.ListErasuresRequest, context: Context) -> admin_pb2.ListErasuresResponse:
        found = await ask(self._controller.erasures.remote())
        erasures = [admin_pb2.Erasure(user=e["user"] if e["user"] >= 0 else None, erased_ms=e["erased"], due_ms=e["due"], state=e["state"]) for e in found]
        return admin_pb2.ListErasuresResponse(erasures=erasures)

    async def Repair(self, request: admin_pb2.RepairRequest, context: Context) -> admin_pb2.RepairResponse:
        if not request.accept_loss:
            raise FieldInvalid("accept_loss", "false", "true: what is damaged is lost for good")
        losses = await ask(self._controller.repair.remote(), LONG_TIMEOUT_S)
        return admin_pb2.RepairResponse(losses=[admin_pb2.Loss(shard=shard, what=what) for shard, what in losses])

    async def PlanLayout(self, request: admin_pb2.PlanLayoutRequest, context: Context) -> admin_pb2.PlanLayoutResponse:
        planned = await ask(self._controller.plan_layout.remote(*_layout(request.layout)))
        moves = [admin_pb2.PartitionMove(partition=partition, source=source, target=target) for partition, source, target in planned["moves"]]
        return admin_pb2.PlanLayoutResponse(
            shards=planned["shards"], drained=planned["drained"], moves=moves, users=planned["users"], partitions=planned["partitions"]
        )

    async def SetLayout(self, request: admin_pb2.SetLayoutRequest, context: Context) -> admin_pb2.SetLayoutResponse:
        shards, drained, replicas = _layout(request.layout)
        await ask(self._controller.set_layout.remote(shards, drained, float(request.bytes_per_s), replicas))
        return admin_pb2.SetLayoutResponse()

    async def KeepLayout(self, request: admin_pb2.KeepLayoutRequest, context: Context) -> admin_pb2.KeepLayoutResponse:
        await ask(self._controller.keep_layout.remote(), 15.0)
        return admin_pb2.KeepLayoutResponse()

    async def GetLayout(self, request: admin_pb2.GetLayoutRequest, context: Context) -> admin_pb2.GetLayoutResponse:
        known = await ask(self._controller.layout.remote())
        done, total = known.pop("pages", (0, 0))
        return admin_pb2.GetLayoutResponse(**known, pages_done=done, pages_total=total)

    async def ListReplicas(self, request: admin_pb2.ListReplicasRequest, context: Context) -> admin_pb2.ListReplicasResponse:
        partitions = []
        for known in await ask(self._controller.replicas.remote()):
            replicas = [admin_pb2.Replica(shard=shard, is_insync=shard in known["insync"], lag=known["lag"][shard]) for shard in known["replicas"]]
            facts = {name: known[name] for name in ("partition", "epoch", "primary")}
            partitions.append(admin_pb2.ReplicatedPartition(**facts, replicas=replicas))
        return admin_pb2.ListReplicasResponse(partitions=partitions)

    async def CompareReplicas(self, request: admin_pb2.CompareReplicasRequest, context: Context) -> admin_pb2.CompareReplicasResponse:
        found = await ask(self._controller.compare_replicas.remote(request.partition), LONG_TIMEOUT_S)
        columns = [admin_pb2.ComparedColumn(**column) for column in found.pop("columns")]
        return admin_pb2.CompareReplicasResponse(**found, columns=columns)

    async def RenewReplicas(self, request: admin_pb2.RenewReplicasRequest, context: Context) -> admin_pb2.RenewReplicasResponse:
        await ask(self._controller.renew_replicas.remote(request.partition))
        return admin_pb2.RenewReplicasResponse()

    async def CreateSnapshot(self, request: admin_pb2.CreateSnapshotRequest, context: Context) -> AsyncIterator[admin_pb2.CreateSnapshotResponse]:
        made = asyncio.ensure_future(ask(self._controller.snapshot.remote(request.url), SNAPSHOT_TIMEOUT_S))
        while not (await asyncio.wait([made], timeout=PROGRESS_EVERY_S))[0]:
            done, total = await ask(self._controller.snapshot_progress.remote())
            yield admin_pb2.CreateSnapshotResponse(bytes_done=done, bytes_total=total)
        facts = made.result()
        yield admin_pb2.CreateSnapshotResponse(id=facts["id"], users=facts["users"], bytes=facts["bytes"], created_ms=facts["created_ms"])

    async def TellErasures(self, request: admin_pb2.TellErasuresRequest, context: Context) -> admin_pb2.TellErasuresResponse:
        return admin_pb2.TellErasuresResponse(told=await ask(self._controller.tell_erasures.remote(request.url), LONG_TIMEOUT_S))

    async def FinishErasures(self, request: admin_pb2.FinishErasuresRequest, context: Context) -> admin_pb2.FinishErasuresResponse:
        finished, seconds = await ask(self._controller.finish_erasures.remote(), LONG_TIMEOUT_S)
        return admin_pb2.FinishErasuresResponse(finished=finished, seconds=seconds)


def _layout(layout: admin_pb2.Layout) -> tuple[int, list[int] | None, int]:
    return layout.shards, list(layout.drained) if layout.sets_drained else None, layout.replicas


def _dead_letter(letter: dict[str, Any]) -> admin_pb2.DeadLetter:
    return admin_pb2.DeadLetter(
        time_ms=letter["time"], reason=letter["reason"], field=letter["field"], value=letter["value"], expected=letter["expected"],
        event_json=json.dumps(letter["event"], ensure_ascii=False),
    )  # fmt: skip


def _shard_status(facts: dict[str, Any]) -> admin_pb2.ShardStatus:
    history = facts.get("history", {})
    return admin_pb2.ShardStatus(
        id=facts["id"], state="recovering" if facts["state"] == "new" else facts["state"], pid=facts.get("pid", 0), endpoint=facts["endpoint"],
        partitions=facts["partitions"], users=facts.get("users", 0), memory_bytes=facts.get("memory_bytes", 0), events=facts.get("events", 0),
        dead_letters=facts.get("dead_letters", 0), turn_ms_max=facts.get("turn_ms_max", 0.0), problems=facts.get("problems", []),
        recovered_users=facts.get("recovered_users", 0), recovered_seconds=facts.get("recovered_seconds", 0.0),
        history_events=history.get("rows", 0), history_bytes=history.get("bytes", 0), history_first_ms=history.get("first_ms", 0),
        segments_behind=facts.get("segments_behind", 0), stopped=facts.get("stopped", 0),
        metrics=facts.get("metrics", ""), profiles_read=facts.get("profiles_read", 0), queries=facts.get("queries", 0), groups=facts.get("groups", 0),
        ack_ms_p50=facts.get("ack_ms", [0, 0])[0], ack_ms_p99=facts.get("ack_ms", [0, 0])[1],
        fsync_ms_p50=facts.get("fsync_ms", [0, 0])[0], fsync_ms_p99=facts.get("fsync_ms", [0, 0])[1],
        inbox_bytes=facts.get("inbox_bytes", 0), checkpoint_age_s=facts.get("checkpoint_age_s", 0.0), node=facts.get("node", ""),
    )  # fmt: skip
