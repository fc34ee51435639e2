"""Run the fault matrix and print its table.

python -m tests.faults [--short] [--times N] [--combined N] [--seed N] [--only TEXT] [--out table.json]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.faults.faults import COMBINED, SHORT, possible
from tests.faults.matrix import Matrix
from tests.faults.shim import Shim


def main() -> int:
    """0 when nothing was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one fault of each sort, and one combination")
    parser.add_argument("--times", type=int, default=1, help="how often each (default 1)")
    parser.add_argument("--combined", type=int, help="how many combinations of two or three (default: as many as there are faults / 4)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="of what is chosen; printed")
    parser.add_argument("--only", default="", help="faults whose name has this")
    parser.add_argument("--keep", action="store_true", help="keep logs and journals even if nothing was wrong")
    parser.add_argument("--out", type=Path, help="a file for the table, as JSON")
    arguments = parser.parse_args()
    console = Console(width=150)
    console.print(f"seed {arguments.seed}" + ("" if Shim.is_possible() else "; no C compiler: faults of system calls and of the network are left out"))
    folder = Path(tempfile.mkdtemp(prefix="pg-faults-"))
    matrix = Matrix(folder, arguments.seed, lambda text: console.print(text, highlight=False, soft_wrap=True))
    try:
        run(matrix, short=arguments.short, times=arguments.times, combined=arguments.combined, only=arguments.only)
    finally:
        matrix.end()
    console.print(matrix.table())
    if arguments.out:
        arguments.out.write_text(json.dumps(matrix.as_json(), indent=1))
    for problem in matrix.problems[:50]:
        console.print(f"[red]{problem}[/]", soft_wrap=True)
    console.print(
        "nothing was lost, nothing doubled, nothing read wrong" if not matrix.problems else f"{len(matrix.problems)} problems; kept for a look: {folder}"
    )
    if not matrix.problems and not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if matrix.problems else 0


def run(matrix: Matrix, *, short: bool = False, times: int = 1, combined: int | None = None, only: str = "") -> None:
    """Each fault alone, in an order by the seed, then some at the same time."""
    faults = possible(matrix)
    names = [name for name in (SHORT if short else faults) if name in faults and only in name]
    for _ in range(times):
        for name in matrix.rng.sample(names, len(names)):
            matrix.strike([name], [faults[name]])
    together = [name for name in COMBINED if name in faults]
    count = combined if combined is not None else 1 if short else 0 if only else len(names) // 4
    for _ in range(count):
        chosen = matrix.rng.sample(together, matrix.rng.choice((2, 3)))
        matrix.strike(chosen, [faults[name] for name in chosen])


if __name__ == "__main__":
    sys.exit(main())
