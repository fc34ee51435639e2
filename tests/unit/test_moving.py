"""What a shard expects of others: one source at a time fills it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from actors import moving
from actors.moving import Moves
from grid.errors import MoveFailed


class Target(Moves):
    """Lacks copies of four partitions, has nothing to drop."""

    def __init__(self) -> None:
        engine = SimpleNamespace(arriving=np.zeros(4, dtype=bool), kept=np.zeros(4, dtype=bool))
        store = SimpleNamespace(columns_by_key=dict, history=SimpleNamespace(forget_received=lambda names: None))
        refilling = SimpleNamespace(is_behind=lambda partitions: True, forget_state=lambda partitions: None)
        committer = SimpleNamespace(let_go=lambda: None)
        shard = SimpleNamespace(engine=engine, store=store, replication=SimpleNamespace(refilling=refilling), committer=committer)
        super().__init__(cast(Any, shard))

    def check_quiet(self) -> None:
        pass

    async def _drop(self, partitions: list[int]) -> None:
        await asyncio.sleep(0)

    async def offer(self, token: str, source: str) -> str:
        """What a source is answered: its token, if it is expected now."""
        try:
            await self.take(msgpack.packb([token, "copy", [0, 1], source]))
        except MoveFailed as error:
            return str(error)
        assert self.incoming is not None
        return self.incoming.token


def test_two_sources_do_not_take_each_others_place() -> None:
    async def run() -> None:
        target = Target()
        first, second = await asyncio.gather(target.offer("t1", "a"), target.offer("t2", "b"))
        assert (first, "copies of member a's partitions are on their way" in second) == ("t1", True)
        assert await target.offer("t3", "a") == "t3", "the same source begins anew"

    asyncio.run(run())


def test_a_source_that_fell_silent_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "SILENT_S", 0.0)

    async def run() -> None:
        target = Target()
        await target.offer("t1", "a")
        assert await target.offer("t2", "b") == "t2"

    asyncio.run(run())


def test_what_an_earlier_life_left_is_removed_and_files_that_are_being_sent_stay(tmp_path: Path) -> None:
    target = Target()
    target._shard.store.folder, target._shard.store.foreign = tmp_path, list  # type: ignore[method-assign]
    for token in ("now", "before"):
        (tmp_path / "moving" / token).mkdir(parents=True)
    target.sending.add("now")
    asyncio.run(target.drop_foreign())
    assert [path.name for path in (tmp_path / "moving").iterdir()] == ["now"]
