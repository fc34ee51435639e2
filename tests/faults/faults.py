"""The faults of the matrix. Each makes one, holds it as long as it takes, and undoes what does not end by itself."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from profilegrid.v1 import events_pb2, events_pb2_grpc, profiles_pb2, profiles_pb2_grpc, segments_pb2, segments_pb2_grpc

from tests.faults.matrix import NODES, Matrix
from tests.faults.proxy import Action, Rule
from tests.faults.shim import Kind
from tests.points import flip

Fault = Callable[[Matrix], None]
ATTEMPTS = 3
# Beyond a suspicion (1.2 s) and a lease (1 s); and below both.
LONG_S, SHORT_S = 4.0, 0.6
FLOW_TIMEOUT_S = 30.0
MEMORY_LEFT = 1 << 20
UNBOUNDED = [("grpc.max_send_message_length", -1)]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_shards(count: int) -> Fault:
    """kill -9 of so many shards at the same moment."""

    def fault(m: Matrix) -> None:
        pids = m.pids("shard-")
        for pid in m.rng.sample(pids, min(count, len(pids))):
            _kill(pid)

    return fault


def kill_at(*points: str, by: Callable[[Matrix], None] | None = None, action: str = "kill") -> Fault:
    """A process dies at one of these points, or its disk fails there, in what `by` makes it do or in what it does for callers."""

    def fault(m: Matrix) -> None:
        m.at(m.rng.choice(points), (lambda: by(m)) if by else None, action)

    return fault


def kill_during(work: Callable[[Matrix], None], within_s: float, who: str = "shard-") -> Fault:
    """kill -9 of a shard, or of who is named, at a random moment of an operator's work."""

    def fault(m: Matrix) -> None:
        with m.meanwhile(lambda: work(m)):
            time.sleep(m.rng.uniform(0.0, within_s))
            _kill(m.rng.choice(m.pids(who)))

    return fault


def kill_named(name: str) -> Fault:
    """kill -9 of an actor that is not a shard."""
    return lambda m: _kill(m.pid(name))


def kill_node(*, only_raylet: bool) -> Fault:
    """A node that is not the head, or its raylet; it is started again, with its disk."""

    def fault(m: Matrix) -> None:
        number = m.rng.randrange(1, NODES)
        m.cluster.kill(number, only_raylet=only_raylet)
        time.sleep(LONG_S)
        m.cluster.start(number)

    return fault


def kill_gcs(m: Matrix) -> None:
    """What knows the cluster."""
    m.cluster.kill_gcs()
    time.sleep(2.0)
    m.cluster.start_gcs()


def kill_caller(m: Matrix) -> None:
    """A producer dies with batches under way: nobody knows what became of them, and each is there whole or not at all."""
    for _ in range(3):
        m.party("batches").kill()
        time.sleep(2.0)


def pause(name: str, seconds: float) -> Fault:
    """A process stands still, and goes on as if nothing had been. "shard-": any shard."""

    def fault(m: Matrix) -> None:
        pid = m.pid(f"shard-{m.shard()}" if name == "shard-" else name)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    return fault


# --- disks ------------------------------------------------------------------------------------------------------------------


def tear(path: Path, rng: random.Random) -> None:
    """The last bytes of a file are gone, as when its end was never written."""
    raw = path.read_bytes().rstrip(b"\0")
    keep = max(0, len(raw) - rng.randrange(1, 200))
    with path.open("r+b") as file:
        file.seek(keep)
        file.write(bytes(len(raw) - keep))


@contextlib.contextmanager
def _down(m: Matrix) -> Iterator[Path]:
    """The folder of a shard that is dead: nobody starts it before this ends."""
    shard, controller = m.shard(), m.pid("controller")
    os.kill(controller, signal.SIGSTOP)
    try:
        _kill(m.pid(f"shard-{shard}"))
        time.sleep(0.3)
        yield m.shard_folder(shard)
    finally:
        os.kill(controller, signal.SIGCONT)


