"""What a row of the table is, and how one is measured: rounds that alternate between the sides, medians, spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtests.bench.sides import Bench

ROUNDS = 3


@dataclass
class Row:
    """One line of the table.

    ratio     1 or more always means ours is better, also where less is better (`is_cost`)
    target    what the design asks for, in words; `is_met` says whether it was reached
    """

    name: str
    unit: str
    ours: float | None = None
    peer: float | None = None
    peer_name: str = ""
    reason: str = ""
    spread: float = 0.0
    is_cost: bool = False
    target: str = ""
    is_met: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Ours against the peer's; None without a peer."""
        if not self.ours or not self.peer:
            return None
        return self.peer / self.ours if self.is_cost else self.ours / self.peer

    def to_json(self) -> dict[str, Any]:
        """As the contract has it."""
        return {
            "name": self.name, "unit": self.unit, "ours": self.ours, "peer": self.peer, "peer_name": self.peer_name, "ratio": self.ratio,
            "reason": self.reason,
        }  # fmt: skip


Measure = Callable[["Bench"], list[Row]]
ROWS: dict[str, Measure] = {}


def measures(*names: str) -> Callable[[Measure], Measure]:
    """Register a function that measures rows of these names; it is run once for all of them."""

    def register(function: Measure) -> Measure:
        for name in names:
            ROWS[name] = function
        return function

    return register


def median(values: list[float]) -> tuple[float, float]:
    """(median, half the range as a share of it)."""
    middle = statistics.median(values)
    return middle, (max(values) - min(values)) / middle / 2 if middle else 0.0


def beside(row: Row, bench: Bench, ours: Callable[[int], float], peer: Callable[[int], float] | None) -> Row:
    """Fill a row from rounds that alternate between the sides, so that noise hits both. Each side is run once before, to be warm."""
    our_values, peer_values = [], []
    for number in range(ROUNDS):
        our_values.append(ours(number + 1))
        if peer is not None:
            peer_values.append(peer(number + 1))
        bench.say(f"{row.name} {number + 1}/{ROUNDS}")
    row.ours, row.spread = median(our_values)
    if peer_values:
        row.peer, _ = median(peer_values)
    return row
