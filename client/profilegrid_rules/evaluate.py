"""A plan over columns, with SQL's three-valued logic. No loop over rows: numpy over values, Python over distinct words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from profilegrid_rules import plan
from profilegrid_rules.plan import Expression
from profilegrid_rules.vectors import Mask, TextVector, Vector, Words, both_known

AnyVector = Vector | TextVector


class Source(Protocol):
    """Where a plan's columns come from, for one batch of rows."""

    @property
    def rows(self) -> int: ...
    @property
    def now_ms(self) -> int: ...
    def column(self, name: str) -> AnyVector:
        """The column `name` for all rows."""

    def keyed(self, name: str, key: str) -> Vector:
        """The value under `key`, 0 where absent, for all rows."""

    def set_contains(self, name: str, values: tuple[str, ...], is_all: bool) -> Vector:
        """Whether the set holds any (or all) of `values`."""

    def day_active(self, name: str, day: Vector) -> Vector:
        """Whether the user was active on the local day of `day` (ms)."""

    def calendar(self, name: str, times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """`year`, `month` or `day` of times in the source's timezone."""


def truth(expression: Expression, source: Source) -> Mask:
    """bool[rows]: where the rule is true (neither false nor unknown)."""
    return true_and_known(expression, source)[0]


def true_and_known(expression: Expression, source: Source) -> tuple[Mask, Mask | None]:
    """Where the rule is true, and where it is known (None: everywhere)."""
    vector = evaluate(expression, source)
    assert isinstance(vector, Vector)
    values = np.broadcast_to(vector.values.astype(bool, copy=False), (source.rows,))
    if vector.known is None:
        return values, None
    known = np.broadcast_to(vector.known, (source.rows,))
    return values & known, known


def evaluate(expression: Expression, source: Source) -> AnyVector:
    """The expression's value for every row of the source."""
    match expression:
        case plan.Literal():
            return _literal(expression)
        case plan.Now():
            return Vector(np.asarray(source.now_ms, dtype=np.int64))
        case plan.Column():
            return source.column(expression.name)
        case plan.KeyedValue():
            return source.keyed(expression.name, expression.key)
        case plan.SetTest():
            return source.set_contains(expression.name, expression.values, expression.is_all)
        case plan.DayTest():
            day = evaluate(expression.day, source)
            assert isinstance(day, Vector)
            return source.day_active(expression.name, day)
        case plan.Like():
            return _like(expression, source)
        case plan.Case():
            return _case(expression, source)
        case plan.Operation():
            return _operation(expression, source)
    raise AssertionError(f"no evaluation for {type(expression).__name__}")


def _literal(literal: plan.Literal) -> AnyVector:
    if literal.value is None:
        return Vector(np.asarray(0.0), np.asarray(False))
    if isinstance(literal.value, str):
        return TextVector(np.asarray(0), Words([literal.value]))
    return Vector(np.asarray(literal.value))


def _operation(operation: plan.Operation, source: Source) -> AnyVector:
    if operation.name in _LAZY:
        return _LAZY[operation.name](operation, source)
    operands = [evaluate(operand, source) for operand in operation.operands]
    if operation.name in _COMPARE:
        return _compare(operation.name, operands[0], operands[1])
    if operation.name in _TEXT:
        return _TEXT[operation.name](operands[0])
    return _NUMERIC[operation.name](*operands)


# --- logic -----------------------------------------------------------------------------------------------------------


def _and(operation: plan.Operation, source: Source) -> Vector:
    return _fold(operation, source, deciding=False)


def _or(operation: plan.Operation, source: Source) -> Vector:
    return _fold(operation, source, deciding=True)


def _fold(operation: plan.Operation, source: Source, *, deciding: bool) -> Vector:
    """AND and OR are one fold: a known `deciding` operand decides, else an unknown one makes the row unknown."""
    decided = np.zeros(source.rows, dtype=bool)
    unknown: Mask | None = None
    for operand in operation.operands:
        is_true, known = true_and_known(operand, source)
        if deciding:
            decided |= is_true
        else:
            decided |= ~is_true if known is None else known & ~is_true
        if known is not None:
            unknown = ~known if unknown is None else unknown | ~known
        if decided.all():
            break
    values = decided if deciding else ~decided
    return Vector(values, None if unknown is None else decided | ~unknown)


def _not(operation: plan.Operation, source: Source) -> Vector:
    is_true, known = true_and_known(operation.operands[0], source)
    return Vector(~is_true, known)


def _is_null(operation: plan.Operation, source: Source) -> Vector:
    vector = evaluate(operation.operands[0], source)
    if vector.known is None:
        return Vector(np.asarray(False))
    return Vector(~vector.known)


def _in(operation: plan.Operation, source: Source) -> Vector:
    """`x IN (…)`: unknown when x is, or when nothing matched and a listed value is NULL."""
    subject = evaluate(operation.operands[0], source)
    matched: Mask = np.zeros(source.rows, dtype=bool)
    all_known: Mask | None = None
    for operand in operation.operands[1:]:
        equal = _compare("=", subject, evaluate(operand, source))
        matched |= equal.values if equal.known is None else equal.values & equal.known
        all_known = both_known(all_known, equal.known)
    return Vector(matched, None if all_known is None else matched | all_known)


def _coalesce(operation: plan.Operation, source: Source) -> AnyVector:
    vectors = [evaluate(operand, source) for operand in operation.operands]
    return _choose([(_known(v, source.rows), v) for v in vectors[:-1]], vectors[-1], source.rows)


def _known(vector: AnyVector, rows: int) -> Mask:
    return np.broadcast_to(np.asarray(True) if vector.known is None else vector.known, (rows,))


def _case(case: plan.Case, source: Source) -> AnyVector:
    branches = [(truth(when, source), evaluate(then, source)) for when, then in case.branches]
    return _choose(branches, evaluate(case.otherwise, source), source.rows)


def _choose(branches: list[tuple[Mask, AnyVector]], otherwise: AnyVector, rows: int) -> AnyVector:
    """Rows take the first branch whose mask is true, else `otherwise`."""
    vectors = [vector for _, vector in branches] + [otherwise]
    free = np.ones(rows, dtype=bool)
    picks = []
    for mask, _ in branches:
        picks.append(free & mask)
        free = free & ~mask
    picks.append(free)
    known = np.zeros(rows, dtype=bool)
    for pick, vector in zip(picks, vectors, strict=True):
        known |= pick & _known(vector, rows)
    texts = [v for v in vectors if isinstance(v, TextVector)]
    if texts:
        return _choose_text(picks, vectors, known, rows)
    dtype = np.result_type(*[v.values.dtype for v in vectors if isinstance(v, Vector)])
    values = np.zeros(rows, dtype=dtype)
    for pick, vector in zip(picks, vectors, strict=True):
        assert isinstance(vector, Vector)
        np.copyto(values, vector.values, where=pick, casting="unsafe")
    return Vector(values, known)


def _choose_text(picks: list[Mask], vectors: list[AnyVector], known: Mask, rows: int) -> TextVector:
    words: list[NDArray[Any]] = []
    codes = np.zeros(rows, dtype=np.int64)
    base = 0
    for pick, vector in zip(picks, vectors, strict=True):
        if not isinstance(vector, TextVector):  # NULL
            continue
        np.copyto(codes, vector.codes + base, where=pick, casting="unsafe")
        words.append(vector.words.all())
        base += words[-1].size
    return TextVector(codes, Words(np.concatenate(words) if words else []), known)


# --- comparison ------------------------------------------------------------------------------------------------------

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip


def _compare(name: str, a: AnyVector, b: AnyVector) -> Vector:
    known = both_known(a.known, b.known)
    if isinstance(a, TextVector) and isinstance(b, TextVector):
        return Vector(_compare_text(name, a, b), known)
    if isinstance(a, TextVector) or isinstance(b, TextVector):  # text beside NULL: unknown in every row
        return Vector(np.asarray(False), np.asarray(False))
    return Vector(_COMPARE[name](a.values, b.values), known)


def _compare_text(name: str, a: TextVector, b: TextVector) -> Mask:
    """Text compares by code point, which Python's `str` does."""
    if a.codes.ndim == 0 and b.codes.ndim != 0:
        mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
        return _compare_text(mirrored.get(name, name), b, a)
    if b.codes.ndim == 0:
        literal = b.words.all()[int(b.codes)]
        if name in ("=", "!="):
            equal = np.isin(a.codes, a.words.find(literal))
            return equal if name == "=" else ~equal
        return _per_word(a, lambda words: _COMPARE[name](words, literal), bool)
    left, right = a.words.all()[a.codes], b.words.all()[b.codes]
    return np.asarray(_COMPARE[name](left, right), dtype=bool)


def _per_word(text: TextVector, of_words: Callable[[NDArray[Any]], Any], dtype: type) -> NDArray[Any]:
    """Evaluate over distinct words, then spread to rows. Only the words in use: a dictionary may hold millions."""
    used, inverse = np.unique(text.codes, return_inverse=True)
    words = text.words.all()
    used = np.clip(used, 0, max(words.size - 1, 0))
    if words.size == 0:
        return np.zeros(text.codes.shape, dtype=dtype)
    result: NDArray[Any] = np.asarray(of_words(words[used]), dtype=dtype)
    return result[inverse].reshape(text.codes.shape)


def _like(like: plan.Like, source: Source) -> Vector:
    text = evaluate(like.text, source)
    if isinstance(text, Vector):
        return Vector(np.asarray(False), np.asarray(False))
    matches = re.compile(like.pattern, re.DOTALL).fullmatch
    values = _per_word(text, lambda words: [matches(word) is not None for word in words], bool)
    return Vector(values, text.known)


# --- functions -------------------------------------------------------------------------------------------------------


def _lower(text: AnyVector) -> AnyVector:
    if isinstance(text, Vector):
        return text
    used, inverse = np.unique(text.codes, return_inverse=True)
    all_words = text.words.all()
    used = used[used < all_words.size]
    lowered = Words([word.lower() for word in all_words[used]])
    return TextVector(inverse.reshape(text.codes.shape), lowered, text.known)


def _length(text: AnyVector) -> Vector:
    if isinstance(text, Vector):
        return Vector(np.asarray(0.0), text.known)
    return Vector(_per_word(text, lambda words: [len(word) for word in words], np.float64), text.known)  # type: ignore[arg-type]


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Vector, Vector], Vector]:
    def apply(a: Vector, b: Vector) -> Vector:
        with np.errstate(over="ignore", invalid="ignore"):
            return Vector(function(_wide(a.values), _wide(b.values)), both_known(a.known, b.known))

    return apply


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    """Arithmetic is float64, so that nothing wraps around; ms since 1970 are exact in it for 285,000 years."""
    return values.astype(np.float64, copy=False)


