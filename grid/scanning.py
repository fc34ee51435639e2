"""Clauses that compare a column with constants, taken out of a rule to be run as scans: one pass over the column's pages each.

city IN ('a', 'b') AND age >= 30 AND now() - last_cart > INTERVAL '30' MINUTE AND interest['shoes'] > 2
`-------------------------------- scans --------------------------------'   `- left to the evaluator
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import Expression, Placeholder, Template, Type, Values, builder, columns_of, plan
from profilegrid_rules.evaluate import Source, evaluate
from profilegrid_rules.vectors import Vector

from grid.kernels.scalars import TIME_BIAS
from grid.kernels.scans import narrow_to_codes, narrow_to_known_range
from grid.state.dictionary import Strings
from grid.state.features.base import Scannable

CODES_MAX = 16
_TIME_REACH, _ALL_BITS = 1 << 61, (1 << 64) - 1
_LIMITS = {np.dtype(width): (int(np.iinfo(width).min), int(np.iinfo(width).max)) for width in (np.int8, np.uint8, np.int16, np.int32, np.int64)}
# A clause that was taken out, made only where it is needed after all.
Clause = Callable[[], Expression]


@dataclass(slots=True)
class Range:
    """A column between two bounds: (bound, is open) below, (bound, is closed) above, so that the tighter of two is max and min."""

    name: str
    low: tuple[float, bool] = (-math.inf, False)
    high: tuple[float, bool] = (math.inf, True)
    clauses: list[Clause] = field(default_factory=list, compare=False)


@dataclass(slots=True)
class OneOf:
    """A text column that is one of some words."""

    name: str
    words: list[str]
    clauses: list[Clause] = field(default_factory=list, compare=False)


def clauses_of(rule: Expression) -> list[Expression]:
    """Everything that AND joins, at any depth; rows where the rule is true are those where each of them is."""
    if isinstance(rule, plan.Operation) and rule.name == "and":
        return [clause for operand in rule.operands for clause in clauses_of(operand)]
    return [rule]


class Shape:
    """How the rules of a template are split: which of their clauses compare a column with constants alone is decided once."""

    def __init__(self, template: Template) -> None:
        self.plan = template.plan
        # Which scan was more selective than which, by number, when that was looked at; for how many rules it is still taken to be so.
        self.order: list[int] = []
        self.order_lasts = 0
        self._clauses = [(_scan_maker(clause), builder(clause), clause) for clause in clauses_of(template.plan)]

    def scans(self, values: Values, source: Source) -> Iterator[tuple[Range | OneOf | None, Clause]]:
        """Each clause of the rule with these constants, and its scan."""
        for make, build, clause in self._clauses:
            if make is not None and build is not None:
                yield make(values), partial(build, values)
            else:
                bound = clause if build is None else build(values)
                yield _scan_of(bound, source), partial(_itself, bound)


@dataclass(frozen=True, slots=True)
class Shaped:
    """A rule as its shape and its constants."""

    shape: Shape
    values: Values


def _itself(clause: Expression) -> Expression:
    return clause


def split(rule: Expression | Shaped, source: Source) -> tuple[list[Range | OneOf], list[Expression]]:
    """(clauses that may be scans, the others). Ranges of one column are one."""
    ranges: dict[str, Range] = {}
    codes: list[Range | OneOf] = []
    others = []
    if isinstance(rule, Shaped):
        clauses = rule.shape.scans(rule.values, source)
    else:
        clauses = ((_scan_of(clause, source), partial(_itself, clause)) for clause in clauses_of(rule))
    for scan, clause in clauses:
        if scan is None:
            others.append(clause())
        elif isinstance(scan, Range):
            have = ranges.setdefault(scan.name, scan)
            have.low, have.high = max(have.low, scan.low), min(have.high, scan.high)
            have.clauses.append(clause)
        else:
            scan.clauses.append(clause)
            codes.append(scan)
    return [*codes, *ranges.values()], others


def _scan_maker(clause: Expression) -> Callable[[Values], Range | OneOf] | None:
    """What makes the scan of a clause that compares a column with constants as they stand there, or with those of a rule where it has placeholders; None:
    that takes more than them."""
    if not isinstance(clause, plan.Operation):
        return None
    left, *others = clause.operands
    if clause.name == "in" and isinstance(left, plan.Column) and left.type is Type.TEXT:
        words = [word for word in others if isinstance(word, plan.Literal) and isinstance(word.value, str)]
        return partial(_one_of, left.name, words) if len(words) == len(others) <= CODES_MAX else None
    if clause.name not in _MIRRORED:
        return None
    (right,), comparison = others, clause.name
    if isinstance(left, plan.Literal):
        left, right, comparison = right, left, _MIRRORED[comparison]
    if not isinstance(left, plan.Column) or not isinstance(right, plan.Literal) or right.value is None:
        return None
    if left.type is Type.TEXT:
        return partial(_one_of, left.name, [right]) if comparison == "=" else None
    return partial(_range_of, left.name, comparison, right) if left.type in (Type.NUMBER, Type.TIMESTAMP) else None


def _one_of(name: str, words: list[plan.Literal], values: Values) -> OneOf:
    return OneOf(name, [str(_value_of(word, values)) for word in words])


def _range_of(name: str, comparison: str, bound: plan.Literal, values: Values) -> Range:
    number = _value_of(bound, values)
    assert number is not None and not isinstance(number, str)
    return _range(name, comparison, number)


def _value_of(constant: plan.Literal, values: Values) -> float | int | str | None:
    return constant.of(values) if isinstance(constant, Placeholder) else constant.value


def _scan_of(clause: Expression, source: Source) -> Range | OneOf | None:
    if isinstance(clause, plan.Column) and clause.type is Type.BOOL:
        return _equal(clause.name, 1)
    if not isinstance(clause, plan.Operation):
        return None
    if clause.name == "not" and isinstance(clause.operands[0], plan.Column) and clause.operands[0].type is Type.BOOL:
        return _equal(clause.operands[0].name, 0)
    if (make := _scan_maker(clause)) is not None:
        return make(())
    return _comparison(clause, source) if clause.name in _MIRRORED else None


_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _comparison(clause: plan.Operation, source: Source) -> Range | None:
    left, right = clause.operands
    name = clause.name
    if not isinstance(right, plan.Literal) and columns_of(right):
        left, right, name = right, left, _MIRRORED[name]
    bound = _constant(right, source)
    if isinstance(bound, bool):
        return _equal(left.name, int(bound)) if name == "=" and isinstance(left, plan.Column) and left.type is Type.BOOL else None
    if bound is None or isinstance(bound, str):
        return None
    shifted = _shifted(left, name, bound, source)
    return None if shifted is None else _range(*shifted)


def _constant(expression: Expression, source: Source) -> float | int | str | bool | None:
    """What an expression is for every row; None: it is not known, or not the same for all."""
    if isinstance(expression, plan.Literal):
        return expression.value
    if columns_of(expression):
        return None
    vector = evaluate(expression, source)
    if not isinstance(vector, Vector) or vector.values.ndim or vector.known is not None:
        return None
    value: float | int | bool = vector.values.item()
    return value


def _shifted(left: Expression, name: str, bound: float, source: Source) -> tuple[str, str, float] | None:
    """The column alone on the left: `now() - last_cart > x` is `last_cart < now() - x`. Only for times: their sums are exact."""
    if isinstance(left, plan.Column):
        return (left.name, name, bound) if left.type in (Type.NUMBER, Type.TIMESTAMP) else None
    if not isinstance(left, plan.Operation) or left.name not in ("+", "-"):
        return None
    a, b = left.operands
    column, other, sign = (b, a, -1 if left.name == "-" else 1) if isinstance(b, plan.Column) else (a, b, 1)
    if not isinstance(column, plan.Column) or column.type is not Type.TIMESTAMP:
        return None
    constant = _constant(other, source)
    if constant is None or isinstance(constant, str):
        return None
    if sign < 0:
        return column.name, _MIRRORED[name], constant - bound
    return column.name, name, bound - constant if left.name == "+" else bound + constant


def _range(name: str, comparison: str, bound: float) -> Range:
    if comparison == "=":
        return _equal(name, bound)
    if comparison in (">", ">="):
        return Range(name, low=(bound, comparison == ">"))
    return Range(name, high=(bound, comparison == "<="))


def _equal(name: str, value: float) -> Range:
    return Range(name, (value, False), (value, True))


@dataclass(slots=True)
class Scan:
    """A clause bound to its column: ready to narrow a mask of a partition's rows."""

    column: Scannable
    low: Any = 0
    high: Any = 0
    codes: NDArray[np.uint32] | None = None

    @classmethod
    def of(cls, column: Scannable, clause: Range | OneOf) -> Scan | None:
        """None: no value can satisfy the clause."""
        if isinstance(clause, OneOf):
            assert column.dictionary is not None
            codes = column.dictionary.find_all(Strings.of(clause.words))
            wanted = (codes[codes >= 0] + 1).astype(np.uint32)
            return cls(column, codes=wanted) if wanted.size else None
        bounds = _bounds(column, clause)
        return None if bounds is None else cls(column, *bounds)

    def narrow(self, mask: NDArray[np.uint64], spans: NDArray[np.int64], factors: NDArray[np.float64] | None) -> None:
        """Clear the mask, as grid/kernels/scans.py has it, where the clause is not true. `factors` of the pages, where the column has such."""
        column = self.column
        if self.codes is not None:
            narrow_to_codes(mask, spans, column.values, self.codes)
        elif column.values.itemsize == 8:
            assert column.sketch is not None
            column.sketch.narrow(mask, spans, column.values, self.low, self.high, column.known, factors)
        else:
            narrow_to_known_range(mask, spans, column.values, column.known, self.low, self.high)