def damage(
    pattern: str,
    how: Callable[[Path, random.Random], None],
    *,
    newest: bool = False,
    first: Callable[[Matrix], None] = Matrix.checkpoint,
    then: Callable[[Matrix], None] | None = None,
) -> Fault:
    """A shard dies, and comes back to a disk that has changed under it. `first`: what makes the files; `then`: what reads them, if the start does not."""

    def fault(m: Matrix) -> None:
        for _ in range(ATTEMPTS):
            m.quietly(lambda: first(m))
            with _down(m) as folder:
                files = sorted((path for path in folder.glob(pattern) if path.stat().st_size), key=lambda path: path.stat().st_mtime)
                if files:
                    how(files[-1] if newest else m.rng.choice(files), m.rng)
                    break
            m.wait_until_whole()  # a shard that is new has pages in RocksDB's log only, until it starts once more
        else:
            raise AssertionError(f"{folder} has no {pattern}")
        if then:
            m.quietly(lambda: then(m))

    return fault


def read_all_history(m: Matrix) -> None:
    """A feature that is new takes its past from every file, once nothing is copied any more that might replace one."""
    m.wait_until_whole()
    m.add_feature()


def make_history(m: Matrix) -> None:
    """What was logged is in history once a feature has its past from there."""
    m.add_feature()
    m.wait_until_whole()


def lose_disk(m: Matrix) -> None:
    """A shard comes back to an empty folder."""
    with _down(m) as folder:
        shutil.rmtree(folder)
        folder.mkdir()


def system_calls(kind: Kind, value: int, seconds: float, who: str = "shard-") -> Fault:
    """The system calls of a process fail, are slow, or lie."""

    def fault(m: Matrix) -> None:
        assert m.shim is not None
        m.shim.set(m.pid(f"shard-{m.shard()}" if who == "shard-" else who), kind, value)
        time.sleep(seconds)
        m.shim.clear(kind)

    return fault


# --- the network ------------------------------------------------------------------------------------------------------------


def network(source: str, destination: str, action: Action, seconds: float, *, ms: float = 0.0, both_ways: bool = True, then_cut: bool = False) -> Fault:
    """What flows between two parts is held, cut, or late. "one", "other": two shards."""

    def fault(m: Matrix) -> None:
        one, other = m.rng.sample(range(NODES), 2)
        names = {"one": f"shard-{one}", "other": f"shard-{other}"}
        here, there = names.get(source, source), names.get(destination, destination)
        rules = [Rule(here, there, action, ms), *([Rule(there, here, action, ms)] if both_ways else [])]
        deadline = time.monotonic() + FLOW_TIMEOUT_S  # in a run that is young the first call may still be under way
        while not any(rule.concerns(*pair) for rule in rules for pair in list(m.proxy.carried)):
            assert time.monotonic() < deadline, f"nothing ever went from {here} to {there}"
            m.quietly(m.ask)  # the coordinator has nothing to say to shards unless it is asked
            time.sleep(0.1)
        m.proxy.rule(*rules)
        time.sleep(seconds)
        if then_cut:  # what was held never arrives
            m.proxy.rule(*rules, *(Rule(rule.source, rule.destination, "cut") for rule in rules))
            time.sleep(0.3)
        m.proxy.rule()

    return fault


# --- the rest ---------------------------------------------------------------------------------------------------------------


def little_memory(m: Matrix) -> None:
    """A shard may take hardly more memory than it has: it goes on, refuses, or dies and is stood in for."""
    pid = m.pid(f"shard-{m.shard()}")
    now = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (now + MEMORY_LEFT, resource.RLIM_INFINITY))
    with m.meanwhile(lambda: _spread(m)):
        time.sleep(LONG_S)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _spread(m: Matrix) -> None:
    """More users than the memory that is left can hold."""
    with m.client(delivery_timeout=60.0) as grid:
        for first in range(0, 200_000, 20_000):
            grid.set_many(user_id=[f"spread-{number}" for number in range(first, first + 20_000)], mark=[1] * 20_000)


