"""top: a live view of shards, rates, latencies, memory."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from profilegrid.cli.output import DEFAULT_TARGET, Target, app, connect

if TYPE_CHECKING:
    from rich.console import Group

    from profilegrid.v1.admin_pb2 import GetStatusResponse, ShardStatus

SPARKS = "▁▂▃▄▅▆▇█"
WIDTH, WIDE = 60, 160


@app.command()
def top(
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once (two looks for rates), print, end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a look, on lines of their own.")] = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Watch a grid live: each shard's state, events, reads and queries a second, latencies, memory. Ctrl-C ends."""
    history = History()
    with connect(target, read_timeout=5.0) as grid:
        history.add(grid.status(), time.monotonic())
        if once or as_json or not sys.stdout.isatty():
            while True:
                time.sleep(interval)
                history.add(grid.status(), time.monotonic())
                _print_plain(history, as_json)
                if once:
                    return
        from rich.live import Live

        with Live(history.view(target), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                history.add(grid.status(), time.monotonic())
                live.update(history.view(target), refresh=True)


def _print_plain(history: History, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"shards": history.rows()}), flush=True)
        return
    from rich.console import Console

    console = Console()
    # Into a file or pipe nothing is cut: there is no screen to fit.
    (console if console.is_terminal else Console(width=WIDE)).print(history.view(""))


class History:
    """Looks at a grid: rates come from two of them."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, GetStatusResponse]] = deque(maxlen=2)
        self._events: deque[float] = deque(maxlen=WIDTH)

    def add(self, status: GetStatusResponse, moment: float) -> None:
        """One more look."""
        self._looks.append((moment, status))
        if len(self._looks) == 2:
            self._events.append(sum(row["events_per_s"] for row in self.rows()))

    def _rate(self, shard: ShardStatus, name: str) -> float:
        """A second, since the look before; 0 across a restart."""
        if len(self._looks) < 2:
            return 0.0
        (before_s, before), (now_s, _) = self._looks
        old = next((other for other in before.shards if other.id == shard.id and other.pid == shard.pid), None)
        return max(0.0, (getattr(shard, name) - getattr(old, name)) / max(now_s - before_s, 1e-9)) if old is not None else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """What each shard does now."""
        return [
            {
                "id": shard.id, "state": shard.state, "users": shard.users, "events_per_s": round(self._rate(shard, "events"), 1),
                "profiles_read_per_s": round(self._rate(shard, "profiles_read"), 1), "queries_per_s": round(self._rate(shard, "queries"), 1),
                "dead_letters_per_s": round(self._rate(shard, "dead_letters"), 1), "groups_per_s": round(self._rate(shard, "groups"), 1),
                "ack_ms_p50": round(shard.ack_ms_p50, 2), "ack_ms_p99": round(shard.ack_ms_p99, 2), "fsync_ms_p99": round(shard.fsync_ms_p99, 2),
                "turn_ms_max": round(shard.turn_ms_max, 2), "memory_bytes": shard.memory_bytes, "inbox_bytes": shard.inbox_bytes,
                "checkpoint_age_s": round(shard.checkpoint_age_s, 1), "segments_behind": shard.segments_behind, "stopped": shard.stopped,
                "problems": list(shard.problems),
            }
            for shard in self._looks[-1][1].shards
        ]  # fmt: skip

    def view(self, target: str) -> Group:
        """The screen."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        status = self._looks[-1][1]
        table = Table(header_style="bold", expand=True)
        for column in (
            "shard",
            "state",
            "users",
            "events/s",
            "reads/s",
            "queries/s",
            "refused/s",
            "ack ms",
            "fsync ms",
            "turn ms",
            "memory",
            "inbox",
            "checkpoint",
        ):
            table.add_column(column, justify="left" if column in ("shard", "state") else "right")
        problems = []
        for row in self.rows():
            colour = {"serving": "green", "recovering": "yellow"}.get(row["state"], "red")
            table.add_row(
                str(row["id"]), f"[{colour}]{row['state']}[/]", f"{row['users']:,}", f"{row['events_per_s']:,.0f}", f"{row['profiles_read_per_s']:,.0f}",
                f"{row['queries_per_s']:,.0f}", f"{row['dead_letters_per_s']:,.0f}", f"{row['ack_ms_p50']:.1f} / {row['ack_ms_p99']:.1f}",
                f"{row['fsync_ms_p99']:.1f}", f"{row['turn_ms_max']:.1f}", f"{row['memory_bytes'] >> 20:,} MB", f"{row['inbox_bytes'] >> 10:,} KB",
                f"{row['checkpoint_age_s']:,.0f} s ago",
            )  # fmt: skip
            problems += [f"shard {row['id']}: {problem}" for problem in row["problems"]]
        title = Text(f"profilegrid {target}  map {status.map_version}, catalog {status.catalog_version}, metrics http://{status.metrics}/metrics", style="bold")
        line = Text(f"events/s {sparkline(self._events)} {self._events[-1] if self._events else 0:,.0f}", style="cyan")
        legend = Text("latencies: p50 / p99 of acknowledgements, p99 of fsync, longest turn of the loop since the last look", style="dim")
        return Group(title, table, line, legend, *(Text(problem, style="red") for problem in problems))


def sparkline(values: deque[float]) -> str:
    """Bars as tall as values are, the tallest full."""
    top = max(values, default=0.0)
    return "".join(SPARKS[min(int(value / top * len(SPARKS)), len(SPARKS) - 1)] if top else SPARKS[0] for value in values)
