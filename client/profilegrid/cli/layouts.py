"""scale, drain, rebalance: where partitions lie, changed while the grid serves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from profilegrid.cli.output import DEFAULT_TARGET, Json, Target, app, connect, fail, note, print_json, print_table, usage

if TYPE_CHECKING:
    from profilegrid.sync import Client
    from profilegrid.v1.admin_pb2 import GetLayoutResponse, PlanLayoutResponse, Replica

LOOK_S, RATE_MB = 0.2, 64.0
Plan = Annotated[bool, typer.Option("--plan", help="Only say what would move.")]
Rate = Annotated[float, typer.Option("--rate-mb", min=0.001, metavar="MB/S", help="Bound of what moves take, MB a second.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; it goes on by itself.")]


@app.command()
def scale(
    shards: Annotated[int | None, typer.Option("--shards", min=1, max=64, help="How many shards there shall be; without it: say how far it is.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", min=1, max=2, help="How many copies of each partition, on different shards.")] = None,
    plan: Plan = False,
    rate: Rate = RATE_MB,
    no_wait: NoWait = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Move nothing more; what has moved stays where it is. Run it again to go on.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Have more shards, or fewer, while everything is served. Partitions move a few at a time; their writes wait for some 20 ms each.

    Ctrl-C ends only this view: the moves go on, over restarts too. Run it again to see how far it is.
    """
    with connect(target) as grid:
        if cancel:
            grid.keep_layout()
            note("nothing moves any more; run scale again to go on")
        elif shards is not None or replicas is not None:
            _go(grid, {"shards": shards, "replicas": replicas}, plan, rate, no_wait, as_json)
            return
        _tell(grid.layout(), as_json)


@app.command()
def replicas(
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the copies page by page while everything is served; exit status 1 if values differ.")
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="With --verify: make copies whose values differ anew, from the one that serves, which is the only one meanwhile.")
    ] = False,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Show the copies of partitions that have several: who serves each, who is in sync, how far behind the others are; or compare them."""
    if renew and not verify:
        usage("--renew is of what --verify finds: use both")
    with connect(target) as grid:
        partitions = grid.replicas().partitions
        if verify:
            _verify(grid, [p.partition for p in partitions if sum(r.is_insync for r in p.replicas) > 1], len(partitions), renew, as_json)
            return
    if as_json:
        print_json(
            [
                {
                    "partition": p.partition, "epoch": p.epoch, "primary": p.primary,
                    "replicas": [{"shard": r.shard, "is_insync": r.is_insync, "lag": r.lag if r.HasField("lag") else None} for r in p.replicas],
                }
                for p in partitions
            ]
        )  # fmt: skip
        return
    if not partitions:
        print("each partition has one copy; have two: profilegrid scale --replicas 2")
        return
    rows = []
    for p in partitions:
        others = [f"shard {r.shard}: {_state_of(r)}" for r in p.replicas if r.shard != p.primary]
        rows.append((p.partition, p.epoch, p.primary, ", ".join(others)))
    print_table(("partition", "epoch", "served by shard", "other copies"), rows)


def _verify(grid: Client, partitions: list[int], known: int, renew: bool, as_json: bool) -> None:
    """Compare the copies of each partition; say which columns differ, and how."""
    from rich.console import Console
    from rich.progress import track

    if not partitions:
        fail(f"no partition has two copies in sync (of {known} that have, or shall have, several)")
    found = []
    for partition in track(partitions, "comparing", console=Console(stderr=True), transient=True):
        found.append(grid.compare_replicas(partition))
    differing = [(one, column) for one in found for column in one.columns if column.differing]
    is_same = not any(column.differing_values for _, column in differing)
    pages = sum(column.pages for one in found for column in one.columns)
    if as_json:
        rows = [
            {
                "partition": one.partition,
                "position": one.position,
                "shards": list(one.shards),
                "column": column.name,
                "pages": column.differing,
                "values": column.differing_values,
            }
            for one, column in differing
        ]
        print_json({"partitions": len(partitions), "not_compared": known - len(partitions), "pages": pages, "is_same": is_same, "differing": rows})
    else:
        if differing:
            shown = [(one.partition, column.name, column.pages, column.differing, column.differing_values) for one, column in differing]
            print_table(("partition", "column", "pages", "pages that differ in bits", "of them in values"), shown)
        rest = f"; {known - len(partitions)} are not in sync and were not compared" if known > len(partitions) else ""
        print(f"{len(partitions)} partitions, {pages:,} pages of columns: the copies {'read the same' if is_same else 'differ'}{rest}")
    if not is_same and renew:
        _renew(grid, sorted({one.partition for one, column in differing if column.differing_values}))
    elif not is_same:
        raise typer.Exit(1)


def _renew(grid: Client, partitions: list[int]) -> None:
    """Make copies anew, and wait until they are there."""
    from rich.console import Console
    from rich.progress import track

    for partition in partitions:
        grid.renew_replicas(partition)
    for _ in track(partitions, "making copies anew", console=Console(stderr=True), transient=True):
        while not grid.layout().is_done:
            time.sleep(LOOK_S)
    note(f"the copies of partitions {', '.join(map(str, partitions))} are made anew; compare them again")


def _state_of(replica: Replica) -> str:
    behind = f", {replica.lag} positions behind" if replica.HasField("lag") and replica.lag else ""
    return ("in sync" if replica.is_insync else "catches up" if replica.HasField("lag") else "down") + behind


@app.command()
def drain(
    whom: Annotated[list[str], typer.Argument(metavar="SHARD|NODE", help="Shards that shall hold nothing, or all of a node; others take their partitions.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let them hold partitions again.")] = False,
    plan: Plan = False,
    rate: Rate = RATE_MB,
    no_wait: NoWait = False,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Take all partitions off some shards while everything is served, before their disk or machine is taken away, say."""
    with connect(target) as grid:
        shards = _shards_of(grid, whom)
        drained = set(grid.layout().drained)
        _go(grid, {"drained": sorted(drained - set(shards) if undo else drained | set(shards))}, plan, rate, no_wait, as_json)


