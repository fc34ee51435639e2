"""When processes are asked for that shall stand ready, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import spares
from actors.names import TEMPORARY
from actors.preloading import LOADED
from actors.spares import BARE_MAX, COME_S, LOOK_EVERY_S, Spares


class Grid:
    """Two shards, and a node manager that has the processes `idle`, of which some are `loaded`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.serves = 100.0, True
        self.idle: list[int] = []
        self.asked: list[int] = []
        self._folder = folder
        controller: Any = SimpleNamespace(config=SimpleNamespace(spares=2), state=SimpleNamespace(shards=2), is_ready=lambda shard: self.serves)
        self.spares = Spares(controller)
        self.spares._stub = SimpleNamespace(GetWorkerPIDs=self._pids, PrestartWorkers=self._start)
        monkeypatch.setenv(TEMPORARY, str(folder))
        monkeypatch.setattr(spares.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(spares, "_is_idle", lambda pid: pid in self.idle)

    async def _pids(self, request: Any, **_: Any) -> Any:
        return SimpleNamespace(pids=[1, 2, *self.idle])

    async def _start(self, request: Any, **_: Any) -> None:
        self.asked.append(request.num_workers)

    def come(self, *pids: int) -> None:
        """Processes that are idle, and have loaded all."""
        self.idle = [*pids]
        for pid in pids:
            (self._folder / f"{LOADED}{pid}").touch()

    def look(self, seconds: float) -> None:
        """Looks, twice a second, for so long."""
        end = self.now_s + seconds
        while self.now_s < end:
            asyncio.run(self.spares.keep())
            self.now_s += 0.5


def test_one_comes_after_the_other_and_one_on_its_way_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(tmp_path, monkeypatch)
    grid.look(COME_S - LOOK_EVERY_S)
    assert grid.asked == [1]
    grid.come(10)
    grid.look(COME_S - LOOK_EVERY_S)
    assert grid.asked == [1, 1]
    grid.look(2 * LOOK_EVERY_S)  # that one does not come any more
    assert grid.asked == [1, 1, 1]
    grid.come(10, 11)
    grid.look(2 * COME_S)
    assert (grid.asked, grid.spares.ready) == ([1, 1, 1], 2)


def test_one_that_was_taken_is_replaced_when_all_shards_serve_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(tmp_path, monkeypatch)
    grid.come(10, 11)
    grid.look(LOOK_EVERY_S)
    grid.serves, grid.idle = False, [11]
    grid.look(COME_S)
    assert grid.asked == []
    grid.serves = True
    grid.look(2 * LOOK_EVERY_S)
    assert grid.asked == [1]


def test_one_that_was_taken_as_soon_as_it_came_is_waited_for_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(tmp_path, monkeypatch)
    grid.come(10)
    grid.look(LOOK_EVERY_S)
    assert grid.asked == [1]
    grid.serves = False
    grid.come(10, 11)
    grid.idle = []  # both shards died
    grid.look(LOOK_EVERY_S)
    grid.serves = True
    grid.look(LOOK_EVERY_S)
    assert grid.asked == [1, 1]


def test_processes_that_load_nothing_are_not_asked_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(tmp_path, monkeypatch)
    for _ in range(10):
        grid.look(COME_S)
        grid.idle = [10 + number for number in range(len(grid.asked))]
    assert len(grid.asked) == 2 + BARE_MAX
    assert grid.spares.ready == 0
