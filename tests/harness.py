"""An engine with its store, fed as a shard is: the client's own encoding, the server's own conversion, the real log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from profilegrid.columns import Batch, attributes_batch, deletes_batch, events_batch
from profilegrid.results import Profile
from profilegrid.routes import Map, frame_of, partitions_of

from actors.services import convert
from grid.catalog import load_catalog
from grid.engine import Engine, Reply
from grid.frame import Frame
from grid.group import Group
from grid.reading import read_profiles
from grid.state.dictionary import Strings
from grid.state.memory import Space
from grid.storage.store import Recovery, Store

PARTITIONS = 4
ALL = tuple(range(PARTITIONS))
SPACE = Space(slots_max=1 << 18, list_words_max=1 << 24, id_bytes_max=1 << 24, partition_pages_max=64)
NOW_MS = 1_700_000_000_000


def pages_of(engine: Engine, store: Store) -> dict[tuple[str, int, int], bytes]:
    """Every page as it would go to disk: what must be equal bit for bit after a replay."""
    found = {}
    for key, columns in store._columns():
        for partition in range(engine.partitions):
            for number, page in enumerate(engine.users.pages_of(partition).tolist()):
                found[key, partition, number] = columns.dump_page(page)
    return found


COUNTS: dict[str, Any] = {"grid": "g", "events": {"e": {"n": "int"}}, "features": {"count": {"count": "e"}}}


def frame_for(engine: Engine, batch: Batch, producer: bytes, number: int) -> Frame:
    """A batch as it comes to the shard of an engine, over the wire."""
    map_ = Map(0, engine.catalog.version, np.zeros(engine.partitions, dtype=np.uint16), engine.epochs, {})
    partitions = partitions_of(batch.ids, engine.partitions)
    order = np.argsort(partitions, kind="stable")
    wire = frame_of(batch, order, partitions[order], map_)
    wire.producer_id, wire.batch_number = producer, number
    return convert.frame(type(wire).FromString(wire.SerializeToString()))


def past_rows(shard: Shard) -> list[dict[str, Any]]:
    """Every row of history, with the user's id."""
    found = []
    for file in shard.store.history.files:
        for row in shard.store.history.read(file).to_pylist():
            slot = shard.engine.users.slots_of_ordinals(file.partition, np.array([row["@ordinal"]]))
            found.append({"user": shard.engine.users.ids(slot)[1].tobytes().decode(), **row})
    return found


