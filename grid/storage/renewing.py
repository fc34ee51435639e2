"""RocksDB made anew of a damaged one.

A bit that flips where no start reads (a page that was replaced since, say) is met by a compaction, after which RocksDB takes no write, in
no life of the process. All that counts can still be read: it is copied, the damage stays behind.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from grid.failpoints import failpoint
from grid.storage.checkpoints import DAMAGE_FILE, Checkpoints
from grid.storage.files import sync_folder

log = logging.getLogger("profilegrid")
ROCKS_FOLDER, _NEW_FOLDER = "rocks", "rocks.new"


def folder_aside(folder: Path) -> Path:
    """Where a folder is kept for a look that was found damaged, in the place of an earlier one. An erasure removes it."""
    return folder.with_name(f"{folder.name}.damaged")


def renew_damaged(folder: Path, partitions: int) -> list[str]:
    """Make a shard's RocksDB anew if it met damage in its own files in an earlier life. Returns what could not be read of it, in words: then the
    damaged one is kept, as `rocks.damaged`. A crash leaves the old one or the new one. Raises CheckpointCorrupt, WriteFailed.
    """
    damage, rocks, new = (folder / name for name in (DAMAGE_FILE, ROCKS_FOLDER, _NEW_FOLDER))
    if not damage.exists():
        return []
    aside = folder_aside(rocks)
    why, is_known, left_out = damage.read_text(), rocks.exists(), list[str]()
    if is_known:  # else a crash came between the two names
        shutil.rmtree(new, ignore_errors=True)
        damaged = Checkpoints(rocks, is_read_only=True)
        try:
            left_out = damaged.copy_to(new, partitions)
        finally:
            damaged.close()
        failpoint("renew.copied")
        shutil.rmtree(aside, ignore_errors=True)
        rocks.rename(aside)
        failpoint("renew.aside")
    if new.exists():
        new.rename(rocks)
    sync_folder(folder)
    damage.unlink()
    if is_known and not left_out:
        shutil.rmtree(aside, ignore_errors=True)
    sync_folder(folder)
    log.warning("the checkpoints met damage in their files (%s); they were made anew, %s", why, "; ".join(left_out) or "with all that counts")
    return left_out
