"""catalog apply, show, diff."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from profilegrid.cli.output import DEFAULT_TARGET, Json, Target, app, connect, note, print_json, show_time

catalog = typer.Typer(no_args_is_help=True, help="Declare events, attributes and features.")
app.add_typer(catalog, name="catalog")
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The catalog, YAML.")]


def print_change(change: dict[str, Any]) -> None:
    """A change as people read it."""
    for mark, key in (("+", "added"), ("~", "changed"), ("-", "losses")):
        for item in change[key]:
            print(f"{mark} {item}")
    if change["backfills"]:
        print(f"backfilled from history: {', '.join(change['backfills'])}")


@catalog.command()
def apply(
    file: File,
    force: Annotated[bool, typer.Option("--force", help="Accept the loss of what the change drops.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until new features are backfilled.")] = True,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Validate a catalog and make it the grid's: all of it or nothing."""
    with connect(target) as grid:
        change = grid.apply_catalog(file, force=force)
        if wait and change["backfills"]:
            wait_for_backfill(grid)
    if as_json:
        print_json(change)
    else:
        print_change(change)
        print(f"catalog {change['version']} is in force")


def wait_for_backfill(grid: Any) -> None:
    """A progress bar until every feature is complete."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, Any] = {}
        while backfilling := grid.catalog()["backfilling"]:
            for name, percent in backfilling.items():
                bars.setdefault(name, progress.add_task(f"backfilling {name}", total=100))
                progress.update(bars[name], completed=percent)
            time.sleep(0.2)


@catalog.command()
def show(target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Print the catalog in force, and how far backfills are."""
    with connect(target) as grid:
        found = grid.catalog()
    if as_json:
        print_json(found)
        return
    print(found["source"].rstrip())
    note(f"catalog {found['version']}" if found["version"] else "no catalog has been applied")
    for name, percent in found["backfilling"].items():
        note(f"{name}: backfilling {percent} %")
    for name, ms in found["complete_since"].items():
        note(f"{name}: its past reaches back to events received after {show_time(ms)} UTC")


@catalog.command()
def diff(file: File, target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Say what applying a catalog would add, change and lose; change nothing."""
    with connect(target) as grid:
        change = grid.apply_catalog(file, dry_run=True)
    if as_json:
        print_json(change)
    elif not any(change[key] for key in ("added", "changed", "losses")):
        print("nothing would change")
    else:
        print_change(change)
