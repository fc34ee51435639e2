"""Text to a typed plan. sqlglot parses; names, types, limits and the wording of errors are ours.

Bounds are checked on the tokens, before the parser runs: 3,000 open parentheses overflow sqlglot's stack.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from sqlglot import Dialect, exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from profilegrid_rules import plan
from profilegrid_rules.errors import RuleError
from profilegrid_rules.plan import Expression, Type

# A stray Command fallback is reported by us with its position; sqlglot's own warning would say it twice.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

TEXT_CHARACTERS_MAX = 65_536
TOKENS_MAX = 5_000
DEPTH_MAX = 64
ARITHMETIC_MAX = 200  # a + a + … is a chain as deep as it is long
SECOND_MS = 1_000
INTERVAL_MS = {
    "MILLISECOND": 1, "SECOND": SECOND_MS, "MINUTE": 60 * SECOND_MS, "HOUR": 3_600 * SECOND_MS,
    "DAY": 86_400 * SECOND_MS, "WEEK": 604_800 * SECOND_MS,
}  # fmt: skip
FUNCTIONS = (
    "has", "has_any", "has_all", "now", "coalesce", "abs", "least", "greatest",
    "length", "lower", "year", "month", "day", "day_active",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """A name that a rule may read: its type, and words for people ("window of 1 h")."""

    type: Type
    about: str = ""


Schema = Mapping[str, Field]
_DIALECT = Dialect.get_or_raise(None)


def compile_rule(text: str, schema: Schema, timezone: tzinfo = UTC) -> Expression:
    """The plan of a rule that must be true or false. Raises RuleError with position and suggestion."""
    compiler = _Compiler(text, schema, timezone)
    return compiler.condition(compiler.parse())


def compile_value(text: str, schema: Schema, timezone: tzinfo = UTC) -> Expression:
    """The plan of an expression of any type, as the import expressions of `ingest` are."""
    compiler = _Compiler(text, schema, timezone)
    return compiler.expression(compiler.parse())


class _Compiler:
    def __init__(self, text: str, schema: Schema, timezone: tzinfo) -> None:
        self._text, self._schema, self._timezone = text, schema, timezone
        self._tokens: list[Token] = []

    # --- text to sqlglot's tree ---------------------------------------------------------------------------------------

    def parse(self) -> exp.Expr:
        if len(self._text) > TEXT_CHARACTERS_MAX:
            raise RuleError(f"the rule has {len(self._text)} characters, at most {TEXT_CHARACTERS_MAX} are allowed")
        if not self._text.strip():
            raise RuleError("the rule is empty", suggestion="write a condition, as in views >= 3")
        try:
            self._tokens = _DIALECT.tokenize(self._text)
            self._check_bounds()
            tree = _DIALECT.parser().parse(self._tokens, self._text)
        except SqlglotError as error:
            raise self._syntax_error(error) from None
        except RecursionError:
            raise RuleError("the rule is nested too deeply") from None
        if len(tree) != 1 or tree[0] is None:
            raise RuleError("expected one expression, got several statements", suggestion="remove the ';'")
        return tree[0]

    def _check_bounds(self) -> None:
        if len(self._tokens) > TOKENS_MAX:
            raise RuleError(f"the rule has {len(self._tokens)} tokens, at most {TOKENS_MAX} are allowed")
        depth = prefix = arithmetic = 0
        for token in self._tokens:
            arithmetic += token.token_type in _ARITHMETIC_TOKENS
            opens = token.token_type in (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE)
            closes = token.token_type in (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END)
            depth += opens - closes
            prefix = prefix + 1 if token.token_type in (TokenType.NOT, TokenType.DASH, TokenType.TILDE) else 0
            line, column = token.line, max(token.col - len(token.text) + 1, 1)
            if depth > DEPTH_MAX or prefix > DEPTH_MAX:
                raise RuleError(f"nested deeper than {DEPTH_MAX} levels", line, column)
            if arithmetic > ARITHMETIC_MAX:
                raise RuleError(f"more than {ARITHMETIC_MAX} arithmetic operators", line, column)

    def _syntax_error(self, error: SqlglotError) -> RuleError:
        details = getattr(error, "errors", None)
        if details:
            first = details[0]
            found = first.get("highlight") or "the end"
            column = max((first.get("col") or 1) - len(found) + 1, 1)
            return RuleError(f"cannot read the rule at '{found}'", first.get("line") or 1, column, "check quotes and operators")
        line = self._text.count("\n") + 1
        return RuleError("cannot read the rule: a quote or bracket is not closed", line, len(self._text.splitlines()[-1]), "close it")

    def _position(self, node: exp.Expr) -> tuple[int, int]:
        """(line, column) of a node: identifiers carry it; for others the first token with the node's text."""
        for inner in node.walk():
            if isinstance(inner, exp.Identifier) and "start" in inner.meta:
                return self._line_and_column(inner.meta["start"])
            if isinstance(inner, exp.Literal):
                for token in self._tokens:
                    if token.text == inner.this and token.token_type in (TokenType.STRING, TokenType.NUMBER):
                        return self._line_and_column(token.start)
            if isinstance(inner, exp.Anonymous):
                for token in self._tokens:
                    if token.text.lower() == str(inner.this).lower():
                        return self._line_and_column(token.start)
        return 1, 1

    def _line_and_column(self, offset: int) -> tuple[int, int]:
        before = self._text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def _error(self, node: exp.Expr, message: str, suggestion: str = "") -> RuleError:
        return RuleError(message, *self._position(node), suggestion)

    # --- sqlglot's tree to the plan -----------------------------------------------------------------------------------

    def condition(self, node: exp.Expr) -> Expression:
        """An expression that must be a bool."""
        compiled = self.expression(node)
        if compiled.type not in (Type.BOOL, Type.NULL):
            raise self._error(node, f"{self._words(compiled)}, expected a condition", self._condition_hint(compiled))
        return compiled

    def expression(self, node: exp.Expr) -> Expression:
        node = _unwrapped(node)
        handler = _HANDLERS.get(type(node))
        if handler is not None:
            return handler(self, node)
        if type(node) in _COMPARISONS:
            return self._comparison(_COMPARISONS[type(node)], node, node.this, node.expression)
        if type(node) in _ARITHMETIC:
            return self._arithmetic(_ARITHMETIC[type(node)], node)
        if isinstance(node, exp.Func) and not isinstance(node, exp.And | exp.Or):
            return self._unknown_function(node, node.sql_name().lower())
        raise self._error(node, f"{node.key.upper()} is not part of the rule language", "see the rule language in docs/rules.md")

    def _literal(self, node: exp.Expr) -> Expression:
        position = self._position(node)
        if node.args.get("is_string"):
            return plan.Literal(Type.TEXT, position, str(node.this))
        text = str(node.this)
        if re.fullmatch(r"\d{1,18}", text):
            return plan.Literal(Type.NUMBER, position, int(text))
        try:
            return plan.Literal(Type.NUMBER, position, float(text))
        except ValueError:
            raise self._error(node, f"'{text}' is not a number") from None

    def _boolean(self, node: exp.Expr) -> Expression:
        return plan.Literal(Type.BOOL, self._position(node), bool(node.this))

    def _null(self, node: exp.Expr) -> Expression:
        return plan.Literal(Type.NULL, self._position(node), None)

    def _timestamp(self, node: exp.Expr) -> Expression:
        """TIMESTAMP '…': the catalog's timezone when the text names none."""
        is_timestamp = isinstance(node, exp.Cast) and node.to.this in _TIMESTAMP_TYPES
        if not is_timestamp or not isinstance(node.this, exp.Literal):
            raise self._error(node, "CAST is not part of the rule language", "write TIMESTAMP '2026-11-24 09:00:00'")
        try:
            return plan.Literal(Type.TIMESTAMP, self._position(node), timestamp_ms(str(node.this.this), self._timezone))
        except ValueError:
            raise self._error(node, f"'{node.this.this}' is not a timestamp", "write it as '2026-11-24 09:00:00'") from None

    def _interval(self, node: exp.Expr) -> Expression:
        amount, unit = node.this, node.args.get("unit")
        name = str(unit.this).upper().removesuffix("S") if unit is not None else ""
        try:
            number = float(str(amount.this))
        except (AttributeError, ValueError):
            raise self._error(node, "an INTERVAL takes a number", "write INTERVAL '30' MINUTE") from None
        if name not in INTERVAL_MS:
            raise self._error(node, f"unknown unit of INTERVAL: '{name.lower()}'", "use SECOND, MINUTE, HOUR, DAY or WEEK")
        return plan.Literal(Type.INTERVAL, self._position(node), number * INTERVAL_MS[name])

    def _column(self, node: exp.Expr) -> Expression:
        if node.args.get("table") is not None:
            raise self._error(node, f"'{node.sql()}' has a dot; names have none", f"write {node.name}")
        field = self._field(node, node.name)
        return plan.Column(field.type, self._position(node), node.name)

    def _field(self, node: exp.Expr, name: str) -> Field:
        field = self._schema.get(name)
        if field is None:
            near = difflib.get_close_matches(name, list(self._schema), n=1, cutoff=0.5)
            known = f"did you mean {near[0]}?" if near else "known names: " + ", ".join(sorted(self._schema)[:12])
            raise self._error(node, f"unknown name {name}", known)
        return field

    def _bracket(self, node: exp.Expr) -> Expression:
        keys = node.expressions
        if not isinstance(node.this, exp.Column) or len(keys) != 1 or not isinstance(keys[0], exp.Literal):
            raise self._error(node, "a keyed feature takes one literal key", "write interest['shoes']")
        name = node.this.name
        field = self._field(node.this, name)
        if field.type is not Type.KEYED:
            raise self._error(node, f"{name} is {self._kind(name)}, it has no keys", f"write {name} without [...]")
        return plan.KeyedValue(Type.NUMBER, self._position(node), name, str(keys[0].this))

    def _and(self, node: exp.Expr) -> Expression:
        return self._junction("and", node)

    def _or(self, node: exp.Expr) -> Expression:
        return self._junction("or", node)

    def _junction(self, name: str, node: exp.Expr) -> Expression:
        operands = tuple(self.condition(part) for part in node.flatten())
        return plan.Operation(Type.BOOL, operands[0].position, name, operands)

    def _not(self, node: exp.Expr) -> Expression:
        return self._negated(self.condition(node.this))

    @staticmethod
    def _negated(operand: Expression) -> Expression:
        return plan.Operation(Type.BOOL, operand.position, "not", (operand,))

    def _is(self, node: exp.Expr) -> Expression:
        operand = self.expression(node.this)
        wanted = node.expression
        if isinstance(wanted, exp.Null):
            return plan.Operation(Type.BOOL, operand.position, "is_null", (operand,))
        raise self._error(node, "IS takes NULL or NOT NULL", f"write {node.this.sql()} = {wanted.sql()}")

    def _between(self, node: exp.Expr) -> Expression:
        low = self._comparison(">=", node, node.this, node.args["low"])
        high = self._comparison("<=", node, node.this, node.args["high"])
        return plan.Operation(Type.BOOL, low.position, "and", (low, high))

    def _in(self, node: exp.Expr) -> Expression:
        if not node.expressions:
            raise self._error(node, "IN takes a list", "write city IN ('a', 'b')")
        subject = self.expression(node.this)
        listed = []
        for item in node.expressions:
            comparison = self._comparison("=", item, node.this, item)
            listed.append(comparison.children[1])
        return plan.Operation(Type.BOOL, subject.position, "in", (subject, *listed))

    def _like(self, node: exp.Expr, escape: str = "\\") -> Expression:
        text = self.expression(node.this)
        if text.type is not Type.TEXT:
            raise self._error(node, f"{self._words(text)}, LIKE works on text")
        if not isinstance(node.expression, exp.Literal) or not node.expression.args.get("is_string"):
            raise self._error(node, "LIKE takes a pattern in quotes", "write name LIKE 'A%'")
        like = plan.Like(Type.BOOL, text.position, text, like_to_regex(str(node.expression.this), escape))
        return self._negated(like) if node.args.get("negate") else like

    def _escape(self, node: exp.Expr) -> Expression:
        escape = str(node.expression.this)
        if not isinstance(node.this, exp.Like) or len(escape) != 1:
            raise self._error(node, "ESCAPE takes one character after LIKE '…'")
        return self._like(node.this, escape)

    def _case(self, node: exp.Expr) -> Expression:
        if node.this is not None:
            raise self._error(node, "CASE needs a condition in each WHEN", "write CASE WHEN a = 1 THEN …")
        branches = [(self.condition(part.this), self.expression(part.args["true"])) for part in node.args["ifs"]]
        default = node.args.get("default")
        otherwise = self.expression(default) if default is not None else plan.Literal(Type.NULL, (1, 1), None)
        type_ = self._common_type(node, [then for _, then in branches] + [otherwise])
        return plan.Case(type_, branches[0][0].position, tuple(branches), otherwise)

    def _common_type(self, node: exp.Expr, parts: list[Expression]) -> Type:
        types = {part.type for part in parts} - {Type.NULL}
        if len(types) > 1:
            names = " and ".join(sorted(t.value for t in types))
            raise self._error(node, f"the results are {names}; they must be of one type")
        return types.pop() if types else Type.NULL

    def _comparison(self, name: str, node: exp.Expr, left: exp.Expr, right: exp.Expr) -> Expression:
        a, b = self.expression(left), self.expression(right)
        for side, other in ((a, b), (b, a)):
            if side.type in (Type.SET, Type.KEYED, Type.DAYS):
                raise RuleError(f"{self._words(side)} and cannot be compared", *side.position, self._condition_hint(side))
            if side.type is Type.BOOL and name not in ("=", "!=") and other.type is not Type.NULL:
                raise RuleError(f"{self._words(side)}; a bool is only = or !=", *side.position)
        if Type.NULL not in (a.type, b.type) and a.type is not b.type:
            raise RuleError(f"{self._words(a)}, {self._words(b)}", *_wrong_side(a, b).position, self._comparison_hint(a, b))
        return plan.Operation(Type.BOOL, a.position, name, (a, b))

    def _arithmetic(self, name: str, node: exp.Expr) -> Expression:
        a, b = self.expression(node.this), self.expression(node.expression)
        result = _ARITHMETIC_TYPES.get((name, a.type, b.type))
        if result is None:
            raise self._error(node, f"{self._words(a)}, {self._words(b)}; they cannot be joined by '{name}'")
        return plan.Operation(result, a.position, name, (a, b))

    def _negate(self, node: exp.Expr) -> Expression:
        operand = self.expression(node.this)
        if operand.type not in (Type.NUMBER, Type.INTERVAL):
            raise self._error(node, f"{self._words(operand)}, '-' takes a number")
        if isinstance(operand, plan.Literal) and isinstance(operand.value, int | float):
            return plan.Literal(operand.type, operand.position, -operand.value)
        return plan.Operation(operand.type, operand.position, "negate", (operand,))

    # --- functions ----------------------------------------------------------------------------------------------------

    def _anonymous(self, node: exp.Expr) -> Expression:
        name = str(node.this).lower()
        if name in ("has", "has_any", "has_all"):
            return self._set_test(name, node)
        if name == "now" and not node.expressions:
            return plan.Now(Type.TIMESTAMP, self._position(node))
        if name == "day_active":
            return self._day_active(node)
        return self._unknown_function(node, name)

    def _unknown_function(self, node: exp.Expr, name: str) -> Expression:
        near = difflib.get_close_matches(name, FUNCTIONS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "functions: " + ", ".join(FUNCTIONS)
        raise self._error(node, f"unknown function {name}", hint)

    def _now(self, node: exp.Expr) -> Expression:
        return plan.Now(Type.TIMESTAMP, self._position(node))

    def _set_test(self, name: str, node: exp.Expr) -> Expression:
        arguments = node.expressions
        values = [a for a in arguments[1:] if isinstance(a, exp.Literal) and a.args.get("is_string")]
        if len(arguments) < 2 or len(values) != len(arguments) - 1 or (name == "has" and len(values) != 1):
            example = "has(hobbies, 'camping')" if name == "has" else f"{name}(hobbies, 'camping', 'chess')"
            raise self._error(node, f"{name} takes a set and values in quotes", f"write {example}")
        column = self.expression(arguments[0])
        if not isinstance(column, plan.Column) or column.type is not Type.SET:
            raise self._error(arguments[0], f"{self._words(column)}, {name} takes a set")
        found = tuple(str(value.this) for value in values)
        return plan.SetTest(Type.BOOL, column.position, column.name, found, name == "has_all")

    def _day_active(self, node: exp.Expr) -> Expression:
        example = "write day_active(active_days, TIMESTAMP '2026-11-24')"
        if len(node.expressions) != 2:
            raise self._error(node, "day_active takes a days_active feature and a timestamp", example)
        column, day = (self.expression(argument) for argument in node.expressions)
        if not isinstance(column, plan.Column) or column.type is not Type.DAYS:
            # A days_active feature is a number everywhere else; the schema marks it by `about`.
            name = column.name if isinstance(column, plan.Column) else ""
            if not self._schema.get(name, Field(Type.NULL)).about.startswith("days active"):
                raise self._error(node.expressions[0], f"{self._words(column)}, expected a days_active feature", example)
            assert isinstance(column, plan.Column)
        if day.type is not Type.TIMESTAMP:
            raise self._error(node.expressions[1], f"{self._words(day)}, expected a timestamp", example)
        return plan.DayTest(Type.BOOL, column.position, column.name, day)

    def _coalesce(self, node: exp.Expr) -> Expression:
        operands = [self.expression(part) for part in (node.this, *node.expressions)]
        return plan.Operation(self._common_type(node, operands), operands[0].position, "coalesce", tuple(operands))

    def _abs(self, node: exp.Expr) -> Expression:
        return self._typed_call("abs", node, (Type.NUMBER, Type.INTERVAL))

    def _least(self, node: exp.Expr) -> Expression:
        return self._extreme("least", node)

    def _greatest(self, node: exp.Expr) -> Expression:
        return self._extreme("greatest", node)

    def _extreme(self, name: str, node: exp.Expr) -> Expression:
        operands = tuple(self.expression(part) for part in (node.this, *node.expressions))
        type_ = self._common_type(node, list(operands))
        if type_ not in (Type.NUMBER, Type.TIMESTAMP, Type.INTERVAL, Type.NULL):
            raise self._error(node, f"{name} takes numbers, timestamps or intervals, got {type_.value}")
        return plan.Operation(type_, operands[0].position, name, operands)

    def _lower(self, node: exp.Expr) -> Expression:
        return self._typed_call("lower", node, (Type.TEXT,))

    def _length(self, node: exp.Expr) -> Expression:
        return self._typed_call("length", node, (Type.TEXT,), Type.NUMBER)

    def _year(self, node: exp.Expr) -> Expression:
        return self._typed_call("year", node, (Type.TIMESTAMP,), Type.NUMBER)

    def _month(self, node: exp.Expr) -> Expression:
        return self._typed_call("month", node, (Type.TIMESTAMP,), Type.NUMBER)

    def _day(self, node: exp.Expr) -> Expression:
        return self._typed_call("day", node, (Type.TIMESTAMP,), Type.NUMBER)

    def _typed_call(self, name: str, node: exp.Expr, takes: tuple[Type, ...], gives: Type | None = None) -> Expression:
        operand = self.expression(_unwrapped(node.this))
        if operand.type not in takes:
            raise self._error(node, f"{self._words(operand)}, {name} takes a {takes[0].value}")
        return plan.Operation(gives or operand.type, operand.position, name, (operand,))

    # --- words for errors ---------------------------------------------------------------------------------------------

    def _kind(self, name: str) -> str:
        field = self._schema[name]
        about = f" ({field.about})" if field.about else ""
        article = "" if field.type in (Type.TEXT, Type.DAYS) else "a "
        return f"{article}{field.type.value}{about}"

    def _words(self, node: Expression) -> str:
        """'views_1h is a number (window of 1 h)', "'three' is text"."""
        if isinstance(node, plan.Column):
            return f"{node.name} is {self._kind(node.name)}"
        if isinstance(node, plan.Literal) and node.type is Type.TEXT:
            return f"'{node.value}' is text"
        if isinstance(node, plan.Literal) and node.type in (Type.NUMBER, Type.BOOL):
            return f"{str(node.value).upper() if node.type is Type.BOOL else node.value} is a {node.type.value}"
        if isinstance(node, plan.KeyedValue):
            return f"{node.name}['{node.key}'] is a number"
        article = {Type.TEXT: "", Type.INTERVAL: "an "}.get(node.type, "a ")
        return f"this is {article}{node.type.value}"

    def _condition_hint(self, node: Expression) -> str:
        name = node.name if isinstance(node, plan.Column) else "x"
        hints = {
            Type.NUMBER: f"compare it, as in {name} > 3",
            Type.TEXT: f"compare it, as in {name} = 'a'",
            Type.SET: f"test it, as in has({name}, 'camping')",
            Type.KEYED: f"name a key, as in {name}['shoes'] > 2",
            Type.TIMESTAMP: f"compare it, as in now() - {name} > INTERVAL '30' MINUTE",
        }
        return hints.get(node.type, "")

    def _comparison_hint(self, a: Expression, b: Expression) -> str:
        column, other = (a, b) if not isinstance(a, plan.Literal) else (b, a)
        name = column.name if isinstance(column, plan.Column) else "it"
        examples = {
            Type.NUMBER: f"compare it with a number, as in {name} > 3",
            Type.TEXT: f"compare it with text, as in {name} = '{getattr(other, 'value', 'a')}'",
            Type.BOOL: f"compare it with TRUE or FALSE, as in {name} = TRUE",
            Type.TIMESTAMP: f"compare it with a timestamp, as in {name} > TIMESTAMP '2026-11-24'",
            Type.INTERVAL: "compare it with an interval, as in … > INTERVAL '30' MINUTE",
        }
        return examples.get(column.type, "")


def timestamp_ms(text: str, timezone: tzinfo) -> int:
    """ms since 1970 of an ISO text; in `timezone` when it names none. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone)).timestamp() * 1000)


def _unwrapped(node: exp.Expr) -> exp.Expr:
    """Without parentheses and the casts that sqlglot adds by itself around the argument of year, month and day."""
    while isinstance(node, exp.Paren | exp.TsOrDsToDate):
        node = node.this
    return node


def _wrong_side(a: Expression, b: Expression) -> Expression:
    return b if isinstance(b, plan.Literal) or not isinstance(a, plan.Literal) else a


def like_to_regex(pattern: str, escape: str) -> str:
    """A LIKE pattern as a regular expression for fullmatch: % any run, _ one character, `escape` takes the next as is."""
    parts, index = [], 0
    while index < len(pattern):
        character = pattern[index]
        if character == escape and index + 1 < len(pattern):
            index += 1
            parts.append(re.escape(pattern[index]))
        else:
            parts.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
        index += 1
    # "%%%%x" would backtrack exponentially as ".*.*.*.*x".
    return re.sub(r"(?:\.\*)+", ".*", "".join(parts))


_TIMESTAMP_TYPES = {exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPTZ, exp.DataType.Type.DATETIME, exp.DataType.Type.DATE}
_ARITHMETIC_TOKENS = {TokenType.PLUS, TokenType.DASH, TokenType.STAR, TokenType.SLASH, TokenType.PERCENT, TokenType.DPIPE}
_COMPARISONS: dict[type, str] = {exp.EQ: "=", exp.NEQ: "!=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_ARITHMETIC: dict[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
_N, _T, _I, _NIL = Type.NUMBER, Type.TIMESTAMP, Type.INTERVAL, Type.NULL
_ARITHMETIC_TYPES: dict[tuple[str, Type, Type], Type] = {
    **{(name, a, b): _N for name in "+-*/" for a in (_N, _NIL) for b in (_N, _NIL)},
    ("-", _T, _T): _I, ("-", _T, _I): _T, ("+", _T, _I): _T, ("+", _I, _T): _T,
    ("+", _I, _I): _I, ("-", _I, _I): _I, ("*", _I, _N): _I, ("*", _N, _I): _I, ("/", _I, _N): _I, ("/", _I, _I): _N,
}  # fmt: skip
_HANDLERS: dict[type, Callable[[_Compiler, Any], Expression]] = {
    exp.Literal: _Compiler._literal, exp.Boolean: _Compiler._boolean, exp.Null: _Compiler._null,
    exp.Cast: _Compiler._timestamp, exp.Interval: _Compiler._interval, exp.Column: _Compiler._column,
    exp.Bracket: _Compiler._bracket, exp.And: _Compiler._and, exp.Or: _Compiler._or, exp.Not: _Compiler._not,
    exp.Is: _Compiler._is, exp.Between: _Compiler._between, exp.In: _Compiler._in, exp.Like: _Compiler._like,
    exp.Escape: _Compiler._escape, exp.Case: _Compiler._case, exp.Neg: _Compiler._negate,
    exp.Anonymous: _Compiler._anonymous, exp.CurrentTimestamp: _Compiler._now, exp.Coalesce: _Compiler._coalesce,
    exp.Abs: _Compiler._abs, exp.Least: _Compiler._least, exp.Greatest: _Compiler._greatest,
    exp.Lower: _Compiler._lower, exp.Length: _Compiler._length,
    exp.Year: _Compiler._year, exp.Month: _Compiler._month, exp.Day: _Compiler._day,
}  # fmt: skip
