"""Damage on disk: it stops what it touched, names the place, and leaves the rest serving with right answers."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from profilegrid.columns import events_batch

from grid.errors import (
    CatalogInvalid,
    DataFolderForeign,
    InvariantBroken,
    MemoryExhausted,
    PartitionUnavailable,
    ProducerExpired,
    SequenceTooOld,
    WriteFailed,
    holds,
)
from grid.frame import Frame
from grid.state.memory import MemoryBudget
from grid.storage.checkpoints import _manifest_key, _page_key
from grid.storage.files import own
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, Shard

USERS = [f"user-{number}" for number in range(40)]


def tracked(shard: Shard, number: int, users: list[str] = USERS) -> None:
    shard.track([(user, "e", NOW_MS, {"n": 1.0, "k": f"k{number}"}, None) for user in users], number)


def test_a_flipped_bit_in_the_log_stops_the_partitions_it_touched_and_no_other(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    one = [user for user in USERS if shard.engine.users.handles_of(shard.find([user]))[0] >> 32 == 1][:1]
    tracked(shard, 2, one)
    tracked(shard, 3)
    shard.close()
    (segment,) = (tmp_path / "log").glob("*.log")
    raw = bytearray(segment.read_bytes())
    raw[raw.rfind(b"k2") + 1] ^= 0x40  # the first is the word in the header
    segment.write_bytes(raw)
    shard = Shard(tmp_path)
    assert set(shard.recovery.stopped) == {1}
    assert segment.name in shard.recovery.stopped[1]
    assert "offset" in shard.recovery.stopped[1]
    others = [user for user in USERS if shard.find([user])[0] >= 0 and shard.engine.users.handles_of(shard.find([user]))[0] >> 32 != 1]
    assert others
    assert {profile["count"] for profile in shard.get(others)} == {2}
    with pytest.raises(PartitionUnavailable, match="partition 1 is stopped"):
        tracked(shard, 4, one)
    shard.close()


def test_a_damaged_header_stops_every_partition_that_may_have_lost_something(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in (1, 2, 3):
        tracked(shard, number)
    shard.close()
    (segment,) = (tmp_path / "log").glob("*.log")
    raw = bytearray(segment.read_bytes())
    starts = [at for at in range(0, len(raw) - 4, 8) if raw[at : at + 4] == (0x50474C32).to_bytes(4, "little")]
    raw[starts[2] + 50] ^= 1
    segment.write_bytes(raw)
    shard = Shard(tmp_path)
    assert set(shard.recovery.stopped) == set(range(PARTITIONS))
    shard.close()


def test_a_page_that_does_not_match_its_checksum_stops_its_partition(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    shard.store.checkpoint_all()
    manifest = shard.store.checkpoints.manifests[2]
    (column, page), (generation, _) = next((place, version) for place, version in manifest.pages.items() if place[0] != "ids")
    shard.store.checkpoints._db[_page_key(2, column, page, generation)] = b"rotten"
    shard.crash()
    assert set(shard.recovery.stopped) == {2}
    assert f"page {page} of {column} does not match its checksum" in shard.recovery.stopped[2]
    shard.close()


def test_damage_where_a_partition_was_that_has_left_is_no_damage(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    shard.store.checkpoint_all()
    shard.store.checkpoints._db[_manifest_key(2)] = b"rotten"
    shard.owned = (0, 1, 3)
    shard.crash()
    assert not shard.recovery.stopped
    shard.close()


def test_a_checkpoint_that_does_not_read_as_it_was_written_never_replaces_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    shard.store.checkpoint_all()
    before = dict(shard.store.checkpoints.manifests)
    tracked(shard, 2)
    real = shard.store.checkpoints._db

    class Lying:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def __setitem__(self, key: bytes, value: bytes) -> None:
            real[key] = value

        def get(self, key: bytes) -> bytes | None:
            value = real.get(key)
            return value[:-1] + b"?" if key.startswith(b"p") and b"f:count:" in key else value

    monkeypatch.setattr(shard.store.checkpoints, "_db", Lying())
    with pytest.raises(WriteFailed, match=r"of f:count:.* does not read as it was written"):
        shard.store.checkpoint_all()
    monkeypatch.undo()
    assert shard.store.checkpoints.manifests == before
    shard.crash()
    assert not shard.recovery.stopped
    assert {profile["count"] for profile in shard.get(USERS)} == {2}
    shard.close()


def test_segments_are_dropped_once_checkpoints_and_history_cover_them_and_nothing_is_lost(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND, keep_log=False)
    assert shard.store.drop_old_segments() == 0
    for number in range(1, 200):
        tracked(shard, number)
    segments = len(shard.store.log.segments())
    assert segments > 1
    assert shard.store.drop_old_segments() == 0, "nothing covers them yet"
    shard.store.checkpoint_all()
    assert shard.store.drop_old_segments() == 0, "their events are not in history"
    assert shard.store.write_history() == segments - 1
    shard.engine.stopped[1] = "damaged"
    assert shard.store.drop_old_segments() == 0, "a repair may need them"
    del shard.engine.stopped[1]
    assert shard.store.drop_old_segments() == segments - 1
    shard.crash()
    assert not shard.recovery.stopped
    assert {profile["count"] for profile in shard.get(USERS)} == {199}
    shard.close()


def test_words_that_came_in_the_midst_of_a_checkpoint_stay_when_the_partition_that_it_began_with_has_left(tmp_path: Path) -> None:
    shard = Shard(tmp_path, {"grid": "g", "events": {"e": {"key": "category"}}, "features": {"by_key": {"count": "e", "by": "key"}}})
    user = shard.user_of(1)
    with shard.midst_of_a_checkpoint():
        shard.track([(user, "e", NOW_MS, {"key": "late"}, None)], 1)
    shard.engine.epochs[0] = 0
    shard.owned = (1, 2, 3)
    shard.crash()
    assert shard.get([user])[0]["by_key"] == {"late": 1}


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    with pytest.raises(DataFolderForeign, match="in use by process"):
        own(tmp_path, timeout_s=0.1)
    shard.close()


def test_a_batch_far_below_the_highest_is_refused_not_guessed_at(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 100)
    tracked(shard, 40)
    with pytest.raises(SequenceTooOld, match="batch 36 is more than 63 below 100"):
        tracked(shard, 36)
    assert shard.get(["user-0"])[0]["count"] == 2
    shard.close()


def test_a_producer_that_was_forgotten_is_refused_not_counted_twice(tmp_path: Path) -> None:
    """Its batch may have been applied before; a producer that is known, or new, or does not say when it began, is taken."""
    shard = Shard(tmp_path, EVERY_KIND)
    week = 7 * 86_400_000
    rows = [("u", "e", NOW_MS, {}, None)]

    def frame(producer: bytes, started_ms: int, number: int = 1) -> Frame:
        made = shard.frame(events_batch(rows), producer, number)
        made.producer_started_ms = started_ms
        return made

    shard.commit([frame(b"o" * 16, NOW_MS)])
    shard.commit([frame(b"n" * 16, NOW_MS + week)], now_ms=NOW_MS + week + 1)
    shard.engine.producers.forget_old(shard.engine.received_ms)
    with pytest.raises(ProducerExpired, match="silent for more than 7 days"):
        shard.commit([frame(b"o" * 16, NOW_MS)])
    shard.commit([frame(b"n" * 16, NOW_MS + week)])
    shard.store.checkpoint_all()
    shard.crash()
    with pytest.raises(ProducerExpired, match="silent for more than 7 days"):
        shard.commit([frame(b"o" * 16, NOW_MS)])
    shard.commit([frame(b"x" * 16, 0)])
    assert shard.get(["u"])[0]["count"] == 3
    shard.close()


def test_dead_letters_are_kept_for_a_week_and_up_to_a_bound_oldest_dropped_first(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number, now_ms in enumerate((NOW_MS, NOW_MS + 86_400_000, NOW_MS + 8 * 86_400_000)):
        frame = shard.frame(events_batch([("u", "nothing", NOW_MS, None, None), ("v", "e", NOW_MS, {"n": float("nan")}, None)]), b"p" * 16, number + 1)
        group = shard.engine.prepare([frame], now_ms)
        shard.store.append(group, is_durable=False)
        shard.engine.apply(group)
        assert shard.store.keep_dead_letters(group) == 2
    checkpoints = shard.store.checkpoints
    assert len(checkpoints.dead_letters(100)) == 6
    assert shard.store.trim_dead_letters(NOW_MS + 8 * 86_400_000) == 4
    assert checkpoints.trim_dead_letters(before_ms=0, count_max=3) == 3
    newest = {letter["reason"]: letter for letter in map(msgpack.unpackb, checkpoints.dead_letters(2))}
    assert {letter["time"] for letter in newest.values()} == {NOW_MS + 8 * 86_400_000}
    assert newest["NOT_FINITE"]["event"]["properties"] == {"n": "nan"}
    assert newest["UNKNOWN_EVENT"]["event"]["name"] == "nothing"
    shard.close()


def test_a_user_with_as_many_keys_as_allowed_gets_no_more_and_keeps_counting_those_that_are_there(tmp_path: Path) -> None:
    shard = Shard(tmp_path, {**EVERY_KIND, "limits": {"keys_per_user": 3}})

    def track(keys: list[str], number: int, user: str = "bot") -> list[tuple[int, str, str, str]]:
        reply = shard.track([(user, "e", NOW_MS, {"k": key, "n": 1.0}, None) for key in keys], number)
        assert reply.accepted + len(reply.rejections) == len(keys)
        return [(r.row, r.reason, r.field, r.value) for r in reply.rejections]

    assert track(["a", "b", "c"], 1) == []
    full = [(1, "KEYS_PER_USER_FULL", "k", "'d' (text)"), (3, "KEYS_PER_USER_FULL", "k", "'e' (text)")]
    assert track(["a", "d", "b", "e"], 2) == full
    assert track(["d", "e"], 3, "ann") == []
    for _ in range(2):
        shard.crash()  # first from the log, then from a checkpoint
        assert track(["a", "d", "b", "e"], 2) == full, "a retry gets its first reply"
        assert shard.get(["bot"])[0]["sum_by"] == {"a": 2, "b": 2, "c": 1}
        shard.store.checkpoint_all()
    assert track(["f"], 4)[0][1] == "KEYS_PER_USER_FULL"
    shard.delete(["bot"], 1)
    assert track(["f"], 5) == []
    shard.apply_catalog({**EVERY_KIND, "limits": {"keys_per_user": 4}})
    assert track(["g", "h", "i"], 6) == []
    assert track(["j"], 7)[0][1] == "KEYS_PER_USER_FULL"
    shard.close()


def test_memory_is_drawn_on_before_a_batch_is_taken_and_an_erasure_always_fits(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    used = 1 << 30
    shard.engine.memory = MemoryBudget(used + 20_000, lambda: used)
    tracked(shard, 2, USERS[:1])
    with pytest.raises(MemoryExhausted, match=f"memory of the shard: {used} used of {used + 20_000}"):
        tracked(shard, 3)
    assert shard.delete(USERS, 1).accepted == len(USERS)
    used -= 1 << 20
    tracked(shard, 3)
    assert shard.get(["user-0"])[0]["count"] == 1
    shard.close()


def test_refused_rows_survive_a_crash_before_they_were_kept_and_do_not_come_back_once_ingested(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    shard.track([("u", "nothing", NOW_MS, {"b": True}, "id-7")], 1)  # logged, answered; the process dies before the letter is written
    for _ in range(2):
        shard.crash()
        ((key, letter),) = shard.store.checkpoints.dead_letters_of("UNKNOWN_EVENT")
        assert letter["event"] == {"user_id": "u", "name": "nothing", "time": NOW_MS, "event_id": "id-7", "properties": {"b": True}}
    shard.store.checkpoints.put_replay_plan(1, [key])
    shard.store.checkpoints.finish_replay(1, [key])
    shard.crash()
    assert shard.store.checkpoints.dead_letters_of("") == []
    shard.close()


def test_an_exhausted_shard_refuses_with_a_delay_and_takes_the_retry_once_there_is_room(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    shard.engine.exhausted = MemoryExhausted("memory of the shard", 9, 8)
    with pytest.raises(MemoryExhausted, match="retry in 1000 ms"):
        tracked(shard, 1)
    shard.engine.exhausted = None
    tracked(shard, 1)
    tracked(shard, 1)
    assert shard.get(["user-0"])[0]["count"] == 1
    shard.close()


def test_a_feature_dropped_and_declared_again_is_not_taken_from_an_old_checkpoint(tmp_path: Path) -> None:
    fewer = {**EVERY_KIND, "features": {"sum": EVERY_KIND["features"]["sum"]}}
    shard = Shard(tmp_path, EVERY_KIND)
    tracked(shard, 1)
    shard.store.checkpoint_all()
    shard.apply_catalog(fewer)
    tracked(shard, 2)
    assert "count" in shard.apply_catalog(EVERY_KIND)
    shard.crash()
    assert "count" in shard.recovery.incomplete
    assert "sum" not in shard.recovery.incomplete
    assert shard.get(["user-0"], fields=["sum", "count"])[0]["sum"] == 2
    assert shard.get(["user-0"], fields=["sum", "count"])[0]["count"] is None
    shard.close()


def test_a_full_dictionary_refuses_new_values_row_by_row_and_keeps_known_ones(tmp_path: Path) -> None:
    shard = Shard(tmp_path, {**EVERY_KIND, "limits": {"category_values": 2, "key_values": 3}})
    rows = [("u", "e", NOW_MS, {"c": value}, None) for value in ("a", "b", "c", "a")]
    reply = shard.track(rows, 1)
    assert reply.accepted == 3
    assert [(r.row, r.reason, r.field, r.value) for r in reply.rejections] == [(2, "DICTIONARY_FULL", "c", "c")]
    assert shard.get(["u"])[0]["count_by"] == {"a": 2, "b": 1}
    shard.close()


def test_distinct_counts_many_values_within_two_percent(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in range(10):
        shard.track([("u", "e", NOW_MS, {"k": f"k{number * 2000 + i}"}, None) for i in range(2000)], number + 1)
    profile = shard.get(["u"])[0]
    assert profile["distinct"] == pytest.approx(20_000, rel=0.05)
    assert profile["window_distinct"] == pytest.approx(20_000, rel=0.08)
    assert set(profile.approximate) == {"distinct", "window_distinct"}
    before = (profile["distinct"], profile["window_distinct"], profile["top_by"])
    shard.store.checkpoint_all()
    shard.crash()
    after = shard.get(["u"])[0]
    assert (after["distinct"], after["window_distinct"], after["top_by"]) == before
    shard.close()


def test_decay_survives_years_and_half_lives_without_end(tmp_path: Path) -> None:
    shard = Shard(tmp_path, {"events": {"e": {}}, "features": {"fast": {"decayed_count": "e", "half_life": "1s"}}})
    year = 365 * 86_400_000
    for number, time_ms in enumerate((NOW_MS - 20 * year, NOW_MS - year, NOW_MS - 1000, NOW_MS)):
        shard.track([("u", "e", time_ms, {}, None)], number + 1)
    assert shard.get(["u"])[0]["fast"] == pytest.approx(1.5)
    shard.crash()
    assert shard.get(["u"])[0]["fast"] == pytest.approx(1.5)
    shard.close()


def test_a_catalog_is_told_all_its_faults_with_their_lines() -> None:
    from grid.catalog import load_catalog

    source = "events:\n  view: {price: number}\nfeatures:\n  a: {count: vew}\n  b: {sum: view.price, hop: 1h}\n  c: {window_count: view, window: 1h, hop: 7m}\n"
    with pytest.raises(CatalogInvalid) as caught:
        load_catalog(source)
    assert [problem.line for problem in caught.value.problems] == [2]
    with pytest.raises(CatalogInvalid) as caught:
        load_catalog(source.replace("number", "float"))
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 3
    assert said[0].startswith("line 4: features.a.count: unknown event 'vew'; did you mean view?")


@pytest.mark.parametrize(
    "source", ["[" * 10_000, "a: &a [*a]", "x: *y", "\0", "- 1", "features: 3", "events: {e: {n: [1]}}", "dedupe: {}", "timezone: Mars/Olympus"]
)
def test_hostile_catalogs_end_in_a_typed_error(source: str) -> None:
    from grid.catalog import load_catalog

    with pytest.raises(CatalogInvalid):
        load_catalog(source)


def test_an_invariant_names_its_facts() -> None:
    with pytest.raises(InvariantBroken, match="ids and slots disagree: partition=3"):
        holds(False, "ids and slots disagree", partition=3)


def test_event_ids_that_came_in_the_midst_of_a_checkpoint_count_once_after_a_crash(tmp_path: Path) -> None:
    shard = Shard(tmp_path, {"grid": "g", "dedupe": "1d", "events": {"e": {}}, "features": {"count": {"count": "e"}}})
    user = shard.user_of(1)
    with shard.midst_of_a_checkpoint():
        shard.track([(user, "e", NOW_MS, {}, "once")], 1)
    shard.crash()
    shard.track([(user, "e", NOW_MS, {}, "once")], 2)
    assert shard.get([user])[0]["count"] == 1
