"""Compile every kernel once, by running a small engine through all kinds. `python -m grid.warming` shows progress on stderr."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from profilegrid_rules import compile_rule
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

import grid.kernels
from grid.catalog import ATTRIBUTE_TYPES, KINDS, load_catalog
from grid.engine import Engine
from grid.errors import GridError
from grid.frame import Column, Frame
from grid.kernels import cache_folder
from grid.kernels.answers import keyed_column
from grid.kernels.flat import weave
from grid.kernels.ids import are_ends
from grid.reading import read_profiles
from grid.selecting import Selection
from grid.state.dictionary import Dictionary, Strings
from grid.storage.store import Store

NOW_MS = 1_700_000_000_000
PARTITIONS = 2
# Ten times what compiling takes on a slow machine.
STALLED_S = 900


def every_kind() -> dict[str, object]:
    """A catalog with each kind, plain and by key."""
    features: dict[str, object] = {}
    for kind in KINDS.values():
        base: dict[str, object] = {kind.name: "e" if kind.takes == "event" else "e.n"}
        if kind.is_decayed:
            base["half_life"] = "1h"
        if kind.is_windowed:
            base |= {"window": "30d"} if kind.name == "days_active" else {"window": "1h", "hop": "5m"}
        features[kind.name] = base
        if kind.takes_by:
            features[f"{kind.name}_by"] = {**base, "by": "c", "top": 2}
    features["decayed_list"] = {"decayed_count": "e", "half_life": "1h", "by": "c"}
    features["last_text"] = {"last": "e.c"}
    features["distinct_text"] = {"distinct": "e.c"}
    attributes = {f"a_{name}": name for name in ATTRIBUTE_TYPES}
    return {"events": {"e": {"n": "float", "c": "category"}}, "attributes": attributes, "features": features, "dedupe": "1d", "limits": {"keys_per_user": 2}}


def frames(users: int, batch: int, time_ms: int) -> list[Frame]:
    """Events, attributes and a delete of some users, as they come off the wire (read-only arrays)."""
    ids = Strings.of([f"user-{number}" for number in range(users)])
    partition = (ids.hashes() % np.uint64(PARTITIONS)).astype(np.uint16)
    order = np.argsort(partition, kind="stable")
    names = [f"user-{number}" for number in order.tolist()]
    numbers, counts = np.unique(partition, return_counts=True)

    def frame(kind: str, columns: list[Column], number: int) -> Frame:
        n = users if kind == "events" else 0
        made = Frame(
            kind, b"w" * 16, number, 1, numbers.astype(np.uint16), counts.astype(np.uint32), np.ones(numbers.size, dtype=np.uint64),  # type: ignore[arg-type]
            Strings.of(names), np.full(n, time_ms, dtype=np.int64), ["e"] if n else [], np.zeros(n, dtype=np.uint16), columns,
            Strings.of([f"{number}-{name}" for name in names]) if n else None,
        )  # fmt: skip
        return _received(made)

    words = Strings.of(["x", "y", "z"])
    codes = (np.arange(users, dtype=np.uint32) + np.uint32(batch // 10)) % np.uint32(3)  # from time to time users have another key
    events = [Column("n", "float", None, np.arange(users, dtype=np.float64)), Column("c", "text", None, codes, words)]
    whole = np.arange(users, dtype=np.int64)
    attributes = [
        Column("a_int", "int", None, whole), Column("a_float", "float", None, whole.astype(np.float64)),
        Column("a_bool", "bool", None, (whole % 2).astype(np.uint8)), Column("a_timestamp", "timestamp", None, whole),
        *(Column(f"a_{name}", "text", None, codes, words) for name in ("category", "key", "text")),
        Column("a_set", "texts", None, codes, words, np.arange(1, users + 1, dtype=np.uint32)),
    ]  # fmt: skip
    return [frame("events", events, batch), frame("attributes", attributes, batch + 1)]


def _received(value: Any) -> Any:
    """With arrays as they come off the wire: read-only, each in bytes of its own."""
    if isinstance(value, np.ndarray):
        return np.frombuffer(value.tobytes(), dtype=value.dtype)
    if isinstance(value, Strings):
        return Strings(_received(value.data), _received(value.ends))
    if isinstance(value, list):
        return [_received(item) for item in value]
    if isinstance(value, Frame | Column):
        return replace(value, **{item.name: _received(getattr(value, item.name)) for item in fields(value)})
    return value


def _commit(engine: Engine, store: Store, frame: Frame, moment: int) -> None:
    """Commit a frame; fold it a second time as backfills do, a feature at a time."""
    engine.admit(frame)
    group = engine.prepare([frame], moment)
    store.append(group, is_durable=False)
    engine.apply(group)
    rows = group.judged[0].rows
    if rows is not None and rows.slots.size == rows.size:
        engine.fold(rows, engine.catalog.version, engine.features.values())


def warm(folder: Path) -> None:
    """Run each kernel with the types that serving gives it."""
    catalog = load_catalog(every_kind())
    for _ in range(2):  # the second time recovers
        engine = Engine(partitions=PARTITIONS)
        engine.epochs[:] = 1
        store = Store(folder, engine)
        store.recover()
        if not engine.catalog.version:
            engine.install_catalog(catalog)
            store.append_catalog(catalog, NOW_MS)
        for number in range(4):
            # Users enough for tables to grow; 600 hours are 600 half-lives: landmarks move.
            moment = NOW_MS + number * 600 * 3_600_000
            made = frames(2000, 10 * number + 1 + int(engine.positions.max()), moment)
            plain = replace(made[0], event_ids=None, batch=made[1].batch + 1)
            for part in (*made, plain):
                _commit(engine, store, part, moment)
            if number == 1:
                store.checkpoint_all()
                store.log.roll()
                store.write_history()
        slots = engine.users.slots_of(0)
        profiles = read_profiles(engine, slots, None, NOW_MS)
        flat, listed = profiles.flat, profiles.columns["count_by"]
        assert flat is not None and listed.counts is not None and listed.keys is not None and isinstance(listed.dictionary, Dictionary)
        keyed_column(listed.counts, listed.keys, listed.values, listed.dictionary.place, *listed.dictionary.heap, np.arange(5))
        nothing, ends = np.zeros(0, dtype=np.uint8), np.zeros(2 * len(flat.fields.names), dtype=np.int64)
        weave(nothing, ends, flat.values, flat.known, np.empty(flat.values.nbytes, dtype=np.uint8))
        asked = Strings.of(["user-1", "user-2"])
        for ends in (asked.ends, np.frombuffer(asked.ends.tobytes(), dtype=asked.ends.dtype)):  # ids that came as rows, and as columns
            are_ends(ends, asked.data.size)
            engine.users.locate(Strings(asked.data, ends), engine.epochs)
        rule = compile_rule(
            "has(a_set, 'x') AND count_by['x'] > 1 AND window_count_by['x'] >= 0 AND window_count >= 0 AND decayed_count_by['y'] > 0 AND a_text LIKE 'x%' AND day_active(days_active, TIMESTAMP '2023-11-14')",
            catalog.rule_schema,
        )
        Selection(engine, rule, NOW_MS).of_many(np.array([0]))[0].counts()
        scans = ("a_category IN ('x', 'y')", "a_int > 1", "a_float < 2", "a_bool", "count >= 0", "sum < 1", "decayed_count > 1", "last_time > now()")
        for scan in scans:
            for as_of_ms in (NOW_MS, moment):  # what has decayed is scaled, but from ages before its landmark
                Selection(engine, compile_rule(scan, catalog.rule_schema), as_of_ms).of(0)
        for wide in (1 << 20, 1 << 40):
            engine.attributes["a_int"].set(slots[:1], np.array([wide]), None, None)
            Selection(engine, compile_rule("a_int > 1", catalog.rule_schema), NOW_MS).of(0)
        delete = frames(600, 1000 + int(engine.positions.max()), NOW_MS)[1]
        delete.kind, delete.columns = "deletes", []
        group = engine.prepare([delete], NOW_MS)
        engine.apply(group)
        for _ in engine.drop_in_steps(0):
            pass
        store.close()


def kernels() -> int:
    """How many kernels and helpers there are to compile."""
    from numba.core.dispatcher import Dispatcher  # numba reads where its cache lies when it is imported: grid.kernels must come first

    modules = [importlib.import_module(f"grid.kernels.{found.name}") for found in pkgutil.iter_modules(grid.kernels.__path__)]
    return sum(isinstance(value, Dispatcher) and value.__module__ == module.__name__ for module in modules for value in vars(module).values())


@contextlib.contextmanager
def progress_shown(folder: Path) -> Iterator[None]:
    """A bar of compiled kernels, by the index files that numba leaves in its cache; nothing when all are there already."""
    total, is_over = kernels(), threading.Event()

    def compiled() -> int:
        return len({path.name.split("-")[0] for path in folder.rglob("*.nbi")})

    def watch(progress: Progress, task: TaskID) -> None:
        while not is_over.wait(0.2):
            progress.update(task, completed=compiled())

    if (folder / "WARM").exists():
        yield
        return
    with Progress("compiling kernels", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        watcher = threading.Thread(target=watch, args=(progress, progress.add_task("", total=total)), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()


def main() -> int:
    """Warm up, showing how far it is; 0 when all is compiled. Where it stands still it ends with every thread's stack; what was compiled is kept."""
    folder = cache_folder()
    faulthandler.dump_traceback_later(STALLED_S, exit=True)
    try:
        with tempfile.TemporaryDirectory(prefix="pg-warm-") as temporary, progress_shown(folder):
            warm(Path(temporary) / "grid")
    except GridError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "WARM").write_text("")
    return 0


if __name__ == "__main__":
    sys.exit(main())
