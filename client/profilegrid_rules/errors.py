"""The one error of the rule language: where in the text, what was found, what would be right."""


class RuleError(ValueError):
    """A rule does not parse or does not type-check. Nothing was evaluated; the same text fails again."""

    reason = "RULE_INVALID"

    def __init__(self, message: str, line: int = 1, column: int = 1, suggestion: str = "") -> None:
        super().__init__(message, line, column, suggestion)
        self.message, self.line, self.column, self.suggestion = message, line, column, suggestion

    def __str__(self) -> str:
        hint = f"; {self.suggestion}" if self.suggestion else ""
        return f"error at {self.line}:{self.column}: {self.message}{hint}"
