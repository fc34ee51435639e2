"""Kill the processes of a grid at random instants and at named ones, under traffic whose outcomes are known, and count what is lost or doubled.

    python -m tests.crash.torture --kills 300 [--seed N]

One copy of each partition, on one machine; tests/faults has two copies on several nodes. After each fault traffic pauses and every user is read: what it has must be exactly what was acknowledged. At the end the pages that the
shards recovered must equal a replay of their whole log from nothing, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from profilegrid.errors import ProfilegridError
from rich.console import Console

from tests.crash.traffic import CATALOG, AsyncProducer, Ledger, Producer, Reader, StreamProducer, SyncProducer, Worker
from tests.grids import RunningGrid
from tests.points import Points
from tests.tallies import Tally, table_of

PARTITIONS = 16
BACK_TIMEOUT_S, HIT_TIMEOUT_S = 90.0, 40.0
# Where a kill is armed, and what makes a shard pass there: traffic alone, a checkpoint, a new feature, an erasure, a restart.
BY_TRAFFIC = ("log.before_write", "log.written", "log.fsynced", "group.logged", "group.applied")
BY_CHECKPOINT = ("checkpoint.shard_put", "checkpoint.pages_put", "checkpoint.staged", "checkpoint.installed")
BY_BACKFILL = ("history.file_written", "history.listed", "backfill.folded", "backfill.whole", "catalog.put", "catalog.logged")
BY_RESTART = ("recovery.checkpoints", "recovery.replayed")
BY_ERASURE = ("erase.positions_put", "compact.before", "segment.before_drop")
# Errors of the disk: the shard must stop at once and come back. (point, error, whether a checkpoint makes it pass)
BY_DISK = (
    ("log.before_write", "enospc", False), ("log.written", "eio", False), ("checkpoint.pages_put", "enospc", True), ("checkpoint.staged", "eio", True),
)  # fmt: skip
BY_CATALOG = ("controller.before_save", "controller.saved")
BY_MOVE = ("move.staged", "move.sealed", "move.saved", "move.released", "move.taken_over")


@dataclass
class Torture:
    """One grid, its traffic, and the faults."""

    folder: Path
    seed: int
    say: Callable[[str], None] = print
    keeps_log: bool = True
    tallies: dict[str, Tally] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.points = Points(self.folder / "failpoints")
        catalog = self.folder / "catalog.yaml"
        catalog.write_text(yaml.safe_dump(CATALOG, sort_keys=False))
        options = ["--catalog", str(catalog), "--partitions", str(PARTITIONS), "--checkpoint-every", "5", "--segment-mb", "1"]
        options += ["--keep-log"] if self.keeps_log else []
        environment = {"PROFILEGRID_FAILPOINTS": str(self.points.folder), "PROFILEGRID_SPARES": "2"}
        self.grid = RunningGrid(self.folder / "data", *options, environment=environment).up()
        self.ledger = Ledger()
        self.features = 0
        self.drained: list[int] = []
        self.workers: list[Worker] = []
        self._wait_for_moves()

    # --- traffic --------------------------------------------------------------------------------------------------------

    @property
    def users(self) -> list[str]:
        """Every user that traffic writes."""
        return sorted(self.ledger.sent)

    def start(self) -> None:
        """Producers of three kinds, two readers."""
        kinds: tuple[type[Producer], ...] = (SyncProducer, AsyncProducer, StreamProducer)
        producers = [kind(f"{kind.__name__.lower()}{self.features}", self.grid.target, self.ledger, self.rng.getrandbits(32)) for kind in kinds]
        users = [user for producer in producers for user in producer.users]
        readers = [Reader(f"reader-{number}", self.grid.target, self.ledger, self.rng.getrandbits(32), users) for number in range(2)]
        self.workers = [*producers, *readers]
        for worker in self.workers:
            worker.start()

    def stop_traffic(self) -> None:
        """Let everything in flight be answered."""
        for worker in self.workers:
            worker.stopping.set()
        for worker in self.workers:
            worker.join(150)
            if worker.is_alive():
                self.problems.append(f"{worker.name} hangs")
        self.workers = []

    # --- faults ---------------------------------------------------------------------------------------------------------

    def faults(self) -> dict[str, Callable[[], None]]:
        """Every kind of fault of this run."""
        found: dict[str, Callable[[], None]] = {
            "kill -9 shard": lambda: self._kill_shards([self.rng.randrange(2)]),
            "kill -9 both shards": lambda: self._kill_shards([0, 1]),
            "kill -9 controller": lambda: self._kill("ray::Controller"),
            "kill -9 coordinator": lambda: self._kill("ray::Coordinator"),
            "kill -9 shard and controller": self._kill_shard_and_controller,
        }
        found |= {f"kill at {point}": lambda point=point: self._at(point, lambda: None) for point in BY_TRAFFIC}
        found |= {f"kill at {point}": lambda point=point: self._at(point, self._checkpoint) for point in BY_CHECKPOINT}
        found |= {f"kill at {point}": lambda point=point: self._at(point, self._add_feature) for point in (*BY_BACKFILL, *BY_CATALOG)}
        found |= {f"kill at {point}": lambda point=point: self._at(point, lambda: self._kill_shards([0])) for point in BY_RESTART}
        for point, action, trigger in BY_DISK:
            found[f"{action} at {point}"] = lambda point=point, action=action, trigger=trigger: self._at(
                point, self._checkpoint if trigger else lambda: None, action
            )
        if not self.keeps_log:
            found |= {f"kill at {point}": lambda point=point: self._at(point, self._erase) for point in BY_ERASURE}
            found |= {f"kill at {point}": lambda point=point: self._at(point, self._move) for point in BY_MOVE}
            found["kill -9 shard in a move"] = lambda: self._in_a_move(lambda: self._kill_shards([self.rng.randrange(2)]))
            found["kill -9 both shards in a move"] = lambda: self._in_a_move(lambda: self._kill_shards([0, 1]))
            found["kill -9 controller in a move"] = lambda: self._in_a_move(lambda: self._kill("ray::Controller"))
            found["kill -9 shard and controller in a move"] = lambda: self._in_a_move(self._kill_shard_and_controller)
        return found

    def _kill_shards(self, shards: list[int]) -> None:
        for shard in shards:
            try:
                self.grid.kill_shard(shard)
            except ProcessLookupError:
                continue

    def _kill(self, name: str) -> None:
        for pid in self.grid.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _kill_shard_and_controller(self) -> None:
        self._kill("ray::Controller")
        self._kill("ray::Shard")

    def _at(self, point: str, trigger: Callable[[], None], action: str = "kill") -> None:
        """Arm a fault; do what makes a process pass there; wait until it did."""
        self.points.arm(point, action)
        self._pending = threading.Thread(target=self._quietly, args=(trigger,), daemon=True)
        self._pending.start()
        if not self.points.was_passed(point, HIT_TIMEOUT_S):
            self.problems.append(f"nobody passed {point}")
        self._struck_s = time.monotonic()

    def _quietly(self, trigger: Callable[[], None]) -> None:
        try:
            trigger()
        except (ProfilegridError, AssertionError, OSError) as error:
            self.say(f"  (the call that was cut off said: {str(error)[:100]})")

    def _checkpoint(self) -> None:
        with self.grid.client() as grid:
            grid.checkpoint()

    def _add_feature(self) -> None:
        """One more count: it is backfilled. The one before goes, so that they do not pile up."""
        self.features += 1
        catalog = {**CATALOG, "features": {**CATALOG["features"], f"extra_{self.features}": {"count": "hit"}}}
        with self.grid.client(read_timeout=60.0) as grid:
            grid.apply_catalog(catalog, force=True)

    def _move(self) -> None:
        """All of a shard's partitions to the other, or half of them back."""
        self.drained = [] if self.drained else [self.rng.randrange(2)]
        with self.grid.client(read_timeout=60.0) as grid:
            grid.set_layout(drained=self.drained)

    def _in_a_move(self, fault: Callable[[], None]) -> None:
        self._move()
        time.sleep(self.rng.uniform(0.0, 1.0))
        self._struck_s = time.monotonic()
        fault()

    def _wait_for_moves(self) -> None:
        """Every partition comes where it shall be, and is nowhere else."""
        with self.grid.client(read_timeout=60.0) as grid:
            deadline = time.monotonic() + 120
            while not grid.layout().is_done:
                if time.monotonic() > deadline:
                    self.problems.append(f"partitions do not move: {grid.layout().problem}")
                    return
                time.sleep(0.2)

    def _erase(self) -> None:
        with self.grid.client(delivery_timeout=60.0) as grid:
            grid.track("erased", "hit", {"weight": 3, "key": "k0"})
            grid.flush()
            grid.delete("erased")
            grid.finish_erasures()

    # --- what must hold ---------------------------------------------------------------------------------------------------

    def run(self, kills: int) -> None:
        """So many faults, each followed by a full check."""
        self.start()
        time.sleep(2)
        kinds = self.faults()
        order = [name for _ in range(-(-kills // len(kinds))) for name in self.rng.sample(sorted(kinds), len(kinds))][:kills]
        for number, name in enumerate(order):
            time.sleep(self.rng.uniform(0.2, 1.5))
            tally = self.tallies.setdefault(name, Tally())
            tally.times += 1
            self._pending: threading.Thread | None = None
            self._struck_s = time.monotonic()
            kinds[name]()
            away_s = self._until_back()
            tally.longest_s = max(tally.longest_s, away_s)
            if self._pending is not None:
                self._pending.join(150)
            lost, doubled = self.check()
            tally.lost, tally.doubled = tally.lost + lost, tally.doubled + doubled
            if "move" in name:
                self._wait_for_moves()
            self.say(f"{number + 1}/{len(order)} {name}: back after {away_s:.1f} s, lost {lost}, doubled {doubled}, {self.ledger.batches} batches so far")
        self.stop_traffic()
        self._wait_for_moves()
        if self.features:
            self._check_backfilled()
        self.problems += self.ledger.faults
        self.grid.down()

    def _until_back(self) -> float:
        """Seconds from the fault until every user can be read and a batch over all partitions is acknowledged."""
        probe = [f"probe-{number}" for number in range(64)]
        with self.grid.client(read_timeout=BACK_TIMEOUT_S, delivery_timeout=BACK_TIMEOUT_S) as grid:
            try:
                grid.set_many(user_id=probe, mark=[1] * len(probe))
                grid.get_many(probe, ["mark"])
                grid.count("mark = 1")
            except ProfilegridError as error:
                self.problems.append(f"not back within {BACK_TIMEOUT_S:g} s: {error}")
        return time.monotonic() - self._struck_s

    def check(self) -> tuple[int, int]:
        """(lost, doubled) events over all users, with traffic at rest."""
        self.stop_traffic()
        seen: Counter[str] = Counter()
        for each in self.ledger.seen.values():
            seen |= each
        users = self.users
        with self.grid.client(read_timeout=60.0) as grid:
            table = grid.get_many(users, ["hits", "weight"])
            hits, weights = np.asarray(table["hits"], dtype=np.int64), np.asarray(table["weight"])
        told = np.array([self.ledger.acknowledged[user] for user in users])
        if (weights != 3 * hits).any():
            self.problems.append("hits and weight disagree")
        for user, count, now in zip(users, told.tolist(), hits.tolist(), strict=True):
            if now != count:
                self.problems.append(f"{user} has {now}, acknowledged {count}")
            if now < seen[user]:
                self.problems.append(f"{user} has {now}, but {seen[user]} was read before")
        self.start()
        return int(np.maximum(told - hits, 0).sum()), int(np.maximum(hits - told, 0).sum())

    def _check_backfilled(self) -> None:
        """The feature that was added last is whole: as many as `hits`."""
        name = f"extra_{self.features}"
        with self.grid.client(read_timeout=60.0) as grid:
            self._quietly(self._readd)
            deadline = time.monotonic() + 120
            while grid.catalog()["backfilling"]:
                if time.monotonic() > deadline:
                    self.problems.append(f"{name} is not backfilled within 120 s")
                    return
                time.sleep(0.2)
            if name not in grid.catalog()["source"]:
                return
            table = grid.get_many(self.users, ["hits", name])
            if list(table["hits"]) != list(table[name]):
                self.problems.append(f"{name} was backfilled wrongly: {sum(table[name])} of {sum(table['hits'])}")

    def _readd(self) -> None:
        self.features -= 1
        self._add_feature()

    def check_replay(self) -> list[str]:
        """Differences between the pages that the shards recovered and a replay of their whole log; empty: none, bit for bit."""
        return [text for shard in (0, 1) for text in differences(self.grid.folder, shard, self.folder / "copies")]


def differences(data: Path, shard: int, copies: Path) -> list[str]:
    """Recover a copy of a shard's folder, replay its whole log into another engine, compare pages."""
    import msgpack

    from grid.engine import Engine
    from grid.group import Group
    from grid.storage.log import read_segment
    from grid.storage.store import Store
    from tests.harness import pages_of

    folder = copies / f"shard-{shard}"
    shutil.copytree(data / f"shard-{shard}", folder, ignore=shutil.ignore_patterns("OWNER"))
    _, partitions, _, seed, owners, epochs, *_ = msgpack.unpackb((data / "controller" / "state.bin").read_bytes(), strict_map_key=False)
    engines = [Engine(partitions=partitions, seed=seed) for _ in range(2)]
    for engine in engines:
        for partition, owner in enumerate(owners):
            engine.epochs[partition] = epochs[partition] if owner == shard else 0
    store = Store(folder, engines[0], keep_log=True)
    store.recover()
    replayed = engines[1]
    replayed.catalogs |= engines[0].catalogs
    replayed.install_catalog(engines[0].catalog)
    for segment in store.log.segments():
        for record in read_segment(segment):
            if record.fault is not None:
                continue  # the torn end of a segment that a crash left
            if record.header["kind"] == "group":
                assert record.body is not None
                replayed.replay(Group.decode(record.header, record.body, record.sequence))
    wanted = {key for key, _ in store._columns() if not key.startswith("f:extra_")}
    ours = {place: blob for place, blob in pages_of(engines[0], store).items() if place[0] in wanted}
    store.engine = replayed
    theirs = {place: blob for place, blob in pages_of(replayed, store).items() if place[0] in wanted}
    store.close()
    assert len(ours) > PARTITIONS / 2, "nothing was compared"
    if ours.keys() != theirs.keys():
        return [f"shard {shard}: pages {sorted(ours.keys() ^ theirs.keys())[:5]} are on one side only"]
    return [f"shard {shard}: page {place} differs" for place in ours if ours[place] != theirs[place]]


def main() -> int:
    """Run, print the table, exit 1 on any problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    arguments = parser.parse_args()
    console, problems = Console(), []
    for keeps_log in (True, False):
        folder = Path(tempfile.mkdtemp(prefix="pg-torture-"))
        torture = Torture(folder, arguments.seed, lambda text: console.print(text, highlight=False), keeps_log)
        torture.run(max(1, arguments.kills // 2))
        if keeps_log:
            torture.problems += torture.check_replay()
        console.print(table_of(sorted(torture.tallies.items()), torture.seed))
        problems += torture.problems
        if not torture.problems:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"kept for a look: {folder}")
    for problem in problems[:50]:
        console.print(f"[red]{problem}[/]")
    console.print("nothing was lost, nothing doubled" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
