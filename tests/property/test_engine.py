"""The engine beside the naive model, through batches, retries, lost replies, checkpoints, crashes, erasures."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from profilegrid.columns import events_batch

from actors.remembering import erased_ordinals
from grid.catalog import load_catalog
from grid.comparing import exact_digests, value_digest
from grid.engine import Engine
from grid.reading import field_names
from grid.state.dictionary import Strings
from grid.storage.checkpoints import Checkpoints
from grid.storage.restoring import make_shard
from grid.storage.snapshots import stage
from grid.transferring import Arrival, Transfer, packed, shared_facts, take_shared
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, SPACE, Shard, pages_of, past_rows
from tests.model import Model

# Shrinking a failing run takes minutes: set PHASES to list(Phase) by hand when one fails.
PHASES = (Phase.explicit, Phase.generate)
# PROPERTY_EXAMPLES=20 runs twenty times as many, unseeded.
TIMES_MORE = int(os.environ.get("PROPERTY_EXAMPLES", "1"))
IS_SEEDED = TIMES_MORE == 1
USERS = ("ann", "bob", "卡尔", "d" * 40)
TIMES = st.integers(NOW_MS - 9 * 86_400_000, NOW_MS + 300_000)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "n": st.floats(-1000, 1000).map(lambda value: round(value, 2)),
        "i": st.integers(-50, 50),
        "c": st.sampled_from(["x", "y", "z", "鞋"]),
        "k": st.sampled_from([f"k{number}" for number in range(8)]),
        "b": st.booleans(),
    },
)
PROPERTY_NAMES = ("n", "i", "c", "k", "b")
EVENTS = st.tuples(st.sampled_from(USERS), st.sampled_from(["e", "f"]), TIMES, PROPERTIES)
BATCHES = st.lists(EVENTS, min_size=1, max_size=12)


def row(event: tuple[str, str, int, dict[str, Any]]) -> tuple[str, str, int, dict[str, Any], None]:
    """As `track` has it; event f knows fewer properties."""
    user, name, time, properties = event
    known = EVERY_KIND["events"][name]
    return user, name, time, {key: value for key, value in properties.items() if key in known}, None


def same(ours: Any, naive: Any) -> bool:
    """Equal, sums within rounding."""
    if isinstance(naive, dict) and isinstance(ours, dict):
        return ours.keys() == naive.keys() and all(same(ours[key], naive[key]) for key in naive)
    if isinstance(naive, list) and isinstance(ours, list):
        return len(ours) == len(naive) and all(a["key"] == b["key"] and same(a["value"], b["value"]) for a, b in zip(ours, naive, strict=True))
    if isinstance(naive, float) and isinstance(ours, int | float):
        return math.isclose(ours, naive, rel_tol=1e-9, abs_tol=1e-7)
    return bool(ours == naive)


def assert_same(shard: Shard, model: Model, as_of: int) -> None:
    """Every feature of every user, and who exists."""
    for profile in shard.get(list(USERS), as_of):
        assert profile.exists == (profile.user_id in model.attributes), profile.user_id
        for name, value in profile.features.items():
            naive = model.feature(profile.user_id, name, as_of)
            assert same(value, naive), f"{profile.user_id}.{name} as of {as_of - NOW_MS}: engine {value!r}, model {naive!r}"
        for name, value in profile.attributes.items():
            expected = model.attributes.get(profile.user_id, {}).get(name, set() if name == "hobbies" else None)
            assert value == expected, f"{profile.user_id}.{name}: engine {value!r}, model {expected!r}"


def past_of(shard: Shard) -> list[Any]:
    """(user, event, time, properties given) of every row of history, sorted."""
    return sorted(
        (
            row["user"],
            row["@event"],
            round(row["@time"].timestamp() * 1000),
            sorted(name for name, value in row.items() if name in PROPERTY_NAMES and value is not None),
        )
        for row in past_rows(shard)
    )


def move(source: Shard, target: Shard, partitions: list[int], between: Callable[[int], Any]) -> None:
    """Partitions from one shard to another as the two do it, `between` called in the midst of each copy."""
    arrival, columns = Arrival(target.engine, target.store.columns_by_key()), source.store.columns_by_key()
    for number, partition in enumerate(partitions):
        copy = source.store.begin_copy(partition, is_whole=True)
        source.following[partition] = True
        arrival.begin(partition, copy.dump.facts)
        copy.copy_next()
        between(number)
        while copy.copy_next():
            pass
        source.engine.copying = None
        for page in sorted({page for _, page in copy.dump.pages}):
            blobs = {key: blob for (key, of), blob in copy.dump.pages.items() if of == page}
            parts = [packed(key, blob, None if key == "ids" else columns[key], source.engine.dictionaries) for key, blob in blobs.items()]
            for _ in arrival.page(partition, page, parts):
                pass
    take_shared(target.engine, shared_facts(source.engine))
    source.store.log.roll()
    source.store.write_history()
    files = [file for partition in partitions for file in source.store.history.of_partition(partition)]
    for file in files:
        target.store.history.receive(file, (source.folder / "history" / file.name).read_bytes(), is_first=True, is_last=True)
    for partition, dump in arrival.dumps.items():
        dump.facts |= {"sequence": target.store.log.next_sequence - 1, "floor": int(source.engine.positions[partition])}
    target.store.write_arrived(target.store.dump_shard(), list(arrival.dumps.values()), files, source.store.history.dropped_ms, [])
    arrival.settle()
    for group in source.followed:
        target.adopt(group)
    source.followed.clear()
    source.engine.epochs[partitions], target.engine.epochs[partitions] = 0, 2
    target.engine.arriving[partitions] = False
    source.following[partitions] = False
    target.owned = (*target.owned, *partitions)
    for partition in partitions:
        assert digests_of(source, partition) == digests_of(target, partition)
        for _ in source.engine.drop_in_steps(partition):
            pass
    source.store.forget_slots()
    source.store.discard(partitions)


def digests_of(shard: Shard, partition: int) -> set[tuple[str, int, int]]:
    """Of every column and page, bit for bit but for codes."""
    copy = shard.store.begin_copy(partition, is_whole=True)
    found = set(exact_digests(shard.engine, copy, shard.store.columns_by_key()))
    shard.engine.copying = None
    return found


class TheEngineNeverLosesOrDoublesAnEvent(RuleBasedStateMachine):
    """Through crashes, retries and checkpoints the engine answers as plain lists that none of it happened to."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-test-"))
        self.shard = Shard(self.folder / "shard", EVERY_KIND)
        self.model = Model(EVERY_KIND)
        self.number = 0
        self.sent: list[tuple[int, list[Any]]] = []
        self.lives = 0

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            self.shard.engine.check()
            self.history_is_made()
            assert past_of(self.shard) == sorted(self._expected_past())
            self.shard.close()
            shutil.rmtree(self.folder)

    def _rows(self, batch: list[Any]) -> list[Any]:
        return [row(event) for event in batch]

    def _count(self, rows: list[Any]) -> None:
        for user, name, time, properties, _ in rows:
            self.model.add(user, name, time, properties)

    @rule(batch=BATCHES)
    def a_batch_is_acknowledged(self, batch: list[Any]) -> None:
        self.number += 1
        rows = self._rows(batch)
        reply = self.shard.track(rows, self.number)
        assert (reply.accepted, reply.rejections) == (len(rows), [])
        self._count(rows)
        self.sent.append((self.number, rows))

    @rule(first=BATCHES, second=BATCHES)
    def two_batches_share_a_group(self, first: list[Any], second: list[Any]) -> None:
        numbered = []
        for batch in (first, second):
            self.number += 1
            numbered.append((self.number, self._rows(batch)))
        self.shard.commit([self.shard.frame(events_batch(rows), b"p" * 16, number) for number, rows in numbered])
        for number, rows in numbered:
            self._count(rows)
            self.sent.append((number, rows))

    @rule(batch=BATCHES)
    def the_process_dies_after_the_log_and_the_batch_comes_again(self, batch: list[Any]) -> None:
        self.number += 1
        rows = self._rows(batch)
        frame = self.shard.frame(events_batch(rows), b"p" * 16, self.number)
        self.shard.commit([frame], is_lost=True)
        assert self.shard.track(rows, self.number).accepted == len(rows)
        self._count(rows)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def a_reply_was_lost_so_the_batch_comes_again(self, data: st.DataObject) -> None:
        number, rows = data.draw(st.sampled_from(self.sent[-60:]))
        reply = self.shard.track(rows, number)
        assert (reply.accepted, reply.rejections) == (len(rows), [])

    @rule(
        user=st.sampled_from(USERS), city=st.sampled_from(["Rome", "上海", None]), hobbies=st.sets(st.sampled_from(["a", "b", "c"])), note=st.text(max_size=20)
    )
    def attributes_are_set(self, user: str, city: str | None, hobbies: set[str], note: str) -> None:
        self.number += 1
        update = {"city": city, "hobbies": hobbies, "note": note, "age": len(note)}
        self.shard.set([user], [update], self.number)
        known = self.model.attributes.setdefault(user, {})
        self.model.users.setdefault(user, [])
        known.update({name: value for name, value in update.items() if value is not None})
        if city is None:
            known.pop("city", None)

    @rule(user=st.sampled_from(USERS))
    def a_user_is_erased(self, user: str) -> None:
        self.number += 1
        self.shard.delete([user], self.number)
        self.model.forget(user)
        self.sent.clear()  # a retry of what was sent before would be answered, not applied; nothing to compare

    def _expected_past(self) -> list[Any]:
        return [(user, event.name, event.time, sorted(event.properties)) for user, events in self.model.users.items() for event in events]

    @rule()
    def history_is_made(self) -> None:
        self.shard.store.log.roll()
        self.shard.store.write_history()
        # What was erased after its file was made is taken out as the shard does it.
        self.shard.store.history.forget(erased_ordinals(self.shard.engine.erasures.pending))

    @rule()
    def a_checkpoint_is_written(self) -> None:
        self.shard.store.checkpoint_all()

    @rule()
    def the_process_dies_and_comes_back(self) -> None:
        before = pages_of(self.shard.engine, self.shard.store)
        self.shard.crash()
        assert not self.shard.recovery.stopped
        assert pages_of(self.shard.engine, self.shard.store) == before, "recovery is not bit for bit"

    @rule()
    def a_snapshot_of_it_is_restored(self) -> None:
        """What goes on from here goes on in the restored shard: retries, history, erasures, checkpoints."""
        store = self.shard.store
        store.checkpoint_all()
        store.log.roll()
        staged, self.lives = self.folder / f"staged-{self.lives}", self.lives + 1
        stage(store, staged)
        self.shard.close()
        folder = self.folder / f"restored-{self.lives}"
        make_shard(folder, {staged: list(range(PARTITIONS))}, partitions=PARTITIONS, seed=self.lives, space=SPACE)
        self.shard = Shard(folder)
        assert not self.shard.recovery.stopped
        assert not self.shard.recovery.incomplete

    @rule(batch=BATCHES, moved=st.sets(st.sampled_from(range(PARTITIONS)), min_size=1), at=st.integers(0, PARTITIONS - 1))
    def its_partitions_move_to_another_shard_while_a_batch_is_committed(self, batch: list[Any], moved: set[int], at: int) -> None:
        """Some first and the others after them; what goes on from here goes on there. Nothing is left where they were."""
        self.lives += 1
        target = Shard(self.folder / f"moved-{self.lives}", owned=())
        for version, catalog in self.shard.engine.catalogs.items():
            if version:
                target.store.append_catalog(catalog, NOW_MS)
                target.engine.install_catalog(catalog)
        move(self.shard, target, sorted(moved), lambda number: number == at % len(moved) and self.a_batch_is_acknowledged(batch))
        others = [partition for partition in range(PARTITIONS) if partition not in moved]
        if others:
            move(self.shard, target, others, lambda number: None)
        assert not self.shard.engine.users.next_ordinal.any()
        assert not self.shard.engine.users._heap[: int(self.shard.engine.users._control[0])].any(), "bytes of ids are left"
        assert all(not state.columns.dump_page(page) for state in self.shard.engine.features.values() for page in range(1, 9))
        assert self.shard.store.foreign() == []
        self.shard.close()
        self.shard = target

    @rule(words=st.lists(st.sampled_from(["x", "鞋", "k3", "k7", "Rome", "b", "other"]), max_size=7, unique=True))
    def it_reads_the_same_in_a_shard_whose_words_have_other_codes(self, words: list[str]) -> None:
        other = Engine(partitions=PARTITIONS, seed=9, space=SPACE)
        other.epochs[:] = 1
        other.install_catalog(self.shard.engine.catalog)
        for dictionary in other.dictionaries.values():
            dictionary.add(Strings.of(words))
        transfer = Transfer(self.shard.engine, other)
        for partition in range(PARTITIONS):
            transfer.partition(partition)
        other.check()
        ours, self.shard.engine = self.shard.engine, other
        assert_same(self.shard, self.model, NOW_MS)
        self.shard.engine = ours
        for partition in range(PARTITIONS):
            for page in range(other.users.pages_of(partition).size):
                for name in field_names(other):
                    assert value_digest(ours, partition, page, name, NOW_MS) == value_digest(other, partition, page, name, NOW_MS), name

    @invariant()
    def it_answers_as_the_model_does(self) -> None:
        if hasattr(self, "shard"):
            assert_same(self.shard, self.model, NOW_MS)


