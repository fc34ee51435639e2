"""A real grid as a user starts it: its own processes, driven by the command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import profilegrid
import yaml

from loadtests.bench.sides import COMMAND, free_port
from tests.catalogs import EVERY_KIND


def grid_of_every_kind(folder: Path, *options: str) -> RunningGrid:
    """A grid whose catalog has every kind of feature and attribute, started."""
    catalog = folder / "catalog.yaml"
    catalog.write_text(yaml.safe_dump(EVERY_KIND, sort_keys=False))
    return RunningGrid(folder / "data", "--catalog", str(catalog), *options).up()


class RunningGrid:
    """`profilegrid up --detach` on a folder, and the command beside it."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.folder, self.port = folder, free_port()
        # A grid of a test has no spares unless it says so: its few kills don't pay for two processes more.
        self._options, self._environment = options, {"PROFILEGRID_SPARES": "0", **(environment or {})}

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def up(self) -> RunningGrid:
        done = self.cli("up", "--detach", "--data", str(self.folder), "--port", str(self.port), *self._options, targeted=False)
        assert done.returncode == 0, done.stderr
        return self

    def down(self) -> None:
        done = self.cli("down", "--data", str(self.folder), targeted=False)
        assert done.returncode == 0, done.stderr

    def cli(self, *arguments: str, targeted: bool = True, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the command as a user does."""
        environment = {**os.environ, **self._environment, **({"PROFILEGRID_TARGET": self.target} if targeted else {})}
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=240, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        """The one JSON document of a command that must succeed."""
        return json.loads(self.cli(*arguments, "--json", check=True).stdout)

    def client(self, **options: Any) -> profilegrid.Client:
        return profilegrid.Client(self.target, **options)

    def shards(self) -> list[dict[str, Any]]:
        return list(self.json("status")["shards"])

    def kill_shard(self, shard: int) -> int:
        """kill -9, as the kernel does when memory is out. A shard that is just starting is waited for."""
        pid = int(self.wait_until(lambda: self.shards()[shard]["pid"]))
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_everything(self) -> None:
        """kill -9 of every process of the grid, as when the machine's power goes (but for what the kernel has not written)."""
        pids = self.processes("")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids))

    def processes(self, name: str) -> list[int]:
        """Pids of this grid's processes whose command line begins with `name`."""
        return descendants(int(json.loads((self.folder / "up.json").read_text())["pid"]), name)

    def wait_until(self, question: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """The first answer that is true."""
        deadline = time.monotonic() + timeout_s
        while not (answer := question()):
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.1)
        return answer

    def wait_for_backfill(self, timeout_s: float = 60.0) -> None:
        with self.client() as grid:
            self.wait_until(lambda: not grid.catalog()["backfilling"], timeout_s)


def descendants(root: int, name: str) -> list[int]:
    """Pids of a process and what it started whose command line begins with `name`."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:  # it ended meanwhile
                continue

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return [pid for pid, command in names.items() if command.startswith(name) and is_ours(pid)]
