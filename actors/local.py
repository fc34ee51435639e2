"""A grid from start to stop: controller, shards and coordinator, on this machine with a Ray of its own, or on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.configs import SHARDS_DEFAULT, GridConfig
from actors.controller import State
from actors.names import CONTROLLER, COORDINATOR, NAMESPACE, TEMPORARY
from actors.nodes import pinned_to
from actors.running import Running
from grid.errors import DataFolderForeign, GridError
from grid.storage.files import own, replace_file

FORMAT = "2"
DISK_BYTES_MIN = 1 << 30
MEMORY_BYTES_MIN = 1 << 30
LEFT_TRIES = 30
START_TIMEOUT_S, CONNECT_TIMEOUT_S, REACH_TIMEOUT_S = 120.0, 15.0, 3.0
Say = Callable[[str], None]


class CannotStart(GridError):
    """The grid cannot start here; the message says why in one sentence."""

    reason = "CANNOT_START"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


def check_place(config: GridConfig) -> None:
    """Raise CannotStart unless port, folder, disk and memory will do."""
    folder = Path(config.folder)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise CannotStart(
                f"port {config.port} on {config.host} is taken ({error.strerror}); stop what listens there or choose another with --port"
            ) from None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    marker = folder / "GRID"
    if marker.exists():
        found = marker.read_text().strip()
        if found != FORMAT:
            raise CannotStart(f"{folder} has data of format {found}; this version reads format {FORMAT}")
    elif any(folder.iterdir()):
        raise CannotStart(f"{folder} is not empty and holds no grid; choose another folder with --data")
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES_MIN:
        raise CannotStart(f"{folder} has {free >> 20} MB free, at least {DISK_BYTES_MIN >> 20} MB are needed")
    available = _available_memory()
    if available < MEMORY_BYTES_MIN:
        raise CannotStart(f"{available >> 20} MB of memory are available, at least {MEMORY_BYTES_MIN >> 20} MB are needed")
    _check_state(config)
    if not config.is_cluster and config.replicas > (config.shards or SHARDS_DEFAULT):
        raise CannotStart(f"{config.replicas} copies of each partition take {config.replicas} shards; start it with --shards {config.replicas}")
    if not marker.exists():
        replace_file(marker, FORMAT.encode())


def _check_state(config: GridConfig) -> None:
    """Raise CannotStart when a grid that exists is asked to have another number of shards, which takes moves, or to be where its data is not."""
    path = Path(config.folder) / "controller" / "state.bin"
    if not path.exists():
        return
    try:
        state = State.unpack(path.read_bytes())
    except (ValueError, TypeError):  # what is wrong with it the controller tells
        return
    if state.homes and not config.is_cluster:
        nodes = ", ".join(sorted(set(state.homes.values())))
        raise CannotStart(f"the data of this grid's shards lies on the nodes {nodes}: start it with --address, on the Ray cluster that they belong to")
    if config.shards and state.shards_wanted != config.shards:
        how = f"start it without --shards, then: profilegrid scale --shards {config.shards}"
        raise CannotStart(f"{config.folder} has {state.shards_wanted} shards; {how}")


def _available_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


class Grid:
    """The processes of one grid. `start`, then `status`, `wait`, `stop`."""

    def __init__(self, config: GridConfig, say: Say = lambda text: None, *, address: str = "") -> None:
        """`address` of a Ray cluster that this machine is a node of, or "auto"; empty: a Ray of its own, here only."""
        self.config, self._say, self._address = config, say, address
        self._temporary: Path | None = None
        self._controller: Any = None
        self._lock = -1

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"{self.config.host}:{self.config.port}"

    def start(self) -> None:
        """Start everything and wait until all shards serve. Raises CannotStart."""
        folder = Path(self.config.folder)
        check_place(self.config)
        try:
            self._lock = own(folder / "up", timeout_s=0.5)
        except DataFolderForeign as error:
            raise CannotStart(f"{folder} is served already ({error.detail}); stop it with: profilegrid down --data {folder}") from None
        warm_kernels(self._say)
        if self._address:
            self._say(f"connecting to Ray at {self._address}")
            self._connect()
        else:
            self._say("starting Ray")
            self._start_ray()
        self._say("starting controller, shards and gateway")
        self._start_actors()
        self._wait_until_serving()
        Running(os.getpid(), self.endpoint).write(folder)

    def _start_ray(self) -> None:
        # Ray's sockets need a short path; the folder is ours alone because Ray makes its own 0777.
        self._temporary = Path(tempfile.mkdtemp(prefix="pg-"))
        os.environ[TEMPORARY] = str(self._temporary)
        # Ray listens on all interfaces: without a token that is remote code execution for everyone who reaches this machine.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        # Workers run at nice 15 by default and would be starved by anything else on the machine.
        # glibc makes an arena a thread by default, and a worker has 30: what each keeps for later adds up.
        os.environ.setdefault("MALLOC_ARENA_MAX", "2")
        os.environ.update(RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
        # What Ray would tell a dashboard, which is not there: a quarter of what a shard takes at rest.
        os.environ.update(RAY_event_stats="0", RAY_task_events_report_interval_ms="0", RAY_enable_metrics_collection="0")
        if self.config.spares:
            os.environ.update(RAY_preload_python_modules="actors.ahead")
        import ray

        ray.init(
            address="local", namespace=NAMESPACE, include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=4,
            object_store_memory=128 << 20, _temp_dir=str(self._temporary / "r"),
        )  # fmt: skip

    def _connect(self) -> None:
        """Join a Ray cluster. A wrong token, or nobody there, would make Ray wait for ever."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        host, _, port = self._address.rpartition(":")
        if port.isdigit():
            try:
                socket.create_connection((host, int(port)), REACH_TIMEOUT_S).close()
            except OSError as error:
                raise CannotStart(f"no Ray cluster at {self._address}: {error.strerror or error}") from None
        failed: list[BaseException] = []

        def connect() -> None:
            import ray

            try:
                ray.init(address=self._address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
            except BaseException as error:  # told below
                failed.append(error)

        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(CONNECT_TIMEOUT_S)
        if thread.is_alive():
            raise CannotStart(f"Ray at {self._address} does not answer; does it run there, and is RAY_AUTH_TOKEN that of the cluster?")
        if failed:
            first = (str(failed[0]).strip().splitlines() or [type(failed[0]).__name__])[0]
            raise CannotStart(f"no Ray cluster at {self._address} that this machine is a node of: {first}")

    def _start_actors(self) -> None:
        import ray

        from actors.controller import Controller
        from actors.coordinator import Coordinator

        options: dict[str, Any] = {
            "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "max_restarts": -1, "max_task_retries": 0, "num_cpus": 0,
            "max_concurrency": 1000,
        }  # fmt: skip
        if self._address:  # the controller's file is here
            here = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = pinned_to(here)
            self._end_those_of_former_nodes(here)
        self._controller = ray.remote(Controller).options(name=CONTROLLER, **options).remote(self.config)
        ray.remote(Coordinator).options(name=COORDINATOR, **options).remote()
        self._ask(self._controller.start.remote(), 60.0)

    def _end_those_of_former_nodes(self, here: str) -> None:
        """Controller and coordinator that were pinned to a node which died, this machine's former life perhaps: Ray keeps their names."""
        import ray

        for name in (CONTROLLER, COORDINATOR):
            try:
                actor = ray.get_actor(name, namespace=NAMESPACE)
            except ValueError:
                continue
            with contextlib.suppress(ray.exceptions.RayError):
                if ray.get(actor.node.remote(), timeout=10.0) == here:
                    continue
            ray.kill(actor, no_restart=True)

    def _ask(self, reference: Any, timeout_s: float) -> Any:
        import ray

        try:
            return ray.get(reference, timeout=timeout_s)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise CannotStart(str(cause)) from None

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        said = ""
        while True:
            status = self.status()
            progress = ", ".join(f"shard {s['id']} {s['progress']}" for s in status["shards"] if s.get("progress") and s["state"] == "recovering")
            if progress != said:
                # A recovery that goes on is given its time.
                deadline, said = time.monotonic() + START_TIMEOUT_S, progress
                if progress:
                    self._say(f"recovering: {progress}")
            is_up = all(shard["state"] == "serving" for shard in status["shards"])
            if self._address and not is_up:  # what nodes that are gone had is another's, or waits for them
                is_up = self._is_served(status)
            if is_up and self._is_listening():
                return
            if time.monotonic() > deadline or (status["problem"] and "taken" in status["problem"]):
                raise CannotStart(status["problem"] or f"shards do not serve within {START_TIMEOUT_S:g} s: {[s['state'] for s in status['shards']]}")
            time.sleep(0.1)

    @staticmethod
    def _is_served(status: dict[str, Any]) -> bool:
        """Whether every partition has a shard that serves it, though others are down."""
        gone = {node["name"] for node in status["nodes"] if not node["is_alive"]}
        return bool(gone) and all(shard["state"] == "serving" or (shard["node"] in gone and not shard["partitions"]) for shard in status["shards"])

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex((self.config.host, self.config.port)) == 0

    def status(self) -> dict[str, Any]:
        """The controller's status."""
        facts: dict[str, Any] = self._ask(self._controller.status.remote(), 30.0)
        return facts

    def wait(self, until: Callable[[], bool]) -> None:
        """Stay until `until` is true; a controller that Ray restarted is woken meanwhile."""
        import ray

        while not until():
            time.sleep(0.2)
            with contextlib.suppress(ray.exceptions.RayError, CannotStart):
                ray.get(self._controller.start.remote(), timeout=10.0)

    def stop(self) -> None:
        """Drain and checkpoint the shards, end Ray, remove the temporary folder."""
        import ray

        folder = Path(self.config.folder)
        Running.forget(folder)
        if self._controller is not None:
            try:
                ray.get(ray.get_actor(COORDINATOR, namespace=NAMESPACE).stop.remote(), timeout=15.0)
                for problem in ray.get(self._controller.stop.remote(), timeout=180.0):
                    self._say(problem)
                if self._address:
                    ray.get(self._controller.end_actors.remote(), timeout=30.0)
                    for name in (COORDINATOR, CONTROLLER):
                        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
            except (ray.exceptions.RayError, ValueError) as error:
                self._say(f"not all drained ({type(error).__name__}: {error}); what was acknowledged is in the log")
        self.abandon()

    def abandon(self) -> None:
        """End Ray and remove the temporary folder, without draining."""
        import ray

        ray.shutdown()
        if self._temporary is not None:
            for _ in range(LEFT_TRIES):  # processes that end write into it meanwhile
                shutil.rmtree(self._temporary, ignore_errors=True)
                if not self._temporary.exists():
                    break
                time.sleep(0.1)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def warm_kernels(say: Say) -> None:
    """Compile the kernels unless that is done: once per version and machine, in a process of its own."""
    from grid.kernels import cache_folder

    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder())
    if (folder / "WARM").exists():
        return
    say("compiling kernels (once per version)")
    result = subprocess.run([sys.executable, "-m", "grid.warming"], capture_output=True, text=True, check=False)
    if result.returncode:
        raise CannotStart(f"the kernels do not compile: {result.stderr.strip().splitlines()[-1] if result.stderr.strip() else result.returncode}")
