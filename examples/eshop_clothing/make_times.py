"""Give the clothing shop's clicks a time of day. The data set has none: the times made here are SYNTHETIC.

A session starts at a second of its day that its id decides, and clicks 10 s apart in their recorded order.

    python make_times.py eshop_clothing_2008.csv.gz clicks.csv
"""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from datetime import UTC, datetime, timedelta

SECONDS_A_CLICK = 10
LATEST_START_S = 20 * 3600


def main(source: str, target: str) -> int:
    """Copy the file with a column `time` added (UTC)."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as lines, open(target, "w", encoding="utf-8", newline="") as out:
        reader = csv.DictReader(lines, delimiter=";")
        writer = csv.DictWriter(out, [*(reader.fieldnames or []), "time"])
        writer.writeheader()
        for row in reader:
            start = datetime(int(row["year"]), int(row["month"]), int(row["day"]), tzinfo=UTC)
            second = zlib.crc32(row["session ID"].encode()) % LATEST_START_S + int(row["order"]) * SECONDS_A_CLICK
            row["time"] = (start + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")
            writer.writerow(row)
    print("the times of day are synthetic: the data set has dates and click order only", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
