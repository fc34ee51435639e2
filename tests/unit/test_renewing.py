"""What `replicas --verify --renew` does about copies that differ."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from profilegrid.cli.layouts import _verify
from profilegrid.v1 import admin_pb2


class Grid:
    """Of partitions 0, 1 and 2 the copies of 1 read otherwise, those of 2 differ in bits only."""

    def __init__(self) -> None:
        self.renewed: list[int] = []

    def compare_replicas(self, partition: int) -> admin_pb2.CompareReplicasResponse:
        column = admin_pb2.ComparedColumn(name="count", pages=2, differing=min(partition, 1), differing_values=int(partition == 1))
        return admin_pb2.CompareReplicasResponse(partition=partition, shards=[0, 1], columns=[column])

    def renew_replicas(self, partition: int) -> None:
        self.renewed.append(partition)

    def layout(self) -> Any:
        return SimpleNamespace(is_done=True)


def test_copies_whose_values_differ_are_made_anew_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Grid()
    _verify(cast(Any, grid), [0, 1, 2], 3, renew=True, as_json=False)
    assert grid.renewed == [1]
    assert "partitions 1 are made anew" in capsys.readouterr().err


def test_without_being_asked_nothing_is_made_anew_and_the_status_tells() -> None:
    grid = Grid()
    with pytest.raises(BaseException) as ended:
        _verify(cast(Any, grid), [0, 1, 2], 3, renew=False, as_json=False)
    assert (getattr(ended.value, "exit_code", None), grid.renewed) == (1, [])
