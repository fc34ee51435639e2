"""The only place with loops over rows: numba functions over plain arrays, no `self`, no checks beyond those they state.

Compiled once. numba's own cache does not see a callee that changed in another file (measured: stale results), so the
cache folder is named by a digest of every kernel's source, numba, numpy and the processor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


def cache_folder() -> Path:
    """Where compiled kernels lie: in the environment's own tree, else (read-only) in the temp folder."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    digest.update(f"{version('numba')} {version('numpy')} {sys.version} {platform.machine()} {_processor()}".encode())
    root = Path(sys.prefix) / "var" / "profilegrid"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        root = Path(tempfile.gettempdir()) / f"profilegrid-kernels-{os.getuid()}"
    return root / f"kernels-{digest.hexdigest()[:16]}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder()))
