"""A grid on the nodes of a Ray cluster: each keeps the data of its shards, and one that dies is stood in for by the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.catalogs import EVERY_KIND
from tests.clusters import RayCluster
from tests.grids import RunningGrid
from tests.integration.test_moving import AS_OF, AT_MS, WRITTEN, Traffic, partitions
from tests.integration.test_snapshots import answers, fill

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("nodes")
    running = RayCluster(folder, 3, RAY_gcs_storage="rocksdb", RAY_gcs_storage_path=str(folder / "gcs"))
    yield running
    running.end()


@pytest.fixture(scope="module")
def grid(cluster: RayCluster) -> Iterator[RunningGrid]:
    catalog = cluster.folder(0).with_name("catalog.yaml")
    catalog.write_text(yaml.safe_dump(EVERY_KIND, sort_keys=False))
    options = ("--address", cluster.address, "--host", "127.0.0.1", "--shards", "3", "--replicas", "2", "--partitions", "12", "--shard-cpus", "0.5")
    environment = cluster.environment | {"PROFILEGRID_NODE_DATA": str(cluster.folder(0))}
    running = RunningGrid(cluster.folder(0), *options, "--replace-after", "4", "--catalog", str(catalog), environment=environment).up()
    with running.client() as client:
        client.track_many("e", user_id=[*WRITTEN, "watched"], time=[AT_MS] * 41, c=["c1"] * 41)
        fill(client)
    wait_until_done(running)
    yield running
    running.down()


def node_of(grid: RunningGrid, folder: Path) -> dict[str, Any]:
    return next(node for node in grid.json("nodes") if node["folder"] == str(folder))


def nodes_of_copies(grid: RunningGrid) -> list[set[int]]:
    """The shards that have each partition in sync."""
    return [{replica["shard"] for replica in partition["replicas"] if replica["is_insync"]} for partition in grid.json("replicas")]


def wait_until_done(grid: RunningGrid) -> None:
    grid.wait_until(lambda: grid.json("scale")["is_done"])


def test_shards_spread_over_nodes_and_keep_their_data_there(cluster: RayCluster, grid: RunningGrid) -> None:
    nodes = grid.json("nodes")
    assert sorted(node["folder"] for node in nodes) == [str(cluster.folder(number)) for number in range(3)]
    assert sorted(shard for node in nodes for shard in node["shards"]) == [0, 1, 2]
    for node in nodes:
        assert len(node["shards"]) == 1
        assert (Path(node["folder"]) / f"shard-{node['shards'][0]}" / "log").is_dir()
    assert all(len(members) == 2 for members in nodes_of_copies(grid))


@pytest.mark.parametrize("only_raylet", [False, True], ids=["the whole node", "its raylet"])
def test_a_node_that_dies_is_stood_in_for_and_what_it_had_is_copied_elsewhere_until_it_is_back(
    cluster: RayCluster, grid: RunningGrid, only_raylet: bool
) -> None:
    lost = int(node_of(grid, cluster.folder(2))["shards"][0])
    with grid.client() as client:
        before = client.get("w7")["count"]
        expected = answers(client, AS_OF)
    with Traffic(grid) as traffic:
        time.sleep(0.5)
        cluster.kill(2, only_raylet=only_raylet)
        grid.wait_until(lambda: lost not in {p["primary"] for p in grid.json("replicas")})
        with grid.client(read_timeout=10.0) as client:
            assert answers(client, AS_OF) == expected
        grid.wait_until(lambda: grid.shards()[lost]["state"] == "down")
        grid.wait_until(lambda: all(members == {0, 1, 2} - {lost} for members in nodes_of_copies(grid)))
        if only_raylet:  # another life of the controller knows of the shard that is lost, and back
            cluster.kill_process("ray::Controller")
            grid.wait_until(lambda: grid.cli("nodes").returncode == 0)
        cluster.start(2)
        grid.wait_until(lambda: grid.shards()[lost]["state"] == "serving")
        grid.wait_until(lambda: partitions(grid) == [4, 4, 4])
        wait_until_done(grid)
    assert traffic.problems == []
    with grid.client(read_timeout=30.0) as client:
        assert client.get("w7")["count"] == before + traffic.sent
        assert answers(client, AS_OF) == expected


def test_a_node_is_drained_by_its_name(cluster: RayCluster, grid: RunningGrid) -> None:
    node = node_of(grid, cluster.folder(1))
    grid.json("drain", node["name"])
    assert node_of(grid, cluster.folder(1))["partitions"] == 0
    assert all(node["shards"][0] not in members for members in nodes_of_copies(grid))
    grid.json("drain", node["name"], "--undo")
    assert partitions(grid) == [4, 4, 4]
    refused = grid.cli("drain", "nowhere")
    assert (refused.returncode, "is no shard's number, nor a node of" in refused.stderr) == (2, True), refused.stderr


def test_a_death_of_what_knows_the_cluster_goes_unnoticed_and_control_goes_on_when_it_is_back(cluster: RayCluster, grid: RunningGrid) -> None:
    with grid.client(read_timeout=10.0) as client:
        before = client.get("w7")["count"]
        with Traffic(grid) as traffic:
            cluster.kill_gcs()
            time.sleep(3.0)
            cluster.start_gcs()
            time.sleep(1.0)
        assert traffic.problems == []
        assert client.get("w7")["count"] == before + traffic.sent
    grid.kill_shard(0)
    grid.wait_until(lambda: grid.shards()[0]["state"] == "serving")
    wait_until_done(grid)


def test_a_grid_that_is_stopped_goes_on_with_the_shards_where_they_were(cluster: RayCluster, grid: RunningGrid) -> None:
    with grid.client() as client:
        expected = answers(client, AS_OF)
    homes = {node["folder"]: node["shards"] for node in grid.json("nodes")}
    grid.down()
    grid.up()
    assert {node["folder"]: node["shards"] for node in grid.json("nodes")} == homes
    with grid.client(read_timeout=30.0) as client:
        assert answers(client, AS_OF) == expected


def test_an_address_where_no_cluster_is_and_a_wrong_token_are_told(cluster: RayCluster, tmp_path: Path) -> None:
    stranger = RunningGrid(tmp_path / "a", environment=cluster.environment | {"RAY_AUTH_TOKEN": "0" * 64})
    for address, text in (("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1"), (cluster.address, "is RAY_AUTH_TOKEN that of the cluster?")):
        done = stranger.cli("up", "--data", str(tmp_path / "a"), "--port", str(stranger.port), "--address", address, targeted=False)
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr
