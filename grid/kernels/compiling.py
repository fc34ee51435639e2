"""The decorator of every kernel: compiled ahead of use, cached on disk, free of the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

# How many rows ahead of their turn kernels ask for memory (`prefetch`).
AHEAD = 16


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


@intrinsic
def prefetch(context, array, at):
    """Ask for the memory of array[at], int64, which is needed a few rows later; it need not lie within. Where rows lie apart a kernel waits for each
    line in turn otherwise, as it guesses wrongly what it will find there and can't look ahead."""
    del context, at

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        signature_ = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        reads, stays, is_data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], signature_), [address, reads, stays, is_data])
        return context.get_dummy_value()

    return types.none(array, types.int64), generate