def bad_calls(m: Matrix) -> None:
    """Malformed and oversized, at the gateway and at every shard: each is refused, and nobody else is the worse for it."""
    with m.client() as grid:
        endpoints = [m.grid.target, *(shard.endpoint for shard in grid.status().shards)]
    huge, random_bytes = bytes(64 << 20), m.rng.randbytes
    broken = [events_pb2.Frame(user_id_data=random_bytes(40), user_id_ends=random_bytes(12), producer_id=b"x", batch_number=1) for _ in range(20)]
    calls: list[tuple[Any, str, Any]] = [
        *((events_pb2_grpc.EventServiceStub, "Ingest", events_pb2.IngestRequest(frame=frame)) for frame in (events_pb2.Frame(user_id_data=huge), *broken)),
        (profiles_pb2_grpc.ProfileServiceStub, "BatchGetProfiles", profiles_pb2.BatchGetProfilesRequest(user_id_data=huge)),
        (profiles_pb2_grpc.ProfileServiceStub, "BatchGetProfiles", profiles_pb2.BatchGetProfilesRequest(user_id_data=b"abc", user_id_ends=random_bytes(7))),
        (segments_pb2_grpc.SegmentServiceStub, "Count", segments_pb2.CountRequest(rule="(" * 100_000 + "hits > 1")),
    ]
    for endpoint in endpoints:
        with grpc.insecure_channel(endpoint, options=UNBOUNDED) as channel:
            for stub, method, request in calls:
                try:
                    getattr(stub(channel), method)(request, timeout=20)
                    m.wrong(f"{endpoint} took a bad call of {method}")
                except grpc.RpcError as error:
                    if error.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL) or (error.code() is grpc.StatusCode.UNIMPLEMENTED) != (
                        stub is segments_pb2_grpc.SegmentServiceStub and endpoint != m.grid.target
                    ):
                        m.wrong(f"a bad call of {method} was answered {error.code()}: {error.details()}"[:300])


def snapshot(m: Matrix) -> None:
    """It may fail under a fault, and then says so; the next one is whole."""
    m.quietly(m.snapshot)


WRITE = ("log.before_write", "log.written", "log.fsynced", "group.logged", "group.applied", "group.applied_in_part")
CHECKPOINT = ("checkpoint.shard_put", "checkpoint.pages_put", "checkpoint.staged", "checkpoint.installed")
HISTORY = ("history.file_written", "history.listed", "backfill.folded", "backfill.whole", "catalog.put", "catalog.logged")

