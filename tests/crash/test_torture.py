"""The short form of the torture: some faults of every sort, drawn by a seed that is printed. `make torture` is the long one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.catalogs import EVERY_KIND
from tests.crash.torture import Torture
from tests.grids import RunningGrid
from tests.points import Points

# Of some forty sorts; which, the seed says. `make torture` has them all, many times.
KILLS, KILLS_LONG = 4, 10


def test_nothing_acknowledged_is_lost_or_counted_twice_and_recovery_equals_a_replay_of_the_whole_log(tmp_path: Path) -> None:
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"TORTURE_SEED={seed}")
    torture = Torture(tmp_path / "grid", seed)
    torture.run(KILLS)
    torture.problems += torture.check_replay()
    assert torture.problems == [], f"seed {seed}"
    assert sum(tally.times for tally in torture.tallies.values()) == KILLS
    assert torture.ledger.batches > 200


@pytest.mark.long
def test_with_history_erasures_and_dropped_segments(tmp_path: Path) -> None:
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"TORTURE_SEED={seed}")
    torture = Torture(tmp_path / "grid", seed, keeps_log=False)
    torture.run(KILLS_LONG)
    assert torture.problems == [], f"seed {seed}"


def test_a_load_that_is_killed_before_its_commit_leaves_nothing_and_succeeds_when_repeated(tmp_path: Path) -> None:
    points = Points(tmp_path / "failpoints")
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(EVERY_KIND, sort_keys=False))
    users = 5_000
    pq.write_table(pa.table({"user_id": [f"u{n}" for n in range(users)], "count": list(range(users))}), tmp_path / "users.parquet")
    grid = RunningGrid(tmp_path / "data", "--catalog", str(tmp_path / "catalog.yaml"), environment={"PROFILEGRID_FAILPOINTS": str(points.folder)}).up()
    try:
        points.arm("load.staged")
        broken = grid.cli("load", str(tmp_path / "users.parquet"))
        assert broken.returncode == 1
        grid.wait_until(lambda: all(shard["state"] == "serving" for shard in grid.shards()))
        left = [shard["users"] for shard in grid.shards()]
        assert 0 in left  # the shard that was killed has nothing; the other all of its part, or nothing
        assert grid.json("load", str(tmp_path / "users.parquet"))["users"] == users
        with grid.client() as client:
            assert client.count("count >= 0") == users
            assert client.get("u4999")["count"] == 4_999
    finally:
        grid.down()
