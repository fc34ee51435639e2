"""Refused rows as they are kept and shown."""

from __future__ import annotations

import math
from typing import Any

from grid.frame import ABSENT, UNSET


def dead_letter(received_ms: int, frame: Any, rejection: Any) -> dict[str, Any]:
    """A refused row as people read it: why, and the row itself."""
    row = rejection.row
    event: dict[str, Any] = {"user_id": frame.ids.text(row)}
    if frame.kind == "events":
        event |= {"name": frame.event_names[frame.events[row]], "time": int(frame.times[row])}
        if frame.event_ids is not None and frame.event_ids.lengths[row]:
            event["event_id"] = frame.event_ids.text(row)
    event["properties"] = {column.name: _value(column, row) for column in frame.columns if column.presence is None or column.presence[row] != ABSENT}
    return {
        "kind": frame.kind, "time": received_ms, "reason": rejection.reason, "field": rejection.field, "value": rejection.value,
        "expected": rejection.expected, "event": event,
    }  # fmt: skip


def _value(column: Any, row: int) -> Any:
    """A row's value as JSON has it: no NaN; None is an attribute that is unset."""
    if column.presence is not None and column.presence[row] == UNSET:
        return None
    if column.type == "text":
        return column.words.text(int(column.values[row]))
    if column.type == "texts":
        first = int(column.list_ends[row - 1]) if row else 0
        return [column.words.text(int(code)) for code in column.values[first : int(column.list_ends[row])]]
    value = column.values[row].item()
    if column.type == "bool":
        return bool(value)
    return value if math.isfinite(value) else str(value)
