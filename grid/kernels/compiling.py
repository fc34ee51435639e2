"""The decorator of every kernel: compiled ahead of use, cached on disk, free of the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """A kernel that makes no arrays and returns none; numba refuses the first. Without its runtime, which counts references: two locked instructions for
    each array each time that a function is called or a slice taken, 11 % of a shard's loop."""
    return njit(cache=True, nogil=True, _nrt=False)(function)  # type: ignore[no-any-return]


# A helper that is compiled into the kernels that call it.
inlined = kernel


def allocating(function: Function) -> Function:
    """A kernel or helper that makes arrays, or returns them. What it calls for each row should be none."""
    return njit(cache=True, nogil=True, _nrt=True)(function)  # type: ignore[no-any-return]


@intrinsic
def pointer(context, address):
    """A void pointer of an int64."""
    del context, address

    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate
