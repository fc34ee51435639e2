"""The rule language: SQL-like text in, a typed plan out, evaluated column by column with numpy.

One language for audiences, a feature's `where` and the import expressions of `profilegrid ingest`. Knows nothing of users,
files or the network: whoever evaluates a plan brings the columns (`Source`). Every plan is bounded before it is parsed.
"""

from profilegrid_rules.errors import RuleError
from profilegrid_rules.evaluate import Source, evaluate, truth
from profilegrid_rules.parse import Field, Schema, compile_rule, compile_value
from profilegrid_rules.plan import Expression, Type, columns_of, conjuncts
from profilegrid_rules.templates import Placeholder, Rules, Template, Values, builder
from profilegrid_rules.vectors import TextVector, Vector, Words

__all__ = [
    "Expression",
    "Field",
    "Placeholder",
    "RuleError",
    "Rules",
    "Schema",
    "Source",
    "Template",
    "TextVector",
    "Type",
    "Values",
    "Vector",
    "Words",
    "builder",
    "columns_of",
    "compile_rule",
    "compile_value",
    "conjuncts",
    "evaluate",
    "truth",
]
