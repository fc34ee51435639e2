"""The decorator of every kernel: compiled ahead of use, cached on disk, free of the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """numba.njit with the options every kernel has."""
    return njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """A helper that is compiled into the kernels that call it."""
    return njit(cache=True, nogil=True, inline="never")(function)  # type: ignore[no-any-return]


@intrinsic
def pointer(context, address):
    """A void pointer of an int64."""
    del context, address

    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate
