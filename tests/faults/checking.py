"""What must hold, said of journals and of the grid's answers: each function returns what is wrong, in words; nothing: it holds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tests.faults.journal import Record


@dataclass
class Counted:
    """Events that an answer lacks although they were acknowledged, and that it has although nobody sent them (or not as often)."""

    lost: int = 0
    doubled: int = 0


def possible(records: Iterable[Record]) -> dict[str, tuple[int, frozenset[int]]]:
    """By user: events acknowledged, and what a final answer may be. A write that nobody knows the end of is in it whole, or not at all."""
    acknowledged: Counter[str] = Counter()
    unknown: defaultdict[str, list[int]] = defaultdict(list)
    for record in records:
        for write in record.writes:
            for user, events in write.events.items():
                acknowledged[user] += 0
                if write.ended == float("inf"):
                    unknown[user].append(events)
                else:
                    acknowledged[user] += events
    found = {}
    for user, base in acknowledged.items():
        counts = {base}
        for events in unknown[user]:
            counts |= {count + events for count in counts}
        found[user] = base, frozenset(counts)
    return found


def judge_counts(hits: Mapping[str, int], records: Iterable[Record]) -> tuple[Counted, list[str]]:
    """The final counts, against what was acknowledged."""
    counted, wrong = Counted(), []
    for user, (acknowledged, counts) in possible(records).items():
        now = hits.get(user, 0)
        counted.lost += max(0, acknowledged - now)
        counted.doubled += max(0, now - max(counts))
        if now not in counts:
            wrong.append(f"{user} has {now}; acknowledged {acknowledged}, possible {sorted(counts)[:5]}")
    return counted, wrong


class Timeline:
    """Of one user: how many events had been acknowledged before a moment, how many had been sent until then."""

    def __init__(self, began: Sequence[tuple[float, int]], ended: Sequence[tuple[float, int]]) -> None:
        self._sent, self._acknowledged = sorted(began), sorted(ended)
        self._sums = [0, *accumulate(events for _, events in self._sent)], [0, *accumulate(events for _, events in self._acknowledged)]

    def floor(self, moment: float) -> int:
        return self._sums[1][bisect_left(self._acknowledged, (moment, 0))]

    def ceiling(self, moment: float) -> int:
        return self._sums[0][bisect_right(self._sent, (moment, 1 << 62))]


def timelines(records: Iterable[Record]) -> dict[str, Timeline]:
    """By user, of all writes."""
    began: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    ended: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for record in records:
        for write in record.writes:
            for user, events in write.events.items():
                began[user].append((write.began, events))
                if write.ended < float("inf"):
                    ended[user].append((write.ended, events))
    return {user: Timeline(began[user], ended[user]) for user in began}


def judge_reads(record: Record, lines: Mapping[str, Timeline], *, has_floor: bool = True) -> list[str]:
    """One reader's answers: not behind what was acknowledged before it asked, nor what it was told before it asked; not ahead of what was sent;
    no half event. `has_floor`: false for what is told some time after it happened."""
    wrong = []
    seen: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for read in sorted(record.reads, key=lambda read: read.ended):
        if not read.is_whole:
            wrong.append(f"{record.name} saw half an event: {read.hits}")
        for user, hits in read.hits.items():
            line = lines.get(user)
            floor = line.floor(read.began) if line and has_floor else 0
            ceiling = line.ceiling(read.ended) if line else 0
            # What it was told by an answer that had come before it asked.
            before = seen[user][bisect_right(seen[user], (read.began, 1 << 62)) - 1][1] if seen[user] and seen[user][0][0] <= read.began else 0
            if not max(floor, before) <= hits <= ceiling:
                wrong.append(f"{record.name} read {user}: {hits}; acknowledged {floor}, told before {before}, sent {ceiling}")
            seen[user].append((read.ended, max(hits, seen[user][-1][1] if seen[user] else 0)))
    return wrong


def longest_wait_s(records: Iterable[Record], since: float, until: float) -> float:
    """Seconds: the longest that a write waited for its acknowledgement, repeats and all, of those that were under way in a time. Callers are at
    rest: a write without an acknowledgement is one whose caller died."""
    calls = ((write.began, write.ended) for record in records for write in record.writes if write.ended < float("inf"))
    return max((ended - began for began, ended in calls if ended >= since and began <= until), default=0.0)


def judge_audiences(hits: Mapping[str, int], listed: Mapping[int, set[str]]) -> list[str]:
    """Who was listed for "hits >= threshold", against a count by hand."""
    wrong = []
    for threshold, members in listed.items():
        expected = {user for user, count in hits.items() if count >= threshold}
        if members != expected:
            wrong.append(f"hits >= {threshold} lists {len(members)} of {len(expected)}: {sorted(members ^ expected)[:3]} are wrong")
    return wrong
