"""Which nodes get copies, and what a folder says of its node."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest

from actors.configs import GridConfig
from actors.controller import State
from actors.local import FORMAT, CannotStart, check_place
from actors.nodes import clear_retired, name_of
from actors.rescaling import Rescaler
from grid.errors import FieldInvalid
from loadtests.bench.sides import free_port


def state(homes: dict[int, str]) -> State:
    shards = len(homes)
    return State(12, shards, 1, [partition % shards for partition in range(12)], [1] * 12, homes=homes)


def targets(homes: dict[int, str], drained: list[int]) -> tuple[list[int], list[int]]:
    return Rescaler(cast(Any, SimpleNamespace(state=state(homes)))).targets_for(len(homes), drained, 2)


def test_two_copies_are_on_two_nodes_though_one_has_two_shards() -> None:
    homes = {0: "a", 1: "a", 2: "b"}
    first, second = targets(homes, [])
    assert all({homes[one], homes[other]} == {"a", "b"} for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(("homes", "drained"), [({0: "a", 1: "a"}, []), ({0: "a", 1: "a", 2: "b"}, [2])])
def test_two_copies_on_one_node_are_refused(homes: dict[int, str], drained: list[int]) -> None:
    with pytest.raises(FieldInvalid, match="as many nodes with shards that are not drained: there are 1"):
        targets(homes, drained)


def test_a_state_of_before_there_were_nodes_is_read() -> None:
    new = state({0: "a", 1: "b"})
    _, *fields = msgpack.unpackb(new.pack(), strict_map_key=False)
    old = State.unpack(msgpack.packb([3, *fields[:-1]]))
    assert (old.homes, old.owners) == ({}, new.owners)


def test_a_grid_of_a_cluster_is_not_started_where_its_data_is_not(tmp_path: Path) -> None:
    (tmp_path / "GRID").write_text(FORMAT)
    (tmp_path / "controller").mkdir()
    (tmp_path / "controller" / "state.bin").write_bytes(state({0: "one-a1b2", 1: "two-c3d4"}).pack())
    with pytest.raises(CannotStart, match="lies on the nodes one-a1b2, two-c3d4: start it with --address"):
        check_place(GridConfig(str(tmp_path), port=free_port()))
    check_place(GridConfig(str(tmp_path), port=free_port(), is_cluster=True))


def test_a_node_keeps_its_name_and_loses_the_folders_of_shards_that_ended(tmp_path: Path) -> None:
    name = name_of(tmp_path)
    assert name_of(tmp_path) == name != name_of_other(tmp_path)
    for shard, is_retired in ((0, False), (2, True), (3, False)):
        (tmp_path / f"shard-{shard}").mkdir()
        if is_retired:
            (tmp_path / f"shard-{shard}" / "RETIRED").touch()
    clear_retired(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == ["shard-0", "shard-3"]


def name_of_other(folder: Path) -> str:
    other = folder / "other"
    other.mkdir()
    return name_of(other)
