"""Address space reserved once, memory touched page by page: no reallocation, stable addresses.

A fresh page reads as zero, so every column's empty value is 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grid.errors import MemoryExhausted

PAGE_ROWS = 4096
_MAP_NORESERVE = 0x4000


@dataclass(frozen=True, slots=True)
class Space:
    """How much address space columns reserve: rows of a shard, and words of a list arena. Costs nothing until touched."""

    slots_max: int = 1 << 26
    list_words_max: int = 1 << 33
    id_bytes_max: int = 1 << 36
    partition_pages_max: int = 1 << 14

    @property
    def pages_max(self) -> int:
        """Pages of 4,096 rows."""
        return self.slots_max // PAGE_ROWS


def reserve(dtype: type | np.dtype[Any], count: int) -> NDArray[Any]:
    """ndarray[count] of zeros that uses memory only where it is written."""
    wanted = np.dtype(dtype)
    nbytes = max(count * wanted.itemsize, mmap.PAGESIZE)
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    return np.frombuffer(region, dtype=wanted, count=count)


def give_back(array: NDArray[Any], start: int, stop: int) -> None:
    """Zero array[start:stop]; whole system pages inside return to the system."""
    array[start:stop] = 0
    region = array.base
    first = -(-start * array.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    last = stop * array.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
    if isinstance(region, mmap.mmap) and last > first:
        region.madvise(mmap.MADV_DONTNEED, first, last - first)


class MemoryBudget:
    """A process's memory bound, drawn on before memory is used; measured anew when what is left seems too little.

    Draws are worst cases (each event a new user of the largest kind), so most come back at the next measurement.
    """

    def __init__(self, nbytes_max: int, measure: Callable[[], int]) -> None:
        self.nbytes_max, self._measure = nbytes_max, measure
        self._room = 0

    def draw(self, nbytes: int) -> None:
        """Raise MemoryExhausted unless so much more fits."""
        if nbytes > self._room:
            self._room = self.nbytes_max - self._measure()
            if nbytes > self._room:
                raise MemoryExhausted("memory of the shard", self.nbytes_max - self._room, self.nbytes_max)
        self._room -= nbytes


def trim_heap() -> None:
    """Give what malloc keeps for later back to the system, after work that needed much for a while. A few ms; glibc only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_bytes() -> int:
    """Anonymous memory of this process now (RssAnon), in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    return 0
