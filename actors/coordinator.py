"""The coordinator: scatters a query to shards, merges their roaring bitmaps; and the gateway, the public endpoint for all services."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import gc
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import xxhash
from numpy.typing import NDArray
from profilegrid.columns import Strings
from profilegrid.counting import check_whole, said_once
from profilegrid.errors import Overloaded, Unavailable, from_rpc
from profilegrid.lanes import DOUBT_S, EVALUATE, Lanes
from profilegrid.options import CLIENT_OPTIONS
from profilegrid.routes import partitions_of
from profilegrid.v1 import shard_pb2, shard_pb2_grpc
from profilegrid_rules import Expression, RuleError, compile_rule, conjuncts

from actors.calls import ask
from grid.catalog import Catalog, load_catalog
from grid.errors import FieldInvalid, ShardRecovering
from grid.state.bitmaps import cardinality, intersection, merge_partitions, ordinals, parse_handles

QUERY_TIMEOUT_S = 30.0
EXPORT_IDS = 50_000
TARGETS_EVERY_S = 2.0
Result = TypeVar("Result")
log = logging.getLogger("profilegrid")


@dataclass(slots=True)
class Audience:
    """A rule's result: portable bitmaps of ordinals by partition, exact at each partition's log position."""

    bitmaps: dict[int, bytes]
    positions: dict[int, int]
    as_of_ms: int
    warnings: list[str]

    @property
    def size(self) -> int:
        """How many users."""
        return sum(cardinality(bitmap) for bitmap in self.bitmaps.values())

    def handles(self) -> NDArray[np.uint64]:
        """uint64[n]: user handles, ascending."""
        parts = [(np.uint64(p) << np.uint64(32)) | ordinals(bitmap).astype(np.uint64) for p, bitmap in sorted(self.bitmaps.items())]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)

    def portable(self) -> bytes:
        """The 64-bit roaring bitmap of user handles."""
        return merge_partitions(self.bitmaps)


@dataclass(frozen=True, slots=True)
class Part:
    """A shard's part of a query: its partitions, ascending, and how many users they have in all."""

    partitions: list[int]
    users: int
    response: shard_pb2.EvaluateResponse

    @classmethod
    def of(cls, response: shard_pb2.EvaluateResponse) -> Part:
        """As it came."""
        return cls(np.frombuffer(response.partitions, dtype=np.uint16).tolist(), int(np.frombuffer(response.counts, dtype=np.uint64).sum()), response)

    def positions(self) -> list[int]:
        """The log position of each partition."""
        return np.frombuffer(self.response.positions, dtype=np.uint64).tolist()  # type: ignore[no-any-return]

    @property
    def warnings(self) -> Iterable[str]:
        """What the shard warns of."""
        return self.response.warnings


