"""Digests of two copies are the same whatever codes words have, and differ where the copies do."""

from __future__ import annotations

from pathlib import Path

import pytest

from grid.comparing import exact_digests, value_digest
from grid.reading import field_names
from grid.state.dictionary import Strings
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, Shard

USERS = [f"u{n}" for n in range(40)]


def copy_of(folder: Path, words: list[str]) -> Shard:
    """A shard that knew words before, so that they have other codes, with the same events as every other."""
    shard = Shard(folder, EVERY_KIND)
    for dictionary in shard.engine.dictionaries.values():
        dictionary.add(Strings.of(words))
    properties = [{"c": f"c{n % 5}", "k": f"k{n % 7}", "n": n / 3} for n in range(len(USERS) * 3)]
    shard.track([(USERS[n % len(USERS)], "e", NOW_MS - n, given, None) for n, given in enumerate(properties)], 1)
    shard.set(USERS, [{"city": f"c{n % 5}", "hobbies": ["c4", "c1"], "note": f"of {user}"} for n, user in enumerate(USERS)], 2)
    return shard


def digests(shard: Shard) -> dict[tuple[int, str, int], int]:
    found: dict[tuple[int, str, int], int] = {}
    for partition in range(PARTITIONS):
        copy = shard.store.begin_copy(partition, is_whole=True)
        found |= {(partition, key, page): digest for key, page, digest in exact_digests(shard.engine, copy, shard.store.columns_by_key())}
        shard.engine.copying = None
    return found


@pytest.fixture
def copies(tmp_path: Path) -> tuple[Shard, Shard]:
    return copy_of(tmp_path / "a", ["c0", "k3"]), copy_of(tmp_path / "b", ["other", "c4", "k1", "c2"])


def test_equal_copies_have_equal_digests_though_their_codes_differ(copies: tuple[Shard, Shard]) -> None:
    codes = [int(shard.engine.dictionaries["c"].find_all(Strings.of(["c4"]))[0]) for shard in copies]
    assert codes[0] != codes[1]
    one, other = copies
    assert digests(one) == digests(other)
    assert {key.split(":")[1] for _, key, _ in digests(one) if key != "ids"} >= {"count_by", "last", "city", "hobbies", "note", "top_by"}
    for user in ("u0", "u7"):
        assert [values(one, user, name) for name in field_names(one.engine)] == [values(other, user, name) for name in field_names(other.engine)]


def test_one_event_more_shows_in_the_columns_that_count_it_and_nowhere_else(copies: tuple[Shard, Shard]) -> None:
    one, other = copies
    one.track([("u3", "e", NOW_MS, {"c": "c1"}, None)], 3)
    theirs = digests(other)
    differing = {key for key, digest in digests(one).items() if theirs[key] != digest}
    assert {partition for partition, _, _ in differing} == {one.frame_partition("u3")}
    names = {key.split(":")[1] for _, key, _ in differing}
    assert names >= {"count", "count_by", "decayed_count"}
    assert not names & {"ids", "sum", "last_time", *one.engine.attributes}
    read_otherwise = {name for name in field_names(one.engine) if values(one, "u3", name) != values(other, "u3", name)}
    assert {"count", "count_by"} <= read_otherwise <= names


def test_sums_that_were_rounded_otherwise_differ_in_bits_and_read_the_same(tmp_path: Path) -> None:
    one, other = Shard(tmp_path / "a", EVERY_KIND), Shard(tmp_path / "b", EVERY_KIND)
    for number, parts in enumerate(([0.1, 0.2, 0.3], [0.3, 0.2, 0.1])):
        (one, other)[number].track([("u", "e", NOW_MS, {"n": part}, None) for part in parts], 1)
    theirs = digests(other)
    assert "sum" in {key.split(":")[1] for (_, key, page), digest in digests(one).items() if theirs[one.frame_partition("u"), key, page] != digest}
    assert values(one, "u", "sum") == values(other, "u", "sum")


def values(shard: Shard, user: str, name: str) -> int:
    return value_digest(shard.engine, shard.frame_partition(user), 0, name, NOW_MS)