def _divide(a: Vector, b: Vector) -> Vector:
    """Division by zero is NULL."""
    divisor = np.asarray(b.values, dtype=np.float64)
    is_zero = divisor == 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = np.asarray(a.values, dtype=np.float64) / divisor
    known = both_known(a.known, b.known)
    return Vector(values, both_known(known, ~is_zero) if is_zero.any() else known)


def _extreme(function: Callable[[Any, Any], Any]) -> Callable[..., Vector]:
    """`least` and `greatest`: NULL when any operand is."""

    def apply(*vectors: Vector) -> Vector:
        result = vectors[0]
        for vector in vectors[1:]:
            result = Vector(function(result.values, vector.values), both_known(result.known, vector.known))
        return result

    return apply


_NUMERIC: dict[str, Callable[..., Vector]] = {
    "+": _arithmetic(np.add),
    "-": _arithmetic(np.subtract),
    "*": _arithmetic(np.multiply),
    "/": _divide,
    "abs": lambda a: Vector(np.abs(a.values), a.known),
    "negate": lambda a: Vector(-_wide(a.values), a.known),
    "least": _extreme(np.minimum),
    "greatest": _extreme(np.maximum),
}
_TEXT: dict[str, Callable[[AnyVector], AnyVector]] = {"lower": _lower, "length": _length}


def _calendar(operation: plan.Operation, source: Source) -> Vector:
    times = evaluate(operation.operands[0], source)
    assert isinstance(times, Vector)
    values = source.calendar(operation.name, np.atleast_1d(np.asarray(times.values, dtype=np.int64)))
    return Vector(values.astype(np.float64).reshape(times.values.shape), times.known)


_LAZY: dict[str, Callable[[plan.Operation, Source], AnyVector]] = {
    "and": _and, "or": _or, "not": _not, "is_null": _is_null, "in": _in, "coalesce": _coalesce,
    "year": _calendar, "month": _calendar, "day": _calendar,
}  # fmt: skip
