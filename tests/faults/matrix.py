"""A grid of three nodes under faults: callers that write down what they do, a fault, healing, and a check of everything they were promised."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import profilegrid
import yaml
from profilegrid.errors import ProfilegridError
from profilegrid.v1 import admin_pb2
from rich.table import Table

from tests.clusters import RayCluster
from tests.crash.traffic import ALL_FEATURES, CATALOG, USERS_EACH, is_whole
from tests.faults.checking import judge_audiences, judge_counts, judge_reads, longest_wait_s, timelines
from tests.faults.parties import PRODUCERS, Party
from tests.faults.proxy import Proxy
from tests.faults.shim import EVERYONE, Kind, Shim
from tests.grids import RunningGrid
from tests.points import Points
from tests.tallies import Tally, table_of

NODES, PARTITIONS, REPLICAS = 3, 12, 2
HEAL_TIMEOUT_S, TOLD_TIMEOUT_S, HIT_TIMEOUT_S = 120.0, 20.0, 30.0
# A slow clock sees events of its future.
FAULTS_CATALOG: dict[str, Any] = {**CATALOG, "grid": "faults", "limits": {"future": "2h"}}
SETTLE_S = 1.0, 2.0
THRESHOLDS = (1, 5, 25, 125, 625)


@dataclass
class Matrix:
    """The grid, its callers, and what was found. `folder` is empty; what happened is kept there."""

    folder: Path
    seed: int
    say: Callable[[str], None] = print
    tallies: dict[str, Tally] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.points = Points(self.folder / "failpoints")
        self.shim = Shim(self.folder) if Shim.is_possible() else None
        self.proxy = Proxy(self.name_of)
        shimmed = self.shim.environment if self.shim else {}
        self._pids: dict[int, int] = {}
        self.parties: list[Party] = []
        self.features = 0
        if self.shim:
            self.shim.set(EVERYONE, Kind.PROXY_PORT, self.proxy.port)
        self.cluster = RayCluster(
            self.folder,
            NODES,
            RAY_gcs_storage="rocksdb",
            RAY_gcs_storage_path=str(self.folder / "gcs"),
            PROFILEGRID_FAILPOINTS=str(self.points.folder),
            **shimmed,
        )
        catalog = self.folder / "catalog.yaml"
        catalog.write_text(yaml.safe_dump(FAULTS_CATALOG, sort_keys=False))
        options = [
            "--address", self.cluster.address, "--host", "127.0.0.1", "--shards", str(NODES), "--replicas", str(REPLICAS), "--partitions", str(PARTITIONS),
            "--shard-cpus", "0.5", "--replace-after", "60", "--checkpoint-every", "5", "--segment-mb", "1", "--catalog", str(catalog),
        ]  # fmt: skip
        # What up starts itself, the gateway, is a process of the cluster; the command is none.
        environment = self.cluster.environment | {"PROFILEGRID_NODE_DATA": str(self.cluster.folder(0)), "LD_PRELOAD": ""}
        self.grid = RunningGrid(self.cluster.folder(0), *options, environment=environment).up()
        self.wait_until_whole()
        self._party_environment = {**os.environ, **shimmed}
        self._start_parties()

    def _start_parties(self) -> None:
        users = [f"{kind}-{number}" for kind in PRODUCERS for number in range(USERS_EACH)]
        asked = dict.fromkeys(PRODUCERS, ()) | {"reader": users, "stranger": users, "watcher": [self.rng.choice(users)]}
        self.watched = asked["watcher"][0]
        self.parties = [
            Party(kind, self.grid.target, self.folder, self.rng.getrandbits(32), self._party_environment, of) for kind, of in asked.items()
        ]  # fmt: skip

    def end(self) -> None:
        """Everything ends. What was written down stays."""
        for party in self.parties:
            party.end()
        try:
            self.grid.down()
        finally:
            self.cluster.end()
            self.proxy.end()

    # --- the parts ------------------------------------------------------------------------------------------------------------

    def name_of(self, pid: int) -> str:
        """What a process is to the proxy's rules."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            return ""
        if command.startswith("ray::Shard"):
            return f"shard-{self._shard_of(pid)}"
        if "tests.faults.parties" in command:
            return "client"
        return next((name for mark, name in (("ray::Controller", "controller"), ("ray::Coordinator", "coordinator")) if command.startswith(mark)), "ray")

    def _shard_of(self, pid: int) -> str:
        """By the folder that the process has locked."""
        if pid not in self._pids:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    path = descriptor.readlink()
                except OSError:
                    continue
                if path.name == "OWNER" and path.parent.name.startswith("shard-"):
                    self._pids[pid] = int(path.parent.name.removeprefix("shard-"))
        return str(self._pids.get(pid, ""))

    def pids(self, name: str) -> list[int]:
        """Processes of the cluster, by the name that `name_of` gives."""
        return [pid for pid in self.cluster.processes("ray::") if self.name_of(pid).startswith(name)]

    def pid(self, name: str) -> int:
        """The one process of a name, as soon as it is there."""
        deadline = time.monotonic() + HIT_TIMEOUT_S
        while not (found := self.pids(name)):
            assert time.monotonic() < deadline, f"there is no {name}"
            time.sleep(0.1)
        return found[0]

    def shard(self) -> int:
        """Any."""
        return self.rng.randrange(NODES)

    def shard_folder(self, shard: int) -> Path:
        """Where its data lies."""
        return next(self.cluster.folder(number) for number in range(NODES) if (self.cluster.folder(number) / f"shard-{shard}").exists()) / f"shard-{shard}"

    def party(self, kind: str) -> Party:
        return next(party for party in self.parties if party.kind == kind)

    # --- doing and undoing ---------------------------------------------------------------------------------------------------

    def at(self, point: str, trigger: Callable[[], None] | None = None, action: str = "kill") -> None:
        """Arm a point; do what makes a process pass there; return when one did."""
        self.points.arm(point, action)
        with self.meanwhile(trigger or (lambda: None)):
            if not self.points.was_passed(point, HIT_TIMEOUT_S):
                self.wrong(f"nobody passed {point}")

    def wrong(self, text: str) -> None:
        """Something that must not be."""
        self.say(f"    WRONG: {text}")
        self.problems.append(text)

    @contextmanager
    def meanwhile(self, work: Callable[[], None]) -> Iterator[None]:
        """A call that faults may cut off, beside what is done here; it has ended afterwards, one way or the other."""
        thread = threading.Thread(target=self.quietly, args=(work,), daemon=True)
        thread.start()
        yield
        thread.join(HEAL_TIMEOUT_S)
        if thread.is_alive():
            self.wrong("a call of the operator hangs")

    def quietly(self, work: Callable[[], None]) -> None:
        """A call of the operator, who is told when it fails."""
        try:
            work()
        except (ProfilegridError, AssertionError) as error:
            self.say(f"    (the operator was told: {str(error)[:110]})")

    def client(self, **options: Any) -> profilegrid.Client:
        return self.grid.client(**{"read_timeout": 60.0, **options})

    def ask(self) -> None:
        """For an audience: something of every shard."""
        with self.client() as grid:
            grid.count("hits >= 1")

    def checkpoint(self) -> None:
        with self.client() as grid:
            grid.checkpoint()

    def add_feature(self) -> None:
        """One more count, backfilled from history and log; the one before goes."""
        self.features += 1
        catalog = {**FAULTS_CATALOG, "features": {**FAULTS_CATALOG["features"], f"extra_{self.features}": {"count": "hit"}}}
        with self.client() as grid:
            grid.apply_catalog(catalog, force=True)

    def move(self) -> None:
        """A shard's copies go to the others, and come back."""
        with self.client() as grid:
            grid.set_layout(drained=[self.shard()])
            time.sleep(self.rng.uniform(0.5, 2.0))
            grid.set_layout(drained=[])

    def fewer_copies(self) -> None:
        """One copy of each partition for a while, then all of them again."""
        with self.client() as grid:
            grid.set_layout(replicas=1)
            deadline = time.monotonic() + HEAL_TIMEOUT_S / 2
            while not grid.layout().is_done and time.monotonic() < deadline:
                time.sleep(0.1)
            grid.set_layout(replicas=REPLICAS)

    def snapshot(self) -> None:
        """Into a folder of its own."""
        with self.client(delivery_timeout=60.0) as grid:
            grid.create_snapshot(str(self.folder / "snapshots"))

    # --- healing and checking ------------------------------------------------------------------------------------------------

    def wait_until_whole(self) -> None:
        """Every shard serves, every partition has all its copies in sync, nothing moves."""
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        missing = "nothing was asked"
        while missing:
            if time.monotonic() > deadline:
                self.wrong(f"not whole after {HEAL_TIMEOUT_S:g} s: {missing}")
                return
            try:
                with self.grid.client(read_timeout=5.0) as grid:
                    missing = self._missing(grid)
            except ProfilegridError as error:
                missing = str(error)
            if missing:
                time.sleep(0.2)

    def _missing(self, grid: profilegrid.Client) -> str:
        shards = grid.status().shards
        if len(shards) < NODES or any(shard.state != "serving" or shard.stopped for shard in shards):
            return ", ".join(f"shard {shard.id}: {shard.state}, {shard.stopped} partitions stopped {list(shard.problems)[:1]}" for shard in shards)
        if sorted(shard.pid for shard in shards) != sorted(self.pids("shard-")):
            return "a shard that died is not missed yet"
        partitions = grid.replicas().partitions
        behind = [p.partition for p in partitions if sum(replica.is_insync for replica in p.replicas) < REPLICAS]
        if len(partitions) < PARTITIONS or behind:
            return f"partitions {behind} have fewer copies in sync than {REPLICAS}"
        if not grid.layout().is_done:
            return f"partitions move: {grid.layout().problem}"
        backfilling = grid.catalog()["backfilling"]
        return f"{backfilling} are backfilled" if backfilling else ""

    def strike(self, names: list[str], faults: list[Callable[[Matrix], None]]) -> None:
        """Faults at the same time, healing, and all checks."""
        time.sleep(self.rng.uniform(*SETTLE_S))  # callers have begun anew
        struck = time.localtime()
        began = time.monotonic()
        self._run_each(names, faults)
        name = names[0] if len(names) == 1 else "several at a time"
        healed = time.monotonic()
        lost, doubled, found = self.check()
        longest = longest_wait_s([self.party(kind).record() for kind in PRODUCERS], began, healed)
        tally = self.tallies.setdefault(name, Tally())
        tally.times, tally.lost, tally.doubled = tally.times + 1, tally.lost + lost, tally.doubled + doubled
        tally.longest_s = max(tally.longest_s, longest)
        self.problems += [f"{', '.join(names)}: {text}" for text in found]
        self.say(
            f"  {time.strftime('%H:%M:%S', struck)} {', '.join(names)}: whole after {healed - began:.1f} s, longest wait {longest:.1f} s, lost {lost}, doubled {doubled}"
            + "".join(f"\n    WRONG: {text}" for text in found[:5])
        )

    def _run_each(self, names: list[str], faults: list[Callable[[Matrix], None]]) -> None:
        def guarded(name: str, fault: Callable[[Matrix], None]) -> None:
            try:
                fault(self)
            except Exception as error:  # a fault that could not be made proves nothing
                self.wrong(f"{name} was not made: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=guarded, args=each, daemon=True) for each in zip(names, faults, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * HEAL_TIMEOUT_S)
            if thread.is_alive():
                self.wrong(f"{', '.join(names)} did not end")
        self.proxy.rule()
        if self.shim:
            self.shim.clear(*(kind for kind in Kind if kind is not Kind.PROXY_PORT))
        self.wait_until_whole()

    def check(self) -> tuple[int, int, list[str]]:
        """(lost, doubled, what is wrong), with callers at rest."""
        for party in self.parties:
            party.tell("pause")
        for party in self.parties:
            party.wait_for_pause()
        records = {party.kind: party.record() for party in self.parties}
        written = [records[kind] for kind in PRODUCERS]
        with self.client() as grid:
            users = sorted({user for record in written for write in record.writes for user in write.events})
            table = grid.get_many(users, ALL_FEATURES)
            rows = zip(*(table[name] for name in ALL_FEATURES), strict=True)
            profiles = {user: dict(zip(ALL_FEATURES, row, strict=True)) for user, row in zip(users, rows, strict=True)}
            hits = {user: int(profile["hits"]) for user, profile in profiles.items()}
            listed = {threshold: set(grid.members(f"hits >= {threshold}")) for threshold in THRESHOLDS}
        counted, wrong = judge_counts(hits, written)
        wrong += [f"{user} is half there: {profile}" for user, profile in profiles.items() if not is_whole(profile) or profile["day"] != profile["hits"]]
        wrong += judge_audiences(hits, listed)
        lines = timelines(written)
        wrong += judge_reads(records["reader"], lines) + judge_reads(records["stranger"], lines) + judge_reads(records["watcher"], lines, has_floor=False)
        wrong += [text for record in records.values() for text in record.faults]
        wrong += self._not_told(hits.get(self.watched, 0)) + self._differing()
        for party in self.parties:
            party.tell("go")
        return counted.lost, counted.doubled, wrong

    def _not_told(self, hits: int) -> list[str]:
        """The watcher hears of the last change."""
        deadline = time.monotonic() + TOLD_TIMEOUT_S
        while True:
            reads = self.party("watcher").record().reads
            if hits == 0 or (reads and reads[-1].hits[self.watched] == hits):
                return []
            if time.monotonic() > deadline:
                return [f"the watcher of {self.watched} was last told {reads[-1].hits if reads else None}, it has {hits}"]
            time.sleep(0.1)

    def _differing(self) -> list[str]:
        """Copies that do not read the same, page by page."""
        wrong = []
        with self.client() as grid:
            for partition in range(PARTITIONS):
                found = self._compared(grid, partition)
                if isinstance(found, str):
                    return [*wrong, f"partition {partition} was not compared: {found}"]
                wrong += [f"copies of partition {partition} differ in {column.name}" for column in found.columns if column.differing_values]
        return wrong

    def _compared(self, grid: profilegrid.Client, partition: int) -> admin_pb2.CompareReplicasResponse | str:
        """The comparison, or why there was none: a copy may just be made anew, as damage was found."""
        deadline = time.monotonic() + TOLD_TIMEOUT_S
        while True:
            try:
                return grid.compare_replicas(partition)
            except ProfilegridError as error:
                if time.monotonic() > deadline:
                    return str(error)
                time.sleep(0.5)

    # --- the table -----------------------------------------------------------------------------------------------------------

    def table(self) -> Table:
        """What each fault did, in the order of the run."""
        return table_of(self.tallies.items(), self.seed)

    def as_json(self) -> dict[str, Any]:
        """The table and what was wrong."""
        return {"seed": self.seed, "rows": [{"fault": name, **asdict(tally)} for name, tally in self.tallies.items()], "problems": self.problems}
