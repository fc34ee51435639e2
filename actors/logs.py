"""What a process of the grid logs: pretty on a terminal, one JSON line each elsewhere, and always in the data folder's `logs`.

    {"time": "2026-11-24T18:00:00.123Z", "level": "INFO", "process": "shard-0", "message": "…", "request_id": "…", "seconds": 0.5}

What is passed as `extra={"facts": {…}}` becomes fields. `request_id` is the caller's `x-request-id`, or one made here; errors carry it.
PROFILEGRID_LOG=json|pretty says how the terminal's look, PROFILEGRID_LOG_LEVEL how many there are.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
FILE_BYTES_MAX, FILES_KEPT = 16 << 20, 3


class JsonLines(logging.Formatter):
    """One JSON object a record."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, Any] = {"time": moment, "level": record.levelname, "process": self._process, "message": record.getMessage()}
        if found := request_id.get():
            fields["request_id"] = found
        fields |= getattr(record, "facts", {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


class Pretty(logging.Formatter):
    """A line for people."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        facts = " ".join(f"{name}={value}" for name, value in getattr(record, "facts", {}).items())
        found = f" [{request_id.get()}]" if request_id.get() else ""
        text = f"{moment} {record.levelname[:4].lower()} {self._process}{found} {record.getMessage()} {facts}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def log_to(folder: Path, process: str) -> None:
    """Log what this process says to `folder`/logs/`process`.jsonl and to stderr. Once a process."""
    logger = logging.getLogger("profilegrid")
    if logger.handlers:
        return
    logger.setLevel(os.environ.get("PROFILEGRID_LOG_LEVEL", "INFO").upper())
    logger.propagate = False
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    kept = RotatingFileHandler(folder / "logs" / f"{process}.jsonl", maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8")
    kept.setFormatter(JsonLines(process))
    shown = logging.StreamHandler(sys.stderr)
    is_pretty = os.environ.get("PROFILEGRID_LOG", "pretty" if sys.stderr.isatty() else "json") == "pretty"
    shown.setFormatter(Pretty(process) if is_pretty else JsonLines(process))
    # asyncio tells of exceptions in callbacks, which nobody else would hear of.
    for each in (logger, logging.getLogger("asyncio")):
        each.addHandler(kept)
        each.addHandler(shown)
