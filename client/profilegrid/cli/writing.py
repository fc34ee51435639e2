"""set, unset, delete, load, ingest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from profilegrid.cli.output import DEFAULT_TARGET, AsOf, Json, Target, User, app, connect, fail, note, print_json, usage


def parse_value(text: str) -> Any:
    """A value as typed on a command line: JSON where it is (numbers, true, [\"a\"]), else text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, list):
        return {str(item) for item in value}
    return text if isinstance(value, dict) or value is None else value


def _reported(report: Any, as_json: bool, what: str) -> None:
    if report.rejections:
        fail("; ".join(str(rejection) for rejection in report.rejections))
    if as_json:
        print_json({"accepted": report.accepted, "rejected": report.rejected})
    else:
        print(what)


@app.command("set")
def set_(
    user: User,
    values: Annotated[list[str], typer.Argument(help='name=value …; sets as name=\'["a", "b"]\'; quote a number twice to keep it text.')],
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Set attributes of a user."""
    attributes = {}
    with connect(target) as grid:
        declared = declared_attributes(grid.catalog()["source"])
        for item in values:
            name, equals, text = item.partition("=")
            if not equals or not name:
                usage(f"got {item!r}, expected name=value")
            attributes[name] = text if declared.get(name) in ("category", "key", "text") else _timed(parse_value(text), declared.get(name))
        _reported(grid.set(user, **attributes), as_json, f"set {', '.join(attributes)} of {user}")


def declared_attributes(source: str) -> dict[str, str]:
    """Attribute types of a catalog's YAML."""
    import yaml

    attributes = (yaml.safe_load(source) or {}).get("attributes") or {}
    return {name: kind["type"] if isinstance(kind, dict) else kind for name, kind in attributes.items()}


def _timed(value: Any, kind: str | None) -> Any:
    """ISO text for a timestamp attribute."""
    if kind == "timestamp" and isinstance(value, str):
        from datetime import UTC, datetime

        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if kind == "set" and isinstance(value, str):
        return {part.strip() for part in value.split(",") if part.strip()}
    return value


@app.command()
def unset(
    user: User, names: Annotated[list[str], typer.Argument(help="Attributes to make NULL.")], target: Target = DEFAULT_TARGET, as_json: Json = False
) -> None:
    """Make attributes of a user NULL."""
    with connect(target) as grid:
        _reported(grid.unset(user, *names), as_json, f"unset {', '.join(names)} of {user}")


@app.command()
def delete(user: User, target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Erase a user: gone from now on, also after restarts."""
    with connect(target) as grid:
        _reported(grid.delete(user), as_json, f"erased {user}")


@app.command()
def load(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Parquet: user_id, attributes, values of features.")],
    as_of: AsOf = None,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Load users in bulk into a grid that has none: no events, straight into columns and a checkpoint. All or nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("loading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with connect(target) as grid, Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("users", total=None)
        result = grid.load(file, as_of=as_of, progress=lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print_json(result)
    else:
        print(f"{result['users']:,} users in {result['seconds']:.1f} s ({result['users'] / max(result['seconds'], 1e-9):,.0f} users/s), checkpoint written")


@app.command()
def ingest(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, JSON lines or Parquet; plain or gzip.")],
    attributes: Annotated[bool, typer.Option("--attributes", help="Rows are attributes of users, not events.")] = False,
    user: Annotated[str, typer.Option("--user", "--user-column", help="Column or expression of the user id.")] = "user_id",
    time: Annotated[str | None, typer.Option("--time", "--time-column", help="Column or expression of the time.")] = None,
    event: Annotated[str | None, typer.Option("--event", "--event-column", help="Column or expression of the event's name.")] = None,
    event_id: Annotated[str | None, typer.Option("--event-id", help="Column or expression of the event id.")] = None,
    maps: Annotated[list[str] | None, typer.Option("--map", help="property=COLUMN or property=EXPRESSION; may be repeated.")] = None,
    time_unit: Annotated[str | None, typer.Option("--time-unit", help="s, ms, us or iso (default: inferred, and said).")] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Of times that name none.")] = "UTC",
    delimiter: Annotated[str | None, typer.Option("--delimiter", help="Of CSV (default: inferred).")] = None,
    state: Annotated[Path | None, typer.Option("--state", help="Folder for the reject and resume files (default: beside the input).")] = None,
    again: Annotated[bool, typer.Option("--again", help="Ingest a file that was ingested before once more.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Ingest a file. Interrupted, the same command goes on where it stopped; nothing counts twice. Bad rows end in a reject file."""
    from profilegrid.ingesting.run import Ingest, Options

    mapping = {}
    for item in maps or []:
        name, equals, expression = item.partition("=")
        if not equals:
            usage(f"--map: got {item!r}, expected property=column or property=expression")
        mapping[name] = expression
    if time_unit not in (None, "s", "ms", "us", "iso"):
        usage(f"--time-unit: got {time_unit!r}, expected s, ms, us or iso")
    options = Options(file, "attributes" if attributes else "events", user, time, event, event_id, mapping, time_unit, timezone, delimiter, state, again, note)
    with connect(target) as grid:
        result = Ingest(grid, options).run()
    if as_json:
        print_json(result.to_json())
        return
    rate = result.accepted / max(result.seconds, 1e-9)
    print(f"{result.accepted:,} accepted, {result.rejected:,} rejected, {result.duplicates:,} duplicates in {result.seconds:.1f} s ({rate:,.0f} rows/s)")
