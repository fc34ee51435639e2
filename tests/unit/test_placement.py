"""Placement of copies: even, apart, and hardly anything moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grid.errors import InvariantBroken
from grid.replication.placement import Copies, Place, moved, plan, quotas


def places(shards: int, per_node: int = 2) -> list[Place]:
    return [Place(f"s{number}", f"node{number // per_node}") for number in range(shards)]


def counts(copies: list[Copies], *, only_primaries: bool = False) -> dict[str, int]:
    found: dict[str, int] = {}
    for members in copies:
        for member in members[:1] if only_primaries else members:
            found[member] = found.get(member, 0) + 1
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shards=st.integers(4, 24),
    per_node=st.integers(1, 2),
    partitions=st.integers(1, 200),
    factor=st.integers(1, 2),
    gone=st.integers(0, 23),
    more=st.integers(0, 4),
)
def test_copies_are_apart_even_and_stay_where_they_can(shards: int, per_node: int, partitions: int, factor: int, gone: int, more: int) -> None:
    before = plan([()] * partitions, places(shards, per_node), factor)
    now = [place for number, place in enumerate(places(shards + more, per_node)) if number != gone % shards]
    nodes = {place.member: place.node for place in now}
    after = plan(before, now, factor)
    for members in after:
        assert len(members) == len({nodes[member] for member in members}) == factor
    quota = quotas(partitions, now, factor)
    # What the node of the other copy keeps from being exact is a copy or two.
    assert all(abs(counts(after).get(member, 0) - quota[member]) <= 2 for member in quota)
    departed = counts(before).get(f"s{gone % shards}", 0)
    gained = sum(max(quota[member] - counts(before).get(member, 0), 0) for member in quota)
    assert moved(before, after) <= max(departed, gained) + 2 * len(quota)
    assert plan(after, now, factor) == after


def test_the_primaries_are_even_too() -> None:
    copies = plan([()] * 640, places(10), 2)
    assert set(counts(copies, only_primaries=True).values()) == {64}
    assert set(counts(copies).values()) == {128}


def test_what_a_shard_leads_is_taken_over_by_many_when_it_dies() -> None:
    copies = plan([()] * 640, places(20), 2)
    heirs = {members[1] for members in copies if members[0] == "s3"}
    assert len(heirs) > 10


def test_weights_divide_by_size() -> None:
    copies = plan([()] * 300, [Place("small", "n1"), Place("large", "n2", 2.0)], 1)
    assert counts(copies) == {"small": 100, "large": 200}


def test_a_node_that_leaves_costs_its_own_copies_and_hardly_another() -> None:
    before = plan([()] * 640, places(10), 2)
    left = [place for place in places(10) if place.node != "node4"]
    assert moved(before, plan(before, left, 2)) <= counts(before)["s8"] + counts(before)["s9"] + 4


def test_two_copies_need_two_nodes() -> None:
    with pytest.raises(InvariantBroken, match="fewer nodes than copies"):
        plan([()], [Place("a", "n"), Place("b", "n")], 2)
