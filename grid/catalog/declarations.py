"""The catalog as frozen models. Each field is what the YAML says; derived facts are properties.

Cross-checks (a feature's operand exists, a window is a multiple of its hop) are in `grid.catalog.loading`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from profilegrid_rules import Field as RuleField
from profilegrid_rules import Type
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from grid.catalog.durations import DAY_MS, format_duration, parse_duration
from grid.catalog.kinds import KINDS, Kind

PropertyType = Literal["category", "key", "int", "float", "bool", "timestamp", "text"]
AttributeType = Literal["category", "key", "set", "int", "float", "bool", "timestamp", "text"]
PROPERTY_TYPES = ("category", "key", "int", "float", "bool", "timestamp", "text")
ATTRIBUTE_TYPES = ("category", "key", "set", "int", "float", "bool", "timestamp", "text")
NUMERIC_TYPES = ("int", "float")
RULE_TYPES = {
    "category": Type.TEXT, "key": Type.TEXT, "text": Type.TEXT, "set": Type.SET, "int": Type.NUMBER,
    "float": Type.NUMBER, "bool": Type.BOOL, "timestamp": Type.TIMESTAMP,
}  # fmt: skip

Duration = Annotated[int, BeforeValidator(parse_duration)]


def _duration_or(word: str) -> BeforeValidator:
    def parse(value: object) -> object:
        # YAML reads a bare `off` as False.
        return None if value == word or (word == "off" and value is False) or value is None else parse_duration(value)

    return BeforeValidator(parse)


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Limits(_Declaration):
    """Bounds on event times, dictionaries and lists. `future`: ms an event may lie ahead of the server; `lateness`: ms behind, or none.

    `keys_per_user` bounds each `by` feature of each user, as of the last applied group: what is in flight may go over it.
    """

    future: Duration = 600_000
    lateness: Annotated[int | None, _duration_or("none")] = None
    category_values: Annotated[int, Field(ge=1, le=1_000_000)] = 65_535
    key_values: Annotated[int, Field(ge=1, le=100_000_000)] = 10_000_000
    keys_per_user: Annotated[int, Field(ge=1, le=100_000_000)] = 100_000


class Feature(_Declaration):
    """One feature: a kind, the events (or `event.property`) it is fed by, and the kind's parameters."""

    name: str
    kind: str
    operands: tuple[str, ...]
    by: str | None = None
    top: Annotated[int, Field(ge=1, le=1000)] | None = None
    half_life: Annotated[int | None, _duration_or("none")] = None
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    per: Annotated[int | None, _duration_or("none")] = None
    window: Annotated[int | None, _duration_or("none")] = None
    hop: Annotated[int | None, _duration_or("none")] = None
    where: str | None = None
    description: str = ""

    @property
    def spec(self) -> Kind:
        """The kind's declaration."""
        return KINDS[self.kind]

    @cached_property
    def events(self) -> tuple[str, ...]:
        """Names of the events that feed it."""
        return tuple(operand.partition(".")[0] for operand in self.operands)

    @cached_property
    def property_name(self) -> str | None:
        """Name of the property it folds, the same in all its events."""
        return self.operands[0].partition(".")[2] or None

    @property
    def half_life_ms(self) -> float:
        """`half_life`, or from `alpha` and `per`: -per · ln 2 / ln alpha."""
        if self.half_life is not None:
            return float(self.half_life)
        assert self.alpha is not None and self.per is not None
        return -self.per * math.log(2) / math.log(self.alpha)

    @property
    def hop_ms(self) -> int:
        """A window's hop; a day for `days_active`."""
        return self.hop or DAY_MS

    @property
    def hops(self) -> int:
        """How many hops a window has."""
        assert self.window is not None
        return self.window // self.hop_ms

    @cached_property
    def identity(self) -> str:
        """What its state depends on: two features with one identity have the same columns. `top` and words are not in it."""
        return self.model_copy(update={"top": None, "description": ""}).model_dump_json()

    @property
    def about(self) -> str:
        """Words for rule errors: 'window of 1h'."""
        if self.kind == "days_active":
            return f"days active in {format_duration(self.window or 0)}"
        if self.spec.is_windowed:
            return f"window of {format_duration(self.window or 0)}"
        return self.kind.replace("_", " ")


class Catalog(_Declaration):
    """All declarations of a grid. `version` counts applied catalogs from 1; 0 is the empty one."""

    grid: str = "default"
    timezone: str = "UTC"
    limits: Limits = Limits()
    dedupe: Annotated[int | None, _duration_or("off")] = None
    history_retention: Duration = 30 * DAY_MS
    erase_within: Duration = DAY_MS
    events: dict[str, dict[str, PropertyType]] = {}
    attributes: dict[str, AttributeType] = {}
    features: dict[str, Feature] = {}
    descriptions: dict[str, str] = {}
    version: int = 0
    source: str = ""

    @cached_property
    def event_codes(self) -> dict[str, int]:
        """Event name to its code, in order of declaration."""
        return {name: code for code, name in enumerate(self.events)}

    @cached_property
    def zone(self) -> ZoneInfo:
        """The timezone of days."""
        return ZoneInfo(self.timezone)

    def property_type(self, feature: Feature, name: str) -> str:
        """The declared type of a property in the feature's first event."""
        return self.events[feature.events[0]][name]

    @cached_property
    def rule_schema(self) -> dict[str, RuleField]:
        """What audience rules may name: attributes and features."""
        schema = {name: RuleField(RULE_TYPES[kind], kind) for name, kind in self.attributes.items()}
        for name, feature in self.features.items():
            schema[name] = RuleField(self.feature_type(feature), feature.about)
        return schema

    def feature_type(self, feature: Feature) -> Type:
        """What a rule sees when it names the feature."""
        if feature.by is not None:
            return Type.KEYED
        if feature.spec.yields == "timestamp":
            return Type.TIMESTAMP
        if feature.spec.yields == "value" and feature.property_name is not None:
            return RULE_TYPES[self.property_type(feature, feature.property_name)]
        return Type.NUMBER

    @cached_property
    def result_types(self) -> dict[str, str]:
        """The type of what readers get of each field: whole numbers are told from others, so that a count reads 3, not 3.0."""
        as_text = {"category": "text", "key": "text"}
        types = {name: as_text.get(declared, str(declared)) for name, declared in self.attributes.items()}
        for name, feature in self.features.items():
            declared = self.property_type(feature, feature.property_name) if feature.property_name is not None else ""
            is_whole = not feature.spec.is_decayed and (not declared or declared == "int" or feature.kind in ("distinct", "window_distinct"))
            if feature.by is not None:
                types[name] = ("ranked" if feature.top is not None else "keyed") + ("_int" if is_whole else "")
            elif feature.spec.yields == "timestamp":
                types[name] = "timestamp"
            elif feature.spec.yields == "value":
                types[name] = as_text.get(declared, declared)
            else:
                types[name] = "int" if is_whole else "float"
        return types

    def where_schema(self, events: tuple[str, ...]) -> dict[str, RuleField]:
        """What a `where` may name: the properties that all of its events have with one type."""
        common = dict(self.events[events[0]])
        for event in events[1:]:
            common = {name: kind for name, kind in common.items() if self.events[event].get(name) == kind}
        return {name: RuleField(RULE_TYPES[kind], kind) for name, kind in common.items()}
