"""Write docs/cli.md, docs/catalog.md and docs/errors.md from the code; `--check` fails when they are not current."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from profilegrid.cli import load_commands
from profilegrid.cli.output import app
from profilegrid_rules import RuleError
from typer.main import get_command

from grid import errors
from grid.catalog import ATTRIBUTE_TYPES, KINDS, PROPERTY_TYPES

HERE = Path(__file__).parent
REMEDIES = {
    "CATALOG_INVALID": "Correct every line that the message lists; nothing was applied.",
    "CATALOG_WOULD_LOSE": "Keep the declaration, or repeat with `--force` (`force=True`) when the loss is meant.",
    "FRAME_INVALID": "The client library never sends such a frame; check your own encoder against protos/profilegrid/v1/events.proto.",
    "FIELD_INVALID": "Correct the field that the message names.",
    "PARTITION_MOVED": "Our clients refresh the map and retry by themselves; others call AdminService.GetMap again.",
    "SEQUENCE_TOO_OLD": "Keep at most 64 batches in flight. Whether the old batch was counted is no longer known; use a new producer for new data.",
    "PRODUCER_EXPIRED": "An import that was interrupted more than 7 days ago cannot go on: what of it was counted is no longer known. "
    "Delete its resume file (`….ingest.json`) to ingest the file from its beginning, once you know that counts nothing twice.",
    "MEMORY_EXHAUSTED": "Clients wait and retry. Give the shards more memory (`up --memory-mb`) or keep fewer features.",
    "OVERLOADED": "Clients wait and retry. If it lasts, the grid needs more shards or cores.",
    "FEATURE_BACKFILLING": "Wait until `profilegrid catalog show` says that it is complete.",
    "UNKNOWN_FIELD": "Ask for attributes and features that the catalog declares.",
    "PARTITION_UNAVAILABLE": "The log or a page is damaged; the message names file, offset and position. Stop the grid, keep the folder aside, restore it from a copy.",
    "BITMAP_INVALID": "Hand in a bitmap as `bitmap` gave it, or one made of such by a roaring library's portable 64-bit format.",
    "LOAD_REFUSED": "Mend the row that is named (rows count from 0) and load the file again; nothing of it was kept.",
    "NOT_EMPTY": "Load into a new grid, or bring the rows in by `profilegrid ingest --attributes`.",
    "SHARD_LOADING": "Wait: the client retries by itself. Whoever loads sees the progress.",
    "SHARD_RECOVERING": "Clients retry; `profilegrid status` shows when it serves.",
    "LOG_CORRUPT": "As PARTITION_UNAVAILABLE.",
    "CHECKPOINT_CORRUPT": "As PARTITION_UNAVAILABLE.",
    "HISTORY_CORRUPT": "Profiles and audiences do not depend on it. Restore the file from a copy, or add the feature without its past.",
    "SNAPSHOT_CORRUPT": "Restore an older snapshot, or put the file back from a copy; `profilegrid snapshot verify` names what is damaged.",
    "SNAPSHOT_UNKNOWN": "`profilegrid snapshot list URL` tells which there are.",
    "MOVE_FAILED": "None of the caller's: `profilegrid scale` tells why partitions wait, and it is tried again. [Rescaling](rescaling.md).",
    "NODE_GONE": "Start Ray on that node again with the same folder; or, with two copies, let others have them: `profilegrid drain NODE`. [Nodes](cluster.md).",
    "NO_ROOM": "Add nodes to the Ray cluster, or ask for less per shard: `up --shard-cpus`. [Nodes](cluster.md).",
    "SNAPSHOT_FAILED": "See the message: the place must be reachable for the grid's own processes, and no partition stopped. Then make another.",
    "DATA_FOLDER_FOREIGN": "Stop the process that holds the folder, or choose another folder.",
    "WRITE_FAILED": "The shard starts over by itself. If it recurs, look at the disk.",
    "STORAGE_ERROR": "See the shard's message.",
    "GRID_ERROR": "A bug of ours; the shard's log has the traceback.",
    "RULE_INVALID": "Correct the rule at the position given; the message suggests how.",
}
ROWS = {
    "USER_ID_MISSING": "The user id is empty.", "USER_ID_TOO_LONG": "The user id has more than 256 bytes.",
    "UNKNOWN_EVENT": "The catalog declares no such event.", "UNKNOWN_PROPERTY": "The catalog declares no such property for this event.",
    "UNKNOWN_ATTRIBUTE": "The catalog declares no such attribute.", "WRONG_TYPE": "The value is of another type than declared.",
    "NOT_FINITE": "The number is NaN or infinite.", "TEXT_TOO_LONG": "The text has more than 65,535 bytes.",
    "TIME_IN_FUTURE": "The time lies more than `limits.future` ahead of the server's clock.", "TIME_TOO_LATE": "The time lies more than `limits.lateness` behind.",
    "TIME_OUT_OF_RANGE": "The time cannot be read, or lies before 1900.", "DICTIONARY_FULL": "The property has as many different values as `limits` allow.",
    "KEYS_PER_USER_FULL": "The user has as many keys in a `by` feature as `limits.keys_per_user` allows; keys that are there still count.",
    "MALFORMED_LINE": "A line of a CSV file has another number of columns than its header (only in reject files).",
}  # fmt: skip


def cli_reference() -> str:
    """Every command's help, as the command prints it."""
    load_commands()
    group = get_command(app)
    parts = [
        "# CLI reference",
        "",
        "Made from the command itself by `docs/make_reference.py`. Exit status: 0 done, 1 the grid refused or failed, 2 wrong usage.",
        "",
    ]
    parts += _commands(group, "profilegrid", {})
    return "\n".join(parts) + "\n"


