"""Columns as the evaluator sees them: values with their known-ness, and text as codes into distinct words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Words:
    """The distinct words that a text vector's codes point at. Subclass it to look a word up without listing all."""

    def __init__(self, values: Sequence[str] | NDArray[Any]) -> None:
        self._values = np.asarray(values, dtype=object)

    def all(self) -> NDArray[Any]:
        """object[words]: every word, in code order."""
        return self._values

    def find(self, word: str) -> NDArray[np.int64]:
        """Codes of `word`: none, or more than one where the words repeat."""
        return np.flatnonzero(self.all() == word)


@dataclass(slots=True)
class Vector:
    """Numbers, bools, timestamps or intervals of a batch of rows.

    values  ndarray[rows] or ndarray[()] (one for all rows); anything where not known
    known   bool[rows], or None: every row is known
    """

    values: NDArray[Any]
    known: Mask | None = None


@dataclass(slots=True)
class TextVector:
    """Text of a batch of rows: `words.all()[codes]`; codes int[rows] or int[()]."""

    codes: NDArray[Any]
    words: Words
    known: Mask | None = None


def both_known(a: Mask | None, b: Mask | None) -> Mask | None:
    """Known where both are."""
    if a is None or b is None:
        return b if a is None else a
    return a & b
