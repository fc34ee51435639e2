"""Small batches that travel together: each caller is told of its own rows, whatever happens to the others'."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from profilegrid.coalescing import Coalescer, joined
from profilegrid.columns import Batch, attributes_batch, deletes_batch, events_batch
from profilegrid.errors import DeliveryUnknown, Unavailable
from profilegrid.results import Rejection, Report

NOW = 1_700_000_000_000


def batch(users: list[str], **properties: Any) -> Batch:
    return events_batch([(user, "e", NOW, properties or None, None) for user in users])


class Wire:
    """Remembers what was sent; answers as it is told."""

    def __init__(self, outcome: Report | Exception | None = None) -> None:
        self.sent: list[list[str]] = []
        self.outcome = outcome

    async def __call__(self, sent: Batch) -> Report:
        self.sent.append(sent.ids.to_list())
        await asyncio.sleep(0.01)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome or Report(accepted=sent.rows)


def delivered(wire: Wire, batches: list[Batch], *, in_order: bool = False) -> list[Report | BaseException]:
    async def run() -> list[Report | BaseException]:
        coalescer = Coalescer(wire, in_order=in_order)
        return await asyncio.gather(*(coalescer.deliver(one) for one in batches), return_exceptions=True)

    return asyncio.run(run())


def test_calls_made_together_are_one_message() -> None:
    wire = Wire()
    reports = delivered(wire, [batch([f"u{n}"], n=float(n)) for n in range(50)])
    assert len(wire.sent) == 1
    assert [report.accepted for report in reports if isinstance(report, Report)] == [1] * 50


def test_a_refused_row_is_told_to_its_own_caller_under_its_own_number() -> None:
    wire = Wire(Report(accepted=5, rejections=[Rejection(3, "VALUE", "n", "x", "y")]))
    first, second, third = delivered(wire, [batch(["a", "b"], n=1.0), batch(["c", "d"], n=2.0), batch(["e", "f"], n=3.0)])
    assert isinstance(first, Report) and isinstance(second, Report) and isinstance(third, Report)
    assert (first.accepted, second.accepted, third.accepted) == (2, 1, 2)
    assert [r.row for r in second.rejections] == [1]
    assert first.rejections == third.rejections == []


def test_rows_whose_outcome_is_unknown_are_told_to_their_callers_alone() -> None:
    first, second, third = delivered(Wire(DeliveryUnknown("late", [1, 4])), [batch(["a", "b"], n=1.0), batch(["c", "d"], n=1.0), batch(["e"], n=1.0)])
    assert isinstance(first, DeliveryUnknown) and list(first.rows) == [1]
    assert isinstance(second, Report)
    assert isinstance(third, DeliveryUnknown) and list(third.rows) == [0]


def test_an_error_of_the_message_is_every_callers() -> None:
    outcomes = delivered(Wire(Unavailable("down")), [batch(["a"], n=1.0), batch(["b"], n=1.0)])
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)


@pytest.mark.parametrize("in_order", [False, True])
def test_callers_that_ask_again_when_they_are_answered_travel_together_again(in_order: bool) -> None:
    async def run() -> list[int]:
        coalescer = Coalescer(wire := Wire(), in_order=in_order)

        async def caller(name: str) -> None:
            for _ in range(3):
                await asyncio.sleep(0)  # it does something of its own between two calls
                await coalescer.deliver(batch([name], n=1.0))

        await asyncio.gather(*(caller(f"u{number}") for number in range(20)))
        return [len(sent) for sent in wire.sent]

    assert asyncio.run(run()) == [20, 20, 20]


@pytest.mark.parametrize("in_order", [False, True])
def test_a_caller_whose_next_batch_follows_its_answer_at_once_is_answered_again(in_order: bool) -> None:
    """The lane that answered it has then nothing left to send, and ends in the same turn of the loop."""
    wire = Wire()

    async def one_after_another(coalescer: Coalescer, user: str) -> None:
        for number in range(5):
            assert (await coalescer.deliver(attributes_batch([user], [{"n": number}]) if in_order else batch([user], n=1.0))).accepted == 1

    async def run() -> None:
        coalescer = Coalescer(wire, in_order=in_order)
        async with asyncio.timeout(5):
            await one_after_another(coalescer, "a")
            await asyncio.gather(*(one_after_another(coalescer, user) for user in "bcd"))

    asyncio.run(run())
    assert sum(len(ids) for ids in wire.sent) == 20


def test_an_error_that_nobody_expected_reaches_the_callers() -> None:
    outcomes = delivered(Wire(RuntimeError("a bug")), [batch(["a"], n=1.0), batch(["b"], n=1.0)])
    assert all(isinstance(outcome, RuntimeError) for outcome in outcomes)


def test_batches_of_other_columns_and_large_or_named_ones_do_not_travel_along() -> None:
    wire = Wire()
    delivered(wire, [batch(["a"], n=1.0), batch(["b"], n="text"), batch(["c"], n=2.0)])
    assert sorted(sorted(ids) for ids in wire.sent) == [["a", "c"], ["b"]]
    coalescer = Coalescer(wire)
    assert not coalescer.takes(batch([f"u{n}" for n in range(300)]))
    assert not coalescer.takes(events_batch([("u", "e", NOW, None, "event-1")]))


def test_updates_keep_their_order_and_only_neighbours_travel_together() -> None:
    wire = Wire()
    updates = [
        attributes_batch([user], [values]) for user, values in (("a", {"n": 1}), ("b", {"n": 2}), ("a", {"s": {"x", "y"}}), ("a", {"n": 3}), ("c", {"n": 4}))
    ]
    reports = delivered(wire, [*updates, deletes_batch(["a"]), updates[0]], in_order=True)
    assert wire.sent == [["a", "b"], ["a"], ["a", "c"], ["a"], ["a"]]
    assert [report.accepted for report in reports if isinstance(report, Report)] == [1] * 7


def test_sets_that_are_joined_keep_their_members() -> None:
    whole = attributes_batch(["a", "b", "c"], [{"s": {"x"}}, {"s": {"y", "x"}}, {"s": set()}])
    parts = joined([attributes_batch([user], [{"s": members}]) for user, members in (("a", {"x"}), ("b", {"y", "x"}), ("c", set()))])

    def members(batch: Batch) -> list[set[str]]:
        (column,) = batch.columns
        assert column.words is not None and column.list_ends is not None
        words, ends = column.words.to_list(), [0, *column.list_ends.tolist()]
        return [{words[code] for code in column.values[first:last].tolist()} for first, last in itertools.pairwise(ends)]

    assert members(parts) == members(whole) == [{"x"}, {"x", "y"}, set()]


def test_what_is_joined_is_what_was_there() -> None:
    rows = [
        ("a", "e", NOW, {"c": "x", "n": 1.0}, None), ("b", "f", NOW + 1, {"c": "y"}, None), ("c", "f", NOW + 2, {"c": "x", "n": 3.0}, None),
        ("d", "e", NOW + 3, {"c": "zz", "n": 4.0}, None),
    ]  # fmt: skip
    whole, parts = events_batch(rows), joined([events_batch(rows[:1]), events_batch(rows[1:3]), events_batch(rows[3:])])

    def shown(made: Batch) -> list[Any]:
        columns = []
        for column in sorted(made.columns, key=lambda c: c.name):
            present = [True] * made.rows if column.presence is None else [bool(p == 1) for p in column.presence]
            words = column.words.to_list() if column.words is not None else None
            values = [words[int(v)] if words is not None else float(v) for v in column.values]
            columns.append((column.name, [v if p else None for v, p in zip(values, present, strict=True)]))
        return [made.ids.to_list(), made.times.tolist(), [made.event_names[i] for i in made.events.tolist()], columns]

    assert shown(parts) == shown(whole)
