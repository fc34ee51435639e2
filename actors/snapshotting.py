"""A shard's files on their way to a snapshot, in a process of their own: reading and hashing them would hold up the shard.

python -m actors.snapshotting FOLDER URL     prints {"done": bytes} as it goes, at last {"files": […]}
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grid.errors import SnapshotFailed
from grid.storage.snapshots import Repository

_LINE_BYTES_MAX = 64 << 20


async def send(folder: Path, url: str, said: Callable[[int], None]) -> list[dict[str, Any]]:
    """Store the files of a staged folder. Returns them as plain data. Raises SnapshotFailed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "actors.snapshotting", str(folder), url,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=_LINE_BYTES_MAX,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    files: list[dict[str, Any]] | None = None
    try:
        async for line in process.stdout:
            told = json.loads(line)
            files = told.get("files", files)
            said(told.get("done", 0))
        errors = (await process.stderr.read()).decode("utf-8", "replace").strip().splitlines()
        if await process.wait() != 0 or files is None:
            raise SnapshotFailed(url, errors[-1] if errors else f"the process that sends ended with {process.returncode}")
        return files
    finally:
        if process.returncode is None:
            process.kill()


def main(folder: str, url: str) -> None:
    """Carry it out, below everything else that wants the cores."""
    os.nice(10)

    def say(nbytes: int) -> None:
        print(json.dumps({"done": nbytes}), flush=True)

    files = Repository(url).put_folder(Path(folder), say)
    print(json.dumps({"files": [asdict(file) for file in files]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
