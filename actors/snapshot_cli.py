"""`profilegrid snapshot …`: create asks the grid; the others read the place where snapshots lie, a grid or none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from profilegrid.cli.output import DEFAULT_TARGET, Json, Target, connect, note, print_json, print_table, show_time

app = typer.Typer(no_args_is_help=True, help="Snapshots of a grid: in a folder, or at any URL that fsspec can open (s3://…, gs://…, memory, …).")
Url = Annotated[str, typer.Argument(help="Folder or fsspec URL. A grid's own processes must reach it under the same name.")]
Id = Annotated[str, typer.Argument(help="Id of a snapshot (default: the newest).", show_default=False)]


def absolute(url: str) -> str:
    """A folder as every process can find it."""
    return url if "://" in url else str(Path(url).resolve())


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


@app.command()
def create(url: Url, target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Make a snapshot while the grid serves. Sends only what the snapshots at URL do not have yet."""
    with connect(target) as grid, _bar() as bar:
        task = bar.add_task("checkpoint", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None, description="sending" if total else "checkpoint")

        made = grid.create_snapshot(absolute(url), progress=progress)
    if as_json:
        print_json(made)
    else:
        print(f"{made['id']}: {made['users']:,} users, {made['bytes'] / 1e6:,.1f} MB")


@app.command("list")
def list_snapshots(url: Url, as_json: Json = False) -> None:
    """Which snapshots there are, oldest first."""
    from grid.storage.snapshots import Repository

    repository = Repository(absolute(url))
    found = [repository.read(snapshot_id) for snapshot_id in repository.ids()]
    if as_json:
        print_json([{"id": s.id, "created_ms": s.created_ms, "users": s.users, "bytes": s.nbytes, "shards": len(s.parts)} for s in found])
    else:
        print_table(("id", "made (UTC)", "users", "MB", "shards"), [(s.id, show_time(s.created_ms), s.users, s.nbytes / 1e6, len(s.parts)) for s in found])


@app.command()
def verify(url: Url, snapshot_id: Id = "", as_json: Json = False) -> None:
    """Read a snapshot wholly and compare it with its checksums."""
    from grid.storage.snapshots import Repository

    repository = Repository(absolute(url))
    snapshot = repository.read(snapshot_id)
    with _bar() as bar:
        task = bar.add_task("reading", total=snapshot.nbytes)
        repository.verify(snapshot, lambda nbytes: bar.advance(task, nbytes))
    if as_json:
        print_json({"id": snapshot.id, "bytes": snapshot.nbytes, "files": len(snapshot.digests())})
    else:
        print(f"{snapshot.id} is whole: {len(snapshot.digests()):,} files, {snapshot.nbytes / 1e6:,.1f} MB")


@app.command()
def restore(
    url: Url,
    snapshot_id: Id = "",
    data: Annotated[Path, typer.Option("--data", help="Folder to make; it must be empty or not there.")] = Path("profilegrid-data"),
    shards: Annotated[int, typer.Option("--shards", min=0, max=64, help="Shards of the new grid (default: as many as there were).", show_default=False)] = 0,
    as_json: Json = False,
) -> None:
    """Make the data folder of a grid from a snapshot, for any number of shards. Users erased since are left out. Then: profilegrid up --data …"""
    from actors.restoring import restore as restored
    from grid.storage.snapshots import Repository

    repository = Repository(absolute(url))
    snapshot = repository.read(snapshot_id)
    with _bar() as bar:
        task = bar.add_task("reading the snapshot", total=None)
        wanted = shards or len(snapshot.parts)
        users = restored(repository, snapshot, data.resolve(), wanted, lambda what, at, total: bar.update(task, description=what, completed=at, total=total))
    if as_json:
        print_json({"id": snapshot.id, "users": users, "shards": wanted, "data": str(data.resolve())})
    else:
        print(f"{users:,} users of {snapshot.id} in {wanted} shards; serve them with: profilegrid up --data {data} --shards {wanted}")


@app.command()
def prune(url: Url, keep: Annotated[int, typer.Option("--keep", min=1, help="How many snapshots to keep, the newest.")], as_json: Json = False) -> None:
    """Drop older snapshots and the files that no other needs. Not while one is being made."""
    from grid.storage.snapshots import Repository

    dropped, freed = Repository(absolute(url)).prune(keep)
    if as_json:
        print_json({"dropped": dropped, "bytes_freed": freed})
    else:
        note(f"dropped {', '.join(dropped) or 'none'}")
        print(f"{len(dropped)} snapshots dropped, {freed / 1e6:,.1f} MB freed")


@app.command()
def erasures(url: Url, target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Tell the snapshots at URL who was erased, so that no restore brings them back. Every snapshot does so too."""
    with connect(target) as grid:
        told = grid.tell_erasures(absolute(url))
    if as_json:
        print_json({"told": told})
    else:
        print(f"{told:,} erasures are told")