def _commands(group: typer.core.TyperGroup, path: str, parent: dict[str, object]) -> list[str]:
    parts: list[str] = []
    for name, command in sorted(group.commands.items()):
        full = f"{path} {name}"
        if hasattr(command, "commands"):
            parts += _commands(command, full, parent)
            continue
        parts += [f"## {full}", "", (command.help or "").strip(), "", "| | | default |", "|---|---|---|"]
        for parameter in command.params:
            is_argument = parameter.param_type_name == "argument"
            names = (parameter.name or "").upper() if is_argument else ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            default = "" if parameter.default in (None, False, ()) or is_argument else str(parameter.default)
            parts.append(f"| {names} | {getattr(parameter, 'help', '') or ''} | {default} |")
        parts.append("")
    return parts


def catalog_reference() -> str:
    """The catalog: hand-written head, the table of kinds from their declarations."""
    head = (HERE / "catalog.head.md").read_text(encoding="utf-8")
    rows = [
        f"| `{kind.name}` | {'event' if kind.takes == 'event' else 'event.property' + (' (int, float)' if kind.takes == 'number' else '')} "
        f"| {kind.semantics} | {'NULL' if kind.null else '0'} | {'yes' if kind.takes_by else ''} | {kind.lateness} | {kind.memory} | {kind.error} |"
        for kind in KINDS.values()
    ]
    table = ["| kind | takes | value | never fed | `by` | late events | memory a user | error |", "|---|---|---|---|---|---|---|---|", *rows]
    types = f"Properties: {', '.join(f'`{name}`' for name in PROPERTY_TYPES)}. Attributes: {', '.join(f'`{name}`' for name in ATTRIBUTE_TYPES)}."
    return head.replace("{{kinds}}", "\n".join(table)).replace("{{types}}", types)


def error_reference() -> str:
    """One heading a reason: cause (from the code) and remedy."""
    parts = [
        "# Errors",
        "",
        "Made by `docs/make_reference.py`. A call fails with a gRPC status whose ErrorInfo has one of these reasons; a refused row has a reason of the second list.",
        "",
    ]
    kinds = [RuleError, *(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GridError))]
    for kind in sorted(kinds, key=lambda kind: kind.reason):
        retry = "A retry may succeed." if getattr(kind, "retriable", False) else "A retry of the same call fails again."
        parts += [f"## {kind.reason}", "", f"{(kind.__doc__ or '').strip()} {retry}", "", f"**Remedy.** {REMEDIES[kind.reason]}", ""]
    parts += ["# Refused rows", ""]
    for reason, cause in ROWS.items():
        parts += [f"## {reason}", "", f"{cause} The other rows of the batch are kept; `profilegrid deadletters` has the row.", ""]
    return "\n".join(parts)


def main() -> int:
    """Write or check."""
    stale = []
    for name, text in (("cli.md", cli_reference()), ("catalog.md", catalog_reference()), ("errors.md", error_reference())):
        path = HERE / name
        if "--check" in sys.argv:
            stale += [name] if not path.exists() or path.read_text(encoding="utf-8") != text else []
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"not current: {', '.join(stale)}; run python docs/make_reference.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
