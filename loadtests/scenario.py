"""What the locust scenario needs of a grid: the catalog of `examples/shoppers`, or one that has the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CATALOG = Path(__file__).parent.parent / "examples" / "shoppers" / "catalog.yaml"
NEEDED = {"events": {"view"}, "attributes": {"city"}, "features": {"views", "interest"}}


def misfit(catalog: dict[str, Any]) -> str:
    """Why a grid cannot serve the scenario, in words; empty: it can, or has no catalog yet. `catalog` as `Client.catalog` gives it."""
    if not catalog["version"]:
        return ""
    declared = yaml.safe_load(catalog["source"])
    lacking = [f"{part[:-1]} {name}" for part, names in NEEDED.items() for name in sorted(names - set(declared.get(part) or {}))]
    return f"its catalog, {declared.get('grid', 'without a name')}, has no {', no '.join(lacking)}" if lacking else ""
