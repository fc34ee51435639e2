"""The rule language: what it says of wrong rules (a text that reads in a diff), and a naive evaluator beside it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilegrid_rules import Expression, Field, RuleError, Rules, TextVector, Type, Vector, Words, compile_rule, templates, truth

SCHEMA = {
    "city": Field(Type.TEXT, "category"),
    "views_1h": Field(Type.NUMBER, "window of 1h"),
    "interest": Field(Type.KEYED, "decayed count"),
    "hobbies": Field(Type.SET, "set"),
    "last_cart": Field(Type.TIMESTAMP, "last time"),
    "last_purchase": Field(Type.TIMESTAMP, "last time"),
    "vip": Field(Type.BOOL, "bool"),
    "active_days": Field(Type.NUMBER, "days active in 30d"),
    "age": Field(Type.NUMBER, "int"),
}
CASES = Path(__file__).with_name("rules.txt")


def said(rule: str) -> str:
    try:
        compile_rule(rule, SCHEMA)
    except RuleError as error:
        return str(error)
    return "ok"


def test_every_rule_of_the_fixture_is_answered_as_written() -> None:
    """Rewrite with: python -m tests.unit.test_rules"""
    cases = re.findall(r"^> (.*)\n(.*)$", CASES.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(cases) > 30
    for rule, answer in cases:
        assert said(rule) == answer, rule


@pytest.mark.parametrize(
    "rule", ["(" * 3000 + "vip" + ")" * 3000, "NOT " * 3000 + "vip", "age = " + "1 + " * 3000 + "1", "vip" * 40_000, "'" * 9, "\0", "[" * 500]
)
def test_rules_that_would_break_a_parser_are_refused(rule: str) -> None:
    with pytest.raises(RuleError):
        compile_rule(rule, SCHEMA)


# --- a naive evaluator -----------------------------------------------------------------------------------------------

Row = dict[str, Any]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "city": st.sampled_from([None, "Rome", "上海", "rome"]),
            "age": st.one_of(st.none(), st.integers(-3, 3)),
            "views_1h": st.integers(0, 3),
            "vip": st.one_of(st.none(), st.booleans()),
            "hobbies": st.sets(st.sampled_from(["a", "b", "c"])),
            "interest": st.dictionaries(st.sampled_from(["x", "y"]), st.integers(1, 3)),
        }
    ),
    min_size=1,
    max_size=8,
)
Naive = Any


def _number() -> st.SearchStrategy[tuple[str, Naive]]:
    atoms = st.one_of(
        st.integers(-3, 3).map(lambda n: (f"({n})", lambda row: n)),
        st.just(("age", lambda row: row["age"])),
        st.just(("views_1h", lambda row: row["views_1h"])),
        st.sampled_from(["x", "y", "z"]).map(lambda key: (f"interest['{key}']", lambda row: row["interest"].get(key, 0))),
        st.just(("length(city)", lambda row: None if row["city"] is None else len(row["city"]))),
    )

    def joined(operator: str, apply: Any) -> Any:
        def build(pair: Any) -> Any:
            (a, f), (b, g) = pair
            return f"({a} {operator} {b})", lambda row: None if f(row) is None or g(row) is None else apply(f(row), g(row))

        return st.tuples(atoms, atoms).map(build)

    return st.one_of(
        atoms,
        joined("+", lambda a, b: a + b),
        joined("-", lambda a, b: a - b),
        joined("*", lambda a, b: a * b),
        joined("/", lambda a, b: None if b == 0 else a / b),
        atoms.map(lambda pair: (f"coalesce({pair[0]}, 1)", lambda row: 1 if pair[1](row) is None else pair[1](row))),
        atoms.map(lambda pair: (f"abs({pair[0]})", lambda row: None if pair[1](row) is None else abs(pair[1](row)))),
    )


def _compared(pair: Any, operator: str) -> Any:
    import operator as operators

    apply = {"=": operators.eq, "!=": operators.ne, "<": operators.lt, "<=": operators.le, ">": operators.gt, ">=": operators.ge}[operator]
    (a, f), (b, g) = pair
    return f"({a} {operator} {b})", lambda row: None if f(row) is None or g(row) is None else apply(f(row), g(row))


def _and(a: Any, b: Any) -> Any:
    return False if a is False or b is False else None if a is None or b is None else True


def _or(a: Any, b: Any) -> Any:
    return True if a is True or b is True else None if a is None or b is None else False


OPERATORS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
TEXT = ("city", lambda row: row["city"])
LEAVES = st.one_of(
    st.tuples(_number(), _number(), OPERATORS).map(lambda t: _compared(t[:2], t[2])),
    st.tuples(st.sampled_from(["Rome", "上海", "z"]), OPERATORS).map(lambda t: _compared((TEXT, (f"'{t[0]}'", lambda row: t[0])), t[1])),
    st.just(("vip", lambda row: row["vip"])),
    st.just(("city IS NULL", lambda row: row["city"] is None)),
    st.just(("city LIKE '%o_e'", lambda row: None if row["city"] is None else bool(re.fullmatch(".*o.e", row["city"])))),
    st.just(("lower(city) = 'rome'", lambda row: None if row["city"] is None else row["city"].lower() == "rome")),
    st.just(("city IN ('Rome', 'x')", lambda row: None if row["city"] is None else row["city"] in ("Rome", "x"))),
    st.just(("age BETWEEN 0 AND 2", lambda row: None if row["age"] is None else 0 <= row["age"] <= 2)),
    st.just(("has(hobbies, 'a')", lambda row: "a" in row["hobbies"])),
    st.just(("has_all(hobbies, 'a', 'b')", lambda row: {"a", "b"} <= row["hobbies"])),
    st.just(("has_any(hobbies, 'b', 'zz')", lambda row: "b" in row["hobbies"])),
    st.just(("CASE WHEN vip THEN age > 0 ELSE city = 'Rome' END", lambda row: _case(row))),
)


def _case(row: Row) -> Any:
    if row["vip"] is True:
        return None if row["age"] is None else row["age"] > 0
    return None if row["city"] is None else row["city"] == "Rome"


RULES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda p: (f"NOT ({p[0]})", lambda row: None if p[1](row) is None else not p[1](row))),
        st.tuples(inner, inner).map(lambda t: (f"({t[0][0]}) AND ({t[1][0]})", lambda row: _and(t[0][1](row), t[1][1](row)))),
        st.tuples(inner, inner).map(lambda t: (f"({t[0][0]}) OR ({t[1][0]})", lambda row: _or(t[0][1](row), t[1][1](row)))),
    ),
    max_leaves=6,
)


class RowsSource:
    """Rows as a source of columns."""

    now_ms = 0

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    @property
    def rows(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> Vector | TextVector:
        values = [row[name] for row in self._rows]
        known = np.array([value is not None for value in values])
        if SCHEMA[name].type is Type.TEXT:
            words = sorted({value for value in values if value is not None}) or ["-"]
            return TextVector(np.array([words.index(value) if value is not None else 0 for value in values]), Words(words), known)
        return Vector(np.array([value or 0 for value in values]), known)

    def keyed(self, name: str, key: str) -> Vector:
        return Vector(np.array([row[name].get(key, 0) for row in self._rows], dtype=float))

    def set_contains(self, name: str, values: tuple[str, ...], is_all: bool) -> Vector:
        wanted = set(values)
        return Vector(np.array([wanted <= row[name] if is_all else bool(wanted & row[name]) for row in self._rows]))

    def day_active(self, name: str, day: Vector) -> Vector:
        raise AssertionError

    def calendar(self, name: str, times_ms: np.ndarray) -> np.ndarray:
        raise AssertionError


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rule=RULES, rows=ROWS)
def test_a_rule_is_true_where_the_naive_evaluator_says_so(rule: tuple[str, Any], rows: list[Row]) -> None:
    text, naive = rule
    ours = truth(compile_rule(text, SCHEMA), RowsSource(rows)).tolist()
    assert ours == [naive(row) is True for row in rows], text


# --- templates --------------------------------------------------------------------------------------------------------


def without_positions(plan: Any) -> Any:
    """A plan to be compared: 1 and 1.0 differ, where it stands in a text does not count."""
    if isinstance(plan, tuple):
        return tuple(map(without_positions, plan))
    if not isinstance(plan, Expression):
        return type(plan), plan
    return type(plan), [without_positions(getattr(plan, field.name)) for field in dataclasses.fields(plan) if field.name != "position"]


def compiled(compile_: Any, text: str) -> Any:
    try:
        return without_positions(compile_(text))
    except RuleError as error:
        return str(error)


FIXED = [match[1] for match in re.finditer(r"^> (.*)$", CASES.read_text(encoding="utf-8"), re.MULTILINE)]
ODD = [
    "age > -5", "age > .5", "age > 5.", "age > 1e5", "age > 5 -- 6 or 7\n", "age > 5 /* 6 */ AND age < 7", "age > 123456789012345678901234",
    "last_cart > TIMESTAMP '2026-02-31'", "last_cart > timestamp  '2026-11-24 09:00:00+08:00'", "now() - last_cart > INTERVAL 5 MINUTE",
    "city = '5' AND city != 'it''s 5'", "city LIKE '5%'", "age IN (1, 2, 3.0)", "age BETWEEN 1 AND 2.5", "CASE WHEN vip THEN 5 ELSE 6 END > 5",
    "day_active(active_days, TIMESTAMP '2026-11-24')", "age > 1 AND age > 1", "interest['5'] > 5", "5 > age", "abs(age - 5) * 2 >= 1 / 3", "age > 5.5.5",
    "city IN ('a', 'b') AND has(hobbies, 'chess')", "city = 'a' AND interest['b'] > 1", "now() > 'a'",
    "last_cart > DATE '2026-11-24'", 'age > "5"', "age >= 0", "age > 5 LIMIT 5", "age > $5", "age = 73409136500000", "age > 5 AND age < 73409136500001",
]  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(rule=st.one_of(st.sampled_from(FIXED + ODD), RULES.map(lambda rule: rule[0])), data=st.data())
def test_rules_that_differ_in_constants_are_what_they_are_alone(rule: str, data: st.DataObject) -> None:
    rules = Rules(SCHEMA)
    for _ in range(3):
        text = re.sub(r"\d", lambda digit: data.draw(st.sampled_from([digit[0], "0", "1", "9"])), rule)
        text = re.sub(r"'([a-z])", lambda first: "'" + data.draw(st.sampled_from([first[1], "", "x", "\N{GREEK SMALL LETTER ALPHA}", "''", "\\\\"])), text)
        assert compiled(rules.compile, text) == compiled(lambda one: compile_rule(one, SCHEMA), text), text


def test_a_question_that_is_asked_with_other_constants_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, parsed = Rules(SCHEMA), []
    monkeypatch.setattr(templates, "compile_rule", lambda *arguments: parsed.append(arguments[0]) or compile_rule(*arguments))
    for n in range(20):
        rules.compile(f"age > {n} AND views_1h <= {n / 7} AND last_cart >= TIMESTAMP '2026-11-24 09:{n:02d}:00' AND city IN ('Rome-{n}','x{n}')")
    assert len(parsed) == 2  # the first, and the same with constants that stand in for its own


if __name__ == "__main__":
    old = CASES.read_text(encoding="utf-8")
    CASES.write_text(re.sub(r"^> (.*)\n.*$", lambda match: f"> {match[1]}\n{said(match[1])}", old, flags=re.MULTILINE), encoding="utf-8")
