"""`profilegrid load`: users in bulk into an empty grid, all or nothing, kept over kill -9."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.grids import RunningGrid, grid_of_every_kind

USERS = 30_000


@pytest.fixture(scope="module")
def empty_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    running = grid_of_every_kind(tmp_path_factory.mktemp("load"))
    yield running
    running.down()


def users(path: Path, count: int = USERS, **columns: object) -> str:
    numbers = np.arange(count)
    table = pa.table({"user_id": pa.array([f"u{n}" for n in numbers]), "count": numbers, "city": [f"city-{n % 7}" for n in numbers], **columns})
    pq.write_table(table, path, row_group_size=10_000)
    return str(path)


def test_load_is_all_or_nothing_goes_on_after_kills_and_is_not_done_twice(empty_grid: RunningGrid, tmp_path: Path) -> None:
    grid = empty_grid
    money = np.ones(USERS)
    money[USERS - 1] = np.nan
    refused = grid.cli("load", users(tmp_path / "bad.parquet", money=money))
    assert refused.returncode == 1
    assert f"row {USERS - 1}: money" in refused.stderr
    grid.wait_until(lambda: sum(shard["users"] for shard in grid.shards()) == 0, 5.0)  # what status tells is from the last heartbeat

    good = users(tmp_path / "good.parquet")
    assert grid.json("load", good)["users"] == USERS
    for shard in (0, 1):
        grid.kill_shard(shard)
    with grid.client(read_timeout=30.0) as client:
        assert list(client.get_many(["u0", "u9999", f"u{USERS - 1}"])["count"]) == [0, 9_999, USERS - 1]
        assert client.count("city = 'city-3'") == len(range(3, USERS, 7))
        client.track("u5", "e", {"c": "hats"})
        client.flush()
        assert client.get("u5")["count"] == 6
    assert grid.json("load", good)["users"] == USERS  # the same file again: done before, nothing doubles
    other = grid.cli("load", users(tmp_path / "other.parquet", 10))
    assert other.returncode == 1
    assert re.search("load goes into an empty grid only", other.stderr)
    assert grid.json("get", "u5")["features"]["count"] == 6
