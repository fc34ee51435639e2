"""The two sides: grids as users start them (their own processes, real sockets, fsync), and peers from Debian or PyPI where they are here."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import profilegrid
import yaml

from loadtests import population
from loadtests.bench import work

COMMAND = [sys.executable, "-c", "from profilegrid.cli import main; main()"]
BIG_USERS = 10_000_000


class Missing(Exception):
    """A peer is not installed here; the row says so."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


class Grid:
    """`profilegrid up --detach` on a folder of its own."""

    def __init__(self, folder: Path, catalog: dict[str, Any], *options: str) -> None:
        self.folder, self.port, self.target = folder, 0, ""
        self._options = options
        self._catalog = folder.with_suffix(".yaml")
        self._catalog.write_text(yaml.safe_dump(catalog, sort_keys=False))
        self.up()

    def up(self) -> float:
        """Start it, each time on another port: the one before may be somebody's by now. Returns seconds to serving."""
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        started = time.perf_counter()
        self.run("up", "--detach", "--data", str(self.folder), "--port", str(self.port), "--catalog", str(self._catalog), *self._options)
        return time.perf_counter() - started

    def run(self, *arguments: str) -> str:
        """A command of the CLI; its stdout."""
        environment = {**os.environ, "PROFILEGRID_TARGET": self.target}
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"profilegrid {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def shards(self) -> list[dict[str, Any]]:
        """As `status --json`."""
        return list(json.loads(self.run("status", "--json"))["shards"])

    def pids(self) -> list[int]:
        """Of the shards."""
        return [int(shard["pid"]) for shard in self.shards()]

    def memory(self) -> int:
        """RssAnon of the shards."""
        return sum(anonymous_bytes(pid) for pid in self.pids())

    def settle(self) -> None:
        """Wait until history has caught up and spares are ready, so that neither is counted into what is measured next. Without spares after two minutes."""
        quiet, spares_by = 0, time.monotonic() + 120
        while quiet < 2:
            time.sleep(1.0)
            is_quiet = all(shard["history"]["segments_behind"] == 0 for shard in self.shards()) and (time.monotonic() > spares_by or self._has_spares())
            quiet = quiet + 1 if is_quiet else 0

    def _has_spares(self) -> bool:
        """Whether as many processes stand ready for shards that die as there shall be."""
        try:
            with self.client() as client:
                gateway = client.status().metrics
            endpoints = json.loads(_fetched(f"http://{gateway}/targets"))[0]["targets"]
            lines = "\n".join(_fetched(f"http://{endpoint}/metrics") for endpoint in endpoints).splitlines()
            found = dict(line.split() for line in lines if line.startswith("profilegrid_spares"))
            return float(found["profilegrid_spares"]) >= float(found["profilegrid_spares_wanted"])
        except (OSError, KeyError):  # for some seconds the list is one of before
            return False

    def kill_shards(self) -> None:
        """kill -9 of all of them at once."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    def client(self, **options: Any) -> profilegrid.Client:
        """A client of it."""
        return profilegrid.Client(self.target, **options)

    def down(self) -> None:
        """Stop it; the data stays."""
        with contextlib.suppress(RuntimeError):
            self.run("down", "--data", str(self.folder))


class Redis:
    """redis-server with an append-only file."""

    def __init__(self, folder: Path, fsync: str = "everysec") -> None:
        try:
            import redis
        except ImportError as error:
            raise Missing("redis-py is not installed (pip install redis hiredis)") from error
        if shutil.which("redis-server") is None:
            raise Missing("redis-server is not installed")
        folder.mkdir(exist_ok=True)
        self.port, self._folder, self._fsync = free_port(), folder, fsync
        self.client = redis.Redis(port=self.port)
        self.up()

    def up(self) -> float:
        """Start it and wait until its data is loaded. Returns the seconds that took."""
        import redis

        options = ["--port", str(self.port), "--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", self._fsync, "--save", ""]
        started = time.perf_counter()
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        while True:
            try:
                self.client.ping()
                return time.perf_counter() - started
            except (redis.ConnectionError, redis.BusyLoadingError):
                if time.perf_counter() - started > 120:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def down(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()


class Bench:
    """What rows share, each made when the first row asks for it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self._running: list[Grid | Redis] = []

    def started(self, side: Any) -> Any:
        """Stop it when the run ends."""
        self._running.append(side)
        return side

    @cached_property
    def shop(self) -> Grid:
        """The grid of ingest and reads."""
        self.say("starting a grid")
        grid: Grid = self.started(Grid(self.folder / "shop", work.SHOP))
        return grid

    @cached_property
    def redis(self) -> Redis:
        """Redis, AOF everysec. Raises Missing."""
        peer: Redis = self.started(Redis(self.folder / "redis"))
        return peer

    @cached_property
    def big(self) -> Grid:
        """10M users of the ingest schema, loaded by `profilegrid load`. `empty_bytes` is its memory before."""
        self.say(f"making {BIG_USERS:,} users")
        return self._loaded("big", work.INGEST, population.shoppers(self.folder / "big.parquet", BIG_USERS))

    @cached_property
    def audience(self) -> Grid:
        """10M users with city, age and heat."""
        return self._loaded("audience", work.CITIZENS, self.citizens_file)

    @cached_property
    def citizens_file(self) -> Path:
        """10M users with city, age and heat, as a Parquet file."""
        self.say(f"making {BIG_USERS:,} users")
        return population.citizens(self.folder / "audience.parquet", BIG_USERS)

    def _loaded(self, name: str, catalog: dict[str, Any], path: Path) -> Grid:
        self.clear()
        grid: Grid = self.started(Grid(self.folder / name, catalog))
        grid.settle()  # shards load their kernels for a second after they serve
        self.empty_bytes = grid.memory()
        self.say(f"loading {BIG_USERS:,} users")
        grid.run("load", str(path), "--as-of", str(population.AS_OF_MS))
        return grid

    def stop(self, side: Grid | Redis) -> None:
        """Stop one that no later row needs: its memory is wanted."""
        side.down()
        self._running.remove(side)

    def clear(self) -> None:
        """Stop everything: a grid that does nothing takes a tenth of a core. A later row that needs what rows share gets it with its data."""
        for side in reversed(self._running):
            side.down()
        self._running.clear()
        for name in ("shop", "redis"):
            self.__dict__.pop(name, None)

    def close(self) -> None:
        """Stop everything, remove the folder."""
        self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def bench(say: Callable[[str], None]) -> Iterator[Bench]:
    """A run in a folder of its own."""
    made = Bench(Path(tempfile.mkdtemp(prefix="pg-bench-")), say)
    try:
        yield made
    finally:
        made.close()


def machine() -> str:
    """What the figures were measured on."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    versions = {name: importlib.metadata.version(name) for name in ("ray", "grpcio", "numpy", "numba") if _is_here(name)}
    peers = {name: importlib.metadata.version(name) for name in ("redis", "chdb") if _is_here(name)}
    listed = ", ".join(f"{name} {version}" for name, version in {**versions, **peers}.items())
    return f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), {memory >> 20} GB, Python {platform.python_version()}, {listed}"


def _is_here(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
