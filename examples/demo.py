"""`make run`: a local grid with demo data. Stays until Ctrl-C; the data survives and is recovered the next time."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from profilegrid import Client
from rich.console import Console
from rich.progress import Progress

from actors.cli import StopSignals
from actors.configs import GridConfig
from actors.local import CannotStart, Grid
from loadtests.shoppers import Shoppers

HERE = Path(__file__).parent
EVENTS, PARTS = 200_000, 10
SPAN_MS = 14 * 86_400_000
console = Console(stderr=True)


def load_shoppers(grid: Client) -> None:
    """Two weeks of shoppers that end now."""
    shoppers, now = Shoppers(), int(time.time() * 1000)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("loading shoppers", total=PARTS + 1)
        grid.set_many(**shoppers.attributes())
        progress.advance(task)
        for part in range(PARTS):
            grid.track_many(**shoppers.events(EVENTS // PARTS, now, SPAN_MS, part=part))
            progress.advance(task)


def load_real(grid: Client, folder: Path, state: Path) -> None:
    """A year of a real shop's invoice lines."""
    from profilegrid.ingesting.run import Ingest, Options

    file = folder / "online_retail_2010_2011.csv.gz"
    event = "CASE WHEN \"InvoiceNo\" LIKE 'C%' THEN 'cancel' WHEN \"InvoiceNo\" LIKE 'A%' THEN 'adjustment' ELSE 'purchase' END"
    maps = {"item": "StockCode", "invoice": "InvoiceNo", "quantity": "Quantity", "price": "UnitPrice", "amount": '"Quantity" * "UnitPrice"'}

    def note(text: str) -> None:
        console.print(f"… {text}", highlight=False)

    common = (None, "Europe/London", None, state, False, note)
    Ingest(grid, Options(file, "events", "CustomerID", "InvoiceDate", event, None, maps, *common)).run()
    Ingest(grid, Options(file, "attributes", "CustomerID", None, None, None, {"country": "Country"}, *common)).run()


REAL_COMMANDS = (
    "profilegrid get 17850 --as-of 1323432000000",
    "profilegrid count \"country = 'Germany' AND purchases >= 100\" --as-of 1323432000000",
    'profilegrid list "spend_30d > 5000" --as-of 1323432000000 --limit 5',
    "profilegrid explain \"country = 'France' AND item_heat['22423'] > 1\" --as-of 1323432000000",
)
SHOPPER_COMMANDS = (
    "profilegrid get shopper-0",
    "profilegrid count \"city = '上海' AND views >= 3\"",
    "profilegrid list \"interest['shoes'] > 2.5 AND has(hobbies, 'camping')\" --limit 5",
    'profilegrid explain "last_cart > last_purchase AND age BETWEEN 20 AND 30"',
)


def main() -> int:
    """Start, load once, say what to try, stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--port", type=int, default=7600)
    arguments = parser.parse_args()
    folder = os.environ.get("PROFILEGRID_DATA")
    is_real = folder is not None and (Path(folder) / "online_retail_2010_2011.csv.gz").exists()
    grid = Grid(GridConfig(str(arguments.data.resolve()), port=arguments.port), lambda text: console.print(f"… {text}", highlight=False))
    signals = StopSignals()
    try:
        grid.start()
        signals.listen()
    except CannotStart as error:
        console.print(f"error: {error}", highlight=False, style="red")
        grid.abandon()
        return 1
    users = sum(shard["users"] for shard in grid.status()["shards"])
    if users:
        seconds = max(shard["recovered_seconds"] for shard in grid.status()["shards"])
        console.print(f"… recovered {users:,} users in {seconds:.1f} s", highlight=False)
    name = "online_retail" if is_real else "shoppers"
    state = arguments.data.resolve() / "ingest"
    with Client(grid.endpoint) as client:
        if not users:
            client.apply_catalog(HERE / name / "catalog.yaml")
        loaded = arguments.data.resolve() / "demo-loaded"
        if not loaded.exists() and not signals.came():
            if is_real:
                load_real(client, Path(str(folder)), state)
            else:
                load_shoppers(client)
            loaded.touch()
    commands = REAL_COMMANDS if is_real else SHOPPER_COMMANDS
    console.print(f"\n[bold]profilegrid serves on {grid.endpoint}[/bold]; Ctrl-C stops it, the data is kept. Try, in another terminal:\n")
    for command in commands:
        console.print(f"  .venv/bin/{command}", highlight=False, soft_wrap=True)
    grid.wait(signals.came)
    console.print("\n… stopping: shards drain and write checkpoints", highlight=False)
    grid.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
