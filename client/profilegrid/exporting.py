"""Files of user ids: Parquet, CSV or JSON lines, by the file's name."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from profilegrid.columns import Strings

Write = Callable[[Strings], None]


@contextlib.contextmanager
def open_export(path: Path) -> Iterator[Write]:
    """A writer of user ids. The file appears under its name only when it is whole."""
    temporary = path.with_name(path.name + ".part")
    formats = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines, ".txt": _lines}
    if path.suffix not in formats:
        raise ValueError(f"{path.name}: expected a name that ends in {', '.join(formats)}")
    try:
        with formats[path.suffix](temporary) as write:
            yield write
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("user_id", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:

        def write(ids: Strings) -> None:
            offsets = np.concatenate([np.zeros(1, dtype=np.int32), ids.ends.astype(np.int32)])
            column = pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(ids.data)))
            writer.write_table(pa.table([column], schema=schema))

        yield write


@contextlib.contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id"])
        yield lambda ids: writer.writerows([user_id] for user_id in ids.to_list())


@contextlib.contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda ids: file.writelines(json.dumps({"user_id": user_id}, ensure_ascii=False) + "\n" for user_id in ids.to_list())


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda ids: file.writelines(user_id + "\n" for user_id in ids.to_list())
