"""Two copies of each partition: nothing acknowledged is lost or doubled when one goes, whoever it is, and both come to be equal again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import profilegrid
import pytest

from tests.catalogs import EVERY_KIND
from tests.grids import RunningGrid, grid_of_every_kind
from tests.integration.test_moving import AS_OF, AT_MS, WRITTEN, Traffic, partitions
from tests.integration.test_snapshots import USERS, answers, fill


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    running = grid_of_every_kind(tmp_path_factory.mktemp("copies"), "--partitions", "8")
    with running.client() as client:
        client.track_many("e", user_id=[*WRITTEN, "watched"], time=[AT_MS] * 41, c=["c1"] * 41)
        fill(client)
    yield running
    running.down()


@pytest.fixture
def copied(grid: RunningGrid) -> RunningGrid:
    """With two copies of everything, in sync."""
    if grid.json("scale")["replicas"] != 2:
        grid.json("scale", "--replicas", "2")
    return grid


def wait_until_in_sync(grid: RunningGrid) -> None:
    grid.wait_until(lambda: grid.json("scale")["is_done"])


@contextlib.contextmanager
def served_without(grid: RunningGrid, shard: int) -> Iterator[None]:
    """The other of two shards serves everything. This one hangs, and is killed in the end: one that is killed is soon back, perhaps before it was missed."""
    pid = int(grid.wait_until(lambda: grid.shards()[shard]["pid"]))
    os.kill(pid, signal.SIGSTOP)
    try:
        grid.wait_until(lambda: {p["primary"] for p in grid.json("replicas")} == {1 - shard})
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_until_back(grid, shard, pid)


def wait_until_back(grid: RunningGrid, shard: int, pid: int) -> None:
    """Another life of a shard serves what it shall."""
    grid.wait_until(lambda: (now := grid.shards()[shard])["state"] == "serving" and now["pid"] != pid)
    wait_until_in_sync(grid)


def test_copies_come_and_go_under_traffic_and_every_answer_stays_as_it_was(grid: RunningGrid) -> None:
    with grid.client() as client:
        expected = answers(client, AS_OF)
    assert grid.json("replicas") == []
    with Traffic(grid) as traffic:
        for wanted in (2, 1, 2):
            done = grid.json("scale", "--replicas", str(wanted))
            assert (done["is_done"], done["replicas"], done["problem"]) == (True, wanted, None)
            assert partitions(grid) == [4, 4]
    assert traffic.problems == []
    copies = grid.json("replicas")
    assert [p["partition"] for p in copies] == list(range(8))
    assert all(replica["is_insync"] for p in copies for replica in p["replicas"])
    verified = grid.json("replicas", "--verify")
    assert (verified["partitions"], verified["is_same"], verified["differing"]) == (8, True, [])
    assert verified["pages"] > 8 * 15
    with grid.client() as client:
        assert answers(client, AS_OF) == expected
        assert client.get("w7")["count"] == 1 + traffic.sent
        assert traffic.seen == sorted(traffic.seen)


@pytest.mark.long
def test_partitions_that_lie_alone_again_begin_no_more_epochs(copied: RunningGrid) -> None:
    copied.json("scale", "--replicas", "1")
    copied.wait_until(lambda: copied.json("replicas") == [])
    with copied.client() as client:
        time.sleep(0.5)
        before = client.status().map_version
        time.sleep(1.0)
        assert client.status().map_version == before


def test_a_shard_that_is_killed_takes_its_part_again_and_nothing_is_lost(copied: RunningGrid) -> None:
    grid = copied
    with grid.client() as client:
        before = client.get("w7")["count"]
        expected = answers(client, AS_OF)
    with Traffic(grid) as traffic:
        time.sleep(0.5)
        wait_until_back(grid, 0, grid.kill_shard(0))
    assert traffic.problems == []
    assert partitions(grid) == [4, 4]
    with grid.client(read_timeout=30.0) as client:
        assert client.get("w7")["count"] == before + traffic.sent
        assert answers(client, AS_OF) == expected


@pytest.mark.long
def test_a_shard_that_hangs_is_stood_in_for_and_what_the_copy_has_is_what_the_primary_had(copied: RunningGrid) -> None:
    grid = copied
    catalog = {**EVERY_KIND, "features": {**EVERY_KIND["features"], "again": {"count": "e"}}}
    with grid.client(read_timeout=30.0) as client:
        client.apply_catalog(catalog)
        grid.wait_for_backfill()
        client.track_many("e", user_id=WRITTEN, time=[AT_MS] * 40, c=["c1"] * 40)
        wait_until_in_sync(grid)
        expected = answers(client, AS_OF)
        table = client.get_many([f"u{n}" for n in range(USERS)], ["count", "again"])
        assert list(table["again"]) == list(table["count"])
    assert grid.json("replicas", "--verify")["is_same"]
    for shard in (0, 1):
        with served_without(grid, shard), grid.client(read_timeout=30.0) as client:
            assert answers(client, AS_OF) == expected
            table = client.get_many([f"u{n}" for n in range(USERS)], ["count", "again"])
            assert list(table["again"]) == list(table["count"])


@pytest.mark.long
def test_a_snapshot_of_copies_has_each_partition_once(copied: RunningGrid, tmp_path: Path) -> None:
    grid, url = copied, str(tmp_path / "kept")
    with grid.client() as client:
        expected, before = answers(client, AS_OF), client.get("w7")["count"]
        users = client.count("count >= 0")
        with Traffic(grid) as traffic:
            made = grid.json("snapshot", "create", url)
        after = client.get("w7")["count"]
    assert (traffic.problems, made["users"]) == ([], users)
    grid.json("snapshot", "verify", url)
    assert grid.json("snapshot", "restore", url, "--data", str(tmp_path / "three"), "--shards", "3")["users"] == users
    other = RunningGrid(tmp_path / "three").up()
    try:
        with other.client(read_timeout=30.0) as client:
            assert answers(client, AS_OF) == expected
            assert before <= client.get("w7")["count"] <= after
    finally:
        other.down()


@pytest.mark.long
def test_a_crash_of_everything_loses_nothing_and_the_copies_are_copies_again(copied: RunningGrid) -> None:
    grid = copied
    with grid.client() as client:
        client.track_many("e", user_id=["late"] * 3, time=[AT_MS] * 3, c=["c1"] * 3)
        expected = answers(client, AS_OF)
    grid.kill_everything()
    grid.up()
    with grid.client(read_timeout=30.0) as client:
        assert client.get("late")["count"] == 3
        assert answers(client, AS_OF) == expected
    wait_until_in_sync(grid)
    assert partitions(grid) == [4, 4]


def test_what_cannot_be_with_two_copies_is_refused(copied: RunningGrid) -> None:
    grid = copied
    for arguments, text in ((("scale", "--shards", "1"), "replicas: got 2, expected as many shards"), (("drain", "0"), "replicas: got 2, expected as many")):
        refused = grid.cli(*arguments)
        assert (refused.returncode, text in refused.stderr) == (1, True), refused.stderr
    with grid.client() as client, pytest.raises(profilegrid.errors.ProfilegridError, match="replicas: got 3"):
        client.set_layout(replicas=3)


def test_copies_are_compared_while_they_are_written(copied: RunningGrid) -> None:
    with Traffic(copied) as traffic:
        verified = copied.json("replicas", "--verify")
    assert (traffic.problems, verified["is_same"], verified["not_compared"]) == ([], True, 0)
    with copied.client() as client, pytest.raises(profilegrid.errors.ProfilegridError, match="partition: got 99, expected one that has several copies"):
        client.compare_replicas(99)


def test_a_copy_is_made_anew_while_it_is_written(copied: RunningGrid) -> None:
    def of(partition: int) -> dict[str, int]:
        return next(p for p in copied.json("replicas") if p["partition"] == partition)

    before = of(3)
    with Traffic(copied) as traffic, copied.client() as client:
        client.renew_replicas(3)
        copied.wait_until(lambda: len(of(3)["replicas"]) == 1 or of(3)["epoch"] > before["epoch"] + 2)
        wait_until_in_sync(copied)
    assert traffic.problems == []
    assert (of(3)["primary"], len(of(3)["replicas"])) == (before["primary"], 2)
    assert of(3)["epoch"] >= before["epoch"] + 3  # alone, two again, both in sync
    assert copied.json("replicas", "--verify", "--renew")["is_same"]
    refused = copied.cli("replicas", "--renew")
    assert (refused.returncode, "use both" in refused.stderr) == (2, True)