TestEngine = TheEngineNeverLosesOrDoublesAnEvent.TestCase
TestEngine.settings = settings(
    max_examples=30 * TIMES_MORE, stateful_step_count=15, deadline=None, derandomize=IS_SEEDED, suppress_health_check=list(HealthCheck), phases=PHASES
)


@settings(max_examples=60 * TIMES_MORE, deadline=None, derandomize=IS_SEEDED, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(
    batch=st.lists(EVENTS, min_size=1, max_size=60),
    shuffled=st.randoms(use_true_random=False),
    cuts=st.integers(1, 6),
    as_of=st.integers(NOW_MS - 9 * 86_400_000, NOW_MS + 86_400_000),
)
def test_any_order_and_any_split_of_events_gives_what_the_model_gives(batch: list[Any], shuffled: Any, cuts: int, as_of: int) -> None:
    rows = [row(event) for event in batch]
    shuffled.shuffle(rows)
    with tempfile.TemporaryDirectory(prefix="pg-test-") as folder:
        shard, model = Shard(Path(folder) / "shard", EVERY_KIND), Model(EVERY_KIND)
        for number in range(cuts):
            part = rows[number::cuts]
            if part:
                shard.track(part, number + 1)
                for user, name, time, properties, _ in part:
                    model.add(user, name, time, properties)
        assert_same(shard, model, as_of)
        shard.close()


@settings(max_examples=10 * TIMES_MORE, deadline=None, derandomize=IS_SEEDED, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(batches=st.lists(BATCHES, min_size=1, max_size=6), checkpoint_after=st.integers(0, 6))
def test_a_replay_of_the_whole_log_gives_the_same_pages_bit_for_bit(batches: list[Any], checkpoint_after: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pg-test-") as folder:
        shard = Shard(Path(folder) / "shard", EVERY_KIND)
        for number, batch in enumerate(batches):
            shard.track([row(event) for event in batch], number + 1)
            if number == checkpoint_after:
                shard.store.checkpoint_all()
        shard.crash()
        recovered = pages_of(shard.engine, shard.store)
        shard.close()
        replayed = _replayed_from_nothing(Path(folder) / "shard")
        assert replayed == recovered


def _replayed_from_nothing(folder: Path) -> dict[Any, bytes]:
    """The pages that the log alone gives, without any checkpoint; only the catalog is put back."""
    shutil.rmtree(folder / "rocks")
    checkpoints = Checkpoints(folder / "rocks")
    checkpoints.put_catalog(1, load_catalog(EVERY_KIND).source)
    checkpoints.close()
    shard = Shard(folder)
    pages = pages_of(shard.engine, shard.store)
    shard.close()
    return pages
