"""One grid for all integration tests: real Ray, real gRPC, real RocksDB. Tests keep apart by their own user ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import yaml

from tests.catalogs import EVERY_KIND
from tests.grids import RunningGrid

_names = itertools.count()


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    folder = tmp_path_factory.mktemp("grid")
    catalog = folder / "catalog.yaml"
    catalog.write_text(yaml.safe_dump({**EVERY_KIND, "dedupe": "1d"}, allow_unicode=True, sort_keys=False))
    running = RunningGrid(folder / "data", "--catalog", str(catalog), "--checkpoint-every", "3", environment={"PROFILEGRID_SPARES": "2"}).up()
    yield running
    running.down()


@pytest.fixture
def user() -> str:
    """A user id of this test alone."""
    return f"user-{next(_names)}"
