"""What applying one catalog over another would do: what is added, what is lost, what must be backfilled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grid.catalog.declarations import Catalog


@dataclass(slots=True)
class Change:
    """The difference of two catalogs, in words and as lists of features."""

    added: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    backfills: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether both say the same."""
        return not (self.added or self.losses or self.changed)


def compare(old: Catalog, new: Catalog) -> Change:
    """The change from `old` to `new`. A redefined feature loses its state and is backfilled under its new definition."""
    change = Change()
    _compare_types(change, "attribute", old.attributes, new.attributes)
    for event, properties in new.events.items():
        if event not in old.events:
            change.added.append(f"event {event}")
        else:
            _compare_types(change, f"property {event}", old.events[event], properties)
    for event in old.events:
        if event not in new.events:
            change.losses.append(f"event {event}: it will be rejected from now on")
    for name, feature in new.features.items():
        before = old.features.get(name)
        if before is None:
            change.added.append(f"feature {name}")
            change.backfills.append(name)
        elif before.identity != feature.identity or _day_dependence(old, new, name):
            change.losses.append(f"feature {name}: its definition changes, its state is built anew from history")
            change.backfills.append(name)
        elif before != feature:
            change.changed.append(f"feature {name}")
    for name in old.features:
        if name not in new.features:
            change.losses.append(f"feature {name}: its values of all users")
    for key in ("grid", "timezone", "limits", "dedupe", "history_retention", "erase_within"):
        if getattr(old, key) != getattr(new, key):
            change.changed.append(key)
    return change


def _day_dependence(old: Catalog, new: Catalog, name: str) -> bool:
    """Whether a change of timezone moves the feature's hops."""
    feature = new.features[name]
    return old.timezone != new.timezone and feature.spec.is_windowed and feature.hop_ms % 86_400_000 == 0


def _compare_types(change: Change, what: str, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    for name, kind in new.items():
        if name not in old:
            change.added.append(f"{what} {name}")
        elif old[name] != kind:
            change.losses.append(f"{what} {name}: its values, because its type changes from {old[name]} to {kind}")
    for name in old:
        if name not in new:
            change.losses.append(f"{what} {name}: its values of all users")
