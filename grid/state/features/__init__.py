"""Columns of each kind of feature. A kind is its declaration in `grid.catalog.kinds`, its kernels, and one class here."""

from grid.state.features.base import FeatureColumns, Reading, SharedState
from grid.state.features.days import DaysColumns
from grid.state.features.decayed import DecayedColumns
from grid.state.features.distinct import DistinctColumns, WindowDistinctColumns
from grid.state.features.keyed import KeyedColumns, KeyedDecayedColumns, KeyedWindowColumns
from grid.state.features.scalars import CountColumns, ExtremeColumns, FirstLastColumns, SumColumns, TimeColumns
from grid.state.features.windows import WindowColumns

PLAIN: dict[str, type[FeatureColumns]] = {
    "count": CountColumns, "sum": SumColumns, "min": ExtremeColumns, "max": ExtremeColumns,
    "decayed_count": DecayedColumns, "decayed_sum": DecayedColumns,
    "window_count": WindowColumns, "window_sum": WindowColumns, "window_min": WindowColumns, "window_max": WindowColumns,
    "window_distinct": WindowDistinctColumns, "distinct": DistinctColumns,
    "first": FirstLastColumns, "last": FirstLastColumns, "first_time": TimeColumns, "last_time": TimeColumns,
    "days_active": DaysColumns,
}  # fmt: skip
KEYED: dict[str, type[FeatureColumns]] = {
    "count": KeyedColumns, "sum": KeyedColumns, "decayed_count": KeyedDecayedColumns, "decayed_sum": KeyedDecayedColumns,
    "window_count": KeyedWindowColumns, "window_sum": KeyedWindowColumns,
}  # fmt: skip

__all__ = ["KEYED", "PLAIN", "FeatureColumns", "Reading", "SharedState"]
