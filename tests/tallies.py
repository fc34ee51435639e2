"""What faults did, by their names, and the table of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table


@dataclass
class Tally:
    """What one kind of fault did."""

    times: int = 0
    lost: int = 0
    doubled: int = 0
    longest_s: float = 0.0


def table_of(tallies: Iterable[tuple[str, Tally]], seed: int) -> Table:
    """One line a fault, and their sum."""
    table = Table("fault", "times", "lost", "doubled", "longest unavailability", title=f"seed {seed}", title_justify="left")
    total = Tally()
    for name, tally in tallies:
        table.add_row(name, *_cells(tally))
        total.times, total.lost, total.doubled = total.times + tally.times, total.lost + tally.lost, total.doubled + tally.doubled
        total.longest_s = max(total.longest_s, tally.longest_s)
    table.add_section()
    table.add_row("all", *_cells(total))
    return table


def _cells(tally: Tally) -> tuple[str, ...]:
    return str(tally.times), str(tally.lost), str(tally.doubled), f"{tally.longest_s:.1f} s"
