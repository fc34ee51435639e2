"""The grid's clock goes on through jumps of the wall clock, and says so; nothing expires, nothing is refused, nothing counts twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from profilegrid.columns import events_batch

from actors.clock import SteadyClock
from grid.errors import ProducerExpired
from grid.frame import Frame
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, Shard

HOUR, YEAR = 3_600_000, 365 * 86_400_000


class Times:
    """The wall clock and the monotonic one, as a test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ms, self.monotonic_s = float(NOW_MS), 100.0
        monkeypatch.setattr("actors.clock.time.time_ns", lambda: int(self.wall_ms * 1e6))
        monkeypatch.setattr("actors.clock.time.monotonic", lambda: self.monotonic_s)

    def pass_s(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_ms += seconds * 1000


@pytest.mark.parametrize("jump_ms", [HOUR, -HOUR, YEAR, -YEAR])
def test_a_jump_moves_the_grids_clock_by_a_twentieth_of_the_time_that_passes(monkeypatch: pytest.MonkeyPatch, jump_ms: int) -> None:
    times = Times(monkeypatch)
    clock = SteadyClock()
    times.pass_s(10)
    assert clock.now_ms() == NOW_MS + 10_000
    assert clock.problem() == ""
    times.wall_ms += jump_ms
    for _ in range(10):
        before = clock.now_ms()
        times.pass_s(10)
        assert 9_500 <= clock.now_ms() - before <= 10_500
    assert abs(clock.now_ms() - (NOW_MS + 110_000)) <= 5_001
    assert ("ahead of" if jump_ms > 0 else "behind") in clock.problem()


def test_a_small_error_is_followed_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    clock = SteadyClock()
    times.wall_ms += 400
    for _ in range(10):
        times.pass_s(1)
        clock.now_ms()
    assert clock.now_ms() == int(times.wall_ms)


@pytest.mark.parametrize("jump_ms", [HOUR, -HOUR, YEAR, -YEAR])
def test_a_restart_under_a_wrong_clock_counts_every_batch_once_and_new_producers_are_taken_when_it_is_right_again(tmp_path: Path, jump_ms: int) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    rows = [("u", "e", NOW_MS, {}, None)]

    def frame(producer: bytes, started_ms: int, number: int) -> Frame:
        made = shard.frame(events_batch(rows), producer, number)
        made.producer_started_ms = started_ms
        return made

    shard.commit([frame(b"a" * 16, NOW_MS - HOUR, 1)])
    shard.store.checkpoint_all()
    shard.crash()
    shard.commit([frame(b"b" * 16, NOW_MS - HOUR, 1)], now_ms=NOW_MS + jump_ms)
    shard.engine.producers.forget_old(shard.engine.received_ms)  # as after each checkpoint
    # The clock is right again. A retry of what was applied is never counted twice: it is answered, or refused.
    try:
        shard.commit([frame(b"a" * 16, NOW_MS - HOUR, 1)], now_ms=NOW_MS + 1)
    except ProducerExpired:
        assert jump_ms == YEAR
    shard.commit([frame(b"c" * 16, NOW_MS + 1, 1)], now_ms=NOW_MS + 1)
    assert shard.get(["u"])[0]["count"] == 3
    shard.close()
