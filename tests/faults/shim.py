"""The shim of system calls: compiled where it is used, told what to do by a table that all processes map.

Without a C compiler there is none, and the faults that need it are left out by name.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from enum import IntEnum
from pathlib import Path

RULE, RULES = struct.Struct("<iiq"), 64
EVERYONE = -1


class Kind(IntEnum):
    """What a rule makes of a process's system calls, and what its value is."""

    SYNC_ERROR = 1  # fsync fails with EIO
    SYNC_DELAY_MS = 2  # fsync takes so many ms longer
    NO_SPACE = 3  # writes to files below a folder shard-N fail with ENOSPC
    CLOCK_OFFSET_MS = 4  # the wall clock is wrong by so many ms; the monotonic one goes on
    PROXY_PORT = 5  # connections over TCP go to the proxy at this port


class Shim:
    """The library and its table, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = folder / "fault-table"
        table.write_bytes(bytes(RULE.size * RULES))
        with table.open("r+b") as file:
            self._table = mmap.mmap(file.fileno(), RULE.size * RULES)
        self._slots: dict[tuple[int, Kind], int] = {}
        self.environment = {"FAULT_TABLE": str(table), "LD_PRELOAD": str(self._compiled()), "RAY_LD_PRELOAD_ON_WORKERS": "1"}

    @staticmethod
    def is_possible() -> bool:
        """Whether there is a C compiler."""
        return shutil.which("gcc") is not None

    def _compiled(self) -> Path:
        library = self.folder / "shim.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, Path(__file__).with_name("shim.c"), "-ldl"], check=True)
        return library

    def set(self, pid: int, kind: Kind, value: int = 1) -> None:
        """From now on, for one process or EVERYONE."""
        slot = self._slots.setdefault((pid, kind), next(n for n in range(RULES) if n not in self._slots.values()))
        # The kind comes last: a rule that is written in part is none.
        RULE.pack_into(self._table, slot * RULE.size, pid, 0, value)
        struct.pack_into("<i", self._table, slot * RULE.size + 4, kind)

    def clear(self, *kinds: Kind) -> None:
        """Rules of these kinds end."""
        for (pid, kind), slot in list(self._slots.items()):
            if kind in kinds:
                RULE.pack_into(self._table, slot * RULE.size, 0, 0, 0)
                del self._slots[pid, kind]
