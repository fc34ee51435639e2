"""What the locust scenario needs of a grid, the catalog of `examples/shoppers` or one that has the same names, and how it is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

CATALOG = Path(__file__).parent.parent / "examples" / "shoppers" / "catalog.yaml"
NEEDED = {"events": {"view"}, "attributes": {"city"}, "features": {"views", "interest"}}


def own_catalog() -> dict[str, Any]:
    """The catalog for a grid of the scenario's own."""
    declared: dict[str, Any] = yaml.safe_load(CATALOG.read_text())
    return declared


def locust(target: str, users: int, run_time: str, *options: str) -> list[str]:
    """The command that runs it headless against a grid; `run_time` as locust has it: 60s, 10m."""
    file = Path(__file__).with_name("locustfile.py")
    return [
        sys.executable, "-m", "locust", "-f", str(file), "--host", target, "--headless", "--users", str(users), "--spawn-rate", "50", "--run-time", run_time,
        "--only-summary", *options,
    ]  # fmt: skip


def misfit(catalog: dict[str, Any]) -> str:
    """Why a grid cannot serve the scenario, in words; empty: it can, or has no catalog yet. `catalog` as `Client.catalog` gives it."""
    if not catalog["version"]:
        return ""
    declared = yaml.safe_load(catalog["source"])
    lacking = [f"{part[:-1]} {name}" for part, names in NEEDED.items() for name in sorted(names - set(declared.get(part) or {}))]
    return f"its catalog, {declared.get('grid', 'without a name')}, has no {', no '.join(lacking)}" if lacking else ""
