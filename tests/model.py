"""The naive model: every feature straight from its definition, over a plain list of a user's events. Slow and obviously right."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

DAY_MS = 86_400_000


@dataclass
class Event:
    """An accepted event; `position` orders arrival."""

    name: str
    time: int
    properties: dict[str, Any]
    position: int


@dataclass
class Model:
    """Users as plain dicts and lists."""

    catalog: dict[str, Any]
    users: dict[str, list[Event]] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    count: int = 0

    def add(self, user: str, name: str, time: int, properties: dict[str, Any]) -> None:
        self.count += 1
        self.users.setdefault(user, []).append(Event(name, time, properties, self.count))
        self.attributes.setdefault(user, {})

    def forget(self, user: str) -> None:
        self.users.pop(user, None)
        self.attributes.pop(user, None)

    def feature(self, user: str, name: str, as_of: int) -> Any:
        """A feature's value at a time; None is NULL."""
        declared = self.catalog["features"][name]
        kind = next(key for key in declared if key in NAIVE)
        operands = declared[kind] if isinstance(declared[kind], list) else [declared[kind]]
        names = {operand.partition(".")[0] for operand in operands}
        prop = operands[0].partition(".")[2]
        events = [e for e in self.users.get(user, []) if e.name in names and (not prop or prop in e.properties)]
        if "where" in declared:
            assert declared["where"] == "n > 0"
            events = [e for e in events if e.properties.get("n", 0) > 0]
        zone = self.catalog.get("timezone", "UTC")
        if "by" in declared:
            keyed: dict[str, list[Event]] = {}
            for event in events:
                if declared["by"] in event.properties:
                    keyed.setdefault(event.properties[declared["by"]], []).append(event)
            values = {key: NAIVE[kind](of_key, prop, declared, as_of, zone) for key, of_key in keyed.items()}
            if kind.startswith("window"):
                values = {key: value for key, value in values.items() if value is not None and _in_window(keyed[key], declared, as_of, zone)}
            if "top" in declared:
                best = sorted(values.items(), key=lambda item: (-item[1], item[0].encode()))
                return [{"key": key, "value": value} for key, value in best[: declared["top"]]]
            return values
        return NAIVE[kind](events, prop, declared, as_of, zone)


def duration(text: str) -> int:
    return int(text[:-1]) * {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}[text[-1]]


def hop_of(time: int, hop: int, zone: str) -> int:
    if hop % DAY_MS == 0:
        offset = datetime.fromtimestamp(time / 1000, UTC).astimezone(ZoneInfo(zone)).utcoffset()
        assert offset is not None
        time += int(offset.total_seconds() * 1000)
    return time // hop


def _shape(declared: dict[str, Any]) -> tuple[int, int]:
    hop = duration(declared.get("hop", "1d"))
    return hop, duration(declared["window"]) // hop


def _in_window(events: list[Event], declared: dict[str, Any], as_of: int, zone: str) -> list[Event]:
    hop, hops = _shape(declared)
    now = hop_of(as_of, hop, zone)
    return [e for e in events if now - hops < hop_of(e.time, hop, zone) <= now]


def is_held(events: list[Event], declared: dict[str, Any], as_of: int, zone: str) -> bool:
    """Whether the user's newest hops still hold the whole window."""
    hop, hops = _shape(declared)
    of_events = [hop_of(e.time, hop, zone) for e in events]
    gone = [h for h in of_events if h <= max(of_events) - hops]
    return not gone or max(gone) <= hop_of(as_of, hop, zone) - hops


def _windowed(function: Any, empty: Any) -> Any:
    def value(events: list[Event], prop: str, declared: dict[str, Any], as_of: int, zone: str) -> Any:
        if not is_held(events, declared, as_of, zone):
            return None
        inside = _in_window(events, declared, as_of, zone)
        return function(inside, prop) if inside else empty

    return value


def _decayed(weight: Any) -> Any:
    def value(events: list[Event], prop: str, declared: dict[str, Any], as_of: int, zone: str) -> float:
        half_life = duration(declared["half_life"])
        return sum(weight(e, prop) * 2.0 ** ((e.time - as_of) / half_life) for e in events)

    return value


def _days(events: list[Event], prop: str, declared: dict[str, Any], as_of: int, zone: str) -> Any:
    if not is_held(events, declared, as_of, zone):
        return None
    return len({hop_of(e.time, DAY_MS, zone) for e in _in_window(events, declared, as_of, zone)})


NAIVE: dict[str, Any] = {
    "count": lambda events, prop, *_: len(events),
    "sum": lambda events, prop, *_: sum(e.properties[prop] for e in events),
    "min": lambda events, prop, *_: min((e.properties[prop] for e in events), default=None),
    "max": lambda events, prop, *_: max((e.properties[prop] for e in events), default=None),
    "decayed_count": _decayed(lambda e, prop: 1.0),
    "decayed_sum": _decayed(lambda e, prop: e.properties[prop]),
    "window_count": _windowed(lambda events, prop: len(events), 0),
    "window_sum": _windowed(lambda events, prop: sum(e.properties[prop] for e in events), 0),
    "window_min": _windowed(lambda events, prop: min(e.properties[prop] for e in events), None),
    "window_max": _windowed(lambda events, prop: max(e.properties[prop] for e in events), None),
    "window_distinct": _windowed(lambda events, prop: len({e.properties[prop] for e in events}), 0),
    "distinct": lambda events, prop, *_: len({e.properties[prop] for e in events}),
    "first": lambda events, prop, *_: min(events, key=lambda e: (e.time, e.position)).properties[prop] if events else None,
    "last": lambda events, prop, *_: max(events, key=lambda e: (e.time, e.position)).properties[prop] if events else None,
    "first_time": lambda events, *_: min((e.time for e in events), default=None),
    "last_time": lambda events, *_: max((e.time for e in events), default=None),
    "days_active": _days,
}
