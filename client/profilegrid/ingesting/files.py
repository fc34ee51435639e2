"""Rows of a file as Arrow tables of a fixed number of rows: CSV and JSON lines as text, Parquet as typed."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import xxhash

CHUNK_ROWS = 20_000
_SNIFF_BYTES = 1 << 16


def digest_of(path: Path) -> bytes:
    """16 bytes that name a file's content."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def kind_of(path: Path) -> str:
    """csv, jsonl or parquet, by the name without .gz. Raises ValueError that names the known ones."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith((".csv", ".tsv", ".txt")):
        return "csv"
    raise ValueError(f"{path.name}: expected a name that ends in .csv, .tsv, .jsonl or .parquet, plain or with .gz")


def open_raw(path: Path) -> Any:
    """The file's bytes, unzipped."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


class CsvFile:
    """A CSV file, every column as text; '' is missing. `lines` tells the physical line of each row."""

    def __init__(self, path: Path, delimiter: str | None) -> None:
        self.path = path
        with open_raw(path) as file:
            head = file.read(_SNIFF_BYTES).decode("utf-8-sig", "replace")
        self.delimiter = delimiter or sniffed_delimiter(head)
        self.is_inferred = delimiter is None
        self.names = next(csv.reader(head.splitlines(), delimiter=self.delimiter), [])
        if not self.names:
            raise ValueError(f"{path.name} is empty")
        self._line = 2
        self.bad_lines: list[tuple[int, str]] = []

    def _skip(self, row: Any) -> str:
        self.bad_lines.append((row.number or 0, f"{row.actual_columns} columns, expected {row.expected_columns}"))
        return "skip"

    def batches(self) -> Iterator[Any]:
        """Record batches as they come."""
        types = dict.fromkeys(self.names, pa.string())
        with open_raw(self.path) as file:
            reader = pyarrow.csv.open_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=4 << 20),
                parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=self._skip),
                convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True),
            )
            yield from reader

    def lines(self, table: Any) -> Any:
        """int64: the line each row starts at. Rows must be asked for in order."""
        import numpy as np

        extra = np.zeros(table.num_rows, dtype=np.int64)
        for column in table.columns:
            counts = pc.fill_null(pc.count_substring(column, "\n"), 0)
            extra += np.asarray(counts)
        lengths = extra + 1
        starts = self._line + np.cumsum(lengths) - lengths
        self._line += int(lengths.sum())
        return starts


def sniffed_delimiter(head: str) -> str:
    """The delimiter of a header line: the one of , ; tab | that splits it most."""
    first = head.splitlines()[0] if head else ""
    return max(",;\t|", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))


class JsonFile:
    """JSON lines; the schema is that of the whole file."""

    def __init__(self, path: Path) -> None:
        import pyarrow.json

        with open_raw(path) as file:
            self._table = pyarrow.json.read_json(file)
        self.names = self._table.column_names
        self._line = 1

    def batches(self) -> Iterator[Any]:
        """Record batches."""
        yield from self._table.to_batches()

    def lines(self, table: Any) -> Any:
        """int64: line of each row."""
        import numpy as np

        starts = np.arange(self._line, self._line + table.num_rows)
        self._line += table.num_rows
        return starts


class ParquetFile(JsonFile):
    """Parquet; a "line" is the row's number from 1."""

    def __init__(self, path: Path) -> None:
        source = gzip.open(path).read() if path.name.lower().endswith(".gz") else None  # noqa: SIM115
        self._file = pq.ParquetFile(pa.BufferReader(source) if source is not None else path)
        self.names = self._file.schema_arrow.names
        self._line = 1

    def batches(self) -> Iterator[Any]:
        """Record batches."""
        yield from self._file.iter_batches(batch_size=CHUNK_ROWS)


def open_file(path: Path, delimiter: str | None) -> CsvFile | JsonFile:
    """The reader of a file."""
    kind = kind_of(path)
    if kind == "csv":
        return CsvFile(path, delimiter)
    return JsonFile(path) if kind == "jsonl" else ParquetFile(path)


def chunks(batches: Iterator[Any]) -> Iterator[Any]:
    """Tables of exactly CHUNK_ROWS rows (the last one fewer): the same cut every time, so that a resumed run numbers them alike."""
    waiting: list[Any] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        while rows >= CHUNK_ROWS:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, CHUNK_ROWS)
            rest = table.slice(CHUNK_ROWS)
            waiting, rows = rest.to_batches(), rest.num_rows
    if rows:
        yield pa.Table.from_batches(waiting)
