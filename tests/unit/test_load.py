"""What `make load` asks of a grid before it sends anything."""

from __future__ import annotations

import pytest

from loadtests.scenario import CATALOG, misfit

SHOPPERS = CATALOG.read_text()


@pytest.mark.parametrize(
    ("version", "source", "why"),
    [
        (1, SHOPPERS, ""),
        (0, "", ""),
        (
            3,
            "grid: retail\nevents: {purchase: {}}\nfeatures: {views: {count: purchase}}",
            "its catalog, retail, has no event view, no attribute city, no feature interest",
        ),
    ],
)
def test_a_grid_fits_when_it_has_the_scenario_s_names_or_nothing_yet(version: int, source: str, why: str) -> None:
    assert misfit({"version": version, "source": source}) == why
