"""Keyed lists beside a dict: narrow and wide keys, few and many of them, values of one and of several words, release and reuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grid.kernels.lists import (
    key_capacity,
    keyed_add,
    keyed_best,
    keyed_cells,
    keyed_find,
    keyed_has,
    keyed_items,
    keyed_load,
    keyed_scale,
    list_clear,
    list_counts,
)
from grid.state.dictionary import Dictionary, Strings
from grid.state.features.base import ListArena
from grid.state.memory import Space

SLOTS = np.arange(6, dtype=np.int64)
# Around the border between 16 and 32 bits, and enough of them to leave packed keys behind.
KEYS = st.one_of(st.integers(0, 12), st.integers(65_530, 65_545), st.integers(0, 2**31), st.integers(0, 130))
STEPS = st.lists(st.one_of(st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 5), KEYS), min_size=1, max_size=90)), st.tuples(st.just("clear"), st.integers(0, 5)), st.just(("scale", 2))), max_size=12)  # fmt: skip
Model = dict[int, dict[int, float]]


def arena() -> ListArena:
    return ListArena(Space(slots_max=1 << 14, list_words_max=1 << 20))


def contents(lists: ListArena, width: int = 1) -> dict[int, dict[int, list[float]]]:
    counts, keys, words = keyed_items(lists.words, lists.keys, lists.heads, SLOTS, width)
    values, at, found = words.view(np.float64), 0, {}
    for slot, count in zip(SLOTS.tolist(), counts.tolist(), strict=True):
        if count >= 0:
            found[slot] = {int(keys[at + k]): values[(at + k) * width : (at + k + 1) * width].tolist() for k in range(count)}
            at += count
    return found


def add(lists: ListArena, rows: list[tuple[int, int]], weight: float = 1.0) -> None:
    slots, keys = np.array([slot for slot, _ in rows], dtype=np.int64), np.array([key for _, key in rows], dtype=np.uint32)
    dirty = np.zeros(4, dtype=np.uint8)
    keyed_add(
        lists.words, lists.keys, lists.floats, lists.heads, lists.control, lists.free, dirty,
        slots, np.arange(len(rows), dtype=np.int64), keys, np.full(len(rows), weight),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_keyed_sums_are_a_dict_of_dicts(steps: list[tuple[str, object]]) -> None:
    lists, model = arena(), Model()
    for what, argument in steps:
        if what == "add":
            assert isinstance(argument, list)
            add(lists, argument)
            for slot, key in argument:
                model.setdefault(slot, {})[key] = model.get(slot, {}).get(key, 0.0) + 1.0
        elif what == "clear":
            assert isinstance(argument, int)
            list_clear(lists.words, lists.heads, lists.control, lists.free, np.zeros(4, dtype=np.uint8), np.array([argument]))
            model.pop(argument, None)
        else:
            keyed_scale(lists.words, lists.keys, lists.floats, lists.heads, 0, 2.0)
            model = {slot: {key: 2.0 * value for key, value in values.items()} for slot, values in model.items()}
        assert contents(lists) == {slot: {key: [value] for key, value in values.items()} for slot, values in model.items()}
    assert list_counts(lists.words, lists.heads, SLOTS).tolist() == [len(model[slot]) if slot in model else -1 for slot in SLOTS.tolist()]
    for key in (0, 7, 65_535, 65_536):
        wanted = np.full(SLOTS.size, key, dtype=np.uint32)
        has = [key in model.get(slot, {}) for slot in SLOTS.tolist()]
        assert keyed_has(lists.words, lists.keys, lists.heads, SLOTS, wanted, 1).tolist() == has
        cells = keyed_find(lists.words, lists.keys, lists.heads, SLOTS, np.uint32(key), 1)
        assert [float(lists.floats[cell]) if cell else None for cell in cells.tolist()] == [model.get(slot, {}).get(key) for slot in SLOTS.tolist()]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 15), st.lists(st.tuples(st.integers(0, 5), KEYS), min_size=1, max_size=120))
def test_values_of_several_words_stay_with_their_keys_through_growth_and_a_page(width: int, rows: list[tuple[int, int]]) -> None:
    lists, model = arena(), {}
    for number, (slot, key) in enumerate(rows):
        (cell,) = keyed_cells(
            lists.words, lists.keys, lists.heads, lists.control, lists.free, np.zeros(4, dtype=np.uint8),
            np.array([slot]), np.zeros(1, dtype=np.int64), np.array([key], dtype=np.uint32), width,
        )  # fmt: skip
        lists.floats[cell : cell + width] = number + np.arange(width) / 100
        model.setdefault(slot, {})[key] = (number + np.arange(width) / 100).tolist()
    assert contents(lists, width) == model
    counts, keys, values = keyed_items(lists.words, lists.keys, lists.heads, SLOTS, width)
    other = arena()
    keyed_load(other.words, other.keys, other.heads, other.control, other.free, SLOTS, counts, keys, values, width)
    assert contents(other, width) == model


@pytest.mark.parametrize(("width", "keys", "nbytes"), [(1, 1, 16), (1, 3, 32), (1, 6, 64), (0, 7, 16)])
def test_a_few_narrow_keys_lie_in_the_header(width: int, keys: int, nbytes: int) -> None:
    lists = arena()
    before = int(lists.control[1])
    keyed_load(
        lists.words, lists.keys, lists.heads, lists.control, lists.free, SLOTS[:1],
        np.array([keys]), np.arange(keys, dtype=np.uint32), np.arange(keys * width, dtype=np.uint64), width,
    )  # fmt: skip
    assert (int(lists.control[1]) - before) * 8 == nbytes
    assert key_capacity(lists.words, int(lists.heads[0]) * 2, width) >= keys


WORDS = [f"{chr(97 + number % 5)}{number * 7 % 131}" for number in range(131)]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 130), st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])), max_size=250),
    st.integers(1, 6), st.sampled_from([0.0, 1000.0]), st.sampled_from([-5e6, 0.0, 700.0, 5e6]),
)  # fmt: skip
def test_the_best_entries_of_lists_are_those_of_sorted_dicts(rows: list[tuple[int, int, float]], top: int, half_life: float, as_of: float) -> None:
    lists, model = arena(), dict[int, dict[int, float]]()
    slots, landmarks = SLOTS + 4096 * (SLOTS % 2), np.array([0.0, 500.0, 0.0, 0.0])
    for slot, key, weight in rows:
        keyed_add(
            lists.words, lists.keys, lists.floats, lists.heads, lists.control, lists.free, np.zeros(4, dtype=np.uint8),
            slots[[slot]], np.zeros(1, dtype=np.int64), np.array([key], dtype=np.uint32), np.array([weight]),
        )  # fmt: skip
        model.setdefault(slot, {})[key] = model.get(slot, {}).get(key, 0.0) + weight
    dictionary = Dictionary(1000)
    dictionary.add(Strings.of(WORDS))
    counts, keys, values = keyed_best(lists.words, lists.keys, lists.floats, lists.heads, slots, top, *dictionary.heap, landmarks, as_of, half_life)
    assert counts.sum() == keys.size == values.size
    at = 0
    for slot, count in enumerate(counts.tolist()):
        with np.errstate(over="ignore"):
            factor = np.exp2((landmarks[slots[slot] >> 12] - as_of) / half_life) if half_life else 1.0
        aged = {key: float(value * factor) if value else 0.0 for key, value in model.get(slot, {}).items()}
        best = sorted(aged.items(), key=lambda item: (-item[1], WORDS[item[0]].encode()))[:top]
        assert list(zip(keys[at : at + count].tolist(), values[at : at + count].tolist(), strict=True)) == best
        at += count
