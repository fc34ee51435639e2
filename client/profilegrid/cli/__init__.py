"""The command `profilegrid`. Reads and writes live here and use only the public client; the server adds the operator's commands."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings

from profilegrid.cli.output import app, fail, note, problem_of


def load_commands() -> None:
    """Register our commands and those that other distributions add."""
    from profilegrid.cli import audiences, catalogs, layouts, profiles, watching, writing  # noqa: F401 - importing registers

    for entry in importlib.metadata.entry_points(group="profilegrid.commands"):
        entry.load()(app)


def main() -> None:
    """Run a command. Exit status: 0 done, 1 the grid refused or failed, 2 wrong usage."""
    load_commands()
    warnings.showwarning = lambda message, *_: note(str(message))
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            raise
        fail(problem)
