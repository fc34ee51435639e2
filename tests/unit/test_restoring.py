"""Shards made from a snapshot's folders: what of erased users must not come along, and what the place remembers of them."""

from __future__ import annotations

from pathlib import Path

from grid.state.dictionary import Strings
from grid.storage.restoring import make_shard
from grid.storage.snapshots import Erased, Repository, salted, stage
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, SPACE, Shard, past_rows


def erased(user: str, salt: int = 7, at_ms: int = NOW_MS + 1) -> Erased:
    return Erased(salt, int(salted(Strings.of([user]).hashes(), salt)[0]), at_ms)


def test_a_user_who_was_erased_since_is_neither_in_the_profiles_nor_in_history(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "shard", EVERY_KIND)
    shard.track([(user, "e", NOW_MS, {"c": "x"}, None) for user in ("goes", "stays", "came back")], 1)
    shard.store.checkpoint_all()
    shard.store.log.roll()
    stage(shard.store, tmp_path / "staged")
    shard.close()
    listed = [erased("goes"), erased("came back", at_ms=NOW_MS - 1)]  # erased before the cut: who has the id now is another user
    users = make_shard(tmp_path / "restored", {tmp_path / "staged": list(range(PARTITIONS))}, partitions=PARTITIONS, seed=3, erased=listed, space=SPACE)
    restored = Shard(tmp_path / "restored")
    assert users == 2
    assert [profile.exists for profile in restored.get(["goes", "stays", "came back"])] == [False, True, True]
    assert sorted(row["user"] for row in past_rows(restored)) == ["came back", "stays"]
    restored.close()


def test_erasures_that_are_told_again_are_kept_once(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path))
    for told in ([erased("a")], [erased("a"), erased("b")], [erased("a")]):
        repository.put_erasures(told)
    assert set(repository.erasures()) == {erased("a"), erased("b")}
    assert len(repository.erasures()) == 2
