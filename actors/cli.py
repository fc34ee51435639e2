"""The operator's commands: up, down. They join the client's CLI through an entry point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from profilegrid.cli.output import note

from actors import snapshot_cli
from actors.running import Running

if TYPE_CHECKING:
    from actors.configs import GridConfig

Data = Annotated[Path, typer.Option("--data", envvar="PROFILEGRID_HOME", help="Folder of the grid's data.")]
DEFAULT_DATA = Path("profilegrid-data")
DETACH_TIMEOUT_S = 150.0


def register(app: typer.Typer) -> None:
    """Add our commands."""
    app.command()(up)
    app.command()(down)
    app.add_typer(snapshot_cli.app, name="snapshot")


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Start in the background; return when it serves.")] = False,
    data: Data = DEFAULT_DATA,
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, max=64, help="Shards of a new grid (2); one that exists is changed by: profilegrid scale.")
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=2, help="Copies of each partition of a new grid; changed by: profilegrid scale.")] = 1,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the gateway.")] = 7600,
    catalog: Annotated[Path | None, typer.Option("--catalog", exists=True, dir_okay=False, help="Catalog to apply before it serves.")] = None,
    partitions: Annotated[int, typer.Option("--partitions", min=1, max=65535, help="Partitions of a new grid; fixed for its life.")] = 64,
    memory: Annotated[int, typer.Option("--memory-mb", min=256, help="Memory bound of a shard, MB.")] = 8192,
    keep_log: Annotated[bool, typer.Option("--keep-log", help="Never delete log segments (tests).")] = False,
    spares: Annotated[
        int,
        typer.Option("--spares", envvar="PROFILEGRID_SPARES", min=0, max=64, help="Processes kept ready for shards that die, 200 MB each; not with --address."),
    ] = 2,
    checkpoint_every: Annotated[float, typer.Option("--checkpoint-every", min=0.1, help="Seconds between checkpoints.")] = 300.0,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=0, max=65535, help="Port of /metrics and /targets (default: the gateway's + 1; another when that is taken)."),
    ] = None,
    segment: Annotated[int, typer.Option("--segment-mb", min=1, max=1024, help="Size of a log segment, MB.")] = 64,
    snapshots: Annotated[str, typer.Option("--snapshots", metavar="URL", help="Make snapshots there by itself: a folder or an fsspec URL.")] = "",
    snapshot_every: Annotated[float, typer.Option("--snapshot-every", min=0.01, metavar="HOURS", help="Hours between them.")] = 24.0,
    snapshot_keep: Annotated[int, typer.Option("--snapshot-keep", min=1, help="How many of them are kept, the newest.")] = 7,
    address: Annotated[
        str, typer.Option("--address", metavar="auto|HOST:PORT", help="Ray cluster that this machine is a node of: shards spread over its nodes.")
    ] = "",
    host: Annotated[str, typer.Option("--host", help="Where the gateway listens (127.0.0.1; with --address this node's address in the cluster).")] = "",
    cpus: Annotated[float, typer.Option("--shard-cpus", min=0.01, help="With --address: CPUs that Ray keeps free for each shard.")] = 1.0,
    resources: Annotated[
        str, typer.Option("--shard-resources", metavar="NAME=AMOUNT,…", help='With --address: what else each shard takes of its node ("memory" in bytes).')
    ] = "",
    replace_after: Annotated[
        float, typer.Option("--replace-after", min=1.0, metavar="SECONDS", help="Down so long, a shard has its copies made again on others (two copies only).")
    ] = 600.0,
) -> None:
    """Start a grid on this machine, or on a Ray cluster: controller, shards and gateway. Stays until Ctrl-C; the data survives."""
    if detach:
        _up_detached(data, port)
        return
    from actors.configs import GridConfig

    config = GridConfig(
        str(data.resolve()),
        shards or 0,
        partitions,
        port=port,
        memory_bytes_max=memory << 20,
        keep_log=keep_log,
        checkpoint_every_s=checkpoint_every,
        segment_bytes=segment << 20,
        metrics_port=port + 1 if metrics_port is None else metrics_port,
        snapshots_url=snapshot_cli.absolute(snapshots) if snapshots else "",
        snapshots_every_s=snapshot_every * 3600,
        snapshots_keep=snapshot_keep,
        host=host or (_own_address() if address else "127.0.0.1"),
        replicas=replicas,
        is_cluster=bool(address),
        shard_resources=_resources(cpus, resources),
        replace_after_s=replace_after,
        spares=spares,
    )
    _serve(config, data.resolve(), catalog, address)


def _serve(config: GridConfig, folder: Path, catalog: Path | None, address: str) -> None:
    """Start a grid and stay until a signal; then stop it."""
    from actors.local import Grid

    grid = Grid(config, lambda text: note(f"… {text}"), address=address)
    signals = StopSignals()
    try:
        grid.start()
        signals.listen()
        if catalog is not None:
            _apply(grid.endpoint, catalog)
        _greet(grid.status(), grid.endpoint)
        (folder / "ready").touch()
        grid.wait(signals.came)
        note("… stopping: shards drain and write checkpoints")
        grid.stop()
    except BaseException:
        grid.abandon()
        raise
    finally:
        (folder / "ready").unlink(missing_ok=True)
    note("stopped; the data is kept")


def _own_address() -> str:
    """This machine's address as other nodes of the cluster reach it."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def _resources(cpus: float, others: str) -> dict[str, float]:
    """What Ray keeps free for a shard."""
    found = {"CPU": cpus}
    for part in filter(None, others.split(",")):
        name, equals, amount = part.partition("=")
        try:
            found[name.strip()] = float(amount)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise typer.BadParameter(f"{part!r}; expected NAME=AMOUNT, several with commas between", param_hint="--shard-resources")
    return found


