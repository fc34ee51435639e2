"""Named places where a test makes a process die or a write fail. Off in production: without PROFILEGRID_FAILPOINTS a hit is one comparison.

PROFILEGRID_FAILPOINTS names a folder. A file in it, named as a point, arms it for one hit of one process (whoever renames it first):

    kill          SIGKILL of the process
    eio, enospc   OSError, as the disk would raise it
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

POINTS = (
    "group.logged", "log.before_write", "log.written", "log.fsynced", "group.applied_in_part", "group.applied", "catalog.put", "catalog.logged",
    "checkpoint.shard_put", "checkpoint.pages_put", "checkpoint.staged", "checkpoint.installed", "segment.before_drop",
    "history.file_written", "history.listed", "merge.listed", "compact.before", "erase.positions_put", "backfill.folded", "backfill.whole",
    "load.staged", "renew.copied", "renew.aside", "replica.promised", "replica.sent", "replica.logged",
    "move.staged", "move.sealed", "move.saved", "move.released", "move.taken_over", "recovery.checkpoints", "recovery.replayed", "controller.before_save", "controller.saved",
)  # fmt: skip
_folder = Path(os.environ["PROFILEGRID_FAILPOINTS"]) if os.environ.get("PROFILEGRID_FAILPOINTS") else None
_this_thread = threading.local()


def failpoint(name: str) -> None:
    """Do what the point is armed for, if it is. Raises OSError where that was asked."""
    if _folder is not None and not getattr(_this_thread, "is_exempt", False):
        _act(_folder, name)


def exempt_this_thread() -> None:
    """What this thread does is no traffic: points pass it by."""
    _this_thread.is_exempt = True


def _act(folder: Path, name: str) -> None:
    assert name in POINTS, name
    armed = folder / name
    try:
        action = armed.read_text().strip()
        armed.rename(folder / f"{name}.hit-{os.getpid()}-{time.monotonic_ns()}")
    except FileNotFoundError:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    code = {"eio": errno.EIO, "enospc": errno.ENOSPC}[action]
    raise OSError(code, os.strerror(code), name)
