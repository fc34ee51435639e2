"""`profilegrid bench`: the table for people, JSON for programs, and the guard against regressions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from profilegrid.cli.output import note, print_json

BASELINE = Path(__file__).parent / "baseline.json"
FALL_MAX = 0.15


def register(app: typer.Typer) -> None:
    """Add our command to the CLI."""
    app.command()(bench)


def bench(
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="Only this row; may be repeated. --only list names them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Compare ratios with the committed baseline; exit 1 and name what fell by more than 15 %.")] = False,
    save: Annotated[bool, typer.Option("--save-baseline", help="Make this run's ratios the baseline.")] = False,
) -> None:
    """Measure this machine: grids of our own beside Redis and ClickHouse, in one run. About 20 minutes; needs 8 GB of memory and of disk."""
    from loadtests.bench import audiences, copying, moving, reading, scaling, writing  # noqa: F401 - importing registers
    from loadtests.bench.rows import ROWS, Row
    from loadtests.bench.sides import bench as started
    from loadtests.bench.sides import machine

    if only and "list" in only:
        print("\n".join(ROWS))
        return
    for name in only or ():
        if name not in ROWS:
            raise typer.BadParameter(f"--only: got {name!r}, expected one of {', '.join(ROWS)}")
    note(machine())
    rows: list[Row] = []
    with started(lambda text: note(f"… {text}")) as run:
        for measure in dict.fromkeys(ROWS[name] for name in only or ROWS):
            try:
                rows += measure(run)
            except Exception as error:  # the other rows are worth having
                names = [name for name, found in ROWS.items() if found is measure]
                note(f"{', '.join(names)} failed: {error}")
                rows += [Row(name, "", reason=f"failed: {str(error).splitlines()[0]}") for name in names]
    if as_json:
        print_json([row.to_json() for row in rows])
    else:
        print_rows(rows)
    if save:
        known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        BASELINE.write_text(json.dumps(known | {row.name: round(row.ratio, 3) for row in rows if row.ratio is not None}, indent=1, sort_keys=True) + "\n")
    if check and (fallen := fallen_rows({row.name: row.ratio for row in rows}, json.loads(BASELINE.read_text()))):
        note("fell by more than 15 %: " + "; ".join(fallen))
        raise typer.Exit(1)


def fallen_rows(ratios: dict[str, float | None], baseline: dict[str, float]) -> list[str]:
    """What lies more than 15 % below the baseline, in words. Rows without a ratio, or new ones, cannot fall."""
    return [
        f"{name} {ratio:.2f}× (baseline {baseline[name]:.2f}×)"
        for name, ratio in ratios.items()
        if ratio is not None and name in baseline and ratio < baseline[name] * (1 - FALL_MAX)
    ]


def print_rows(rows: list) -> None:  # type: ignore[type-arg]
    """The table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for column, justify in (("row", "left"), ("ours", "right"), ("±", "right"), ("peer", "right"), ("ratio", "right"), ("to reach", "left"), ("", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        peer = f"{_number(row.peer)}\n{row.peer_name}" if row.peer else row.reason
        mark = {True: "[green]reached[/]", False: "[red]missed[/]", None: "–"}[row.is_met]
        ratio = f"{row.ratio:.2f}×" if row.ratio is not None else "–"
        ours = f"{_number(row.ours)} {row.unit}" + "".join(f"\n{text}" for text in row.notes)
        table.add_row(row.name, ours, f"{row.spread:.0%}" if row.spread else "", peer, ratio, row.target, mark)
    Console().print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.3g}"