class StopSignals:
    """Whether SIGINT or SIGTERM came. A second one ends the process at once."""

    def __init__(self) -> None:
        self._count = 0
        self.listen()

    def listen(self) -> None:
        """Take the signals. Call it again after ray.init: Ray puts a handler of its own in place that dies without draining."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._count += 1
        if self._count > 1:
            os._exit(130)

    def came(self) -> bool:
        """Whether one came."""
        return self._count > 0


def _apply(endpoint: str, catalog: Path) -> None:
    from profilegrid.errors import Refused
    from profilegrid.sync import Client

    with Client(endpoint, read_timeout=30.0) as grid:
        try:
            grid.apply_catalog(catalog)
        except Refused as error:
            note(f"{catalog} was not applied: {error.message}")


def _greet(status: dict[str, Any], endpoint: str) -> None:
    users = sum(shard.get("recovered_users", 0) for shard in status["shards"])
    if users:
        seconds = max(shard.get("recovered_seconds", 0.0) for shard in status["shards"])
        note(f"recovered {users:,} users in {seconds:.1f} s")
    for shard in status["shards"]:
        for problem in shard.get("problems", []):
            note(f"shard {shard['id']}: {problem}")
    note(f"serving on {endpoint} with {len(status['shards'])} shards; metrics on http://{status['metrics']}/metrics")


def _up_detached(data: Path, port: int) -> None:
    """Start ourselves in the background, without --detach, and wait until it serves or has failed."""
    folder = data.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    log_path = folder.with_name(folder.name + ".log")
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    ready = folder / "ready"
    if ready.exists() and not _is_alive(folder):
        ready.unlink()
    with log_path.open("ab") as log:
        start = log.tell()
        command = [sys.executable, "-c", "from profilegrid.cli import main; main()", *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + DETACH_TIMEOUT_S
    while not (ready.exists() and _pid(folder) == process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log_path.read_bytes()[start:].decode("utf-8", "replace").strip().splitlines()
            if process.poll() is None:
                process.terminate()
            from actors.local import CannotStart

            why = (said[-1] if said else "it ended without a word").removeprefix("error: ")
            raise CannotStart(f"{why} (more in {log_path})")
        time.sleep(0.05)
    running = Running.read(folder)
    endpoint = running.endpoint if running is not None else f"127.0.0.1:{port}"
    note(f"serving on {endpoint} in the background; log: {log_path}; stop it with: profilegrid down --data {data}")


def _pid(folder: Path) -> int:
    running = Running.read(folder)
    return running.pid if running is not None else 0


def _is_alive(folder: Path) -> bool:
    return _pid(folder) != 0


def down(data: Data = DEFAULT_DATA) -> None:
    """Stop the grid of a data folder: it drains, writes checkpoints, and keeps the data."""
    pid = _pid(data.resolve())
    if not pid:
        note(f"no grid is running on {data}")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            note("stopped; the data is kept")
            return
        time.sleep(0.1)
    note(f"process {pid} is still stopping")
    raise typer.Exit(1)
