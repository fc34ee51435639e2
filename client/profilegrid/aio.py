"""AsyncClient: the one core. It routes to shards, coalesces reads, numbers and retries batches; `Client` drives it from threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import grpc
import numpy as np

from profilegrid import tracing
from profilegrid.buffering import TrackBuffer
from profilegrid.coalescing import Coalescer
from profilegrid.columns import (
    UNSET,
    Batch,
    Strings,
    attributes_batch,
    column_of,
    deletes_batch,
    event_columns,
    event_row,
    few_rows,
    flat_batch,
    ids_of,
    now_ms,
    time_ms,
    user_id_text,
)  # fmt: skip
from profilegrid.connections import BACKOFF_S, CALL_TIMEOUT_S, Connections
from profilegrid.counting import counted_by_shards
from profilegrid.delivering import Deliveries
from profilegrid.errors import Overloaded, Unavailable, from_rpc, warn
from profilegrid.lanes import COUNT
from profilegrid.reading import Reads
from profilegrid.results import Answer, Page, Profile, Report, Table
from profilegrid.routes import Map, partitions_of
from profilegrid.v1 import admin_pb2, admin_pb2_grpc, catalog_pb2, catalog_pb2_grpc, profiles_pb2, profiles_pb2_grpc, segments_pb2, segments_pb2_grpc
from profilegrid.v1 import events_pb2 as pb


class AsyncClient:
    """A grid, from one asyncio event loop.

    target            host:port of the gateway; other ports come from the map
    delivery_timeout  s that writes are retried before DeliveryUnknown
    read_timeout      s that reads and queries are retried
    acks              "durable" (fsynced) or "fast" (written; survives a kill, not a loss of power)
    track_rows_max, track_delay    `track` is sent after so many rows or s
    track_buffer_rows_max          beyond this, `track` waits (bounded memory)
    """

    def __init__(
        self,
        target: str = "127.0.0.1:7600",
        *,
        delivery_timeout: float = 120.0,
        read_timeout: float = 10.0,
        acks: Literal["durable", "fast"] = "durable",
        producer_id: bytes | None = None,
        track_rows_max: int = 10_000,
        track_delay: float = 0.05,
        track_buffer_rows_max: int = 500_000,
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        self.delivery_timeout, self.read_timeout = delivery_timeout, read_timeout
        self._connections = Connections(target)
        self._deliveries = Deliveries(self._connections, delivery_timeout, acks, producer_id)
        self._coalescer = Coalescer(self._deliveries.deliver)
        self._updates = Coalescer(self._deliveries.deliver, in_order=True)
        self._reads = Reads(self._connections, read_timeout)
        self.buffer = TrackBuffer(track_rows_max, track_delay, track_buffer_rows_max, self._send_tracked, on_report)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what is buffered, wait for its acknowledgement, close the connections. Raises DeliveryUnknown as `flush` does."""
        if self._connections.is_closed:
            return
        try:
            await self.flush()
        finally:
            await self._connections.close()

    # --- connections ----------------------------------------------------------------------------------------------------

    def channel(self, endpoint: str) -> grpc.aio.Channel:
        """The connection to an endpoint, kept while the client is open."""
        return self._connections.channel(endpoint)

    async def map(self) -> Map:
        """The partition map, fetched once and again after it proved stale."""
        return await self._connections.map()

    async def _from_gateway(self, service: Any, method: str, request: Any, timeout: float | None = None) -> Any:
        async def attempt(left: float) -> Any:
            return await self._connections.call(getattr(service(self._connections.gateway), method), request, left if timeout is None else timeout)

        return await self._connections.retrying(attempt, self.read_timeout if timeout is None else timeout)

    # --- catalog --------------------------------------------------------------------------------------------------------

    async def apply_catalog(self, catalog: str | os.PathLike[str] | Mapping[str, Any], *, force: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """Make a catalog (a YAML file's path, YAML text, or the same as a mapping) the grid's, all of it or nothing.

        Returns {"version", "added", "changed", "losses", "backfills"}. Raises InvalidRequest with every fault, Refused when it would
        lose state and `force` is not given.
        """
        request = catalog_pb2.ApplyCatalogRequest(source=catalog_source(catalog), force=force, dry_run=dry_run)
        response = await self._from_gateway(catalog_pb2_grpc.CatalogServiceStub, "ApplyCatalog", request, 120.0)
        self._connections.forget_map()
        change = response.change
        return {
            "version": response.version, "added": list(change.added), "changed": list(change.changed), "losses": list(change.losses),
            "backfills": list(change.backfills),
        }  # fmt: skip

    async def catalog(self) -> dict[str, Any]:
        """{"version", "source", "backfilling": {feature: percent}, "complete_since": {feature: ms}}; the last names features whose past is not whole."""
        response = await self._from_gateway(catalog_pb2_grpc.CatalogServiceStub, "GetCatalog", catalog_pb2.GetCatalogRequest())
        return {
            "version": response.version, "source": response.source, "backfilling": {f.name: f.percent for f in response.backfilling},
            "complete_since": {f.name: f.complete_since_ms for f in response.complete_since},
        }  # fmt: skip

    # --- writes ---------------------------------------------------------------------------------------------------------

    async def track(
        self, user_id: str | int, event: str, properties: Mapping[str, Any] | None = None, *, time: Any = None, event_id: str | None = None
    ) -> None:
        """Buffer one event; it is sent soon, with others. `flush` tells how it ended. Waits while the buffer is full."""
        self._connections.check_open()
        await self.buffer.add_async(event_row(user_id, event, properties, time, event_id))

    async def flush(self) -> Report:
        """Wait until everything tracked so far is acknowledged. Returns the report of what was delivered since the last flush.

        Raises DeliveryUnknown with the events whose acknowledgement never came; they were not dropped silently.
        """
        return await self.buffer.flush()

    async def _send_tracked(self, flat: list[Any]) -> Report:
        return await self.deliver(flat_batch(flat))

    async def track_many(self, event: str | Any, *, user_id: Any, time: Any = None, event_id: Any = None, **properties: Any) -> Report:
        """Send columns of events and wait for the acknowledgement: lists, numpy, Arrow, pandas or polars, all of one length.

        `event` is one name or a column of names; `time` ms since 1970 or datetimes (default: now). None (Arrow null) is a missing
        property; NaN is refused. Raises DeliveryUnknown with row numbers.
        """
        rows = few_rows(event, user_id, time, properties) if event_id is None else None
        if rows is None:
            return await self.deliver(event_columns(event, user_id, time, event_id, properties))
        self._connections.check_open()
        return await self._coalescer.deliver_rows(rows)

    async def set(self, user_id: str | int, /, **attributes: Any) -> Report:
        """Set attributes of a user; None unsets."""
        return await self._update(attributes_batch([user_id_text(user_id)], [attributes]))

    async def unset(self, user_id: str | int, /, *names: str) -> Report:
        """Make attributes of a user NULL."""
        return await self._update(attributes_batch([user_id_text(user_id)], [dict.fromkeys(names)]))

    async def set_many(self, *, user_id: Any, **attributes: Any) -> Report:
        """Set columns of attributes; None in a list (null in Arrow) unsets."""
        ids = ids_of("user_id", user_id)
        columns = [column_of(name, values, len(ids), unset=UNSET) for name, values in attributes.items()]
        return await self._update(Batch(pb.FRAME_KIND_ATTRIBUTES, ids, np.empty(0, dtype=np.int64), columns=columns))

    async def delete(self, *user_ids: str | int) -> Report:
        """Erase users: from the acknowledgement on they do not exist. What was tracked before is sent first."""
        return await self._update(deletes_batch([user_id_text(user_id) for user_id in user_ids]))

    async def _update(self, batch: Batch) -> Report:
        """Updates keep their order: one message in flight, after what was tracked before."""
        self._connections.check_open()
        await self.buffer.drain()
        return await self._updates.deliver(batch)

    async def deliver(self, batch: Batch, *, producer_id: bytes | None = None, first_batch: int | None = None, started_ms: int = 0) -> Report:
        """Send a batch in pieces, at most 8 at once; each piece is numbered once, so that its retries count once. Small batches of events
        that are sent at the same time travel together; each caller is told of its own rows.

        With `producer_id` and `first_batch` the caller numbers: the same number must always be the same rows. `started_ms` says when it
        began: Refused (PRODUCER_EXPIRED) when the grid has forgotten it since, as it does after 7 days of silence.
        """
        if producer_id is None and first_batch is None and self._coalescer.takes(batch):
            self._connections.check_open()
            return await self._coalescer.deliver(batch)
        return await self._deliveries.deliver(batch, producer_id=producer_id, first_batch=first_batch, started_ms=started_ms)

    # --- reads ----------------------------------------------------------------------------------------------------------

    def get(self, user_id: str | int, fields: Iterable[str] = (), *, as_of: Any = None) -> Coroutine[Any, Any, Profile]:
        """A user's profile: all fields or some. What is asked while a message is under way to a shard goes together with the next."""
        return self._reads.get(user_id, fields, as_of=as_of)

    async def get_many(self, user_ids: Any, fields: Iterable[str] = (), *, as_of: Any = None) -> Table:
        """Profiles of many users as columns, in the order asked for."""
        return await self._reads.get_many(user_ids, fields, as_of=as_of)

    async def watch(self, user_id: str | int, fields: Iterable[str] = ()) -> AsyncIterator[Profile]:
        """The user's profile now, then again after each change; goes on over restarts of the shard until the caller stops."""
        name = user_id_text(user_id)
        ids = Strings.of([name])
        request = profiles_pb2.WatchProfileRequest(user_id=name, fields=list(fields))
        while True:
            map_ = await self._connections.retrying(self._connections.map, self.read_timeout)
            endpoint = map_.endpoints.get(int(map_.owners[partitions_of(ids, map_.partitions)[0]]), "")
            try:
                if endpoint:
                    stub = profiles_pb2_grpc.ProfileServiceStub(self.channel(endpoint))  # type: ignore[no-untyped-call]
                    async for response in stub.WatchProfile(request):
                        yield profile_of(response.profile)
            except grpc.RpcError as error:
                typed_error = from_rpc(error)
                if not typed_error.retriable:
                    raise typed_error from None
            self._connections.forget_map()
            await asyncio.sleep(BACKOFF_S * 5)

    # --- audiences ------------------------------------------------------------------------------------------------------

    async def _segments(self, method: str, request: Any) -> Any:
        return await self._from_gateway(segments_pb2_grpc.SegmentServiceStub, method, request)

    async def count(self, rule: str, *, as_of: Any = None, within: bytes | None = None) -> int:
        """How many users are in the audience. Warns (AnswerWarning) where the answer is not all that it seems.

        `within` counts only users in a bitmap that `bitmap` gave, or that a roaring library made of such (portable 64-bit format): so one
        audience can be cut with another of an earlier moment. Raises InvalidRequest (BITMAP_INVALID) for a damaged one.
        """
        found = await self.count_detailed(rule, as_of=as_of, within=within)
        warn(found["warnings"])
        return int(found["count"])

    async def count_detailed(self, rule: str, *, as_of: Any = None, within: bytes | None = None) -> dict[str, Any]:
        """{"count", "elapsed_ms", "as_of", "warnings"}."""
        request = segments_pb2.CountRequest(rule=rule, as_of_ms=_moment(as_of), within=within)
        response = await self._counted(request)
        return {"count": response.count, "elapsed_ms": response.elapsed_ms, "as_of": response.as_of_ms, "warnings": [*response.warnings]}

    async def _counted(self, request: segments_pb2.CountRequest) -> segments_pb2.CountResponse:
        """Of a few shards by asking them; else by the gateway's lane, which costs both sides half of a gRPC call; by gRPC what those fail at, what has a
        trace, and bitmaps."""
        self._connections.check_open()
        try:
            map_ = self._connections.known_map or await self._connections.map()
            if map_.lane and not tracing.is_traced() and not request.HasField("within"):
                timeout_s = min(self.read_timeout, CALL_TIMEOUT_S)
                as_of = request.as_of_ms if request.HasField("as_of_ms") else None
                found = await counted_by_shards(self._connections, map_, request.rule, as_of, timeout_s)
                if found is not None:
                    return found
                answer = await self._connections.lane(map_.lane, timeout_s).ask(COUNT, request.SerializeToString())
                return segments_pb2.CountResponse.FromString(answer)
        except (Unavailable, Overloaded):
            self._connections.forget_map()  # the gateway may have begun anew
        return await self._segments("Count", request)  # type: ignore[no-any-return]

    async def list(self, rule: str, *, limit: int = 1000, page_token: str = "", as_of: Any = None) -> Page:
        """One page of user ids. Who stays a member throughout is listed exactly once over all pages."""
        request = segments_pb2.ListRequest(rule=rule, as_of_ms=_moment(as_of), page_size=limit, page_token=page_token)
        response = await self._segments("List", request)
        return Page(list(response.user_ids), response.next_page_token, response.as_of_ms, list(response.warnings))

    async def members(self, rule: str, *, as_of: Any = None, page_size: int = 10_000) -> AsyncIterator[str]:
        """Every user id of the audience, page by page."""
        token = ""
        while True:
            page = await self.list(rule, limit=page_size, page_token=token, as_of=as_of)
            for user_id in page.user_ids:
                yield user_id
            if not page.next:
                return
            token = page.next

    async def contains(self, rule: str, user_ids: Iterable[str | int], *, as_of: Any = None) -> dict[str, bool]:
        """Each user: in the audience or not."""
        names = [user_id_text(user_id) for user_id in user_ids]
        response = await self._segments("Contains", segments_pb2.ContainsRequest(rule=rule, as_of_ms=_moment(as_of), user_ids=names))
        warn(response.warnings)
        return dict(zip(names, response.contained, strict=True))

    async def sample(self, rule: str, size: int, *, seed: int = 0, as_of: Any = None) -> Sequence[str]:
        """`size` users drawn evenly from the audience; the same seed over the same audience draws the same ones."""
        request = segments_pb2.SampleRequest(rule=rule, as_of_ms=_moment(as_of), size=size, seed=seed)
        response = await self._segments("Sample", request)
        warn(response.warnings)
        return list(response.user_ids)

    async def explain(self, rule: str, *, as_of: Any = None) -> dict[str, Any]:
        """How the rule is evaluated: each clause, how many it matches, for how many it is NULL, time, hints."""
        response = await self._segments("Explain", segments_pb2.ExplainRequest(rule=rule, as_of_ms=_moment(as_of)))
        return {
            "users": response.users, "matched": response.matched, "as_of": response.as_of_ms, "elapsed_ms": response.elapsed_ms,
            "partitions": response.partitions, "hints": [*response.hints], "warnings": [*response.warnings],
            "clauses": [{"text": c.text, "matched": c.matched, "unknown": c.unknown} for c in response.clauses],
        }  # fmt: skip

    async def bitmap(self, rule: str, *, as_of: Any = None) -> bytes:
        """The audience as a portable 64-bit roaring bitmap of user handles."""
        response = await self._segments("GetBitmap", segments_pb2.GetBitmapRequest(rule=rule, as_of_ms=_moment(as_of)))
        warn(response.warnings)
        return bytes(response.bitmap)

    async def export_batches(self, rule: str, *, as_of: Any = None, within: bytes | None = None) -> AsyncIterator[tuple[Sequence[str], int]]:
        """(user ids, size of the whole audience) in batches. `within` as in `count`."""
        async for packed, total in self._exported(rule, as_of, within):
            yield packed.to_list(), total

    async def _exported(self, rule: str, as_of: Any, within: bytes | None = None) -> AsyncIterator[tuple[Strings, int]]:
        stub = segments_pb2_grpc.SegmentServiceStub(self._connections.gateway)  # type: ignore[no-untyped-call]
        try:
            async for response in stub.Export(segments_pb2.ExportRequest(rule=rule, as_of_ms=_moment(as_of), within=within)):
                warn(response.warnings)
                packed = Strings(np.frombuffer(response.user_id_data, dtype=np.uint8), np.frombuffer(response.user_id_ends, dtype=np.uint32))
                yield packed, response.total
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def export(self, rule: str, path: str | os.PathLike[str], *, as_of: Any = None, progress: Callable[[int, int], None] | None = None) -> int:
        """Write the audience's user ids to a file: .parquet, .csv or .jsonl by its name. Returns how many."""
        from profilegrid.exporting import open_export

        done = 0
        with open_export(Path(path)) as write:
            async for user_ids, total in self._exported(rule, as_of):
                write(user_ids)
                done += len(user_ids)
                if progress is not None:
                    progress(done, total)
        return done

    async def grid_id(self) -> str:
        """What tells this grid from another: made with its data folder."""
        return (await self._connections.retrying(self._connections.map, self.read_timeout)).grid_id

    # --- operators ------------------------------------------------------------------------------------------------------

    async def status(self) -> admin_pb2.GetStatusResponse:
        """The map's version and each shard's state; answers while shards are down."""
        return await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "GetStatus", admin_pb2.GetStatusRequest())  # type: ignore[no-any-return]

    async def dead_letters(self, limit: int = 100) -> Sequence[admin_pb2.DeadLetter]:
        """Refused rows, newest first."""
        response = await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "ListDeadLetters", admin_pb2.ListDeadLettersRequest(limit=limit))
        return list(response.letters)

    async def replay_dead_letters(self, reason: str = "") -> dict[str, int]:
        """Ingest refused rows once more (of one reason, or all). Returns {"replayed", "accepted", "rejected"}."""
        request = admin_pb2.ReplayDeadLettersRequest(reason=reason)
        response = await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "ReplayDeadLetters", request, 600.0)
        return {"replayed": response.replayed, "accepted": response.accepted, "rejected": response.rejected}

    async def erasures(self) -> Sequence[dict[str, Any]]:
        """Deletions whose bytes still lie on disk: {"user" (handle, or None), "erased", "due" (ms), "state"}."""
        response = await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "ListErasures", admin_pb2.ListErasuresRequest())
        return [{"user": e.user if e.HasField("user") else None, "erased": e.erased_ms, "due": e.due_ms, "state": e.state} for e in response.erasures]

    async def finish_erasures(self) -> int:
        """Remove all that was erased from the disks now. Returns how many deletions are finished."""
        response = await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "FinishErasures", admin_pb2.FinishErasuresRequest(), 600.0)
        return int(response.finished)

    async def repair(self, *, accept_loss: bool) -> Sequence[str]:
        """Let partitions that damage stopped serve again without what is damaged, which is lost for good. Returns what was lost."""
        response = await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "Repair", admin_pb2.RepairRequest(accept_loss=accept_loss), 600.0)
        self._connections.forget_map()
        return [f"shard {loss.shard}: {loss.what}" for loss in response.losses]

    async def load(self, path: str | os.PathLike[str], *, as_of: Any = None, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Users in bulk from Parquet into a grid that has none: `user_id`, attributes, values of features as of a time (default: now).

        All or nothing; see docs/loading.md for what a column may hold. `progress` is told (rows sent, rows in the file). Returns
        {"users", "seconds"}. Raises InvalidRequest naming row, column and value; Refused when the grid has users.
        """
        from profilegrid.loading import load_users

        return await load_users(self._connections, path, now_ms() if as_of is None else time_ms(as_of), progress or (lambda done, total: None))

    async def create_snapshot(self, url: str, *, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Make a snapshot of the grid in a folder or at an fsspec URL, as the grid's processes see it. `progress` is told (bytes done, bytes
        in all). Returns {"id", "users", "bytes", "created_ms"}. Raises Refused."""
        stub = admin_pb2_grpc.AdminServiceStub(self._connections.gateway)  # type: ignore[no-untyped-call]
        response = admin_pb2.CreateSnapshotResponse()
        try:
            async for response in stub.CreateSnapshot(admin_pb2.CreateSnapshotRequest(url=url)):
                if progress is not None and not response.id:
                    progress(response.bytes_done, response.bytes_total)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return {"id": response.id, "users": response.users, "bytes": response.bytes, "created_ms": response.created_ms}

    async def tell_erasures(self, url: str) -> int:
        """Tell the snapshots at a URL who was erased, so that no restore brings them back. Returns how many."""
        response = await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "TellErasures", admin_pb2.TellErasuresRequest(url=url), 600.0)
        return int(response.told)

    async def plan_layout(
        self, *, shards: int | None = None, drained: Iterable[int] | None = None, replicas: int | None = None
    ) -> admin_pb2.PlanLayoutResponse:
        """What it would take to have so many shards, and copies of each partition (default: as many as now), with nothing on some shards. Raises
        InvalidRequest."""
        request = admin_pb2.PlanLayoutRequest(layout=_layout(shards, drained, replicas))
        return await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "PlanLayout", request)  # type: ignore[no-any-return]

    async def set_layout(self, *, shards: int | None = None, drained: Iterable[int] | None = None, replicas: int | None = None, bytes_per_s: int = 0) -> None:
        """Have the grid go to that layout; it goes on by itself, `layout` tells how far it is. `bytes_per_s` bounds what moves take; 0: 64 MB."""
        request = admin_pb2.SetLayoutRequest(layout=_layout(shards, drained, replicas), bytes_per_s=bytes_per_s)
        await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "SetLayout", request)

    async def keep_layout(self) -> None:
        """Move nothing any more: partitions stay where they are now."""
        await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "KeepLayout", admin_pb2.KeepLayoutRequest())

    async def layout(self) -> admin_pb2.GetLayoutResponse:
        """How far the moves are."""
        return await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "GetLayout", admin_pb2.GetLayoutRequest())  # type: ignore[no-any-return]

    async def replicas(self) -> admin_pb2.ListReplicasResponse:
        """The copies of partitions that have several: where they are, and how far behind."""
        return await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "ListReplicas", admin_pb2.ListReplicasRequest())  # type: ignore[no-any-return]

    async def compare_replicas(self, partition: int) -> admin_pb2.CompareReplicasResponse:
        """Whether the copies of a partition that are in sync are the same, page by page, at one position. Everything is served meanwhile."""
        request = admin_pb2.CompareReplicasRequest(partition=partition)
        return await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "CompareReplicas", request, 600.0)  # type: ignore[no-any-return]

    async def renew_replicas(self, partition: int) -> None:
        """Make the other copies of a partition anew, from the one that serves it; goes on by itself. Until then that one is the only one."""
        await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "RenewReplicas", admin_pb2.RenewReplicasRequest(partition=partition))

    async def checkpoint(self) -> admin_pb2.CheckpointResponse:
        """Write checkpoints of all partitions now."""
        return await self._from_gateway(admin_pb2_grpc.AdminServiceStub, "Checkpoint", admin_pb2.CheckpointRequest(), 600.0)  # type: ignore[no-any-return]