def _bounds(column: Scannable, scan: Range) -> tuple[Any, Any] | None:
    """Closed bounds in the column's own form; None: no value lies between them. Of eight bytes they are Python's numbers, which are made faster."""
    (low, is_open), (high, is_closed) = scan.low, scan.high
    if math.isnan(low) or math.isnan(high):
        return None
    width = column.values.dtype
    if width == np.float64:
        low = math.nextafter(low, math.inf) if is_open else float(low)
        high = float(high) if is_closed else math.nextafter(high, -math.inf)
        return (low, high) if low <= high else None
    first, last = (-_TIME_REACH, _TIME_REACH) if column.is_time else _LIMITS[width]
    least = max(first, _whole(low, math.ceil) if not is_open else _whole(low, math.floor) + 1)
    most = min(last, _whole(high, math.floor) if is_closed else _whole(high, math.ceil) - 1)
    if least > most:
        return None
    if column.is_time:
        codes = least + int(TIME_BIAS), most + int(TIME_BIAS)
        return (_ALL_BITS - codes[1], _ALL_BITS - codes[0]) if column.is_reversed else codes
    return (least, most) if width.itemsize == 8 else (width.type(least), width.type(most))


def _whole(bound: float, rounded: Callable[[float], int]) -> int:
    if math.isinf(bound):
        return 1 << 64 if bound > 0 else -(1 << 64)
    return rounded(bound)