class Queries:
    """Rules over all shards. One `now` per request, taken here."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._lanes = Lanes(self._serving)
        self._catalog = Catalog()
        self._map: dict[str, Any] | None = None

    async def map(self) -> dict[str, Any]:
        """The controller's map, asked for once and again after it proved stale: a Ray call takes as long as a count of a million users."""
        if self._map is None:
            known: dict[str, Any] = await self._retrying(lambda: ask(self._controller.map.remote(), 10.0))
            self._map = known
            return known
        return self._map

    async def _serving(self) -> Container[str]:
        """Lanes of the shards that hold something by the map of now."""
        self._map = map_ = await ask(self._controller.map.remote(), DOUBT_S)
        return {map_["lanes"][shard] for shard in map_["holding"]}

    async def compiled(self, rule: str) -> Expression:
        """The rule's plan, so that a wrong rule fails here with its position. Raises RuleError.

        By the catalog known here; the shards judge by their own. Only a rule that seems wrong makes us ask for the current one.
        """
        if self._catalog.version:
            with contextlib.suppress(RuleError):
                return compile_rule(rule, self._catalog.rule_schema, self._catalog.zone)
        catalog = await self.current_catalog()
        return compile_rule(rule, catalog.rule_schema, catalog.zone)

    async def current_catalog(self) -> Catalog:
        """The catalog in force, by the controller's word."""
        version, source = await self._retrying(lambda: ask(self._controller.catalog.remote(), 10.0))
        if version != self._catalog.version:
            self._catalog = load_catalog(source, version) if version else Catalog()
        return self._catalog

    async def _scatter(self, call: Callable[[Any], Awaitable[Any]], endpoints: list[str]) -> list[Any]:
        """One call a shard; the first error wins, as the typed error that the shard gave."""
        if not all(endpoints):
            raise ShardRecovering()

        async def one(endpoint: str) -> Any:
            try:
                return await call(shard_pb2_grpc.ShardServiceStub(self._channel(endpoint)))  # type: ignore[no-untyped-call]
            except grpc.RpcError as error:
                raise from_rpc(error) from None

        return list(await asyncio.gather(*(one(endpoint) for endpoint in endpoints)))

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        if endpoint not in self._channels:
            self._channels[endpoint] = grpc.aio.insecure_channel(endpoint, options=CLIENT_OPTIONS)
        return self._channels[endpoint]

    async def _evaluate(self, rule: str, as_of_ms: int, mode: Any, *, first: int = 0, limit: int = 0) -> list[Part]:
        """Each shard's part. A wrong rule is told by the shards, with its position: compiling it here too would cost as much as a scan."""

        async def attempt() -> list[Part]:
            map_ = await self.map()
            request = shard_pb2.EvaluateRequest(
                rule=rule, as_of_ms=as_of_ms, mode=mode, first_partition=first, last_partition=map_["partitions"] - 1, limit=limit
            )
            lanes = [map_["lanes"][shard] for shard in map_["holding"]]
            if not all(lanes):
                raise ShardRecovering()
            asked = request.SerializeToString()
            answers = await asyncio.gather(*(self._lanes.to(lane, QUERY_TIMEOUT_S).ask(EVALUATE, asked) for lane in lanes))
            parts = [Part.of(shard_pb2.EvaluateResponse.FromString(answer)) for answer in answers]
            last = min(_border(parts, limit), map_["partitions"] - 1)
            check_whole(np.array([partition for part in parts for partition in part.partitions if partition <= last]), first, last)
            return parts

        return await self._retrying(attempt)

    async def count(self, rule: str, as_of_ms: int) -> tuple[int, list[str]]:
        """How many users, and warnings."""
        parts = await self._evaluate(rule, as_of_ms, shard_pb2.EVALUATE_MODE_COUNT)
        return sum(part.users for part in parts), _warnings(parts)

    async def audience(self, rule: str, as_of_ms: int, *, first: int = 0, limit: int = 0, within: bytes | None = None) -> Audience:
        """The users, from partition `first` on. With a limit each shard stops after a partition that reaches it.

        `within`: only those in a client's bitmap of user handles. Raises BitmapInvalid.
        """
        bound = None if within is None else parse_handles(within, (await self.map())["partitions"])
        parts = await self._evaluate(rule, as_of_ms, shard_pb2.EVALUATE_MODE_BITMAPS, first=first, limit=limit)
        border = _border(parts, limit)
        bitmaps = {p: bitmap for part in parts for p, bitmap in zip(part.partitions, part.response.bitmaps, strict=True) if p <= border}
        if bound is not None:
            bitmaps = {partition: intersection(bitmap, bound[partition]) for partition, bitmap in bitmaps.items() if partition in bound}
        positions = {p: position for part in parts for p, position in zip(part.partitions, part.positions(), strict=True) if p <= border}
        return Audience(bitmaps, positions, as_of_ms, _warnings(parts))

    async def explain(self, rule: str, as_of_ms: int) -> tuple[int, int, int, list[tuple[str, int, int]], list[str]]:
        """(users, matched, partitions, [(clause, matched, unknown)], warnings)."""
        plan = await self.compiled(rule)
        parts = await self._evaluate(rule, as_of_ms, shard_pb2.EVALUATE_MODE_EXPLAIN)
        map_ = await self.map()
        texts = clause_texts(rule, len(conjuncts(plan)))
        clauses = [
            (text, sum(part.response.clauses[i].matched for part in parts), sum(part.response.clauses[i].unknown for part in parts))
            for i, text in enumerate(texts)
        ]
        users = sum(part.response.users for part in parts)
        return users, sum(part.users for part in parts), map_["partitions"], clauses, _warnings(parts)

    async def ids(self, handles: NDArray[np.uint64]) -> Strings:
        """Ids of user handles, in their order; users erased meanwhile are left out."""

        async def ask_owner(shard: int, here: NDArray[np.int64], endpoint: str) -> Strings:
            request = shard_pb2.ResolveHandlesRequest(handles=handles[here].tobytes())
            response = (await self._scatter(_call("ResolveHandles", request, QUERY_TIMEOUT_S), [endpoint]))[0]
            return Strings(np.frombuffer(response.user_id_data, dtype=np.uint8), np.frombuffer(response.user_id_ends, dtype=np.uint32))

        found, rows = await self._of_owners((handles >> np.uint64(32)).astype(np.int64), ask_owner)
        return _in_order(found, rows)

    async def _of_owners(
        self, partitions: NDArray[Any], ask_owner: Callable[[int, NDArray[np.int64], str], Awaitable[Result]]
    ) -> tuple[list[Result], list[NDArray[np.int64]]]:
        """Ask each partition's owner for its part: (answers, which rows each is of). A shard that restarts is waited for."""

        async def attempt() -> tuple[list[Result], list[NDArray[np.int64]]]:
            map_ = await self.map()
            owners = np.frombuffer(map_["owners"], dtype=np.uint16)[partitions]
            rows = [np.flatnonzero(owners == shard) for shard in np.unique(owners).tolist()]
            answers = await asyncio.gather(*(ask_owner(int(owners[here[0]]), here, map_["endpoints"][int(owners[here[0]])]) for here in rows))
            return list(answers), rows

        return await self._retrying(attempt)

    async def _retrying(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat with a fresh map while shards restart or partitions move; they are back in seconds."""
        deadline = time.monotonic() + QUERY_TIMEOUT_S
        while True:
            try:
                return await attempt()
            except (ShardRecovering, Unavailable, Overloaded):
                self._map = None
                if time.monotonic() > deadline - 1:
                    raise
                await asyncio.sleep(0.1)

    async def contains(self, rule: str, as_of_ms: int, user_ids: list[str]) -> tuple[list[bool], list[str]]:
        """Each user: in or not; and warnings."""
        await self.compiled(rule)

        async def ask_owner(shard: int, here: NDArray[np.int64], endpoint: str) -> Any:
            request = shard_pb2.TestUsersRequest(rule=rule, as_of_ms=as_of_ms, user_ids=[user_ids[i] for i in here.tolist()])
            return (await self._scatter(_call("TestUsers", request, QUERY_TIMEOUT_S), [endpoint]))[0]

        responses, rows = await self._of_owners(partitions_of(Strings.of(user_ids), (await self.map())["partitions"]), ask_owner)
        result = np.zeros(len(user_ids), dtype=bool)
        for here, response in zip(rows, responses, strict=True):
            result[here] = list(response.contained)
        return result.tolist(), _warnings(responses)


def _in_order(parts: list[Strings], rows: list[NDArray[np.int64]]) -> Strings:
    """Parts that hold the texts of some rows each as one, in the order of the rows; empty texts are left out."""
    if not parts:
        return Strings.of([])
    joined = Strings.joined(parts)
    order = np.argsort(np.concatenate(rows))
    lengths = np.diff(joined.ends, prepend=np.uint32(0))
    kept = order[lengths[order] > 0]
    return joined if len(parts) == 1 and kept.size == len(joined) else joined.take(kept)


def _border(parts: list[Part], limit: int) -> int:
    """With a limit only partitions up to the first that some shard stopped at are whole: the last of them."""
    return min((part.partitions[-1] for part in parts if limit and part.users >= limit and part.partitions), default=1 << 32)


def _warnings(responses: list[Any]) -> list[str]:
    """What shards warn of, each once."""
    return said_once(warning for response in responses for warning in response.warnings)


def _call(method: str, request: Any, timeout_s: float) -> Callable[[Any], Awaitable[Any]]:
    """One method of a shard's stub."""
    return lambda stub: getattr(stub, method)(request, timeout=timeout_s)


def clause_texts(rule: str, count: int) -> list[str]:
    """The text of each top-level clause, as sqlglot writes it."""
    import sqlglot
    from sqlglot import exp

    tree = sqlglot.parse_one(rule)
    while isinstance(tree, exp.Paren):
        tree = tree.this
    parts = list(tree.flatten()) if isinstance(tree, exp.And) else [tree]
    texts = [part.sql() for part in parts]
    return texts if len(texts) == count else [rule.strip(), *[""] * (count - 1)]


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where a listing goes on: the rule and time it is of, and the last handle given. Stateless: the token is all there is."""

    rule_hash: int
    as_of_ms: int
    last_handle: int

    def encode(self) -> str:
        """Opaque text with a checksum."""
        raw = json.dumps([self.rule_hash, self.as_of_ms, self.last_handle]).encode()
        return base64.urlsafe_b64encode(xxhash.xxh32_digest(raw) + raw).decode()

    @classmethod
    def decode(cls, text: str, rule: str) -> PageToken:
        """Inverse of `encode`. Raises FieldInvalid for a token that is damaged or of another rule."""
        try:
            raw = base64.urlsafe_b64decode(text.encode())
            if xxhash.xxh32_digest(raw[4:]) != raw[:4]:
                raise ValueError
            token = cls(*json.loads(raw[4:]))
        except (ValueError, binascii.Error, TypeError):
            raise FieldInvalid("page_token", repr(text[:40]), "the next_page_token of an earlier reply") from None
        if token.rule_hash != rule_hash(rule):
            raise FieldInvalid("page_token", "a token of another rule", "the next_page_token of a listing of this rule")
        return token


def rule_hash(rule: str) -> int:
    """A 64-bit hash of a rule's text."""
    return xxhash.xxh3_64_intdigest(rule.encode())


class Coordinator:
    """Serves the gateway's port. Owns nothing: a restart loses only requests in flight, which clients repeat."""

    def __init__(self) -> None:
        self._state = "new"
        self._grpc: Any = None
        self._lanes: Any = None
        self._port = 0
        self._metrics: Any = None
        self._targets: list[str] = []
        self._watch: asyncio.Task[None] | None = None

    async def node(self) -> str:
        """Ray's id of the node where it runs."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def start(self, host: str, port: int, metrics_port: int, folder: str) -> int:
        """Bind the gateway's port and serve all services on it. Returns the port."""
        import ray

        from actors.logs import log_to
        from actors.metrics import Meter
        from actors.names import CONTROLLER, NAMESPACE
        from actors.servers import GrpcServer
        from actors.services.gateway import add_services

        if self._state == "new":
            self._state = "starting"
            log_to(Path(folder), "coordinator")
            try:
                meter = Meter()
                self._grpc = GrpcServer(meter)
                controller = ray.get_actor(CONTROLLER, namespace=NAMESPACE)
                self._lanes = await add_services(self._grpc, meter, controller, host, f"{host}:{port}")
                self._port = await self._grpc.start(host, port)
                self._serve_metrics(meter, host, metrics_port)
                self._watch = asyncio.create_task(self._find_targets(controller))
            except Exception:
                self._state = "new"
                await self._stop_lanes()
                raise
            self._state = "serving"
            gc.freeze()  # as in shards: full collections would look at all that was imported
        return self._port

    def _serve_metrics(self, meter: Any, host: str, port: int) -> None:
        """On the port that was asked for, or any when it is taken: metrics are not worth a grid that does not start."""
        from actors.metrics import MetricsServer

        try:
            self._metrics = MetricsServer(meter.registry, host, port, lambda: self._targets)
        except OSError:
            log.warning("port %d is taken; metrics are served on another", port)
            self._metrics = MetricsServer(meter.registry, host, 0, lambda: self._targets)

    async def _find_targets(self, controller: Any) -> None:
        while True:
            with contextlib.suppress(Exception):  # while the controller restarts the last list stands
                found = await ask(controller.metrics_targets.remote())
                self._targets = [self._metrics.endpoint, *found]
            await asyncio.sleep(TARGETS_EVERY_S)

    async def stop(self) -> None:
        """Drain."""
        await self._stop_lanes()
        if self._grpc is not None:
            await self._grpc.stop()

    async def _stop_lanes(self) -> None:
        if self._lanes is not None:
            await self._lanes.stop()

    async def health(self) -> dict[str, Any]:
        """State, pid and port."""
        return {"state": self._state, "pid": os.getpid(), "port": self._port, "metrics": self._metrics.endpoint if self._metrics else ""}
