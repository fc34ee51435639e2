"""`make load`: the locust scenario, headless, against the local grid; where there is none, or it has another catalog, against a grid of its own.

    python -m loadtests.load [--port 7600] [--users 64] [--time 60s] [--report load-report.html]

Ends with 1 when a call failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import profilegrid
from profilegrid.errors import ProfilegridError
from rich.console import Console

from loadtests.bench.sides import Grid
from loadtests.scenario import locust, misfit, own_catalog

console = Console(stderr=True)


@contextmanager
def fitting(target: str) -> Iterator[str]:
    """Where a grid is that serves the scenario: at `target`, or one that ends with the block."""
    try:
        with profilegrid.Client(target, read_timeout=2.0) as client:
            why = misfit(client.catalog())
    except ProfilegridError:
        why = "no grid is running"
    if not why:
        yield target
        return
    console.print(f"… {target}: {why}; the load goes to a grid of its own", highlight=False)
    with tempfile.TemporaryDirectory(prefix="pg-load-") as name:
        grid = Grid(Path(name) / "grid", own_catalog())
        try:
            yield grid.target
        finally:
            grid.down()


def main() -> int:
    """Run locust, say where its report is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7600)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--time", default="60s", help="as locust has it: 60s, 10m")
    parser.add_argument("--report", type=Path, default=Path("load-report.html"))
    arguments = parser.parse_args()
    with fitting(f"127.0.0.1:{arguments.port}") as target:
        command = locust(target, arguments.users, arguments.time, "--html", str(arguments.report), "--exit-code-on-error", "1")
        code = subprocess.run(command, check=False).returncode
    console.print(f"report: {arguments.report}", highlight=False)
    return code


if __name__ == "__main__":
    sys.exit(main())