class Shard:
    """One shard that owns all partitions of a small grid."""

    def __init__(
        self, folder: Path, catalog: dict[str, Any] | None = None, *, keep_log: bool = True, accept_loss: bool = False, owned: tuple[int, ...] = ALL,
        copied: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self.folder, self._keep_log, self.owned, self.copied = folder, keep_log, owned, copied
        # Partitions (bool[P]) whose groups are followed, and what was committed in them since.
        self.following = np.zeros(PARTITIONS, dtype=bool)
        self.followed: list[Group] = []
        self.recovery = self._open(accept_loss=accept_loss)
        if catalog is not None and not self.engine.catalog.version:
            self.apply_catalog(catalog)

    def _open(self, *, accept_loss: bool = False) -> Recovery:
        self.engine = Engine(partitions=PARTITIONS, space=SPACE)
        self.engine.epochs[list(self.owned)] = 1
        self.engine.copied[list(self.copied)] = True
        self.store = Store(self.folder, self.engine, keep_log=self._keep_log, segment_bytes=1 << 18, owner_timeout_s=1.0)
        self.store.checkpoints.is_paced = False
        try:
            return self.store.recover(accept_loss=accept_loss)
        except BaseException:
            self.store.close()
            raise

    def frame_partition(self, user: str) -> int:
        """The partition of a user."""
        return int(Strings.of([user]).hashes()[0] % np.uint64(PARTITIONS))

    def user_of(self, partition: int) -> str:
        """A user of a partition."""
        return next(f"u{n}" for n in range(1000) if self.frame_partition(f"u{n}") == partition)

    @contextlib.contextmanager
    def midst_of_a_checkpoint(self) -> Iterator[None]:
        """A checkpoint that has partition 0 and what is the shard's; the other partitions come after the block."""
        with self.engine.event_ids.telling_new_ones_apart():
            self.store.write_shard(self.store.dump_shard())
            self.store.write_partition(self.store.dump_partition(0))
            yield
            for partition in ALL[1:]:
                self.store.write_partition(self.store.dump_partition(partition))

    def crash(self, *, accept_loss: bool = False) -> None:
        """Forget all memory and come back from the folder."""
        self.store.close()
        self.recovery = self._open(accept_loss=accept_loss)

    def close(self) -> None:
        self.store.close()

    def apply_catalog(self, source: dict[str, Any]) -> list[str]:
        catalog = load_catalog(source, self.engine.catalog.version + 1)
        self.store.append_catalog(catalog, NOW_MS)
        return self.engine.install_catalog(catalog)

    def frame(self, batch: Batch, producer: bytes, number: int) -> Frame:
        return frame_for(self.engine, batch, producer, number)

    def commit(self, frames: list[Frame], *, now_ms: int = NOW_MS, is_lost: bool = False) -> list[Reply]:
        """Prepare, log, apply, as one group. `is_lost`: the process dies after the log, before anyone is told."""
        judged, reserved = [], []
        for frame in frames:
            self.engine.admit(frame)
            group = self.engine.prepare([frame], now_ms)
            judged += group.judged
            reserved += group.reserved
        group = Group(self.engine.received_ms, self.engine.catalog.version, judged, reserved)
        if group.has_news:
            self.store.append(group, is_durable=False)
        if is_lost:
            self.crash()
            return []
        self.engine.apply(group)
        self.store.applied.keep(group)
        self.follow(group)
        return [self.engine.reply(item) for item in judged]

    def follow(self, group: Group) -> None:
        """Keep what of a group must follow partitions that are on their way."""
        part = group.part_of(self.following)
        if part is not None:
            self.followed.append(part)

    def adopt(self, group: Group) -> None:
        """What another shard committed, as it comes over the wire."""
        header, body = group.encode()
        came = Group.decode(msgpack.unpackb(msgpack.packb(header)), memoryview(b"".join(body)), 0)
        self.engine.adopt(came)
        self.store.append(came, is_durable=False)
        self.engine.apply(came)
        self.store.applied.keep(came)

    def track(self, rows: list[tuple[str, str, int, dict[str, Any] | None, str | None]], number: int, producer: bytes = b"p" * 16, **options: Any) -> Reply:
        return self.commit([self.frame(events_batch(rows), producer, number)], **options)[0]

    def set(self, user_ids: list[str], updates: list[dict[str, Any]], number: int) -> Reply:
        return self.commit([self.frame(attributes_batch(user_ids, updates), b"a" * 16, number)])[0]

    def delete(self, user_ids: list[str], number: int) -> Reply:
        return self.commit([self.frame(deletes_batch(user_ids), b"d" * 16, number)])[0]

    def find(self, user_ids: list[str]) -> np.ndarray:
        ids = Strings.of(user_ids)
        hashes = ids.hashes()
        return self.engine.users.find(ids.data, ids.ends, hashes, (hashes % np.uint64(PARTITIONS)).astype(np.uint16))

    def get(self, user_ids: list[str], as_of_ms: int = NOW_MS, fields: list[str] | None = None) -> list[Profile]:
        profiles = read_profiles(self.engine, self.find(user_ids), fields, as_of_ms)
        return convert.row_profiles(user_ids, convert.profile_columns(profiles, self.engine.catalog))


class Copies(Shard):
    """A shard whose groups are logged as a replica logs them: in an epoch, with what was committed until then."""

    def __init__(self, folder: Path, catalog: dict[str, Any] | None = COUNTS) -> None:
        super().__init__(folder, catalog, owned=(), copied=ALL)
        self.users = [self.user_of(partition) for partition in range(PARTITIONS)]
        self.numbers = 0

    def log(self, partition: int, position: int, epoch: int, committed: int, events: int = 1) -> Group:
        """A group of events of the partition's one user, in the log and held."""
        engine = self.engine
        engine.epochs[:] = 1
        self.numbers += 1
        frame = self.frame(events_batch([(self.users[partition], "e", NOW_MS, {"n": 1}, None)] * events), b"p" * 16, self.numbers)
        engine.epochs[:] = 0
        group = engine.prepare([frame], NOW_MS)
        for judged in group.judged:
            judged.positions[:] = position
        group.entries = {partition: (epoch, committed)}
        self.store.append(group, is_durable=True)
        self.store.held.hold(group)
        return group

    def count(self, partition: int) -> float:
        return float(self.get([self.users[partition]])[0]["count"])

    def past(self) -> int:
        """How many events history has, once all that is logged is in it."""
        self.store.log.roll()
        self.store.write_history()
        return len(past_rows(self))

    def commit_held(self, partition: int, through: int) -> None:
        committed = np.zeros(PARTITIONS, dtype=np.uint64)
        committed[partition] = through
        for group in self.store.held.take(committed):
            self.engine.replay(group)
