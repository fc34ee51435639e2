"""Scans give exactly the rows that the general evaluator gives, whatever the rule compares."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilegrid_rules import Expression, Rules, Template, compile_rule, truth

from grid import selecting
from grid.engine import Engine
from grid.reading import SlotSource
from grid.scanning import Shape, Shaped, split
from grid.selecting import Selection
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, Shard

HOUR = 3_600_000


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    shard = Shard(tmp_path_factory.mktemp("scans"), EVERY_KIND)
    rng = np.random.default_rng(5)
    names = [f"user-{n}" for n in range(18_000)]  # more than a page a partition
    rows = []
    for name in names:
        if rng.random() < 0.7:
            properties = {"n": float(rng.integers(-3, 4)) / 2, "i": int(rng.integers(-3, 4)), "c": f"c{rng.integers(4)}", "k": f"k{rng.integers(4)}"}
            rows.append((name, "ef"[rng.integers(2)], NOW_MS - int(rng.integers(0, 4)) * HOUR, properties if rng.random() < 0.9 else {}, None))
    for number, first in enumerate(range(0, len(rows), 5000)):
        shard.track([(u, e, t, {k: v for k, v in p.items() if e == "e" or k in "nc"}, i) for u, e, t, p, i in rows[first : first + 5000]], number + 1)
    updates = []
    for _ in names:
        update: dict[str, object] = {}
        if rng.random() < 0.8:
            update = {
                "city": f"c{rng.integers(4)}",
                "age": int(rng.integers(-2, 3)) if rng.random() < 0.99 else int(rng.choice([40_000, -(1 << 40)])),
                "vip": bool(rng.integers(2)),
                "money": float(rng.integers(-2, 3)) / 2,
            }
            update |= {"born": datetime.fromtimestamp(NOW_MS / 1000, UTC) - timedelta(hours=int(rng.integers(4))), "code": f"k{rng.integers(3)}"}
        updates.append({k: v for k, v in update.items() if rng.random() < 0.9})
    shard.set(names, updates, 1)
    shard.delete(names[::11], 1)
    yield shard
    shard.close()


NUMBERS = st.sampled_from(["-1", "0", "1", "0.5", "-0.5", "1.5", "2", "1e300", "-1e300", "9223372036854775807"])
TIMES = st.integers(-1, 5).map(lambda h: f"TIMESTAMP '{datetime.fromtimestamp(NOW_MS / 1000 - h * 3600, UTC):%Y-%m-%dT%H:%M:%S.%f}+00:00'")
OPERATORS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
NUMERIC = st.sampled_from(["age", "money", "count", "count_where", "sum", "sum_int", "decayed_count", "decayed_sum", "min", "window_count", "max"])
TIMED = st.sampled_from(["born", "first_time", "last_time"])
CLAUSES = st.one_of(
    st.tuples(NUMERIC, OPERATORS, NUMBERS).map(" ".join),
    st.tuples(NUMBERS, OPERATORS, NUMERIC).map(" ".join),
    st.tuples(TIMED, OPERATORS, TIMES).map(" ".join),
    st.tuples(TIMED, OPERATORS, st.integers(-1, 4)).map(lambda t: f"now() - {t[0]} {t[1]} INTERVAL '{t[2] * 60}' MINUTE"),
    st.tuples(TIMED, OPERATORS, TIMES).map(lambda t: f"{t[0]} + INTERVAL '1' HOUR {t[1]} {t[2]}"),
    st.tuples(NUMERIC, NUMBERS, NUMBERS).map(lambda t: f"{t[0]} BETWEEN {t[1]} AND {t[2]}"),
    st.sampled_from([
        "city = 'c1'", "city IN ('c0', 'c2', 'nowhere')", "city != 'c1'", "'c2' = city", "code IN ('k0')", "last = 'c1'", "vip", "NOT vip", "vip = TRUE",
        "vip = FALSE", "city IS NULL", "city IN ('c1', NULL)", "count_by['c1'] > 0", "has(hobbies, 'chess')", "age > NULL", "NOT (city = 'c1')",
        "money > 0 OR age > 0", "age + 1 > 1", "first = 'k1'", "city LIKE 'c%'", "1 = 1", "now() > born",
    ]),
)  # fmt: skip
RULES = st.lists(CLAUSES, min_size=1, max_size=4).map(" AND ".join)


@settings(max_examples=300, deadline=None)
@given(RULES, st.integers(0, 3).map(lambda hours: NOW_MS + hours * HOUR), st.sampled_from([0, selecting.ORDERED_USERS_MIN]))
def test_a_scan_selects_what_the_evaluator_does(shard: Shard, text: str, as_of_ms: int, ordered_users_min: int) -> None:
    engine = shard.engine
    with pytest.MonkeyPatch.context() as patched:  # clauses as they come, and the most selective first
        patched.setattr(selecting, "ORDERED_USERS_MIN", ordered_users_min)
        check_selection(engine, text, as_of_ms)


def shaped(engine: Engine, text: str) -> Expression | Shaped:
    """A rule by the template that another with its own constants left, where there is one."""
    rules = Rules(engine.catalog.rule_schema, engine.catalog.zone)
    rules.shaped(text.replace("1", "2").replace("'c0'", "'c3'"))
    found = rules.shaped(text)
    return rules.compile(text) if found is None else Shaped(Shape(found[0]), found[1])


def check_selection(engine: Engine, text: str, as_of_ms: int) -> None:
    rule = compile_rule(text, engine.catalog.rule_schema, engine.catalog.zone)
    by_shape, nobody = shaped(engine, text), SlotSource(engine, np.empty(0, dtype=np.int64), as_of_ms)
    assert split(by_shape, nobody)[0] == split(rule, nobody)[0], text
    selected = Selection(engine, by_shape, as_of_ms).of_many(np.arange(PARTITIONS))[0]
    counts, users = selected.counts(), [selected.of(partition) for partition in range(PARTITIONS)]
    for partition in range(PARTITIONS):
        slots = engine.users.slots_of(partition)
        expected = truth(rule, SlotSource(engine, slots, as_of_ms)) & engine.users.exists(slots)
        assert (users[partition] == expected).all(), text
        assert counts[partition] == expected.sum(), text
        for form in (rule, by_shape):  # the shape's order is known by now
            assert (Selection(engine, form, as_of_ms).of(partition)[0] == expected).all(), text


def test_which_clause_is_most_selective_is_looked_at_again_after_some_rules_of_a_shape(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "ORDERED_USERS_MIN", 0)
    rules, shapes = Rules(shard.engine.catalog.rule_schema, shard.engine.catalog.zone), dict[Template, Shape]()

    def order(text: str) -> list[int]:
        template, values = rules.shaped(text) or pytest.fail("no template")
        shape = shapes.setdefault(template, Shape(template))
        Selection(shard.engine, Shaped(shape, values), NOW_MS).of_many(np.arange(PARTITIONS))
        return shape.order

    assert order("age >= 0 AND count >= 1000000") == [1, 0]
    for number in range(selecting.ORDER_LASTS):
        assert order(f"age >= {1000000 + number} AND count >= 0") == [1, 0]
    assert order("age >= 1000000 AND count >= 0") == [0, 1]


@pytest.mark.parametrize(
    ("rule", "scans"),
    [
        ("city IN ('c1', 'c2') AND age BETWEEN 1 AND 2 AND decayed_count > 0.5", 3),
        ("now() - last_time > INTERVAL '30' MINUTE AND NOT vip AND 2 <= count", 3),
        ("city = 'c1' AND count_by['c1'] > 0 AND last LIKE 'c%'", 1),
        ("age > 1 AND (city = 'c1' OR city = 'c2')", 1),
    ],
)
def test_clauses_that_compare_a_column_with_constants_are_scans(shard: Shard, rule: str, scans: int) -> None:
    plan = compile_rule(rule, shard.engine.catalog.rule_schema, shard.engine.catalog.zone)
    assert len(split(plan, SlotSource(shard.engine, np.empty(0, dtype=np.int64), NOW_MS))[0]) == scans


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_scans_between_events_tell_what_the_evaluator_does(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Sketches are made, and kept or given up as rows change: few, many, by name, by time, and all of a page when its landmark moves."""
    rng = np.random.default_rng(seed)
    names = [f"user-{n}" for n in range(6_000)]
    shard, moment = Shard(tmp_path_factory.mktemp("between"), EVERY_KIND), NOW_MS
    shard.track([(name, "e", moment, {"n": float(n % 7), "i": n % 5}, None) for n, name in enumerate(names[:4_000])], 1)
    for number in range(2, 14):
        if number == 9:
            moment += 500 * HOUR
        some = rng.choice(names, int(rng.choice([1, 20, 3_000], p=[0.4, 0.5, 0.1])))
        shard.track(
            [(name, "e", moment - int(rng.integers(3)) * HOUR, {"n": float(rng.integers(-9, 9)), "i": 1}, None) for name in some], number, now_ms=moment
        )
        if rng.random() < 0.2:
            shard.delete([str(rng.choice(names))], number)
        for _ in range(2):
            for clause in ("count >= {n}", "sum > {n}", "decayed_count > {n}", "last_time >= {t}", "first_time < {t}"):
                time = f"TIMESTAMP '{datetime.fromtimestamp(moment / 1000 - int(rng.integers(3)) * 3600, UTC):%Y-%m-%dT%H:%M:%S+00:00}'"
                check_selection(shard.engine, clause.format(n=rng.choice([0, 0.5, 1, 2, 5]), t=time), moment)
    shard.close()
