"""Small file chores that must not be forgotten: fsync of folders, whole-file replacement, the lock of an owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from grid.errors import DataFolderForeign


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that after a crash the old or the new content is there, never a part."""
    temporary = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_folder(path.parent)


def forget_cached(path: Path) -> None:
    """Drop what the system keeps of a file in memory: the next read is of the disk. Of what lies only in memory nothing goes."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def own(folder: Path, *, timeout_s: float) -> int:
    """Take the folder's OWNER lock; the descriptor stays open for the process's life. Raises DataFolderForeign when another holds it.

    flock, not RocksDB's own lock: that one vanishes when its holder opens and closes the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "OWNER", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise DataFolderForeign(str(folder), f"in use by process {holder or 'unknown'}") from None
            time.sleep(0.05)
