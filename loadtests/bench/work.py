"""The work that both sides do: catalogs, events, and the same as a Lua script and as Redis hashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from loadtests.population import CATEGORIES

USERS, BATCH, IN_FLIGHT = 1_000_000, 25_000, 8
INGEST: dict[str, Any] = {
    "events": {"view": {"category": "category"}},
    "features": {
        "heat_fast": {"decayed_count": "view", "half_life": "10m"},
        "heat": {"decayed_count": "view", "half_life": "7d"},
        "views_1h": {"window_count": "view", "window": "1h", "hop": "5m"},
        "interest": {"decayed_count": "view", "by": "category", "half_life": "7d", "top": 3},
        "last_seen": {"last_time": "view"},
        "active_days": {"days_active": "view", "window": "30d"},
    },
}
# The profiles that are read have ten features: these four come from another event and cost ingest nothing.
SHOP: dict[str, Any] = {
    "events": {**INGEST["events"], "purchase": {"price": "float"}},
    "features": {
        **INGEST["features"],
        "purchases": {"count": "purchase"},
        "spend": {"sum": "purchase.price"},
        "first_purchase": {"first_time": "purchase"},
        "last_purchase": {"last_time": "purchase"},
    },
}
CITIZENS: dict[str, Any] = {
    "events": {"view": {}},
    "attributes": {"city": "category", "age": "int"},
    "features": {"heat": {"decayed_count": "view", "half_life": "7d"}},
}
# The same six values per event, kept in one hash a user; decay is folded as ours is, in forward form.
LUA = """
local h, t, c = KEYS[1], tonumber(ARGV[1]), ARGV[2]
redis.call('HINCRBYFLOAT', h, 'f', 2 ^ ((t - 1.7e12) / 6e5 / 1e3))
redis.call('HINCRBYFLOAT', h, 's', 2 ^ ((t - 1.7e12) / 6.048e8))
local b = math.floor(t / 300000)
redis.call('HINCRBY', h, 'w' .. (b % 12), 1)
redis.call('HINCRBYFLOAT', h, 'k' .. c, 2 ^ ((t - 1.7e12) / 6.048e8))
redis.call('HSET', h, 'l', t)
redis.call('SETBIT', 'day:' .. math.floor(t / 86400000), ARGV[3], 1)
return 1
"""
FIRST_MS, SPAN_MS = 1_700_000_000_000, 3_600_000


def zipf_users(seed: int, count: int) -> Any:
    """int64[count]: numbers of users, some far more often than others."""
    return (np.random.default_rng(seed).zipf(1.2, count) - 1) % USERS


def views(seed: int, count: int) -> dict[str, Any]:
    """Zipf users, 30 categories, an hour of times: Arrow columns for `track_many`."""
    rng = np.random.default_rng(seed)
    users = zipf_users(seed, count)
    times = FIRST_MS + np.sort(rng.integers(0, SPAN_MS, count))
    categories = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, CATEGORIES, count)), pa.array([f"c{i}" for i in range(CATEGORIES)]))
    return {"user_id": pa.array(np.char.add("user-", users.astype("U8"))), "time": pa.array(times), "category": categories}


def view_rows(seed: int, count: int) -> list[tuple[str, int, str]]:
    """The same, row by row: (user, time, category)."""
    columns = views(seed, count)
    return list(zip(columns["user_id"].to_pylist(), columns["time"].to_pylist(), columns["category"].to_pylist(), strict=True))


def read_ids(seed: int, count: int) -> list[str]:
    """Users to read, as often as they occur."""
    return [f"user-{number}" for number in zipf_users(seed, count).tolist()]
