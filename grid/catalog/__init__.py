"""Declarations: events, attributes and features, validated as a whole, versioned, comparable."""

from grid.catalog.changes import Change, compare
from grid.catalog.declarations import ATTRIBUTE_TYPES, PROPERTY_TYPES, Catalog, Feature
from grid.catalog.kinds import KINDS, Kind
from grid.catalog.loading import load_catalog

__all__ = ["ATTRIBUTE_TYPES", "KINDS", "PROPERTY_TYPES", "Catalog", "Change", "Feature", "Kind", "compare", "load_catalog"]
