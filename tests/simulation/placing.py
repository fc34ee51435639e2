"""Placement of a large grid on paper: 65,536 partitions, two copies each, over 1,000 shards on 250 nodes; shards come and go.

python -m tests.simulation.placing
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from grid.replication.placement import Copies, Place, moved, plan, quotas

PARTITIONS, SHARDS, PER_NODE, FACTOR = 65_536, 1_000, 4, 2


def places(shards: Sequence[int]) -> list[Place]:
    """Shards by number, four a node."""
    return [Place(f"s{number}", f"node{number // PER_NODE}") for number in shards]


def imbalance(copies: list[Copies], now: list[Place], *, only_primaries: bool) -> float:
    """How far the fullest and the emptiest shard are from an even share, the larger of both."""
    counts = Counter(member for members in copies for member in (members[:1] if only_primaries else members))
    even = sum(counts.values()) / len(now)
    return max(abs(counts[place.member] - even) / even for place in now)


def main() -> None:
    """Print what each change costs."""
    table = Table("change", "shards", "plan, s", "copies moved", "at least", "copies, off even", "primaries, off even")
    everyone = range(SHARDS)
    steps = [
        ("a new grid", list(everyone)),
        ("the same again", list(everyone)),
        ("a shard leaves", [n for n in everyone if n != 17]),
        ("it comes back", list(everyone)),
        ("a node leaves", [n for n in everyone if n // PER_NODE != 3]),
        ("ten nodes join", list(range(SHARDS + 40))),
        ("a tenth leaves", list(range(900))),
        ("grown to 1,500", list(range(1_500))),
    ]
    copies: list[Copies] = [()] * PARTITIONS
    for what, shards in steps:
        now = places(shards)
        began = time.perf_counter()
        after = plan(copies, now, FACTOR)
        seconds = time.perf_counter() - began
        here = Counter(member for members in copies for member in members)
        least = sum(max(quota - here[member], 0) for member, quota in quotas(PARTITIONS, now, FACTOR).items())
        row = [imbalance(after, now, only_primaries=only_primaries) for only_primaries in (False, True)]
        table.add_row(what, f"{len(now):,}", f"{seconds:.2f}", f"{moved(copies, after):,}", f"{least:,}", *(f"{off:.1%}" for off in row))
        copies = after
    Console().print(table)


if __name__ == "__main__":
    main()
