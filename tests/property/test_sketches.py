"""Scans by sketches give the rows that comparing each value gives, whatever changed between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from grid.kernels.marks import MADE, TOUCHED, UNSAVED, touch
from grid.kernels.scans import admit_rows, lay_out, put_out, rows_in
from grid.state.memory import PAGE_ROWS, Space
from grid.state.sketches import Sketch

PAGES = 3
SPACE = Space(slots_max=(PAGES + 1) * PAGE_ROWS)
# Few distinct values, many, dense and far apart, and what floats have besides numbers.
NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "f": st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 1e300, -1e300, 5e-324, float("inf"), float("-inf"), float("nan")]),
        st.floats(-1e6, 1e6),
        st.floats(allow_nan=False),
    ),
    "i": st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)),
    "u": st.one_of(st.integers(0, 3), st.integers(2**62, 2**62 + 10**7), st.integers(0, 2**64 - 1)),
}


def bits_at(mask: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of some places are in a mask."""
    return (mask[places >> 6] >> (places & 63).astype(np.uint64) & np.uint64(1)).astype(bool)


def column_of(kind: str, values: list[Any], seed: int) -> NDArray[Any]:
    """Pages of values: some common ones, and where they are numbers the space between two filled."""
    rng = np.random.default_rng(seed)
    column = np.array(values, dtype=f"{kind}8")[rng.integers(0, len(values), (PAGES + 1) * PAGE_ROWS)]
    if kind == "f" and rng.random() < 0.7:
        filled = rng.random(column.size) < 0.5
        neighbours = values[0] + np.arange(200) * np.spacing(abs(values[0]))  # each has a code of its own
        filling = rng.normal(0, 100, column.size), rng.zipf(1.3, column.size).astype(float), rng.choice(neighbours, column.size)
        column[filled] = filling[rng.integers(0, 3)][filled]
    return column


@st.composite
def scans(draw: st.DrawFn) -> tuple[str, NDArray[Any], list[tuple[Any, Any, Any]], int]:
    kind = draw(st.sampled_from("fiu"))
    values = draw(st.lists(NUMBERS[kind], min_size=1, max_size=12))
    bounds = st.one_of(st.sampled_from(values), NUMBERS[kind]).filter(lambda bound: bound == bound)
    steps = draw(st.lists(st.tuples(bounds, bounds, st.sampled_from([None, *values])), min_size=3, max_size=8))
    seed = draw(st.integers(0, 2**32))
    return kind, column_of(kind, values, seed), steps, seed


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(scans())
@example(("f", np.full((PAGES + 1) * PAGE_ROWS, -0.0), [(0.0, 0.0, None)] * 4, 0))
def test_a_sketch_tells_what_values_tell(case: tuple[str, NDArray[Any], list[tuple[Any, Any, Any]], int]) -> None:
    kind, column, steps, seed = case
    rng = np.random.default_rng(seed)
    dirty, pages = np.zeros(PAGES + 1, dtype=np.uint8), np.array([2, 1, 3])
    sketch = Sketch(dirty, SPACE)
    spans = np.array([pages, rng.choice([1, 63, 64, 1000, 4095, PAGE_ROWS], PAGES), np.zeros(PAGES)], dtype=np.int64)
    for first, second, changed in steps:
        low, high = min(first, second), max(first, second)
        if changed is not None and rng.random() < 0.3:  # a page changes, and says so
            slot = int(rng.integers(PAGE_ROWS, column.size))
            column[slot], dirty[slot >> 12] = changed, TOUCHED
        elif changed is not None:  # rows change: few, or more than a sketch is kept with
            for slot in rng.integers(PAGE_ROWS, column.size, rng.choice([1, 30, 300, 2000])).tolist():
                column[slot] = changed
                touch(sketch.marks, slot)
        if rng.random() < 0.3:  # users come: their columns have not changed
            spans[1] = np.minimum(spans[1] + rng.choice([1, 40, 1000], PAGES), PAGE_ROWS)
        before = np.zeros(lay_out(spans), dtype=np.uint64)
        admit_rows(before, spans)
        slots, places = rows_in(before, spans)
        assert np.bitwise_count(before).sum() == slots.size == spans[1].sum()
        put_out(before, places[(rng.random(places.size) >= 0.9) | (rng.random(PAGES + 1) >= 0.9)[slots >> 12]])
        was_in = bits_at(before, places)
        values = column[slots]

        def scanned(low: Any, high: Any, known: Any, factors: Any, before: Any = before, places: Any = places) -> Any:
            mask = before.copy()
            sketch.narrow(mask, spans, column, low, high, known, factors)
            found = bits_at(mask, places)
            assert np.bitwise_count(mask).sum() == found.sum()
            return found

        assert (scanned(low, high, None, None) == was_in & (values >= low) & (values <= high)).all()
        known = (rng.random(column.size) < 0.5).astype(np.uint8)
        assert (scanned(low, high, known, None) == was_in & (values >= low) & (values <= high) & (known[slots] == 1)).all()
        if kind == "f":
            factors = 2.0 ** rng.choice([-1000, -300, -40, -0.3, 0, 0.7, 300], PAGES)
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = values * np.repeat(factors, spans[1])
            one = float(rng.choice(scaled[scaled == scaled])) if (scaled == scaled).any() else 0.0
            for low_scaled, high_scaled in ((low, high), (one, math.inf), (-math.inf, one)):
                expected = was_in & (scaled >= low_scaled) & (scaled <= high_scaled)
                assert (scanned(low_scaled, high_scaled, None, factors) == expected).all()


def looked_at(sketch: Sketch, column: NDArray[Any], rows: int = PAGE_ROWS) -> None:
    """A scan of page 1."""
    spans = np.array([[1], [rows], [0]])
    mask = np.empty(lay_out(spans), dtype=np.uint64)
    admit_rows(mask, spans)
    sketch.narrow(mask, spans, column, 0.0, 1.0, None, None)


def test_looking_leaves_the_mark_of_what_is_not_saved() -> None:
    column, dirty = np.zeros((PAGES + 1) * PAGE_ROWS), np.full(PAGES + 1, TOUCHED, dtype=np.uint8)
    looked_at(Sketch(dirty, SPACE), column)
    assert dirty.tolist() == [TOUCHED, UNSAVED, TOUCHED, TOUCHED]


def test_a_page_of_which_few_rows_change_keeps_its_sketch_and_is_still_to_be_saved() -> None:
    column, dirty = np.arange((PAGES + 1) * PAGE_ROWS, dtype=np.float64), np.zeros(PAGES + 1, dtype=np.uint8)
    sketch = Sketch(dirty, SPACE)
    states = sketch.marks[1]
    for _ in range(2):
        looked_at(sketch, column, rows=4000)
    assert states[1] == MADE
    for slot in range(PAGE_ROWS, PAGE_ROWS + 40):
        touch(sketch.marks, slot)
        touch(sketch.marks, slot)
    assert dirty[1] == UNSAVED and states[1] == MADE
    looked_at(sketch, column, rows=4020)
    assert states[1] == MADE, "20 users who came since are looked at one by one, as those 40"
    looked_at(sketch, column, rows=4050)
    assert states[1] != MADE, "that many are not"
    for _ in range(2):
        looked_at(sketch, column, rows=4050)
    assert states[1] == MADE
    for slot in range(PAGE_ROWS, PAGE_ROWS + 300):
        touch(sketch.marks, slot)
    assert dirty[1] == TOUCHED and states[1] != MADE
