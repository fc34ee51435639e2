"""Simulate the protocol of replicas over many seeds, and see that no mutant of it survives.

python -m tests.simulation --seeds 2000 --mutants
python -m tests.simulation --seeds 100000 --state simulated.json     (stop it and start it again at will)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.simulation.mutants import MUTANTS
from tests.simulation.running import REGRESSIONS, Tally, judged, simulated

console = Console(stderr=True)


def main() -> int:
    """0 when nothing was found and no mutant survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--state", type=Path, help="a file to keep the tally in, so that the same command goes on where it was")
    parser.add_argument("--mutants", action="store_true", help="then the gate: each mutant must be noticed")
    arguments = parser.parse_args()
    tally = _run_seeds(arguments.seeds, arguments.state)
    survivors = _run_mutants() if arguments.mutants else 0
    return 1 if tally.failures or survivors else 0


def _run_seeds(seeds: int, state: Path | None) -> Tally:
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("seeds", total=seeds)
        tally = simulated(seeds, state, lambda tally: progress.update(task, completed=tally.done, description=f"seeds, {len(tally.failures)} failed"))
    console.print(
        f"{tally.done:,} seeds in {time.monotonic() - began:.0f} s: {tally.acknowledged:,} acknowledged writes, {tally.reads:,} reads, "
        f"{tally.steps:,} steps; {len(tally.failures)} failed"
    )
    for failure in tally.failures:
        console.print(f"seed {failure['seed']}, {len(failure['faults'])} faults: {failure['wrong'][0]}", style="red")
        print(json.dumps(failure))
    if tally.failures:
        console.print(f"each line above is a case for {REGRESSIONS}")
    return tally


def _run_mutants() -> int:
    table = Table("mutant", "noticed by seed", "as")
    survivors = 0
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("mutants", total=len(MUTANTS))
        for mutant, seed, seen in judged(tuple(MUTANTS)):
            progress.advance(task)
            survivors += seed is None
            table.add_row(mutant, "SURVIVED" if seed is None else str(seed), seen[:100])
    console.print(table)
    return survivors


if __name__ == "__main__":
    sys.exit(main())