def _layout(shards: int | None, drained: Iterable[int] | None, replicas: int | None) -> admin_pb2.Layout:
    return admin_pb2.Layout(shards=shards or 0, drained=drained or (), sets_drained=drained is not None, replicas=replicas or 0)


def catalog_source(catalog: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    """YAML text of a path, a text or a mapping."""
    if isinstance(catalog, Mapping):
        import json

        return json.dumps(catalog, ensure_ascii=False)  # JSON is YAML
    if isinstance(catalog, os.PathLike) or ("\n" not in catalog and catalog.endswith((".yaml", ".yml"))):
        return Path(catalog).read_text(encoding="utf-8")
    return catalog


def profile_of(wire: profiles_pb2.Profile) -> Profile:
    """A Profile of the row form."""
    attributes = {name: plain_value(value) for name, value in sorted(wire.attributes.items())}
    features = {name: plain_value(value) for name, value in sorted(wire.features.items())}
    profile = Profile({**attributes, **features})
    profile.user_id, profile.exists = wire.user_id, wire.exists
    profile.answer = Answer(wire, lambda: features)
    return profile


def plain_value(value: pb.Value) -> Any:
    """The Python value of a wire value."""
    match value.WhichOneof("kind"):
        case "text_list":
            return set(value.text_list.values)
        case "number_map":
            return dict(value.number_map.values)
        case "ranked_list":
            return [{"key": entry.key, "value": entry.value} for entry in value.ranked_list.entries]
        case None | "null_value":
            return None
        case kind:
            return getattr(value, kind)


def _moment(as_of: Any) -> int | None:
    return None if as_of is None else time_ms(as_of)
