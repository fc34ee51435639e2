"""The controller without Ray: shards that stand in for actors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from actors.configs import GridConfig
from actors.controller import Controller, State
from grid.catalog import load_catalog
from tests.harness import COUNTS


class Actor:
    """A shard's actor. Its first life takes no catalog over, and never says so: what it was asked stays unanswered when it ends, as Ray may have it."""

    def __init__(self) -> None:
        self.pid, self.state, self.catalog_version = 1, "serving", 1
        self.installed: list[int] = []
        self.is_asked = asyncio.Event()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=getattr(self, f"on_{method}"))

    async def on_health(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "incarnation": str(self.pid),
            "state": self.state,
            "endpoint": "",
            "catalog_version": self.catalog_version,
            "moving": {"tokens": []},
        }

    async def on_start(self, *_: Any) -> dict[str, Any]:
        self.state = "serving"
        return {"member": "0-a"}

    async def on_install_catalog(self, version: int, _: str) -> None:
        self.is_asked.set()
        if self.pid == 1:
            await asyncio.Event().wait()
        if version > self.catalog_version:
            self.catalog_version = version
            self.installed.append(version)

    def crash(self) -> None:
        """Ray makes its next life."""
        self.pid, self.state, self.catalog_version = 2, "new", 0


def run_with_a_shard(folder: Path, work: Callable[[Controller, Actor], Awaitable[None]]) -> None:
    async def run() -> None:
        controller, actor = Controller(GridConfig(str(folder))), Actor()
        (folder / "controller").mkdir()
        controller.state = State(4, 1, 1, [0] * 4, [1] * 4, catalog_version=1, catalogs={1: load_catalog(COUNTS, 1).source})
        controller._started = asyncio.create_task(asyncio.sleep(0))
        controller.copies = cast(Any, SimpleNamespace(copied_by=lambda shard: [], is_dispensable=lambda shard: False))
        controller.shard_actor = lambda shard: actor  # type: ignore[method-assign]
        await asyncio.wait_for(work(controller, actor), 10.0)

    asyncio.run(run())


def test_a_catalog_does_not_wait_for_a_shard_that_ends_while_it_takes_it_over_and_the_next_life_has_it(tmp_path: Path) -> None:
    async def work(controller: Controller, actor: Actor) -> None:
        await controller._look_after(0)
        new = load_catalog({**COUNTS, "features": {**COUNTS["features"], "again": {"count": "e"}}}, 2).source
        applying = asyncio.create_task(controller.apply_catalog(new, force=False, dry_run=False))
        await actor.is_asked.wait()
        await controller._look_after(0)  # it lags behind, and nobody waits for that
        actor.crash()
        await controller._look_after(0)
        version, _ = await applying
        assert version == 2
        while actor.installed != [1, 2]:
            await asyncio.sleep(0.01)

    run_with_a_shard(tmp_path, work)


def test_a_shard_that_lags_behind_is_brought_to_the_catalog_beside_its_heartbeats_once(tmp_path: Path) -> None:
    async def work(controller: Controller, actor: Actor) -> None:
        actor.pid, actor.catalog_version = 3, 0
        async with controller.layout_lock:
            for _ in range(3):
                await controller._look_after(0)
            assert actor.installed == []  # not while something moves
        while not actor.installed:
            await asyncio.sleep(0.01)
        assert actor.installed == [1]

    run_with_a_shard(tmp_path, work)
