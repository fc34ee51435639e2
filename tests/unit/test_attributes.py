"""Attributes of whole numbers are as wide as they need to be, and the same again after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, Shard, pages_of


def ages(shard: Shard, users: list[str]) -> list[int | None]:
    return [profile["age"] for profile in shard.get(users, NOW_MS, ["age"])]


@pytest.mark.parametrize("wide", [40_000, -(1 << 31), (1 << 63) - 1, -(1 << 63)])
def test_a_wide_value_among_narrow_ones_leaves_them_as_they_are(tmp_path: Path, wide: int) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    users = [f"user-{n}" for n in range(300)]
    shard.set(users, [{"age": n - 150} for n in range(300)], 1)
    shard.store.checkpoint_all()
    shard.set(["wide", "none"], [{"age": wide}, {"vip": True}], 2)
    expected = [*range(-150, 150), wide, None]
    assert ages(shard, [*users, "wide", "none"]) == expected
    shard.store.checkpoint_all()
    shard.crash()
    assert ages(shard, [*users, "wide", "none"]) == expected
    shard.close()


def test_pages_do_not_depend_on_what_was_wide_before(tmp_path: Path) -> None:
    """A wide value that is gone leaves no trace: recovery from pages and replay of the whole log give the same bytes."""
    shard = Shard(tmp_path / "a", EVERY_KIND)
    shard.set(["a", "b"], [{"age": 1}, {"age": 1 << 40}], 1)
    shard.set(["b"], [{"age": 2}], 2)
    replayed = pages_of(shard.engine, shard.store)
    shard.store.checkpoint_all()
    shard.crash()
    assert pages_of(shard.engine, shard.store) == replayed
    shard.close()
