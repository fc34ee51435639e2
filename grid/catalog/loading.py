"""YAML (or the same as a mapping) to a Catalog, with every fault and its line, not just the first."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from profilegrid_rules import RuleError, compile_rule
from pydantic import ValidationError

from grid.catalog.declarations import ATTRIBUTE_TYPES, NUMERIC_TYPES, PROPERTY_TYPES, Catalog, Feature
from grid.catalog.durations import DAY_MS
from grid.catalog.kinds import KINDS
from grid.errors import CatalogInvalid, Problem

HOPS_MAX = 366
BYTES_MAX = 1 << 20
_TOP_LEVEL = ("grid", "timezone", "limits", "dedupe", "history_retention", "erase_within", "events", "attributes", "features")
_PARAMETERS = ("by", "top", "half_life", "alpha", "per", "window", "hop", "where", "description")
Path = tuple[str, ...]


def load_catalog(source: str | Mapping[str, Any], version: int = 1) -> Catalog:
    """The catalog of a YAML text or an equal mapping. Raises CatalogInvalid with every fault and its line."""
    text = source if isinstance(source, str) else yaml.safe_dump(json.loads(json.dumps(source)), allow_unicode=True, sort_keys=False)
    return _Loader(text, version).load()


class _Loader:
    def __init__(self, text: str, version: int) -> None:
        self._text, self._version = text, version
        self._problems: list[Problem] = []
        self._lines: dict[Path, int] = {}

    def load(self) -> Catalog:
        document = self._read()
        fields: dict[str, Any] = {"version": self._version, "source": self._text, "descriptions": {}}
        for key in document:
            if key not in _TOP_LEVEL:
                self._fault((str(key),), f"unknown key{_near(str(key), _TOP_LEVEL)}")
        for key in ("grid", "timezone", "limits", "dedupe", "history_retention", "erase_within"):
            if key in document:
                fields[key] = document[key]
        fields["events"] = self._events(document)
        fields["attributes"] = self._attributes(document, fields["descriptions"])
        self._check_timezone(str(fields.get("timezone", "UTC")))
        fields["features"] = self._features(document)
        self._raise_if_faulty()
        try:
            catalog = Catalog.model_validate(fields)
        except ValidationError as error:
            self._report(error, ())
            self._raise_if_faulty()
            raise
        self._cross_check(catalog)
        self._raise_if_faulty()
        return catalog

    # --- reading --------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        if len(self._text.encode("utf-8", "replace")) > BYTES_MAX:
            raise CatalogInvalid([Problem("catalog", f"larger than {BYTES_MAX} bytes")])
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(self._text, Loader=yaml.SafeLoader)):
                raise CatalogInvalid([Problem("catalog", "YAML aliases (*name) are not allowed")])
            node = yaml.compose(self._text, Loader=yaml.SafeLoader)
            document = yaml.safe_load(self._text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark is not None else 0
            raise CatalogInvalid([Problem("catalog", f"not valid YAML: {getattr(error, 'problem', error)}", line)]) from None
        except (RecursionError, ValueError) as error:
            raise CatalogInvalid([Problem("catalog", f"not valid YAML: {error}")]) from None
        if document is None:
            document = {}
        if not isinstance(document, dict):
            raise CatalogInvalid([Problem("catalog", f"got {type(document).__name__}, expected a mapping with {', '.join(_TOP_LEVEL)}")])
        if node is not None:
            self._number_lines(node, ())
        return document

    def _number_lines(self, node: yaml.Node, path: Path) -> None:
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen:
                    self._problems.append(Problem(".".join((*path, name)), "declared twice", key.start_mark.line + 1))
                seen.add(name)
                self._number_lines(value, (*path, name))
                self._lines[(*path, name)] = key.start_mark.line + 1

    def _fault(self, path: Path, message: str) -> None:
        line = next((self._lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self._lines), 0)
        self._problems.append(Problem(".".join(path) or "catalog", message, line))

    def _report(self, error: ValidationError, path: Path) -> None:
        for item in error.errors():
            message = item["msg"].removeprefix("Value error, ")
            if "got " not in message:
                message = f"got {item.get('input')!r}, {message[0].lower()}{message[1:]}"
            self._fault((*path, *(str(part) for part in item["loc"])), message)

    def _raise_if_faulty(self) -> None:
        if self._problems:
            raise CatalogInvalid(sorted(self._problems, key=lambda problem: problem.line))

    def _mapping(self, document: Mapping[str, Any], key: str, path: Path = ()) -> Iterator[tuple[str, Any]]:
        """Items of a mapping of declarations; faults for what is none and for names that are not identifiers."""
        value = document.get(key)
        if value is None:
            return
        if not isinstance(value, dict):
            self._fault((*path, key), f"got {type(value).__name__}, expected a mapping")
            return
        for name, item in value.items():
            if not isinstance(name, str) or not name.isidentifier():
                self._fault((*path, key, str(name)), "a name is a letter or _ followed by letters, digits or _")
            else:
                yield name, item

    def _check_timezone(self, name: str) -> None:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self._fault(("timezone",), f"got '{name}', expected an IANA name such as Asia/Shanghai")

    # --- declarations ---------------------------------------------------------------------------------------------

    def _events(self, document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        events: dict[str, dict[str, str]] = {}
        for event, declared in self._mapping(document, "events"):
            events[event] = {}
            properties = {"properties": {} if declared is None else declared}
            for name, kind in self._mapping(properties, "properties", ("events", event)):
                if name == "description":
                    continue
                if kind not in PROPERTY_TYPES:
                    self._fault(("events", event, name), f"got type {kind!r}, expected one of {', '.join(PROPERTY_TYPES)}")
                events[event][name] = kind
        return events

    def _attributes(self, document: Mapping[str, Any], descriptions: dict[str, str]) -> dict[str, str]:
        attributes: dict[str, str] = {}
        for name, declared in self._mapping(document, "attributes"):
            kind = declared
            if isinstance(declared, dict):
                kind = declared.get("type")
                descriptions[f"attributes.{name}"] = str(declared.get("description", ""))
            if kind not in ATTRIBUTE_TYPES:
                self._fault(("attributes", name), f"got type {kind!r}, expected one of {', '.join(ATTRIBUTE_TYPES)}")
            attributes[name] = kind
        return attributes

    def _features(self, document: Mapping[str, Any]) -> dict[str, Feature]:
        features: dict[str, Feature] = {}
        for name, declared in self._mapping(document, "features"):
            path = ("features", name)
            if not isinstance(declared, dict):
                self._fault(path, f"got {declared!r}, expected a mapping such as {{count: view}}")
                continue
            kinds = [key for key in declared if key in KINDS]
            for key in declared:
                if key not in KINDS and key not in _PARAMETERS:
                    self._fault((*path, str(key)), f"unknown kind or parameter{_near(str(key), (*KINDS, *_PARAMETERS))}")
            if len(kinds) != 1:
                self._fault(path, f"names {len(kinds)} kinds, expected exactly one of {', '.join(KINDS)}")
                continue
            operands = declared[kinds[0]]
            fields = {key: value for key, value in declared.items() if key in _PARAMETERS}
            if isinstance(fields.get("alpha"), int) and not isinstance(fields["alpha"], bool):
                fields["alpha"] = float(fields["alpha"])
            listed = operands if isinstance(operands, list) else [operands]
            if not listed or not all(isinstance(operand, str) for operand in listed):
                self._fault((*path, kinds[0]), f"got {operands!r}, expected an event, event.property or a list of them")
                continue
            try:
                features[name] = Feature.model_validate({"name": name, "kind": kinds[0], "operands": tuple(listed), **fields})
            except ValidationError as error:
                self._report(error, path)
        return features

    # --- what must fit together -----------------------------------------------------------------------------------

    def _cross_check(self, catalog: Catalog) -> None:
        for name in catalog.features:
            if name in catalog.attributes:
                self._fault(("features", name), "is also the name of an attribute")
        for feature in catalog.features.values():
            path = ("features", feature.name)
            if self._operands_hold(catalog, feature, path):
                self._check_parameters(catalog, feature, path)
                self._check_where(catalog, feature, path)

    def _operands_hold(self, catalog: Catalog, feature: Feature, path: Path) -> bool:
        before = len(self._problems)
        path = (*path, feature.kind)
        takes = feature.spec.takes
        for operand in feature.operands:
            event, _, name = operand.partition(".")
            if event not in catalog.events:
                self._fault(path, f"unknown event '{event}'{_near(event, catalog.events)}")
            elif takes == "event" and name:
                self._fault(path, f"got '{operand}', {feature.kind} takes an event without a property")
            elif takes != "event" and not name:
                self._fault(path, f"got '{operand}', {feature.kind} takes event.property")
            elif name and name not in catalog.events[event]:
                self._fault(path, f"event {event} has no property '{name}'{_near(name, catalog.events[event])}")
            elif takes == "number" and catalog.events[event][name] not in NUMERIC_TYPES:
                self._fault(path, f"{operand} is {catalog.events[event][name]}, {feature.kind} takes int or float")
        if len(self._problems) == before and feature.property_name is not None:
            names = {operand.partition(".")[2] for operand in feature.operands}
            types = {catalog.events[event][feature.property_name] for event in feature.events if feature.property_name in catalog.events[event]}
            if len(names) > 1 or len(types) > 1:
                self._fault(path, "all operands must be the same property with the same type")
        return len(self._problems) == before

    def _check_parameters(self, catalog: Catalog, feature: Feature, path: Path) -> None:
        spec = feature.spec
        wants = {"half_life": spec.is_decayed, "window": spec.is_windowed}
        for key in ("half_life", "alpha", "per"):
            if getattr(feature, key) is not None and not spec.is_decayed:
                self._fault((*path, key), f"{feature.kind} does not decay; remove {key}")
        for key in ("window", "hop"):
            if getattr(feature, key) is not None and not spec.is_windowed:
                self._fault((*path, key), f"{feature.kind} has no window; remove {key}")
        if wants["half_life"]:
            has_alpha = feature.alpha is not None and feature.per is not None
            if (feature.half_life is not None) == has_alpha or (feature.alpha is None) != (feature.per is None):
                self._fault(path, "expected half_life, or alpha together with per")
        if wants["window"]:
            self._check_window(feature, path)
        if feature.by is not None:
            self._check_by(catalog, feature, path)
        elif feature.top is not None:
            self._fault((*path, "top"), "top needs by")

    def _check_window(self, feature: Feature, path: Path) -> None:
        if feature.window is None or (feature.hop is None and feature.kind != "days_active"):
            needed = "window" if feature.kind == "days_active" else "window and hop"
            self._fault(path, f"{feature.kind} needs {needed}, as in {{window: 30d, hop: 1d}}")
            return
        if feature.kind == "days_active" and feature.hop_ms != DAY_MS:
            self._fault((*path, "hop"), "days_active always has a hop of 1d; remove hop")
        elif feature.window % feature.hop_ms != 0:
            self._fault((*path, "window"), "window must be a multiple of hop")
        elif feature.hops > HOPS_MAX:
            self._fault((*path, "hop"), f"{feature.hops} hops in the window, at most {HOPS_MAX}; choose a larger hop")

    def _check_by(self, catalog: Catalog, feature: Feature, path: Path) -> None:
        assert feature.by is not None
        if not feature.spec.takes_by:
            self._fault((*path, "by"), f"{feature.kind} takes no by")
        for event in feature.events:
            kind = catalog.events[event].get(feature.by)
            if kind is None:
                self._fault((*path, "by"), f"event {event} has no property '{feature.by}'{_near(feature.by, catalog.events[event])}")
            elif kind not in ("category", "key"):
                self._fault((*path, "by"), f"{event}.{feature.by} is {kind}, by takes category or key")

    def _check_where(self, catalog: Catalog, feature: Feature, path: Path) -> None:
        if feature.where is None:
            return
        try:
            compile_rule(feature.where, catalog.where_schema(feature.events), catalog.zone)
        except RuleError as error:
            self._fault((*path, "where"), str(error))


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(list(known)[:12])}"
