"""Which process serves a data folder. Of its own, as `up --detach` and `down` look for it and need nothing of a grid: that takes 0.4 s to import."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from grid.storage.files import replace_file

FILE = "up.json"


@dataclass(frozen=True, slots=True)
class Running:
    """What `up` leaves in the data folder for `down` and `status`."""

    pid: int
    endpoint: str

    @classmethod
    def read(cls, folder: Path) -> Running | None:
        """Of a live grid on this folder, or None."""
        try:
            facts = json.loads((folder / FILE).read_text())
            os.kill(facts["pid"], 0)
        except (OSError, ValueError, KeyError):
            return None
        return cls(facts["pid"], facts["endpoint"])

    def write(self, folder: Path) -> None:
        """Say it in the folder."""
        replace_file(folder / FILE, json.dumps({"pid": self.pid, "endpoint": self.endpoint}).encode())

    @staticmethod
    def forget(folder: Path) -> None:
        """The grid ends."""
        (folder / FILE).unlink(missing_ok=True)
