"""What the benchmark says of its rows, and when the guard against regressions speaks."""

from __future__ import annotations

import itertools

import numpy as np
from profilegrid.columns import Strings

from actors.coordinator import _in_order
from loadtests import population
from loadtests.bench import audiences, moving, reading, scaling, work, writing
from loadtests.bench.cli import fallen_rows
from loadtests.bench.rows import ROWS, Row, beside

NAMES = {
    "ingest",
    "ingest_track",
    "ack_latency",
    "read_64",
    "read_1",
    "read_bulk",
    "mixed",
    "count_10m",
    "export",
    "memory",
    "recover",
    "rescale",
    "checkpoint",
    "scale_out",
    "start",
}


def test_every_row_of_the_issue_is_registered() -> None:
    assert {audiences.__name__, moving.__name__, reading.__name__, scaling.__name__, writing.__name__}
    assert set(ROWS) >= NAMES


def test_a_ratio_of_one_or_more_always_means_ours_is_better() -> None:
    assert Row("rate", "events/s", ours=20.0, peer=10.0).ratio == 2
    assert Row("cost", "ms", ours=5.0, peer=10.0, is_cost=True).ratio == 2
    assert Row("alone", "s", ours=5.0, reason="nothing to compare with").ratio is None
    assert set(Row("rate", "events/s", ours=20.0, peer=10.0).to_json()) == {"name", "unit", "ours", "peer", "peer_name", "ratio", "reason"}


def test_rounds_alternate_and_the_median_counts() -> None:
    said: list[str] = []
    bench = type("Quiet", (), {"say": staticmethod(said.append)})()
    order: list[str] = []
    values = itertools.cycle([10.0, 30.0, 20.0])

    def ours(seed: int) -> float:
        order.append("ours")
        return next(values)

    def peer(seed: int) -> float:
        order.append("peer")
        return 5.0

    row = beside(Row("x", "/s"), bench, ours, peer)  # type: ignore[arg-type]
    assert order == ["ours", "peer"] * 3
    assert (row.ours, row.peer, row.ratio) == (20.0, 5.0, 4.0)
    assert row.spread == 0.5


def test_the_guard_names_what_fell_by_more_than_15_percent_and_nothing_else() -> None:
    baseline = {"fell": 10.0, "held": 10.0, "rose": 1.0, "skipped": 3.0}
    found = fallen_rows({"fell": 8.4, "held": 8.6, "rose": 4.0, "skipped": None, "new": 0.1}, baseline)
    assert found == ["fell 8.40× (baseline 10.00×)"]


def test_both_sides_do_the_same_work() -> None:
    columns = work.views(3, 500)
    assert work.view_rows(3, 500) == list(zip(columns["user_id"].to_pylist(), columns["time"].to_pylist(), columns["category"].to_pylist(), strict=True))
    assert set(work.SHOP["features"]) - set(work.INGEST["features"]) == {"purchases", "spend", "first_purchase", "last_purchase"}
    assert len(work.SHOP["features"]) == 10


def test_populations_are_the_same_wherever_they_are_made_and_a_tenth_is_active() -> None:
    rng = [np.random.default_rng((1, 0)) for _ in range(2)]
    first, second = (population._shoppers(0, 20_000, one) for one in rng)
    assert first.equals(second)
    active = sum(windows is not None and len(windows) > 0 for windows in first["views_1h"].to_pylist())
    assert 1_800 < active < 2_200
    assert all(len(interest) == 3 for interest in first["interest"].to_pylist()[:100])


def test_ids_of_many_shards_come_back_in_the_order_asked_for_without_the_erased() -> None:
    parts = [Strings.of(["a", "", "c"]), Strings.of(["x", "yy"])]
    rows = [np.array([0, 2, 4]), np.array([1, 3])]
    assert _in_order(parts, rows).to_list() == ["a", "x", "yy", "c"]
    assert _in_order(parts[1:], [np.array([0, 1])]).to_list() == ["x", "yy"]
    assert _in_order([], []).to_list() == []
