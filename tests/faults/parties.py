"""The callers of a grid under faults, each a process of its own with a journal of its own.

python -m tests.faults.parties KIND NAME TARGET JOURNAL SEED [USERS...]

It works until it reads "pause" from its input, ends the call that it is in, answers "paused", and goes on at "go".
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import profilegrid
from profilegrid.aio import profile_of
from profilegrid.errors import ProfilegridError
from profilegrid.routes import Map
from profilegrid.v1 import admin_pb2, admin_pb2_grpc, profiles_pb2, profiles_pb2_grpc

from tests.crash.traffic import ALL_FEATURES, AsyncProducer, Producer, Reader, StreamProducer, SyncProducer, Worker
from tests.faults.journal import Journal, Record, read_journal

PAUSE_TIMEOUT_S, NEW_WORDS = 150.0, 0.05


class Stranger(Reader):
    """Asks shards directly, by a map that may be long out of date: one that no longer serves a user must refuse, never answer what was."""

    def work(self) -> None:
        map_: Map | None = None
        while not self.stopping.is_set():
            if map_ is None or self.rng.random() < 0.02:
                map_ = self._map() or map_
                continue
            users, endpoints = [self.rng.choice(self.users)], sorted(filter(None, map_.endpoints.values()))
            if not endpoints:
                map_ = None
                continue
            endpoint = self.rng.choice(endpoints)
            call = self.ledger.reading(users)
            request = profiles_pb2.BatchGetProfilesRequest(user_ids=users, fields=ALL_FEATURES, format=profiles_pb2.PROFILE_FORMAT_ROWS)
            try:
                with grpc.insecure_channel(endpoint) as channel:
                    answer = profiles_pb2_grpc.ProfileServiceStub(channel).BatchGetProfiles(request, timeout=1.0)  # type: ignore[no-untyped-call]
            except grpc.RpcError:  # it is not the owner, or not there
                time.sleep(0.02)
                continue
            self.ledger.saw(self.name, call, {users[0]: profile_of(answer.profiles[0])})

    def _map(self) -> Map | None:
        try:
            with grpc.insecure_channel(self.target) as gateway:
                return Map.of(admin_pb2_grpc.AdminServiceStub(gateway).GetMap(admin_pb2.GetMapRequest(), timeout=2))  # type: ignore[no-untyped-call]
        except grpc.RpcError:
            time.sleep(0.2)
            return None


class Watcher(Reader):
    """Watches one user: what it is told never goes back, and in the end it knows the last."""

    def work(self) -> None:
        with profilegrid.Client(self.target, read_timeout=3.0) as grid:
            while not self.stopping.is_set():
                try:
                    for profile in grid.watch(self.users[0]):
                        # No floor: it is told soon after, not at once.
                        self.ledger.saw(self.name, -1, {self.users[0]: profile})
                        if self.stopping.is_set():
                            return
                except ProfilegridError:
                    time.sleep(0.1)


KINDS: Mapping[str, type[Worker]] = {
    "batches": SyncProducer, "lanes": AsyncProducer, "frames": StreamProducer, "reader": Reader, "stranger": Stranger, "watcher": Watcher,
}  # fmt: skip
PRODUCERS = ("batches", "lanes", "frames")


class Party:
    """One caller, seen from the matrix."""

    def __init__(self, kind: str, target: str, folder: Path, seed: int, environment: Mapping[str, str], users: Sequence[str] = ()) -> None:
        self.kind, self.path = kind, folder / f"{kind}.jsonl"
        self._arguments = [sys.executable, "-m", "tests.faults.parties", kind, target, str(self.path), str(seed), *users]
        self._environment = dict(environment)
        self._begin()

    def _begin(self) -> None:
        self.process = subprocess.Popen(
            self._arguments, cwd=Path(__file__).parents[2], env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, what: str) -> None:
        """ "pause" or "go". A watcher has no call to end, and goes on."""
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)

    def wait_for_pause(self) -> None:
        """Everything that it asked for has been answered."""
        if self.kind == "watcher":
            return
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        assert answer == "paused", f"{self.kind} died: {answer!r}"

    def kill(self) -> None:
        """kill -9 in the midst of its calls, and another in its place."""
        self.process.kill()
        self.process.wait()
        self._begin()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def record(self) -> Record:
        """What it wrote down."""
        return read_journal(self.path)


def main() -> None:
    kind, target, path, seed, *users = sys.argv[1:]
    journal, lives = Journal(Path(path)), 0
    Producer.new_words = NEW_WORDS

    def begin() -> Worker:
        arguments = (kind, target, journal, int(seed) + lives)
        worker = KINDS[kind](*arguments, users) if users else KINDS[kind](*arguments)  # type: ignore[call-arg]
        worker.start()
        return worker

    worker = begin()
    for line in sys.stdin:
        if kind == "watcher":
            continue
        if line.strip() == "pause":
            worker.stopping.set()
            worker.join(PAUSE_TIMEOUT_S)
            if worker.is_alive():
                journal.fault(f"{kind} hangs")
            print("paused", flush=True)
        else:
            lives += 1
            worker = begin()


if __name__ == "__main__":
    main()
