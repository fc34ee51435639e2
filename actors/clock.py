"""The time that shards and gateway go by: the wall clock's, but without its jumps.

It starts with the wall clock, goes on with the monotonic one, and follows the wall clock by at most 5 % faster or slower. A clock that is
set wrong while the grid runs therefore moves no window and expires nothing; `status` tells of it. A restart begins with the wall clock
again, never before the log's last record.
"""

from __future__ import annotations

import time

SLEW = 0.05
TOLD_FROM_MS = 60_000


class SteadyClock:
    """ms since 1970."""

    def __init__(self) -> None:
        self._at_ms = self._wall_ms()
        self._seen_s = time.monotonic()

    @staticmethod
    def _wall_ms() -> float:
        return time.time_ns() / 1e6

    def now_ms(self) -> int:
        """The time now."""
        seen_s = time.monotonic()
        elapsed_ms = (seen_s - self._seen_s) * 1000
        self._seen_s = seen_s
        ahead_ms = self._wall_ms() - (self._at_ms + elapsed_ms)
        self._at_ms += elapsed_ms + max(-SLEW * elapsed_ms, min(SLEW * elapsed_ms, ahead_ms))
        return int(self._at_ms)

    def problem(self) -> str:
        """What is wrong with the wall clock, in words; empty: nothing."""
        ahead_ms = self._wall_ms() - self.now_ms()
        if abs(ahead_ms) < TOLD_FROM_MS:
            return ""
        where = "ahead of" if ahead_ms > 0 else "behind"
        return f"the wall clock is {abs(ahead_ms) / 1000:,.0f} s {where} the grid's, which does not jump; set it right, or restart if it is right"


_clock = SteadyClock()


def now_ms() -> int:
    """ms since 1970 by this process's steady clock."""
    return _clock.now_ms()


def clock_problem() -> str:
    """What is wrong with the wall clock; empty: nothing."""
    return _clock.problem()


def now_monotonic_ms() -> float:
    """The clock of leases: goes on while the process is stopped."""
    return time.monotonic() * 1000
