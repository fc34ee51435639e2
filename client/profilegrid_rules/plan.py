"""The typed plan of a rule: what the parser makes and the evaluator walks. Plain data, comparable, hashable."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Type(enum.Enum):
    """What an expression yields. Intervals and timestamps are numbers of milliseconds underneath."""

    NUMBER = "number"
    TEXT = "text"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    INTERVAL = "interval"
    SET = "set"
    KEYED = "keyed feature"
    DAYS = "days"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Expression:
    """One node. `position` is (line, column) in the rule's text, from 1."""

    type: Type
    position: tuple[int, int]

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands, left to right."""
        return ()


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    """A constant: a number, text, TRUE/FALSE, a timestamp or interval in ms, or NULL (value None)."""

    value: float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Now(Expression):
    """The request's `now`, one for every row."""


@dataclass(frozen=True, slots=True)
class Column(Expression):
    """An attribute, a feature, a property or a file's column, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class KeyedValue(Expression):
    """`feature['key']`; an absent key is 0."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class SetTest(Expression):
    """`has`, `has_any`, `has_all` of a set column."""

    name: str
    values: tuple[str, ...]
    is_all: bool


@dataclass(frozen=True, slots=True)
class DayTest(Expression):
    """`day_active(feature, day)`: whether the user was active on the local day of a timestamp literal (ms)."""

    name: str
    day: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.day,)


@dataclass(frozen=True, slots=True)
class Operation(Expression):
    """An operator or function over operands; `name` is one of the evaluator's table."""

    name: str
    operands: tuple[Expression, ...]

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.operands


@dataclass(frozen=True, slots=True)
class Like(Expression):
    """`text LIKE pattern`, the pattern already a regular expression."""

    text: Expression
    pattern: str

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.text,)


@dataclass(frozen=True, slots=True)
class Case(Expression):
    """`CASE WHEN … THEN … ELSE … END`: the first true branch wins; no ELSE is NULL."""

    branches: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        return tuple(part for branch in self.branches for part in branch) + (self.otherwise,)


def walk(expression: Expression) -> Iterator[Expression]:
    """Every node, parents before children."""
    stack = [expression]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def columns_of(expression: Expression) -> list[str]:
    """Names read by the expression, each once, in order of first use."""
    names = (node.name for node in walk(expression) if isinstance(node, Column | KeyedValue | SetTest | DayTest))
    return list(dict.fromkeys(names))


def conjuncts(expression: Expression) -> tuple[Expression, ...]:
    """The clauses that AND joins at the top; the expression itself when there is one."""
    if isinstance(expression, Operation) and expression.name == "and":
        return expression.operands
    return (expression,)
