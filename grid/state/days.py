"""Local days: offsets of a timezone for many times at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

DAY_MS = 86_400_000
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def local_times(times_ms: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """int64[n]: ms since 1970-01-01 as a clock in `timezone` shows them."""
    if timezone == "UTC":
        return times_ms
    borders, offsets = _transitions(timezone)
    return times_ms + offsets[np.searchsorted(borders, times_ms, side="right")]


@lru_cache(maxsize=64)
def _transitions(timezone: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times (ms) where the offset changes between 1970 and 2100, and the offset (ms) before, between and after them.

    zoneinfo tells offsets, not transitions: a step of 12 days misses none that lasts longer, bisection finds each to the second.
    """
    zone = ZoneInfo(timezone)
    borders, offsets = [], [_offset(zone, _FIRST)]
    step = timedelta(days=12)
    moment = _FIRST
    while moment < _LAST:
        after = min(moment + step, _LAST)
        if _offset(zone, after) != offsets[-1]:
            low, high = moment, after
            while high - low > timedelta(seconds=1):
                middle = (low + (high - low) / 2).replace(microsecond=0)
                low, high = (middle, high) if _offset(zone, middle) == offsets[-1] else (low, middle)
            borders.append(round(high.timestamp() * 1000))
            offsets.append(_offset(zone, high))
            after = high
        moment = after
    return np.array(borders, dtype=np.int64), np.array(offsets, dtype=np.int64)


def _offset(zone: ZoneInfo, moment: datetime) -> int:
    offset = moment.astimezone(zone).utcoffset()
    return round(offset.total_seconds() * 1000) if offset is not None else 0


def calendar_part(name: str, times_ms: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """`year`, `month` or `day` (of the month) of times, as a calendar in `timezone` shows them."""
    moments = local_times(times_ms, timezone).astype("datetime64[ms]")
    if name == "year":
        return moments.astype("datetime64[Y]").astype(np.int64) + 1970
    months = moments.astype("datetime64[M]")
    if name == "month":
        return months.astype(np.int64) % 12 + 1
    return (moments.astype("datetime64[D]") - months).astype(np.int64) + 1
