"""count, list, export, contains, sample, explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from profilegrid.cli.output import DEFAULT_TARGET, AsOf, Json, Rule, Target, app, connect, note, print_json, print_table, show_time


def with_warnings(document: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """A document of the contract; it has "warnings" only where there are any."""
    return {**document, "warnings": warnings} if warnings else document


def say_all(texts: list[str]) -> None:
    """Words to people, a line each."""
    for text in texts:
        note(text)


@app.command()
def count(rule: Rule, as_of: AsOf = None, target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Count the users for whom a rule is true."""
    with connect(target) as grid:
        found = grid.count_detailed(rule, as_of=as_of)
    if as_json:
        print_json(with_warnings(found, found.pop("warnings")))
    else:
        print(f"{found['count']:,} users  ({found['elapsed_ms']:.1f} ms, as of {show_time(found['as_of'])} UTC)")
        say_all(found["warnings"])


@app.command("list")
def list_(
    rule: Rule,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Users a page.")] = 20,
    page: Annotated[str, typer.Option("--next", help="Go on after an earlier page: its `next`.")] = "",
    as_of: AsOf = None,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """List users of an audience, a page at a time."""
    with connect(target) as grid:
        found = grid.list(rule, limit=limit, page_token=page, as_of=as_of)
    if as_json:
        print_json(with_warnings({"user_ids": found.user_ids, "next": found.next or None}, found.warnings))
        return
    for user_id in found.user_ids:
        print(user_id)
    say_all(found.warnings)
    if found.next:
        note(f"more: --next {found.next}")


@app.command()
def export(
    rule: Rule,
    out: Annotated[Path, typer.Option("--out", help="File to write: .parquet, .csv, .jsonl or .txt.")],
    as_of: AsOf = None,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Write the user ids of an audience to a file."""
    from rich.console import Console
    from rich.progress import Progress

    with connect(target) as grid, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("exporting", total=None)
        done = grid.export(rule, out, as_of=as_of, progress=lambda n, total: progress.update(task, completed=n, total=total))
    if as_json:
        print_json({"users": done, "file": str(out)})
    else:
        print(f"{done:,} users written to {out}")


@app.command()
def contains(
    rule: Rule, users: Annotated[list[str], typer.Argument(help="User ids.")], as_of: AsOf = None, target: Target = DEFAULT_TARGET, as_json: Json = False
) -> None:
    """Say of each user whether a rule is true."""
    with connect(target) as grid:
        found = grid.contains(rule, users, as_of=as_of)
    if as_json:
        print_json(found)
    else:
        print_table(["user", "in"], [[user, "yes" if inside else "no"] for user, inside in found.items()])


@app.command()
def sample(
    rule: Rule,
    size: Annotated[int, typer.Argument(min=1, help="How many users.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="The same seed draws the same users.")] = 0,
    as_of: AsOf = None,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Draw users from an audience, evenly."""
    with connect(target) as grid:
        drawn = list(grid.sample(rule, size, seed=seed, as_of=as_of))
    if as_json:
        print_json({"user_ids": drawn})
    else:
        print("\n".join(drawn))


@app.command()
def explain(rule: Rule, as_of: AsOf = None, target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Show how a rule is evaluated: what each clause selects, for whom it is NULL, and the time."""
    with connect(target) as grid:
        found = grid.explain(rule, as_of=as_of)
    if as_json:
        print_json(found)
        return
    users = max(found["users"], 1)
    rows = [[c["text"], c["matched"], f"{100 * c['matched'] / users:.1f} %", c["unknown"]] for c in found["clauses"]]
    title = f"{found['matched']:,} of {found['users']:,} users, {found['partitions']} partitions, {found['elapsed_ms']:.1f} ms"
    print_table(["clause", "matches", "of all", "NULL"], rows, title)
    say_all([*found["hints"], *found["warnings"]])
