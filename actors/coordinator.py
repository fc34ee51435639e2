"""The coordinator: scatters a query to shards, merges their roaring bitmaps; and the gateway, the public endpoint for all services."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import xxhash
from numpy.typing import NDArray
from profilegrid.columns import Strings
from profilegrid.errors import Overloaded, Unavailable, from_rpc
from profilegrid.options import CLIENT_OPTIONS
from profilegrid.routes import partitions_of
from profilegrid.v1 import shard_pb2, shard_pb2_grpc
from profilegrid_rules import Expression, compile_rule, conjuncts

from actors.calls import awaited
from grid.catalog import Catalog, load_catalog
from grid.errors import FieldInvalid, ShardRecovering
from grid.state.bitmaps import cardinality, merge_partitions, ordinals

QUERY_TIMEOUT_S = 30.0
EXPORT_IDS = 20_000


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


class Queries:
    """Rules over all shards. One `now` per request, taken here."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._catalog = Catalog()

    async def map(self) -> dict[str, Any]:
        """The controller's map."""
        result: dict[str, Any] = await asyncio.wait_for(awaited(self._controller.map.remote()), 10.0)
        return result

    async def compiled(self, rule: str) -> Expression:
        """The rule's plan under the current catalog, so that a wrong rule fails here with its position. Raises RuleError."""
        catalog = await self.current_catalog()
        return compile_rule(rule, catalog.rule_schema, catalog.zone)

    async def current_catalog(self) -> Catalog:
        """The catalog in force, by the controller's word."""
        version, source = await asyncio.wait_for(awaited(self._controller.catalog.remote()), 10.0)
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

    async def _evaluate(self, rule: str, as_of_ms: int, mode: Any, *, first: int = 0, limit: int = 0) -> list[shard_pb2.EvaluateResponse]:
        await self.compiled(rule)
        deadline = time.monotonic() + QUERY_TIMEOUT_S
        while True:  # a shard that restarts is back in seconds
            map_ = await self.map()
            request = shard_pb2.EvaluateRequest(
                rule=rule, as_of_ms=as_of_ms, mode=mode, first_partition=first, last_partition=map_["partitions"] - 1, limit=limit
            )
            try:
                left = max(deadline - time.monotonic(), 0.1)
                return await self._scatter(_call("Evaluate", request, left), list(map_["endpoints"].values()))
            except (ShardRecovering, Unavailable, Overloaded):
                if time.monotonic() > deadline - 1:
                    raise
                await asyncio.sleep(0.1)

    async def count(self, rule: str, as_of_ms: int) -> tuple[int, list[str]]:
        """How many users, and warnings."""
        responses = await self._evaluate(rule, as_of_ms, shard_pb2.EVALUATE_MODE_COUNT)
        return sum(part.count for response in responses for part in response.partitions), _warnings(responses)

    async def audience(self, rule: str, as_of_ms: int, *, first: int = 0, limit: int = 0) -> Audience:
        """The users, from partition `first` on. With a limit each shard stops after a partition that reaches it."""
        responses = await self._evaluate(rule, as_of_ms, shard_pb2.EVALUATE_MODE_BITMAPS, first=first, limit=limit)
        parts = [part for response in responses for part in response.partitions]
        if limit:
            # Only partitions below the last one that every shard has looked at are whole.
            parts = _whole_prefix(parts, responses, limit)
        return Audience({part.partition: part.bitmap for part in parts}, {part.partition: part.position for part in parts}, as_of_ms, _warnings(responses))

    async def explain(self, rule: str, as_of_ms: int) -> tuple[int, int, int, list[tuple[str, int, int]], list[str]]:
        """(users, matched, partitions, [(clause, matched, unknown)], warnings)."""
        plan = await self.compiled(rule)
        responses = await self._evaluate(rule, as_of_ms, shard_pb2.EVALUATE_MODE_EXPLAIN)
        map_ = await self.map()
        texts = clause_texts(rule, len(conjuncts(plan)))
        clauses = [
            (text, sum(response.clauses[i].matched for response in responses), sum(response.clauses[i].unknown for response in responses))
            for i, text in enumerate(texts)
        ]
        users = sum(response.users for response in responses)
        matched = sum(part.count for response in responses for part in response.partitions)
        return users, matched, map_["partitions"], clauses, _warnings(responses)

    async def ids(self, handles: NDArray[np.uint64]) -> Strings:
        """Ids of user handles, in their order; users erased meanwhile are left out."""
        map_ = await self.map()
        owners = np.frombuffer(map_["owners"], dtype=np.uint16)[(handles >> np.uint64(32)).astype(np.int64)]
        texts = np.empty(handles.size, dtype=object)
        for shard in np.unique(owners).tolist():
            here = np.flatnonzero(owners == shard)
            request = shard_pb2.ResolveHandlesRequest(handles=handles[here].tobytes())
            response = (await self._scatter(_call("ResolveHandles", request, QUERY_TIMEOUT_S), [map_["endpoints"][shard]]))[0]
            packed = Strings(np.frombuffer(response.user_id_data, dtype=np.uint8), np.frombuffer(response.user_id_ends, dtype=np.uint32))
            texts[here] = np.array([*packed.to_bytes_list(), None], dtype=object)[:-1]
        return Strings.of([text for text in texts.tolist() if text])

    async def contains(self, rule: str, as_of_ms: int, user_ids: list[str]) -> tuple[list[bool], list[str]]:
        """Each user: in or not; and warnings."""
        await self.compiled(rule)
        map_ = await self.map()
        owners = np.frombuffer(map_["owners"], dtype=np.uint16)[partitions_of(Strings.of(user_ids), map_["partitions"])]
        result, responses = np.zeros(len(user_ids), dtype=bool), []
        for shard in np.unique(owners).tolist():
            here = np.flatnonzero(owners == shard)
            request = shard_pb2.TestUsersRequest(rule=rule, as_of_ms=as_of_ms, user_ids=[user_ids[i] for i in here.tolist()])
            response = (await self._scatter(_call("TestUsers", request, QUERY_TIMEOUT_S), [map_["endpoints"][shard]]))[0]
            result[here] = list(response.contained)
            responses.append(response)
        return result.tolist(), _warnings(responses)


