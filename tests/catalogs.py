"""The catalog that tests of features use: every kind, plain, by key, filtered."""

from __future__ import annotations

from typing import Any

EVERY_KIND: dict[str, Any] = {
    "grid": "tests",
    "timezone": "America/New_York",
    "events": {"e": {"n": "float", "i": "int", "c": "category", "k": "key", "b": "bool"}, "f": {"n": "float", "c": "category"}},
    "attributes": {"city": "category", "code": "key", "hobbies": "set", "age": "int", "vip": "bool", "born": "timestamp", "money": "float", "note": "text"},
    "features": {
        "count": {"count": "e"},
        "count_both": {"count": ["e", "f"]},
        "count_where": {"count": "e", "where": "n > 0"},
        "sum": {"sum": "e.n"},
        "sum_int": {"sum": "e.i"},
        "min": {"min": "e.n"},
        "max": {"max": ["e.n", "f.n"]},
        "decayed_count": {"decayed_count": "e", "half_life": "1h"},
        "decayed_sum": {"decayed_sum": "e.n", "half_life": "1d"},
        "window_count": {"window_count": "e", "window": "1h", "hop": "5m"},
        "window_sum": {"window_sum": "e.n", "window": "3d", "hop": "1d", "where": "n > 0"},
        "window_min": {"window_min": "e.n", "window": "6h", "hop": "1h"},
        "window_max": {"window_max": "e.n", "window": "6h", "hop": "1h"},
        "window_distinct": {"window_distinct": "e.k", "window": "6h", "hop": "1h"},
        "distinct": {"distinct": "e.k"},
        "first": {"first": "e.k"},
        "last": {"last": "e.c"},
        "last_int": {"last": "e.i"},
        "first_bool": {"first": "e.b"},
        "first_time": {"first_time": ["e", "f"]},
        "last_time": {"last_time": "f"},
        "days_active": {"days_active": ["e", "f"], "window": "5d"},
        "days_active_long": {"days_active": "e", "window": "90d"},
        "count_by": {"count": "e", "by": "c"},
        "sum_by": {"sum": "e.n", "by": "k"},
        "decayed_by": {"decayed_count": ["e", "f"], "by": "c", "half_life": "2h"},
        "window_by": {"window_count": "e", "by": "c", "window": "1h", "hop": "5m", "top": 2},
        "window_sum_by": {"window_sum": "e.n", "by": "k", "window": "2d", "hop": "1d"},
        "top_by": {"count": "e", "by": "k", "top": 3},
    },
}
