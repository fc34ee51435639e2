"""The kinds of features as declarations: what each takes and yields. The columns of each live in `grid/state/features`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of feature takes and yields, for validation and the catalog reference.

    takes      "event", "number" (a numeric property) or "any" (a property of any type)
    yields     "number", "timestamp" or "value" (the property's type)
    null       True: never fed reads NULL, else 0
    """

    name: str
    takes: str
    yields: str = "number"
    is_windowed: bool = False
    is_decayed: bool = False
    takes_by: bool = False
    null: bool = False
    semantics: str = ""
    lateness: str = "order does not matter"
    memory: str = "8 B"
    error: str = "exact"


_LATE_WINDOW = "order does not matter; an event older than the user's newest hop less the window is dropped from the window"
_RING = "8 B + 4 B a hop for users that have events, 8 B a hop for sum, min and max"
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("count", "event", takes_by=True, semantics="How many events."),
        Kind("sum", "number", takes_by=True, semantics="Sum of the property.", error="float64 rounding"),
        Kind("min", "number", null=True, semantics="Smallest value ever."),
        Kind("max", "number", null=True, semantics="Largest value ever."),
        Kind("decayed_count", "event", is_decayed=True, takes_by=True, error="1e-9 relative",
             semantics="Events weighted by 2^(-age / half_life) at the time of asking."),
        Kind("decayed_sum", "number", is_decayed=True, takes_by=True, error="1e-9 relative",
             semantics="Property weighted by 2^(-age / half_life) at the time of asking."),
        Kind("window_count", "event", is_windowed=True, takes_by=True, semantics="Events in the window.",
             lateness=_LATE_WINDOW, memory=_RING),
        Kind("window_sum", "number", is_windowed=True, takes_by=True, semantics="Sum of the property in the window.",
             lateness=_LATE_WINDOW, memory=_RING, error="float64 rounding"),
        Kind("window_min", "number", is_windowed=True, null=True, semantics="Smallest value in the window.",
             lateness=_LATE_WINDOW, memory=_RING),
        Kind("window_max", "number", is_windowed=True, null=True, semantics="Largest value in the window.",
             lateness=_LATE_WINDOW, memory=_RING),
        Kind("window_distinct", "any", is_windowed=True, semantics="Different values in the window.",
             lateness=_LATE_WINDOW, memory="16 B a value and hop, at most 128 KB", error="exact to 4,096 pairs of value and hop, then 2 % standard error"),
        Kind("distinct", "any", semantics="Different values ever.", memory="8 B a value to 256, then 4 KB",
             error="exact to 256 values, then 1.6 % standard error"),
        Kind("first", "any", yields="value", null=True, memory="16 B",
             semantics="Value of the earliest event; of equal times the one logged first.", lateness="by event time, order of arrival only breaks ties"),
        Kind("last", "any", yields="value", null=True, memory="16 B",
             semantics="Value of the latest event; of equal times the one logged last.", lateness="by event time, order of arrival only breaks ties"),
        Kind("first_time", "event", yields="timestamp", null=True, semantics="Time of the earliest event."),
        Kind("last_time", "event", yields="timestamp", null=True, semantics="Time of the latest event."),
        Kind("days_active", "event", is_windowed=True, semantics="Days of the catalog's timezone with an event, in the window.",
             lateness=_LATE_WINDOW, memory="8 B + 1 bit a day"),
    )
}  # fmt: skip
