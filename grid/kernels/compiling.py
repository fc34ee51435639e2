"""The decorator of every kernel: compiled ahead of use, cached on disk, free of the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """numba.njit with the options every kernel has."""
    return njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """A helper that is compiled into the kernels that call it."""
    return njit(cache=True, nogil=True, inline="never")(function)  # type: ignore[no-any-return]
