"""ClickHouse (chdb) in a process of its own, as our shards are: a query a line comes in, its answer goes out.

Inside the caller's process its threads would run beside our calls.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from loadtests.bench.sides import Missing

TABLES = (
    "CREATE DATABASE IF NOT EXISTS b",
    "CREATE TABLE b.users (id String, n UInt32, city LowCardinality(String), age UInt8, heat Float64) ENGINE = MergeTree ORDER BY n",
    "INSERT INTO b.users SELECT user_id, toUInt32(substring(user_id, 6)), city, toUInt8(age), heat FROM file('{file}', Parquet)",
    "OPTIMIZE TABLE b.users FINAL",
    "CREATE TABLE b.maps (k LowCardinality(String), v UInt32, m AggregateFunction(groupBitmap, UInt32)) ENGINE = MergeTree ORDER BY (k, v)",
    "INSERT INTO b.maps SELECT 'city', toUInt32(substring(city, 6)), groupBitmapState(n) FROM b.users GROUP BY city",
    "INSERT INTO b.maps SELECT 'age', age, groupBitmapState(n) FROM b.users GROUP BY age",
    # Thresholds of a decayed value are not known beforehand: the bitmaps are of tenths, which rounds what ours answers exactly.
    "INSERT INTO b.maps SELECT 'heat', toUInt32(least(heat * 10, 1000)) AS h, groupBitmapState(n) FROM b.users GROUP BY h",
)


class ClickHouse:
    """The process, over the file that our grid was loaded from. Raises Missing without chdb."""

    def __init__(self, folder: Path, users: Path) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", __name__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._line() != "ready":
            raise Missing("chdb is not installed (pip install chdb)")
        for statement in TABLES:
            self.ask(statement.format(file=users))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def ask(self, query: str) -> str:
        """The answer as text. Raises RuntimeError with ClickHouse's words."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(query) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        if "error" in answer:
            raise RuntimeError(f"{query}: {answer['error']}")
        return str(answer["text"])

    def scan(self, city: int, other: int, age: int, heat: float) -> int:
        """The count by a scan of the columns."""
        return int(self.ask(f"SELECT count() FROM b.users WHERE city IN ('city-{city}', 'city-{other}') AND age >= {age} AND heat > {heat}"))

    def bitmaps(self, city: int, other: int, age: int, heat: float) -> int:
        """The count from one bitmap a value."""
        parts = [f"k = 'city' AND v IN ({city}, {other})", f"k = 'age' AND v >= {age}", f"k = 'heat' AND v > {int(heat * 10)}"]
        a, b, c = (f"(SELECT groupBitmapMergeState(m) FROM b.maps WHERE {part})" for part in parts)
        return int(self.ask(f"SELECT bitmapCardinality(bitmapAnd(bitmapAnd({a}, {b}), {c}))"))

    def close(self) -> None:
        """Stop it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(folder: str) -> None:
    """Answer queries from stdin until it ends."""
    try:
        from chdb import session
    except ImportError:
        print("missing", flush=True)
        return
    house = session.Session(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer = {"text": str(house.query(json.loads(line), "TabSeparated"))}
        except Exception as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    house.close()


if __name__ == "__main__":
    serve(sys.argv[1])
