"""Durations as people write them: `500ms 30s 5m 1h 7d`."""

from __future__ import annotations

import re

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DAY_MS = UNITS_MS["d"]
_PATTERN = re.compile(r"(\d+)(ms|s|m|h|d)")


def parse_duration(text: object) -> int:
    """Milliseconds of a duration such as `5m`. Raises ValueError that says what was expected."""
    match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError(f"got {text!r}, expected a duration such as 500ms, 30s, 5m, 1h or 7d")
    return int(match[1]) * UNITS_MS[match[2]]


def format_duration(ms: int) -> str:
    """The shortest way to write it: 3600000 is '1h'."""
    for unit in ("d", "h", "m", "s"):
        if ms % UNITS_MS[unit] == 0:
            return f"{ms // UNITS_MS[unit]}{unit}"
    return f"{ms}ms"
