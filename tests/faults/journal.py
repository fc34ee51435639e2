"""What one caller did: each call before it goes out, and what became of it, one JSON list a line, fsynced.

    ["write", call, began, {user: events}]      ["ok", call, ended]
    ["read", call, began, [user, ...]]          ["saw", call, ended, {user: [hits, whole]}]
    ["fault", text]

A write without an "ok" is unknown: its caller died, or gave up. Times are seconds of the machine's monotonic clock, the same in all processes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.traffic import is_whole


class Journal:
    """A `Book` in a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._lock = threading.Lock()
        self._calls = sum(1 for _ in path.open())

    def sending(self, users: list[str]) -> int:
        return self._begin("write", dict(Counter(users)))

    def took(self, call: int) -> None:
        self._write("ok", call, time.monotonic())

    def reading(self, users: list[str]) -> int:
        return self._begin("read", users)

    def saw(self, reader: str, call: int, found: dict[str, Any]) -> None:
        ended = time.monotonic()
        self._write("saw", call, ended, {user: [profile["hits"], is_whole(profile)] for user, profile in found.items()})

    def fault(self, text: str) -> None:
        self._write("fault", text)

    def _begin(self, kind: str, what: Any) -> int:
        with self._lock:
            self._calls += 1
            call = self._calls
        self._write(kind, call, time.monotonic(), what)
        return call

    def _write(self, *entry: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())


@dataclass
class Write:
    """A batch: how many events of each user. `ended` is infinite while nobody knows what became of it."""

    began: float
    events: dict[str, int]
    ended: float = float("inf")


@dataclass
class Read:
    """What one call saw of its users: hits, and whether all features told of as many."""

    began: float
    ended: float
    hits: dict[str, int]
    is_whole: bool


@dataclass
class Record:
    """A caller's journal, read as far as it is whole."""

    name: str
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_journal(path: Path) -> Record:
    """All of a journal; a last line that a crash tore is left out."""
    record, writes, asking = Record(path.stem), dict[int, Write](), dict[int, float]()
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        kind, *entry = json.loads(line)
        if kind == "write":
            writes[entry[0]] = Write(entry[1], entry[2])
        elif kind == "ok":
            writes[entry[0]].ended = entry[1]
        elif kind == "read":
            asking[entry[0]] = entry[1]
        elif kind == "saw":
            seen = entry[2]
            began = asking.pop(entry[0], entry[1])
            record.reads.append(Read(began, entry[1], {user: hits for user, (hits, _) in seen.items()}, all(whole for _, whole in seen.values())))
        else:
            record.faults.append(entry[0])
    record.writes = list(writes.values())
    return record
