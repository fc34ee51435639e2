"""One run of `ingest`: look at the file, map its columns, send chunk after chunk, remember how far it got, tell what was refused.

A chunk is one numbered batch of a producer that the file's digest names: a chunk sent again after an interrupt counts once.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
import yaml
from numpy.typing import NDArray

from profilegrid.arrow import column_of_arrow, ids_of_arrow, strings_of
from profilegrid.columns import Batch, now_ms
from profilegrid.ingesting.files import CsvFile, JsonFile, chunks, digest_of, open_file
from profilegrid.ingesting.mapping import Mapped, Sniffed, as_declared, ids_array, infer_unit, mapped, names_of, parse_times
from profilegrid.results import Report
from profilegrid.sync import Client
from profilegrid.v1 import events_pb2 as pb

IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was asked."""

    file: Path
    kind: str
    user: str
    time: str | None
    event: str | None
    event_id: str | None
    maps: dict[str, str]
    time_unit: str | None
    timezone: str
    delimiter: str | None
    state: Path | None
    again: bool
    note: Callable[[str], None]


@dataclass(slots=True)
class Result:
    """How it ended, over all runs of the same file."""

    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As the CLI prints it."""
        return asdict(self)


@dataclass(slots=True)
class Progress:
    """The resume file: chunks acknowledged without a gap, and their counts."""

    path: Path
    grid_id: str
    recipe: str
    run: int = 0
    chunks: int = 0
    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    is_done: bool = False
    started_ms: int = 0
    ahead: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, grid_id: str, recipe: str) -> Progress:
        """The progress of an earlier run of the same file, the same way, into the same grid; or a fresh one."""
        try:
            facts = json.loads(path.read_text())
        except (OSError, ValueError):
            return cls(path, grid_id, recipe)
        if facts.get("grid_id") != grid_id or facts.get("recipe") != recipe:
            return cls(path, grid_id, recipe)
        return cls(
            path,
            grid_id,
            recipe,
            facts["run"],
            facts["chunks"],
            facts["accepted"],
            facts["rejected"],
            facts["duplicates"],
            facts["is_done"],
            facts.get("started_ms", 0),
        )

    def add(self, chunk: int, report: Report) -> None:
        """A chunk is acknowledged; the file moves on when no earlier one is missing."""
        self.ahead[chunk] = (report.accepted, report.rejected, report.duplicates)
        while self.chunks in self.ahead:
            accepted, rejected, duplicates = self.ahead.pop(self.chunks)
            self.accepted += accepted
            self.rejected += rejected
            self.duplicates += duplicates
            self.chunks += 1
        self.save()

    def save(self) -> None:
        """Write it whole."""
        facts = {name: getattr(self, name) for name in ("grid_id", "recipe", "run", "chunks", "accepted", "rejected", "duplicates", "is_done", "started_ms")}
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(facts))
        temporary.replace(self.path)


class Ingest:
    """A file on its way into a grid."""

    def __init__(self, grid: Client, options: Options) -> None:
        self._grid, self._options = grid, options
        self._file: CsvFile | JsonFile = open_file(options.file, options.delimiter)
        self._catalog = yaml.safe_load(grid.catalog()["source"]) or {}
        self._folder = self._state_folder()
        stem = options.file.name + (".attributes" if options.kind == "attributes" else "")
        self._rejects = self._folder / f"{stem}.rejects.csv"
        # What would make other rows of the same file is part of the producer's name.
        asked = [options.kind, options.user, options.time, options.event, options.event_id, options.maps, options.time_unit, options.timezone]
        recipe = digest_of(options.file) + json.dumps(asked).encode()
        self._progress = Progress.load(self._folder / f"{stem}.ingest.json", grid.grid_id(), xxhash.xxh3_64_hexdigest(recipe))
        if options.again and self._progress.is_done:
            self._progress = Progress(self._progress.path, self._progress.grid_id, self._progress.recipe, self._progress.run + 1)
        self._progress.started_ms = self._progress.started_ms or now_ms()
        self._producer = xxhash.xxh3_128_digest(recipe + str(self._progress.run).encode())

    def _state_folder(self) -> Path:
        """Where resume and reject files lie: beside the input unless told otherwise or not writable."""
        folder = self._options.state or self._options.file.resolve().parent
        if self._options.state is not None:
            folder.mkdir(parents=True, exist_ok=True)
        elif not os.access(folder, os.W_OK):
            self._options.note(f"{folder} is not writable: the reject and resume files go to {Path.cwd()}")
            folder = Path.cwd()
        return folder

    def run(self) -> Result:
        """Send what is not acknowledged yet."""
        started, progress = time.monotonic(), self._progress
        if progress.is_done:
            self._options.note("this file was ingested before; --again ingests it once more")
        else:
            self._send_all()
            progress.is_done = True
            progress.save()
        if progress.rejected:
            self._options.note(f"{progress.rejected:,} rows were rejected: {self._rejects}")
        return Result(progress.accepted, progress.rejected, progress.duplicates, time.monotonic() - started)

    # --- looking ----------------------------------------------------------------------------------------------------------

    def _map(self, sniffed: Sniffed) -> dict[str, Mapped]:
        """Where user, time, event, event id and every property come from."""
        options, types = self._options, sniffed.types
        fields = {"user": mapped("user_id", options.user, types, "--user")}
        if options.kind == "events":
            fields["time"] = mapped("time", options.time or "time", types, "--time")
            fields["event"] = mapped("event", options.event or "event", types, "--event")
            if options.event_id is not None or "event_id" in types:
                fields["event_id"] = mapped("event_id", options.event_id or "event_id", types, "--event-id")
        declared = self._declared()
        used = {name for one in fields.values() for name in names_of(one)}
        for name, text in options.maps.items():
            if name not in declared:
                raise ValueError(
                    f"--map {name}: the catalog declares no such {'attribute' if options.kind == 'attributes' else 'property'}; known: {', '.join(declared)}"
                )
            fields[f".{name}"] = mapped(name, text, types, f"--map {name}=")
            used |= set(names_of(fields[f".{name}"]))
        for name in types:
            if name in declared and name not in options.maps and f".{name}" not in fields:
                fields[f".{name}"] = Mapped(name, name)
                used.add(name)
        ignored = [name for name in types if name not in used]
        if ignored:
            options.note(f"columns not used: {', '.join(ignored)}")
        return fields

    def _declared(self) -> dict[str, str]:
        """Declared type of every property (of any event) or attribute."""
        if self._options.kind == "attributes":
            listed = (self._catalog.get("attributes") or {}).items()
            return {name: kind["type"] if isinstance(kind, dict) else kind for name, kind in listed}
        return {name: kind for properties in (self._catalog.get("events") or {}).values() for name, kind in (properties or {}).items() if name != "description"}

    def _unit(self, fields: dict[str, Mapped], sniffed: Sniffed) -> str | None:
        if self._options.kind != "events":
            return None
        if self._options.time_unit is not None:
            return self._options.time_unit
        source = fields["time"]
        first = sniffed.first_times.get(source.column)
        unit = "ms" if source.expression is not None and source.kind(sniffed.types) == "float" else infer_unit(first, source.kind(sniffed.types))
        words = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "iso": f"dates, naive ones in {self._options.timezone}"}
        self._options.note(f"times are read as {words[unit]} (--time-unit {unit})")
        return unit

    # --- sending ------------------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if isinstance(self._file, CsvFile) and self._file.is_inferred and self._file.delimiter != ",":
            self._options.note(f"delimiter: {self._file.delimiter!r}")
        sniffed = Sniffed.of(self._file.names, self._file.batches())
        fields = self._map(sniffed)
        unit = self._unit(fields, sniffed)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with ExitStack() as stack:
            bar = stack.enter_context(Bar(*columns, console=Console(stderr=True), transient=True))
            task = bar.add_task(f"ingesting {self._options.file.name}", total=sniffed.rows)
            rejects = stack.enter_context(self._open_rejects())
            pool = stack.enter_context(ThreadPoolExecutor(IN_FLIGHT))
            for chunk, report, lines, rows in self._deliveries(pool, fields, sniffed, unit):
                self._write_rejects(rejects, report, lines)
                self._progress.add(chunk, report)
                bar.advance(task, rows)
            self._tell_bad_lines(rejects)

    def _deliveries(
        self, pool: ThreadPoolExecutor, fields: dict[str, Mapped], sniffed: Sniffed, unit: str | None
    ) -> Iterator[tuple[int, Report, NDArray[np.int64], int]]:
        """Chunks not acknowledged yet, a few in flight, in order."""
        waiting: list[tuple[int, Any, NDArray[np.int64], int]] = []
        self._file = open_file(self._options.file, self._options.delimiter)
        for number, table in enumerate(chunks(self._file.batches())):
            lines = self._file.lines(table)
            if number < self._progress.chunks:
                continue
            batch, local = self._batch(table, fields, sniffed, unit)
            waiting.append((number, pool.submit(self._deliver, batch, local, number), lines, table.num_rows))
            if len(waiting) >= IN_FLIGHT:
                chunk, future, of_lines, rows = waiting.pop(0)
                yield chunk, future.result(), of_lines, rows
        for chunk, future, of_lines, rows in waiting:
            yield chunk, future.result(), of_lines, rows

    def _deliver(self, batch: Batch, kept: NDArray[np.int64], number: int) -> Report:
        """Send a chunk's good rows under its number; report rows of the chunk."""
        report = self._grid.deliver(batch, producer_id=self._producer, first_batch=number + 1, started_ms=self._progress.started_ms)
        report.rejections = [type(r)(int(kept[r.row]), r.reason, r.field, r.value, r.expected) for r in report.rejections]
        return report

    def _batch(self, table: Any, fields: dict[str, Mapped], sniffed: Sniffed, unit: str | None) -> tuple[Batch, NDArray[np.int64]]:
        """The batch of a chunk, and the chunk's row of each of its rows."""
        types, options = sniffed.types, self._options
        rows = np.arange(table.num_rows)
        ids = strings_of(ids_array(fields["user"].values(table, types), fields["user"].kind(types), "--user").cast(pa.large_string()))
        declared = self._declared()
        columns = [
            column for key, one in fields.items() if key.startswith(".")
            for column in as_declared(one.field, one.values(table, types), declared[one.field], options.timezone)
        ]  # fmt: skip
        if options.kind == "attributes":
            return Batch(pb.FRAME_KIND_ATTRIBUTES, ids, np.empty(0, dtype=np.int64), columns=columns), rows
        times, is_good = parse_times(fields["time"].values(table, types), unit, options.timezone)
        # A time that cannot be read travels as one that no grid accepts, so that the row is refused there, with all others.
        times = np.where(is_good, times, np.iinfo(np.int64).min)
        events = column_of_arrow("event", pc.fill_null(fields["event"].values(table, types).cast(pa.string()), ""))
        assert events.words is not None
        event_ids = ids_of_arrow("event_id", fields["event_id"].values(table, types)) if "event_id" in fields else None
        return Batch(pb.FRAME_KIND_EVENTS, ids, times, events.words.to_list(), events.values.astype(np.uint16), columns, event_ids), rows

    # --- rejects ------------------------------------------------------------------------------------------------------------

    def _open_rejects(self) -> Any:
        mode = "a" if self._progress.chunks and self._rejects.exists() else "w"
        file = self._rejects.open(mode, newline="", encoding="utf-8")
        if mode == "w":
            csv.writer(file).writerow(["line", "reason", "field", "value", "expected"])
        return file

    @staticmethod
    def _write_rejects(file: Any, report: Report, lines: NDArray[np.int64]) -> None:
        writer = csv.writer(file)
        writer.writerows([int(lines[r.row]), r.reason, r.field, r.value, r.expected] for r in report.rejections)
        file.flush()

    def _tell_bad_lines(self, file: Any) -> None:
        """Lines that are no rows at all."""
        bad = self._file.bad_lines if isinstance(self._file, CsvFile) else []
        csv.writer(file).writerows([line, "MALFORMED_LINE", "", "", why] for line, why in bad)
        self._progress.rejected += len(bad)
