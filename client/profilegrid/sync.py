"""Client: the same core from any thread. Each client has one background thread with the loop that AsyncClient runs in."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

from profilegrid.aio import AsyncClient
from profilegrid.columns import Batch, event_row
from profilegrid.errors import ClientClosed
from profilegrid.forking import forks
from profilegrid.results import Page, Profile, Report, Table
from profilegrid.v1 import admin_pb2

Result = TypeVar("Result")


class Client:
    """A grid, from any thread. Options as AsyncClient's. Close it, or use it in a `with`: that sends what is still buffered."""

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
        self._core = AsyncClient(
            target, delivery_timeout=delivery_timeout, read_timeout=read_timeout, acks=acks, producer_id=producer_id,
            track_rows_max=track_rows_max, track_delay=track_delay, track_buffer_rows_max=track_buffer_rows_max, on_report=on_report,
        )  # fmt: skip
        self._delivery_timeout = delivery_timeout
        self._forks = forks()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="profilegrid", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what is buffered, wait for its acknowledgement, close. Raises DeliveryUnknown as `flush` does."""
        if self._is_closed or forks() != self._forks:
            return
        try:
            self._run(self._core.close())
        finally:
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def _run(self, call: Coroutine[Any, Any, Result]) -> Result:
        try:
            self._check_open()
        except ClientClosed:
            call.close()
            raise
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed("the client is closed", "CLIENT_CLOSED")
        if forks() != self._forks:
            raise ClientClosed("the client belongs to the parent process; make a new one after fork", "CLIENT_FORKED")

    def _iterate(self, items: AsyncIterator[Result]) -> Iterator[Result]:
        """Pull an async iterator from this thread, item by item."""
        end = object()

        async def pull() -> Any:
            return await anext(items, end)

        try:
            while (item := self._run(pull())) is not end:
                yield item
        finally:
            if not self._is_closed:
                self._run(items.aclose())  # type: ignore[attr-defined]

    # --- catalog --------------------------------------------------------------------------------------------------------

    def apply_catalog(self, catalog: str | os.PathLike[str] | Mapping[str, Any], *, force: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """As AsyncClient.apply_catalog."""
        return self._run(self._core.apply_catalog(catalog, force=force, dry_run=dry_run))

    def catalog(self) -> dict[str, Any]:
        """As AsyncClient.catalog."""
        return self._run(self._core.catalog())

    # --- writes ---------------------------------------------------------------------------------------------------------

    def track(self, user_id: str | int, event: str, properties: Mapping[str, Any] | None = None, *, time: Any = None, event_id: str | None = None) -> None:
        """Buffer one event; it is sent soon, with others. Blocks while the buffer is full."""
        self._check_open()
        self._core.buffer.add_threadsafe(event_row(user_id, event, properties, time, event_id), self._loop, self._delivery_timeout)

    def flush(self) -> Report:
        """As AsyncClient.flush: returns when everything tracked so far is acknowledged, or raises."""
        return self._run(self._core.flush())

    def track_many(self, event: str | Any, *, user_id: Any, time: Any = None, event_id: Any = None, **properties: Any) -> Report:
        """As AsyncClient.track_many."""
        return self._run(self._core.track_many(event, user_id=user_id, time=time, event_id=event_id, **properties))

    def deliver(self, batch: Batch, *, producer_id: bytes | None = None, first_batch: int | None = None, started_ms: int = 0) -> Report:
        """As AsyncClient.deliver: for importers that number their own batches."""
        return self._run(self._core.deliver(batch, producer_id=producer_id, first_batch=first_batch, started_ms=started_ms))

    def set(self, user_id: str | int, /, **attributes: Any) -> Report:
        """Set attributes of a user; None unsets."""
        return self._run(self._core.set(user_id, **attributes))

    def set_many(self, *, user_id: Any, **attributes: Any) -> Report:
        """As AsyncClient.set_many."""
        return self._run(self._core.set_many(user_id=user_id, **attributes))

    def unset(self, user_id: str | int, /, *names: str) -> Report:
        """Make attributes of a user NULL."""
        return self._run(self._core.unset(user_id, *names))

    def delete(self, *user_ids: str | int) -> Report:
        """Erase users."""
        return self._run(self._core.delete(*user_ids))

    # --- reads ----------------------------------------------------------------------------------------------------------

    def get(self, user_id: str | int, fields: Iterable[str] = (), *, as_of: Any = None) -> Profile:
        """As AsyncClient.get; calls of several threads share requests."""
        return self._run(self._core.get(user_id, fields, as_of=as_of))

    def get_many(self, user_ids: Any, fields: Iterable[str] = (), *, as_of: Any = None) -> Table:
        """As AsyncClient.get_many."""
        return self._run(self._core.get_many(user_ids, fields, as_of=as_of))

    def watch(self, user_id: str | int, fields: Iterable[str] = ()) -> Iterator[Profile]:
        """As AsyncClient.watch."""
        return self._iterate(self._core.watch(user_id, fields))

    # --- audiences ------------------------------------------------------------------------------------------------------

    def count(self, rule: str, *, as_of: Any = None, within: bytes | None = None) -> int:
        """As AsyncClient.count."""
        return self._run(self._core.count(rule, as_of=as_of, within=within))

    def count_detailed(self, rule: str, *, as_of: Any = None, within: bytes | None = None) -> dict[str, Any]:
        """As AsyncClient.count_detailed."""
        return self._run(self._core.count_detailed(rule, as_of=as_of, within=within))

    def list(self, rule: str, *, limit: int = 1000, page_token: str = "", as_of: Any = None) -> Page:
        """As AsyncClient.list."""
        return self._run(self._core.list(rule, limit=limit, page_token=page_token, as_of=as_of))

    def members(self, rule: str, *, as_of: Any = None, page_size: int = 10_000) -> Iterator[str]:
        """As AsyncClient.members."""
        token = ""
        while True:
            page = self.list(rule, limit=page_size, page_token=token, as_of=as_of)
            yield from page.user_ids
            if not page.next:
                return
            token = page.next

    def contains(self, rule: str, user_ids: Iterable[str | int], *, as_of: Any = None) -> dict[str, bool]:
        """As AsyncClient.contains."""
        return self._run(self._core.contains(rule, user_ids, as_of=as_of))

    def sample(self, rule: str, size: int, *, seed: int = 0, as_of: Any = None) -> Sequence[str]:
        """As AsyncClient.sample."""
        return self._run(self._core.sample(rule, size, seed=seed, as_of=as_of))

    def explain(self, rule: str, *, as_of: Any = None) -> dict[str, Any]:
        """As AsyncClient.explain."""
        return self._run(self._core.explain(rule, as_of=as_of))

    def bitmap(self, rule: str, *, as_of: Any = None) -> bytes:
        """As AsyncClient.bitmap."""
        return self._run(self._core.bitmap(rule, as_of=as_of))

    def export(self, rule: str, path: str | os.PathLike[str], *, as_of: Any = None, progress: Callable[[int, int], None] | None = None) -> int:
        """As AsyncClient.export."""
        return self._run(self._core.export(rule, path, as_of=as_of, progress=progress))

    def grid_id(self) -> str:
        """As AsyncClient.grid_id."""
        return self._run(self._core.grid_id())

    # --- operators ------------------------------------------------------------------------------------------------------

    def status(self) -> admin_pb2.GetStatusResponse:
        """As AsyncClient.status."""
        return self._run(self._core.status())

    def dead_letters(self, limit: int = 100) -> Sequence[admin_pb2.DeadLetter]:
        """As AsyncClient.dead_letters."""
        return self._run(self._core.dead_letters(limit))

    def replay_dead_letters(self, reason: str = "") -> dict[str, int]:
        """As AsyncClient.replay_dead_letters."""
        return self._run(self._core.replay_dead_letters(reason))

    def erasures(self) -> Sequence[dict[str, Any]]:
        """As AsyncClient.erasures."""
        return self._run(self._core.erasures())

    def finish_erasures(self) -> int:
        """As AsyncClient.finish_erasures."""
        return self._run(self._core.finish_erasures())

    def repair(self, *, accept_loss: bool) -> Sequence[str]:
        """As AsyncClient.repair."""
        return self._run(self._core.repair(accept_loss=accept_loss))

    def load(self, path: str | os.PathLike[str], *, as_of: Any = None, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """As AsyncClient.load."""
        return self._run(self._core.load(path, as_of=as_of, progress=progress))

    def create_snapshot(self, url: str, *, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """As AsyncClient.create_snapshot."""
        return self._run(self._core.create_snapshot(url, progress=progress))

    def tell_erasures(self, url: str) -> int:
        """As AsyncClient.tell_erasures."""
        return self._run(self._core.tell_erasures(url))

    def plan_layout(self, *, shards: int | None = None, drained: Iterable[int] | None = None, replicas: int | None = None) -> admin_pb2.PlanLayoutResponse:
        """As AsyncClient.plan_layout."""
        return self._run(self._core.plan_layout(shards=shards, drained=drained, replicas=replicas))

    def set_layout(self, *, shards: int | None = None, drained: Iterable[int] | None = None, replicas: int | None = None, bytes_per_s: int = 0) -> None:
        """As AsyncClient.set_layout."""
        self._run(self._core.set_layout(shards=shards, drained=drained, replicas=replicas, bytes_per_s=bytes_per_s))

    def keep_layout(self) -> None:
        """As AsyncClient.keep_layout."""
        self._run(self._core.keep_layout())

    def replicas(self) -> admin_pb2.ListReplicasResponse:
        """As AsyncClient.replicas."""
        return self._run(self._core.replicas())

    def compare_replicas(self, partition: int) -> admin_pb2.CompareReplicasResponse:
        """As AsyncClient.compare_replicas."""
        return self._run(self._core.compare_replicas(partition))

    def renew_replicas(self, partition: int) -> None:
        """As AsyncClient.renew_replicas."""
        self._run(self._core.renew_replicas(partition))

    def layout(self) -> admin_pb2.GetLayoutResponse:
        """As AsyncClient.layout."""
        return self._run(self._core.layout())

    def checkpoint(self) -> admin_pb2.CheckpointResponse:
        """As AsyncClient.checkpoint."""
        return self._run(self._core.checkpoint())
