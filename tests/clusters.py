"""A Ray cluster of several nodes on this machine, as an operator starts one: its own token, a data folder for each node.

It lives in a process of its own, told line by line what to do: Ray reads its settings when it is imported, and others here have imported it.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.grids import descendants

ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "MALLOC_ARENA_MAX": "2"}


class RayCluster:
    """Nodes 0 (the head), 1, 2, ...: killed and started again by number."""

    def __init__(self, folder: Path, nodes: int, **settings: str) -> None:
        self._folder = folder
        self.environment = ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)} | settings
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.clusters", str(folder), str(nodes)],
            cwd=Path(__file__).parents[1], env=os.environ | self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.address = self._answer()

    def folder(self, number: int) -> Path:
        """Where a node keeps the data of its shards."""
        return folder_of(self._folder, number)

    def kill(self, number: int, *, only_raylet: bool = False) -> None:
        """kill -9 of a node, or of its raylet."""
        self._do("kill-raylet" if only_raylet else "kill", number)

    def start(self, number: int) -> None:
        """The node again, with the data that it had."""
        self._do("start", number)

    def processes(self, name: str) -> list[int]:
        """Pids of the cluster's processes whose command line begins with `name`."""
        return descendants(self._process.pid, name)

    def kill_process(self, name: str) -> None:
        """kill -9 of an actor, as "ray::Controller"."""
        for pid in self.processes(name):
            os.kill(pid, signal.SIGKILL)

    def kill_gcs(self) -> None:
        """kill -9 of what knows the cluster."""
        self._do("kill-gcs")

    def start_gcs(self) -> None:
        self._do("start-gcs")

    def end(self) -> None:
        self._do("end")
        self._process.wait(60)

    def _do(self, what: str, number: int = 0) -> None:
        assert self._process.stdin is not None
        print(what, number, file=self._process.stdin, flush=True)
        assert self._answer() == what

    def _answer(self) -> str:
        """What the process says; what Ray prints meanwhile is no answer."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the cluster's process ended")


def folder_of(folder: Path, number: int) -> Path:
    return folder / f"node-{number}"


def _arguments(folder: Path, number: int) -> dict[str, Any]:
    environment = {"PROFILEGRID_NODE_DATA": str(folder_of(folder, number))}
    return {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False, "env_vars": environment}


def _kill(node: Any, *, only_raylet: bool) -> None:
    """Reaped, as the workers of a raylet that is a zombie take it for alive."""
    for name, processes in node.all_processes.items():
        for info in processes if name == "raylet" or not only_raylet else ():
            info.process.send_signal(signal.SIGKILL)
            info.process.wait()


def _serve(folder: Path, count: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, connect=False, head_node_args=_arguments(folder, 0))
    nodes = {0: cluster.head_node} | {number: cluster.add_node(wait=False, **_arguments(folder, number)) for number in range(1, count)}
    print(">", cluster.address, flush=True)
    for line in sys.stdin:
        what, number = line.split()[0], int(line.split()[1])
        if what in ("kill", "kill-raylet"):
            _kill(nodes.pop(number), only_raylet=what == "kill-raylet")
        elif what == "start":
            nodes[number] = cluster.add_node(wait=True, **_arguments(folder, number))
        elif what == "kill-gcs":
            cluster.head_node.kill_gcs_server(check_alive=False)
        elif what == "start-gcs":
            cluster.head_node.start_gcs_server()
        elif what == "end":
            cluster.shutdown()
        print(">", what, flush=True)
        if what == "end":
            return


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
