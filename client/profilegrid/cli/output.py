"""What commands share: the app, the connection, tables for people, one JSON document for programs, errors on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from profilegrid.sync import Client

app = typer.Typer(name="profilegrid", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="A real-time user-profile engine.")

Target = Annotated[str, typer.Option("--target", envvar="PROFILEGRID_TARGET", help="host:port of the grid.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
AsOf = Annotated[int | None, typer.Option("--as-of", metavar="MS", help="Time of the answer, ms since 1970-01-01 UTC (default: now).")]
Rule = Annotated[str, typer.Argument(help="A rule, as in: city = 'Rome' AND views_1h >= 3")]
User = Annotated[str, typer.Argument(help="A user id.")]
DEFAULT_TARGET = "127.0.0.1:7600"


def connect(target: str, **options: Any) -> Client:
    """A client of the target."""
    from profilegrid.sync import Client

    return Client(target, **options)


def print_json(document: Any) -> None:
    """The one JSON document of a command."""
    print(json.dumps(document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table for people; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(show(value) for value in row))
    Console().print(table)


def show(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, set | list) and all(isinstance(item, str) for item in value):
        return ", ".join(sorted(value)) or "(empty)"
    if isinstance(value, list):
        return ", ".join(f"{entry['key']} {show(entry['value'])}" for entry in value) or "(none)"
    if isinstance(value, dict):
        best = sorted(value.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{key} {show(number)}" for key, number in best[:8])
        return (shown + (f", … {len(best) - 8} more" if len(best) > 8 else "")) or "(none)"
    return str(value)


def show_time(ms: int | None) -> str:
    """A time as a person reads it, UTC."""
    if ms is None:
        return "–"
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(ms)


def note(text: str) -> None:
    """A word to people, on stderr."""
    print(text, file=sys.stderr)


def problem_of(error: Exception) -> str | None:
    """Code and text of an error that is the grid's or the user's; None for a bug of ours."""
    from profilegrid.errors import ProfilegridError

    if isinstance(error, ProfilegridError):
        return f"{error.code or error.reason}: {error}"
    if getattr(error, "reason", "") and hasattr(error, "retriable"):
        return str(error)
    if isinstance(error, OSError | ValueError | TypeError | ImportError):
        return str(error)
    return None


def fail(text: str, status: int = 1) -> NoReturn:
    """Say what went wrong and end."""
    print(f"error: {text}", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(status)


def usage(text: str) -> NoReturn:
    """Wrong usage: exit status 2."""
    raise typer.BadParameter(text)
