"""Which shard keeps which copy of which partition: even, on different nodes, with as few moves as that takes.

    copies of shards that are gone, and what is too much on others --> shards that have too little, another node than the other copies
    then the primaries: who of a partition's members comes first, so that each shard leads its share

Pure and deterministic: equal input gives an equal plan, and the plan of a plan is itself.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from grid.errors import holds
from grid.replication.messages import Member

Copies = tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A shard that may keep partitions: on which node, and how much it takes beside others (by memory, say)."""

    member: Member
    node: str
    weight: float = 1.0


def plan(current: Sequence[Copies], places: Sequence[Place], factor: int) -> list[Copies]:
    """Where each partition shall lie: `factor` members, the first to be primary. O(partitions · factor · log shards).

    current  per partition its members now, the primary first; empty for a new grid
    A copy stays where it is unless its shard is gone or has more than its share. Members of one partition are on different nodes.
    Raises InvariantBroken when there are fewer nodes than copies.
    """
    nodes = {place.member: place.node for place in places}
    holds(len(set(nodes.values())) >= factor >= 1, "fewer nodes than copies", nodes=len(set(nodes.values())), factor=factor)
    planner = _Planner(current, places, factor, nodes)
    planner.drop()
    planner.fill()
    planner.lead()
    return [tuple(members) for members in planner.members]


def moved(before: Sequence[Copies], after: Sequence[Copies]) -> int:
    """How many copies have to be made."""
    return sum(len(set(new) - set(old)) for old, new in zip(before, after, strict=True))


def shares(total: int, places: Sequence[Place]) -> dict[Member, int]:
    """`total` divided by weight, whole, by largest remainders."""
    weights = sum(place.weight for place in places)
    exact = {place.member: total * place.weight / weights for place in places}
    whole = {member: int(share) for member, share in exact.items()}
    by_remainder = sorted(exact, key=lambda member: (whole[member] - exact[member], member))
    for member in by_remainder[: total - sum(whole.values())]:
        whole[member] += 1
    return whole


def quotas(partitions: int, places: Sequence[Place], factor: int) -> dict[Member, int]:
    """How many copies each shard shall have: by weight, but a node has at most one copy of a partition, whatever its weight."""
    left, total, found = list(places), partitions * factor, dict[Member, int]()
    while left:
        share = shares(total, left)
        by_node: dict[str, list[Place]] = defaultdict(list)
        for place in left:
            by_node[place.node].append(place)
        full = [mine for mine in by_node.values() if sum(share[place.member] for place in mine) > partitions]
        if not full:
            return found | share
        for mine in full:
            found |= shares(partitions, mine)
            total -= partitions
        left = [place for place in left if place.member not in found]
    return found


class _Planner:
    """A plan in the making. `counts`: copies of each member; `members`: of each partition, the primary first."""

    def __init__(self, current: Sequence[Copies], places: Sequence[Place], factor: int, nodes: dict[Member, str]) -> None:
        self.factor, self.nodes, self._places = factor, nodes, places
        self.members = [[member for member in copies if member in nodes][:factor] for copies in current]
        self.counts = dict.fromkeys(nodes, 0)
        for copies in self.members:
            for member in copies:
                self.counts[member] += 1
        self.quota = quotas(len(current), places, factor)

    def drop(self) -> None:
        """Take from who has more than its share. Copies that are not primary go first: a primary's move takes a handover too."""
        for last in range(self.factor - 1, -1, -1):
            for copies in self.members:
                if len(copies) > last and self.counts[copies[last]] > self.quota[copies[last]]:
                    self.counts[copies.pop(last)] -= 1

    def fill(self) -> None:
        """Give what is missing to who lacks most. Where only nodes of the other copies lack some, a copy is exchanged with another partition."""
        lacking = [(self.counts[member] - self.quota[member], member) for member in self.counts if self.counts[member] < self.quota[member]]
        heapq.heapify(lacking)
        # Further copies in an order of their own: a shard's partitions then have their other copies all over the grid, so that what it led is
        # led by many when it dies, and not all by one.
        scattered = sorted(range(len(self.members)), key=lambda number: number * 0x9E3779B1 & 0xFFFFFFFF)
        for copy in range(self.factor):
            for number in scattered if copy else range(len(self.members)):
                if len(self.members[number]) == copy:
                    self._give(self.members[number], lacking)

    def _give(self, copies: list[Member], lacking: list[tuple[int, Member]]) -> None:
        """One copy more of a partition. Whoever lacks most and is apart from its other copies takes it; else whoever lacks most, by an exchange."""
        taken = {self.nodes[member] for member in copies}
        skipped = []
        while lacking and self.nodes[lacking[0][1]] in taken:
            skipped.append(heapq.heappop(lacking))
        if lacking:
            lack, gains = heapq.heappop(lacking)
            copies.append(gains)
        elif skipped and self._exchange(copies, taken, skipped[0][1]):
            lack, gains = skipped.pop(0)
        else:
            apart = [member for member in self.counts if self.nodes[member] not in taken]
            lack, gains = 0, min(apart, key=lambda member: (self.counts[member] - self.quota[member], member))
            copies.append(gains)
        self.counts[gains] += 1
        if lack + 1 < 0:
            skipped.append((lack + 1, gains))
        for entry in skipped:
            heapq.heappush(lacking, entry)

    def _exchange(self, copies: list[Member], taken: set[str], lacks: Member) -> bool:
        """Have another partition give one of its copies to this one and take one at `lacks` instead; False: none can."""
        for others in self.members:
            if len(others) < self.factor or others is copies:
                continue
            for at in range(self.factor - 1, -1, -1):
                rest = {self.nodes[member] for member in others if member != others[at]}
                if self.nodes[others[at]] not in taken and self.nodes[lacks] not in rest and others[at] != lacks:
                    copies.append(others[at])
                    others[at] = lacks
                    return True
        return False

    def lead(self) -> None:
        """Choose primaries: those that lead go on; who leads too much hands over along the shortest chain to who leads too little."""
        leads = shares(len(self.members), self._places)
        led: dict[Member, dict[int, None]] = {member: {} for member in self.counts}  # dicts as sets that keep their order
        for number, copies in enumerate(self.members):
            led[copies[0]][number] = None
        for member in sorted(self.counts):
            while len(led[member]) > leads[member] and self._hand_on(member, leads, led):
                pass

    def _hand_on(self, start: Member, leads: dict[Member, int], led: dict[Member, dict[int, None]]) -> bool:
        """Move one lead from `start` along a chain of partitions: each is handed to another of its members. Breadth first."""
        came: dict[Member, tuple[Member, int]] = {}
        queue = deque([start])
        while queue:
            member = queue.popleft()
            for number in led[member]:
                for other in self.members[number][1:]:
                    if other in came or other == start:
                        continue
                    came[other] = (member, number)
                    if len(led[other]) < leads[other]:
                        self._hand_along(other, start, came, led)
                        return True
                    queue.append(other)
        return False

    def _hand_along(self, end: Member, start: Member, came: dict[Member, tuple[Member, int]], led: dict[Member, dict[int, None]]) -> None:
        member = end
        while member != start:
            before, number = came[member]
            copies = self.members[number]
            at = copies.index(member)
            copies[0], copies[at] = copies[at], copies[0]
            del led[before][number]
            led[member][number] = None
            member = before
