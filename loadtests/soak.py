"""Ten minutes of the locust scenario against a grid of its own: memory of the shards (the median of six looks) and p99 by the minute.

    python -m loadtests.soak [--minutes 10] [--users 64]

Ends with 1 when memory after the second minute grows by more than 2 %, or a call failed.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests.bench.sides import Grid
from loadtests.scenario import locust, own_catalog

GROWTH_MAX, WARM_MINUTES = 0.02, 2


def newest(history: Path, since: float) -> tuple[float, float, int]:
    """(requests a second, worst p99 in ms, failures so far) of the aggregated lines since a time (s)."""
    rates, tails, failures = [0.0], [0.0], 0
    with history.open() as file:
        for line in csv.DictReader(file):
            if line["Name"] == "Aggregated" and float(line["Timestamp"]) >= since and line["99%"] != "N/A":
                rates.append(float(line["Requests/s"]))
                tails.append(float(line["99%"]))
                failures = int(line["Total Failure Count"])
    return rates[-1], max(tails), failures


def main() -> int:
    """Run, print a line a minute, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--users", type=int, default=64)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="pg-soak-") as name:
        folder = Path(name)
        # Small segments and frequent checkpoints: history is made every minute or two, as it is in hours of a service's life.
        grid = Grid(folder / "grid", own_catalog(), "--checkpoint-every", "30", "--segment-mb", "16")
        command = locust(grid.target, arguments.users, f"{arguments.minutes * 60 + 5}s", "--csv", str(folder / "soak"), "--csv-full-history")
        few = {**os.environ, "LOCUST_SHARED_USERS": "5000"}  # all of them are there after a minute: what grows then is a leak
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=few)
        memories: list[float] = []
        table = Table("minute", "requests/s", "p99 ms", "failed", "memory of the shards", "at most")
        failures = 0
        try:
            for minute in range(1, arguments.minutes + 1):
                since, samples = time.time(), []
                while time.time() - since < 60:
                    time.sleep(9.5)
                    samples.append(grid.memory())
                rate, tail, failures = newest(folder / "soak_stats_history.csv", since)
                memories.append(statistics.median(samples) / (1 << 20))
                most = max(samples) / (1 << 20)
                table.add_row(str(minute), f"{rate:,.0f}", f"{tail:,.0f}", str(failures), f"{memories[-1]:,.1f} MB", f"{most:,.1f} MB")
                console.print(f"… minute {minute}: {rate:,.0f} requests/s, p99 {tail:,.0f} ms, {memories[-1]:,.0f} MB, at most {most:,.0f}", highlight=False)
        finally:
            load.terminate()
            load.wait()
            grid.down()
    console.print(table)
    grown = memories[-1] / memories[min(WARM_MINUTES, len(memories)) - 1] - 1
    console.print(f"memory after the first {WARM_MINUTES} minutes: {grown:+.1%} (at most {GROWTH_MAX:+.0%}); failed calls: {failures}")
    return 1 if grown > GROWTH_MAX or failures else 0


if __name__ == "__main__":
    sys.exit(main())