def _shards_of(grid: Client, whom: list[str]) -> list[int]:
    """Numbers of shards as they are, names of nodes as the shards whose data they have."""
    nodes = {node.name: list(node.shards) for node in grid.status().nodes}
    found: set[int] = set()
    for one in whom:
        if not one.isdigit() and one not in nodes:
            usage(f"{one!r} is no shard's number, nor a node" + (f" of {', '.join(nodes)}" if nodes else ": this grid runs on one machine"))
        found |= {int(one)} if one.isdigit() else set(nodes[one])
    return sorted(found)


@app.command()
def nodes(target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Show the nodes of a grid on a Ray cluster: address, folder, and which shards have their data there."""
    with connect(target) as grid:
        status = grid.status()
    holding = {shard.id: shard.partitions for shard in status.shards}
    found = [
        {
            "name": node.name, "state": "there" if node.is_alive else "gone", "host": node.host or None, "folder": node.folder or None,
            "shards": list(node.shards), "partitions": sum(holding.get(shard, 0) for shard in node.shards),
        }
        for node in status.nodes
    ]  # fmt: skip
    if as_json:
        print_json(found)
        return
    if not found:
        print("this grid runs on one machine; on a Ray cluster: profilegrid up --address auto")
        return
    rows = [
        [n["name"], n["state"], n["host"] or "–", n["folder"] or "–", ", ".join(map(str, node.shards)) or "–", n["partitions"]]
        for n, node in zip(found, status.nodes, strict=True)
    ]
    print_table(["node", "state", "host", "folder", "shards", "partitions served"], rows)
    if status.problem:
        note(status.problem)


@app.command()
def rebalance(plan: Plan = False, rate: Rate = RATE_MB, no_wait: NoWait = False, target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Spread partitions evenly over the shards that are not drained, with as few moves as that takes."""
    with connect(target) as grid:
        _go(grid, {}, plan, rate, no_wait, as_json)


def _go(grid: Client, layout: dict[str, Any], plan: bool, rate: float, no_wait: bool, as_json: bool) -> None:
    planned = grid.plan_layout(**layout)
    if plan:
        _show_plan(planned, as_json)
        return
    if layout.get("replicas"):
        note(f"each partition comes to have {layout['replicas']} {'copies' if layout['replicas'] > 1 else 'copy'}")
    if planned.moves:
        note(f"{len(planned.moves)} partitions with about {planned.users:,} users move")
    grid.set_layout(**layout, bytes_per_s=int(rate * 1e6))
    if not no_wait:
        _watch(grid)
    _tell(grid.layout(), as_json)


def _show_plan(planned: PlanLayoutResponse, as_json: bool) -> None:
    moves = [{"partition": move.partition, "source": move.source, "target": move.target} for move in planned.moves]
    if as_json:
        print_json({"shards": planned.shards, "drained": list(planned.drained), "moves": moves, "users": planned.users, "partitions": list(planned.partitions)})
        return
    print(f"{len(moves)} partitions with about {planned.users:,} users would move")
    ways: dict[tuple[int, int], int] = {}
    for move in planned.moves:
        ways[move.source, move.target] = ways.get((move.source, move.target), 0) + 1
    if ways:
        print_table(("from shard", "to shard", "partitions"), [(source, target, count) for (source, target), count in sorted(ways.items())])
    print_table(("shard", "partitions then"), list(enumerate(planned.partitions)))


def _watch(grid: Client) -> None:
    """A bar until all is where it shall be. Ctrl-C ends the view only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("partitions"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    said = ""
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            while not (now := grid.layout()).is_done:
                moving = f"{len(now.partitions)} from shard {now.source} to {now.target}: {now.pages_done} of {now.pages_total} pages" if now.phase else ""
                bar.update(task, completed=now.moves_total - now.moves_left, total=now.moves_total or None, description=moving or now.problem)
                if now.problem != said and now.problem:
                    bar.console.print(f"waits: {now.problem}")
                said = now.problem
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        note("the moves go on; see how far: profilegrid scale; stop them: profilegrid scale --cancel")


def _tell(now: GetLayoutResponse, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "shards": now.shards, "shards_wanted": now.shards_wanted, "replicas": now.replicas, "drained": list(now.drained), "moves_left": now.moves_left,
                "moves_total": now.moves_total, "pause_ms_max": round(now.pause_ms_max, 1), "problem": now.problem or None, "is_done": now.is_done,
            }
        )  # fmt: skip
        return
    drained = f", {', '.join(map(str, now.drained))} of them drained" if now.drained else ""
    state = "every partition is where it shall be" if now.is_done else f"{now.moves_left} of {now.moves_total} partitions are still to move"
    paused = f"; their writes waited {now.pause_ms_max:.0f} ms at most" if now.pause_ms_max else ""
    copies = ", two copies of each partition" if now.replicas > 1 else ""
    print(f"{now.shards} shards{drained}{copies}: {state}{paused}" + (f"; waits: {now.problem}" if now.problem else ""))
