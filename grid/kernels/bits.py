"""Words of 64 bits, a row each: made from 64 bytes at once, and taken apart. Without these LLVM packs bit by bit, ten times as slow."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WORD, _BYTE = ir.IntType(64), ir.IntType(8)
_LINE = ir.VectorType(_BYTE, 64)


def _loaded(context: Any, builder: Any, type_: Any, array: Any, at: Any) -> Any:
    """<64 x i8> of uint8[n] from `at` on."""
    data = context.make_array(type_)(context, builder, array).data
    return builder.load(builder.bitcast(builder.gep(data, [at]), _LINE.as_pointer()), align=1)


def _alike(builder: Any, value: Any) -> Any:
    """<64 x i8> of one byte."""
    single = builder.insert_element(ir.Constant(_LINE, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, ir.Constant(_LINE, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), 64), None))


def _word_of(builder: Any, bits: Any) -> Any:
    """i64 of <64 x i1>. Behind a step that LLVM can't see through: what follows would be done bit by bit with vectors of bits, where the processor has no
    registers for such (AVX2): 110 ns a word instead of 5."""
    word = builder.bitcast(bits, _WORD)
    return builder.asm(ir.FunctionType(_WORD, [_WORD]), "", "=r,0", [word], side_effect=False)


@intrinsic
def within(context, codes, at, first, last):
    """uint64: of uint8 codes[at : at + 64], which lie between first and last (uint8), both included. Trusted to be there."""
    del context

    def generate(context, builder, signature, arguments):
        line = _loaded(context, builder, signature.args[0], arguments[0], arguments[1])
        low = builder.icmp_unsigned(">=", line, _alike(builder, arguments[2]))
        high = builder.icmp_unsigned("<=", line, _alike(builder, arguments[3]))
        return _word_of(builder, builder.and_(low, high))

    return types.uint64(codes, types.int64, types.uint8, types.uint8), generate


@intrinsic
def packed(context, flags, at):
    """uint64: of uint8 flags[at : at + 64], which are not 0."""
    del context

    def generate(context, builder, signature, arguments):
        line = _loaded(context, builder, signature.args[0], arguments[0], arguments[1])
        return _word_of(builder, builder.icmp_unsigned("!=", line, ir.Constant(_LINE, None)))

    return types.uint64(flags, types.int64), generate


@intrinsic
def first_of(context, word):
    """int64: the number of the lowest bit that is set; the word is not 0."""
    del context, word

    def generate(_context, builder, _signature, arguments):
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.int64(types.uint64), generate


@intrinsic
def ones_of(context, word):
    """int64: how many bits are set."""
    del context, word

    def generate(_context, builder, _signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate
