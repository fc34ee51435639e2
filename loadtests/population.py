"""Users by the million as Parquet, for `profilegrid load`: seeded, the same wherever they are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

CHUNK = 500_000
CATEGORIES, CITIES, AGES = 30, 20, 100
AS_OF_MS = 1_790_000_000_000
ACTIVE_SHARE, KEYS_EACH = 0.1, 3
_HOP_MS, _HOUR_MS, _DAY_MS = 300_000, 3_600_000, 86_400_000
_TIME = pa.timestamp("ms", tz="UTC")


def user_ids(first: int, count: int) -> pa.Array:
    """user-0, user-1, …"""
    return pa.array(np.char.add("user-", np.arange(first, first + count).astype("U9")))


def _chunks(users: int, seed: int) -> Iterator[tuple[int, int, np.random.Generator]]:
    for first in range(0, users, CHUNK):
        yield first, min(CHUNK, users - first), np.random.default_rng((seed, first))


def _write(path: Path, tables: Iterator[pa.Table]) -> Path:
    writer: pq.ParquetWriter | None = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema, compression="none")
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return path


def shoppers(path: Path, users: int, seed: int = 1) -> Path:
    """The schema of `ingest`: a tenth active in the last hour, three categories each."""
    return _write(path, (_shoppers(first, count, rng) for first, count, rng in _chunks(users, seed)))


def _shoppers(first: int, count: int, rng: np.random.Generator) -> pa.Table:
    is_active = rng.random(count) < ACTIVE_SHARE
    last = AS_OF_MS - np.where(is_active, rng.integers(0, _HOUR_MS, count), rng.integers(_HOUR_MS, 30 * _DAY_MS, count))
    return pa.table(
        {
            "user_id": user_ids(first, count),
            "heat_fast": np.where(is_active, rng.exponential(1, count), 0.0),
            "heat": rng.exponential(3, count),
            "views_1h": _windows(is_active),
            "interest": _interests(rng, count),
            "last_seen": pa.array(last).cast(_TIME),
            "active_days": pa.array(last).cast(_TIME),
        }
    )


def _windows(is_active: NDArray[np.bool_]) -> Any:
    """Three hops of the last hour for those who are active."""
    ends = np.concatenate([[0], np.cumsum(np.where(is_active, 3, 0))]).astype(np.int32)
    times = np.tile(AS_OF_MS - np.array([0, 1, 5]) * _HOP_MS, int(is_active.sum()))
    return pa.MapArray.from_arrays(pa.array(ends), pa.array(times).cast(_TIME), pa.array(np.ones(times.size)))


def _interests(rng: np.random.Generator, count: int) -> Any:
    words = pa.array([f"c{number}" for number in range(CATEGORIES)])
    keys = (rng.integers(0, CATEGORIES // KEYS_EACH, (count, 1)) + np.arange(KEYS_EACH) * (CATEGORIES // KEYS_EACH)).ravel()
    names = pa.DictionaryArray.from_arrays(pa.array(keys.astype(np.int32)), words).dictionary_decode()
    ends = np.arange(0, KEYS_EACH * count + 1, KEYS_EACH, dtype=np.int32)
    return pa.MapArray.from_arrays(pa.array(ends), names, pa.array(rng.exponential(2, KEYS_EACH * count)))


def citizens(path: Path, users: int, seed: int = 2) -> Path:
    """city (20), age (0 to 99), heat (decayed): what audiences are made of."""
    return _write(path, (_citizens(first, count, rng) for first, count, rng in _chunks(users, seed)))


def _citizens(first: int, count: int, rng: np.random.Generator) -> pa.Table:
    cities = pa.array([f"city-{number}" for number in range(CITIES)])
    city = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, CITIES, count).astype(np.int32)), cities)
    return pa.table({"user_id": user_ids(first, count), "city": city, "age": rng.integers(0, AGES, count), "heat": rng.exponential(3, count)})
