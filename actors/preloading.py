"""What a shard needs, loaded ahead: by Ray in each process that it starts while a grid serves, so that a shard that dies finds one that has it all.

A process of Ray's that has imported everything takes 2–3 s on two cores to come about, most of what a recovery of 10M users took. `spares.py` asks for them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

from actors.names import TEMPORARY

log = logging.getLogger("profilegrid")
NEEDED = ("actors.shard", "actors.serving", "actors.lanes", "actors.servers", "actors.services.loading", "actors.services.shard")
# In the grid's temporary folder, once it serves: processes before are those of its start, of which not all become shards.
SERVING = "serving"
_kernels_loaded = threading.Event()


def load_kernels() -> None:
    """Load compiled kernels from their cache, 10 ms each, which the first calls would wait for, in the loop. Behind the recovery: beside it, which was tried,
    they waited for each other's locks and cores, and 5M users a shard were read and written 0.6 s later."""
    started = time.monotonic()
    try:
        if _kernels_loaded.is_set():
            return
        step_back()
        from grid.failpoints import exempt_this_thread
        from grid.warming import warm

        exempt_this_thread()
        with tempfile.TemporaryDirectory(prefix="pg-warm-", dir=os.environ.get(TEMPORARY)) as folder:
            warm(Path(folder) / "grid")
        _kernels_loaded.set()
        log.info("kernels loaded", extra={"facts": {"seconds": round(time.monotonic() - started, 3)}})
    except Exception:
        log.exception("kernels could not be loaded ahead; each is when it is needed")
    finally:
        # What lives now lives on: numba's and Ray's 220,000 objects would be looked at by each full collection, 100 ms in the loop.
        gc.freeze()


def step_back() -> None:
    """This thread runs when the others have nothing to do."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def load_ahead() -> None:
    """In a process that Ray starts while the grid serves: load all, in a thread that steps back. What fails there the shard meets again, and says."""
    folder = os.environ.get(TEMPORARY)
    if folder is not None and (Path(folder) / SERVING).exists():
        threading.Thread(target=_load, name="ahead", daemon=True).start()


def _load() -> None:
    with contextlib.suppress(Exception):
        step_back()
        for module in NEEDED:
            importlib.import_module(module)
        load_kernels()