FAULTS: dict[str, Fault] = {
    "kill -9 shard": kill_shards(1),
    "kill -9 shard: in a write": kill_at(*WRITE),
    "kill -9 shard: in a checkpoint": kill_at(*CHECKPOINT, by=Matrix.checkpoint),
    "kill -9 shard: history, backfill": kill_at(*HISTORY, by=Matrix.add_feature),
    "kill -9 shard: in a move": kill_during(Matrix.move, 2.0),
    "kill -9 shard: as copies are made": kill_at("replica.promised", "move.staged", by=Matrix.fewer_copies),
    "kill -9 controller: as copies are made": kill_during(Matrix.fewer_copies, 4.0, "controller"),
    "kill -9 shard: in a snapshot": kill_during(snapshot, 0.5),
    "kill -9 backup: as it logs": kill_at("replica.logged"),
    "kill -9 primary: as it sends": kill_at("replica.sent"),
    "kill -9 two of three shards": kill_shards(2),
    "kill -9 all shards": kill_shards(3),
    "kill -9 controller": kill_named("controller"),
    "kill -9 controller: as it saves": kill_at("controller.before_save", "controller.saved", by=Matrix.move),
    "kill -9 coordinator": kill_named("coordinator"),
    "kill -9 raylet": kill_node(only_raylet=True),
    "kill -9 node": kill_node(only_raylet=False),
    "kill -9 GCS": kill_gcs,
    "kill -9 caller": kill_caller,
    "pause of a shard, 4 s": pause("shard-", LONG_S),
    "pause of a shard, 0.6 s": pause("shard-", SHORT_S),
    "pause of the controller, 4 s": pause("controller", LONG_S),
    "torn log": damage("log/*", tear, newest=True),
    "flipped bit: log": damage("log/*", flip),
    "flipped bit: page (SST)": damage("**/*.sst", flip),
    "flipped bit: history": damage("history/**/*.*", flip, first=make_history, then=read_all_history),
    "lost disk": lose_disk,
    "write error: log": kill_at("log.before_write", "log.written", action="eio"),
    "write error: checkpoint": kill_at("checkpoint.pages_put", "checkpoint.staged", by=Matrix.checkpoint, action="enospc"),
    "malformed, oversized calls": bad_calls,
    "little memory": little_memory,
}  # fmt: skip
# These need the shim.
FAULTS_OF_SYSTEM_CALLS: dict[str, Fault] = {
    "disk full, 3 s": system_calls(Kind.NO_SPACE, 1, 3.0),
    "fsync error, 1 s": system_calls(Kind.SYNC_ERROR, 1, 1.0),
    "slow fsync: 400 ms, 4 s": system_calls(Kind.SYNC_DELAY_MS, 400, 4.0),
    "clock of a shard: + 1 h": system_calls(Kind.CLOCK_OFFSET_MS, 3_600_000, 4.0),
    "clock of a shard: - 1 h": system_calls(Kind.CLOCK_OFFSET_MS, -3_600_000, 4.0),
    "clock of the controller: + 1 h": system_calls(Kind.CLOCK_OFFSET_MS, 3_600_000, 4.0, "controller"),
    "cut: shard and shard": network("one", "other", "cut", 4.0),
    "one way: shard to shard": network("one", "other", "hold", 4.0, both_ways=False),
    "late: shards, 150 ms": network("shard-", "shard-", "delay", 4.0, ms=150.0, both_ways=False),
    "cut: a shard and all others": network("one", "", "cut", 4.0),
    "held: a shard and all others": network("one", "", "hold", 4.0),
    "cut: controller and a shard": network("controller", "one", "cut", 4.0),
    "held: controller and shards": network("controller", "shard-", "hold", 4.0),
    "cut: coordinator and a shard": network("coordinator", "one", "cut", 4.0),
    "cut: callers and a shard": network("client", "one", "cut", 4.0),
    "lost replies: shards to callers": network("shard-", "client", "hold", 2.0, both_ways=False, then_cut=True),
    "late: callers, 200 ms": network("client", "", "delay", 4.0, ms=200.0),
}  # fmt: skip
# One of each sort, for a short run.
SHORT = (
    "kill -9 shard: in a write",
    "pause of a shard, 4 s",
    "flipped bit: log",
    "fsync error, 1 s",
    "held: a shard and all others",
    "lost replies: shards to callers",
)
# What two or three at a time may be made of.
COMBINED = (
    "kill -9 shard", "kill -9 controller", "kill -9 coordinator", "kill -9 shard: in a move", "kill -9 shard: in a snapshot", "kill -9 caller", "pause of a shard, 4 s",
    "pause of the controller, 4 s", "disk full, 3 s", "fsync error, 1 s", "slow fsync: 400 ms, 4 s", "clock of a shard: + 1 h", "kill -9 GCS",
)  # fmt: skip


def possible(m: Matrix) -> dict[str, Fault]:
    """Those that this machine can make."""
    return FAULTS | (FAULTS_OF_SYSTEM_CALLS if m.shim else {})
