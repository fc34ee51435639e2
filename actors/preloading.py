"""What a shard needs, loaded ahead: by Ray in each process that it starts while a grid serves, so that a shard that dies finds one that has it all.

A process of Ray's that has imported everything takes 2–3 s on two cores to come about, most of what a recovery of 10M users took. `spares.py` asks for them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from actors.names import TEMPORARY

log = logging.getLogger("profilegrid")
NEEDED = ("actors.shard", "actors.serving", "actors.lanes", "actors.servers", "actors.services.loading", "actors.services.shard")
# What a process that an actor waited for has been given by then: it imports what that needs itself, no more.
ACTORS = ("actors.shard", "actors.controller", "actors.coordinator")
IDLE_S = 1.0
# In the grid's temporary folder. SERVING once it serves: processes before are those of its start, of which not all become shards. LOADED with the pid of each
# process that has all.
SERVING, LOADED = "serving", "loaded-"
_kernels_loaded = threading.Event()


def load_kernels(*, steps_back: bool) -> None:
    """Load compiled kernels from their cache, 10 ms each, which the first calls would wait for, in the loop. Behind a recovery: beside it, which was tried,
    they waited for each other's locks and cores, and 5M users a shard were read and written 0.6 s later.

    `steps_back`: at nice 10. Not before a shard has all its threads: those that begin meanwhile (RocksDB's) would be at nice 10 for ever.
    """
    started = time.monotonic()
    try:
        if _kernels_loaded.is_set():
            return
        if steps_back:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
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


def load_ahead() -> None:
    """In a process that Ray starts while the grid serves, unless an actor waits for it: load all, in a thread of its own.

    What fails there the shard meets again, and says.
    """
    folder = Path(os.environ.get(TEMPORARY, ""))
    if (folder / SERVING).exists():
        threading.Thread(target=_load, args=(folder,), name="ahead", daemon=True).start()


def _load(folder: Path) -> None:
    time.sleep(IDLE_S)
    if any(module in sys.modules for module in ACTORS):
        return
    with contextlib.suppress(Exception):
        for module in NEEDED:
            importlib.import_module(module)
        load_kernels(steps_back=False)
    with contextlib.suppress(OSError):
        (folder / f"{LOADED}{os.getpid()}").touch()