def _warnings(responses: list[Any]) -> list[str]:
    """What shards warn of, each once."""
    return list(dict.fromkeys(warning for response in responses for warning in response.warnings))


def _call(method: str, request: Any, timeout_s: float) -> Callable[[Any], Awaitable[Any]]:
    """One method of a shard's stub."""
    return lambda stub: getattr(stub, method)(request, timeout=timeout_s)


def _whole_prefix(parts: list[Any], responses: list[Any], limit: int) -> list[Any]:
    """The parts below the first partition that some shard did not get to."""
    reached = []
    for response in responses:
        total = sum(part.count for part in response.partitions)
        if total >= limit and response.partitions:
            reached.append(max(part.partition for part in response.partitions))
    border = min(reached, default=1 << 32)
    return [part for part in parts if part.partition <= border]


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
        self._port = 0

    async def start(self, host: str, port: int) -> int:
        """Bind the gateway's port and serve all services on it. Returns the port."""
        import ray

        from actors.names import CONTROLLER, NAMESPACE
        from actors.servers import GrpcServer
        from actors.services.gateway import add_services

        if self._state == "new":
            self._state = "starting"
            try:
                self._grpc = GrpcServer()
                add_services(self._grpc, ray.get_actor(CONTROLLER, namespace=NAMESPACE), f"{host}:{port}")
                self._port = await self._grpc.start(host, port)
            except Exception:
                self._state = "new"
                raise
            self._state = "serving"
        return self._port

    async def stop(self) -> None:
        """Drain."""
        if self._grpc is not None:
            await self._grpc.stop()

    async def health(self) -> dict[str, Any]:
        """State, pid and port."""
        return {"state": self._state, "pid": os.getpid(), "port": self._port}
