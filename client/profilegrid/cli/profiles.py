"""get, watch, status, deadletters, erasures, checkpoint."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from profilegrid.cli.output import DEFAULT_TARGET, AsOf, Json, Target, User, app, connect, note, print_json, print_table, show, show_time, usage


def profile_rows(profile: Any) -> list[list[Any]]:
    """Rows of a profile for a table; times shown as such."""
    rows = []
    for kind, values in (("attribute", profile.attributes), ("feature", profile.features)):
        for name, value in values.items():
            is_time = isinstance(value, int) and not isinstance(value, bool) and value > 10**11
            rows.append([kind, name, show_time(value) if is_time else show(value)])
    return rows


@app.command()
def get(
    user: User,
    fields: Annotated[list[str] | None, typer.Option("--field", help="Only this attribute or feature; may be repeated.")] = None,
    as_of: AsOf = None,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Show a user's profile: attributes and features, now or as of a time."""
    with connect(target) as grid:
        profile = grid.get(user, fields or (), as_of=as_of)
    if as_json:
        print_json(profile.to_json())
        return
    title = f"{user}  as of {show_time(profile.as_of)} UTC" + ("" if profile.exists else "  (unknown user)")
    print_table(["", "name", "value"], profile_rows(profile), title)
    for warning in profile.warnings:
        note(warning)


@app.command()
def watch(
    user: User,
    fields: Annotated[list[str] | None, typer.Option("--field", help="Only this attribute or feature; may be repeated.")] = None,
    changes: Annotated[int, typer.Option("--changes", help="Stop after so many (0: go on until Ctrl-C).")] = 0,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Print a user's profile now and after each change."""
    with connect(target) as grid:
        before: dict[str, Any] = {}
        for number, profile in enumerate(grid.watch(user, fields or ())):
            if as_json:
                print(json.dumps(profile.to_json(), ensure_ascii=False), flush=True)
            else:
                changed = {name: value for name, value in profile.items() if number == 0 or before.get(name) != value}
                print(f"{show_time(profile.as_of)}  " + "  ".join(f"{name}={show(value)}" for name, value in changed.items()), flush=True)
            before = dict(profile)
            if changes and number + 1 >= changes:
                return


@app.command()
def status(target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Show the map's version and each shard's state; works while shards are down."""
    with connect(target, read_timeout=5.0) as grid:
        found = grid.status()
    shards: list[dict[str, Any]] = [
        {"id": s.id, "state": s.state, "pid": s.pid or None, "endpoint": s.endpoint or None, "partitions": s.partitions, "users": s.users,
         "metrics": s.metrics or None, "stopped_partitions": s.stopped, "memory_bytes": s.memory_bytes, "events": s.events, "dead_letters": s.dead_letters, "turn_ms_max": s.turn_ms_max,
         "recovered_users": s.recovered_users, "recovered_seconds": s.recovered_seconds, "problems": list(s.problems),
         "history": {"events": s.history_events, "bytes": s.history_bytes, "first": s.history_first_ms or None, "segments_behind": s.segments_behind}}
        for s in found.shards
    ]  # fmt: skip
    if as_json:
        print_json({"map_version": found.map_version, "catalog_version": found.catalog_version, "shards": shards})
        return
    rows = [
        [s["id"], s["state"], str(s["pid"] or "–"), s["endpoint"] or "–", s["partitions"], s["users"], f"{int(s['memory_bytes']) >> 20} MB", s["events"]]
        for s in shards
    ]
    title = f"map {found.map_version}, catalog {found.catalog_version}"
    print_table(["shard", "state", "pid", "endpoint", "partitions", "users", "memory", "events"], rows, title)
    if found.metrics:
        print(f"metrics: http://{found.metrics}/metrics, all processes: http://{found.metrics}/targets")
    for shard in shards:
        if shard["history"]["events"]:
            past = shard["history"]
            print(f"shard {shard['id']} keeps {past['events']:,} past events ({past['bytes'] >> 20:,} MB), the earliest of {show_time(past['first'])} UTC")
        for problem in shard["problems"]:
            note(f"shard {shard['id']}: {problem}")


@app.command()
def deadletters(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    replay: Annotated[bool, typer.Option("--replay", help="Ingest them once more, after a fix; those refused again stay.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="With --replay: only those refused for this reason.")] = "",
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """List refused rows, newest first, each with its reason; or ingest them once more."""
    if reason and not replay:
        usage("--reason goes with --replay")
    with connect(target) as grid:
        if replay:
            done = grid.replay_dead_letters(reason)
            if as_json:
                print_json(done)
            else:
                print(f"{done['replayed']:,} rows ingested once more: {done['accepted']:,} accepted, {done['rejected']:,} refused again")
            return
        letters = grid.dead_letters(limit)
    if as_json:
        print_json(
            [
                {"time": x.time_ms, "reason": x.reason, "field": x.field, "value": x.value, "expected": x.expected, "event": json.loads(x.event_json)}
                for x in letters
            ]
        )
        return
    print_table(["time", "reason", "field", "value", "expected"], [[show_time(x.time_ms), x.reason, x.field, x.value, x.expected] for x in letters])


@app.command()
def erasures(
    now: Annotated[bool, typer.Option("--now", help="Remove their bytes from the disks now.")] = False, target: Target = DEFAULT_TARGET, as_json: Json = False
) -> None:
    """List deletions whose bytes still lie on disk (log, history, dead letters, old files); they go within `erase_within`."""
    with connect(target) as grid:
        finished = grid.finish_erasures() if now else 0
        left = list(grid.erasures())
    if as_json:
        print_json({"finished": finished, "erasures": left} if now else left)
        return
    if now:
        print(f"{finished:,} deletions are gone from the disks")
    rows = [["unknown user" if e["user"] is None else f"{e['user']:#x}", show_time(e["erased"]), show_time(e["due"]), e["state"]] for e in left]
    print_table(["user", "erased", "gone by", "state"], rows, f"{len(left):,} deletions are left")


@app.command()
def repair(
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Leave out what is damaged, for good, and serve what is left.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: Json = False,
) -> None:
    """Say which partitions damage has stopped; with --accept-loss, let them serve again without what is damaged."""
    with connect(target) as grid:
        damage = [f"shard {shard.id}: {problem}" for shard in grid.status().shards for problem in shard.problems if problem.startswith("partition ")]
        lost = list(grid.repair(accept_loss=True)) if accept_loss and damage else []
    if as_json:
        print_json({"damage": damage, "lost": lost})
        return
    for text in damage if not accept_loss else lost:
        print(text)
    if not damage:
        print("no partition is stopped")
    elif accept_loss:
        print(f"{len(damage)} partitions serve again; what is named above is lost")
    else:
        print("Bring back the files that are named from a copy and restart, or give up what is damaged: profilegrid repair --accept-loss")


@app.command()
def checkpoint(target: Target = DEFAULT_TARGET, as_json: Json = False) -> None:
    """Write checkpoints of all partitions now, so that a restart replays little."""
    with connect(target) as grid:
        done = grid.checkpoint()
    if as_json:
        print_json({"partitions": done.partitions, "seconds": done.seconds})
    else:
        print(f"{done.partitions} partitions in {done.seconds:.1f} s")
