"""Failpoints (`grid/failpoints.py`) as tests arm them, and damage to files."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from pathlib import Path

from grid.errors import CheckpointCorrupt
from grid.storage.checkpoints import Checkpoints


class Points:
    """The folder that PROFILEGRID_FAILPOINTS names. A process may look at any moment: a point is armed whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def arm(self, point: str, action: str = "kill") -> None:
        """The next process that passes the point does what it says."""
        for hit in self.folder.glob(f"{point}.hit-*"):  # of one who came when nobody waited any more
            hit.unlink()
        new = self.folder / f"{point}.new"
        new.write_text(action)
        new.rename(self.folder / point)

    def was_passed(self, point: str, timeout_s: float) -> bool:
        """Wait until a process passed an armed point; false: none did in time, and it is armed no more."""
        deadline = time.monotonic() + timeout_s
        while not (hits := list(self.folder.glob(f"{point}.hit-*"))):
            if time.monotonic() > deadline:
                (self.folder / point).unlink(missing_ok=True)
                return False
            time.sleep(0.01)
        for hit in hits:
            hit.unlink()
        return True


def flip(path: Path, rng: random.Random) -> None:
    """One bit of a file, where it has data."""
    raw = bytearray(path.read_bytes())
    end = len(raw.rstrip(b"\0")) or len(raw)
    raw[rng.randrange(end)] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def flip_where_no_start_reads(rocks: Path, partitions: int) -> None:
    """One bit of a RocksDB's SST, in what later checkpoints have replaced: all that counts still reads, a compaction will meet it."""
    for table in sorted(rocks.glob("*.sst")):
        whole, other = table.read_bytes(), rocks.with_name("other")
        for at in range(0, len(whole), 997):
            table.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with contextlib.suppress(CheckpointCorrupt), contextlib.closing(Checkpoints(rocks, is_read_only=True)) as database:
                left_out = database.copy_to(other, partitions)
                shutil.rmtree(other)
                if not left_out and not _reads_from_end_to_end(database):
                    return
        table.write_bytes(whole)
    raise AssertionError("all that is there counts")


def _reads_from_end_to_end(database: Checkpoints) -> bool:
    try:
        return len(list(database._entries(b"", lambda iterator: None))) > 0
    except CheckpointCorrupt:
        return False
