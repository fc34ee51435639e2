"""Partitions that have several copies, as the controller keeps them: configs by `grid.replication.controller`, persisted in its one file.

    members report --> the pure controller --> configs, saved together --> told to members, the map follows
    where each partition shall lie --a few at a time--> a target; a partition that lies alone again needs no config any more

Part of the controller, in its loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from actors.calls import ask
from actors.clock import now_ms
from actors.promises import config_of, message_of
from grid.errors import FieldInvalid, MoveFailed
from grid.replication.controller import Controller as Arbiter
from grid.replication.messages import Announce, Config, Effect, Hello, Member, Save, Send

if TYPE_CHECKING:
    from actors.controller import Controller

log = logging.getLogger("profilegrid")
TELL_TIMEOUT_S, REMIND_S = 5.0, 1.0
# A busy partition gets some ten groups while the shards are asked, an idle one none: the first try is for those at rest.
COMPARE_TRIES, COMPARE_AHEAD, COMPARE_TIMEOUT_S, COMPARED_PAGES_MAX = 12, 4, 120.0, 64
# What moves at a time: large enough that the moment in which its writes wait is a small part of the time that it takes.
BATCH_BYTES, USER_BYTES = 96 << 20, 128


def shard_of(member: Member) -> int:
    """Whose data folder a member is."""
    return int(member.partition("-")[0])


class Copies:
    """Every partition that has, or shall have, more than one copy."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._arbiter = Arbiter({p: (config_of(config), tuple(target)) for p, (config, target) in controller.state.placed.items()})
        self._saves: list[Save] = []
        self._announced: dict[Member, dict[int, Config]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._remind_s = 0.0
        # Partitions that lie alone for a while, so that their other copies begin anew.
        self._renewing: set[int] = set()

    # --- what members say ---------------------------------------------------------------------------------------------------

    def say(self, member: Member, reports: list[list[Any]]) -> dict[str, Any]:
        """A member's messages of some partitions. Returns the configs that it has to know, and where everybody listens."""
        state, mine = self._controller.state, dict[int, Config]()
        for partition, *plain in reports:
            if partition in state.placed:
                self._carry_out(partition, self._arbiter.on_message(partition, member, message_of(plain)))
            else:  # it lies alone by now; an owner that started anew does not go on in the epoch of its former life
                hello = message_of(plain)
                if (
                    isinstance(hello, Hello)
                    and hello.is_fresh
                    and hello.promised >= state.epochs[partition]
                    and member == state.members.get(state.owners[partition])
                ):
                    state.epochs[partition] = hello.promised + 1
                    state.map_version += 1
                    self._controller.save()
                owner = state.members.get(state.owners[partition], "")
                mine[partition] = Config(state.epochs[partition], owner, (owner,), (owner,))
        self._save()
        mine |= self._announced.pop(member, {})
        self._tell()
        return {"announced": [[p, astuple(config)] for p, config in mine.items()], "lanes": self._lanes(), "bytes_per_s": state.move_bytes_per_s}

    def _lanes(self) -> dict[Member, str]:
        """Where members listen that are up."""
        found = {}
        for shard, member in self._controller.state.members.items():
            health = self._controller.health(shard)
            if health.get("lane"):
                found[member] = health["lane"]
        return found

    def _carry_out(self, partition: int, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Save):
                self._saves.append(effect)
            elif isinstance(effect, Send):
                assert isinstance(effect.message, Announce)
                self._announced.setdefault(effect.to, {})[partition] = effect.message.config

    def _save(self) -> None:
        """All that is to be persisted, at once; then it is in force."""
        if not self._saves:
            return
        state, (saves, self._saves) = self._controller.state, (self._saves, [])
        for save in saves:
            state.placed[save.partition] = (astuple(save.config), list(save.target))
            state.owners[save.partition], state.epochs[save.partition] = shard_of(save.config.primary), save.config.epoch
        state.map_version += 1
        self._controller.save_or_end()
        for save in saves:
            self._carry_out(save.partition, self._arbiter.on_io(save.partition, save.ticket, is_ok=True))

    def _tell(self) -> None:
        """Configs to members other than the one that is answered."""
        announced, self._announced = self._announced, {}
        for member, configs in announced.items():
            task = asyncio.get_running_loop().create_task(self._tell_member(member, configs))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell_member(self, member: Member, configs: dict[int, Config]) -> None:
        plain, bytes_per_s = [[partition, astuple(config)] for partition, config in configs.items()], self._controller.state.move_bytes_per_s
        try:
            await asyncio.wait_for(self._controller.of_shard(shard_of(member), "hear", plain, self._lanes(), bytes_per_s), TELL_TIMEOUT_S)
        except Exception as error:  # it is told when it reports
            log.debug("member %s was not told: %r", member, error)

    # --- where partitions shall lie -------------------------------------------------------------------------------------------

    def copied_by(self, shard: int) -> list[int]:
        """Partitions of which a shard has a copy."""
        return [p for p, (config, _) in self._controller.state.placed.items() if any(shard_of(member) == shard for member in config[3])]

    def is_dispensable(self, shard: int) -> bool:
        """Whether everything that a shard has a copy of is in sync elsewhere, and nothing counts on what it has."""
        copied = self.copied_by(shard)
        return bool(copied) and not any(shard_of(member) == shard for p in copied for member in self._arbiter.config(p).insync)

    @property
    def unsettled(self) -> list[int]:
        """Partitions whose copies are not where they shall be, or not in sync."""
        state = self._controller.state
        wanted = range(state.partitions) if state.replicas > 1 else state.placed
        return [p for p in wanted if p not in state.placed or not self._is_settled(p)]

    def _is_settled(self, partition: int) -> bool:
        return self._arbiter.is_settled(partition) and self._arbiter.target(partition) == self._wanted(partition)

    def _wanted(self, partition: int) -> tuple[Member, ...] | None:
        """The members that shall have a partition; None while one of them is not known yet."""
        state = self._controller.state
        if partition in self._renewing and partition in state.placed:
            return (self._arbiter.config(partition).primary,)
        if state.replicas == 1:  # first alone where it is; moves of single copies are the rescaler's
            return (state.members[state.owners[partition]],) if state.owners[partition] in state.members else None
        shards = (state.targets[partition], state.backups[partition]) if state.backups else (state.owners[partition],)
        members = tuple(state.members.get(shard, "") for shard in shards)
        return members if all(members) else None

    def go_on(self) -> None:
        """The next steps of what is under way; some more partitions when few are; called again and again."""
        controller, state = self._controller, self._controller.state
        if not state.placed and state.replicas == 1:
            return
        under_way, room = 0, self._batch()
        for partition in range(state.partitions):
            wanted = self._wanted(partition)
            if wanted is None or under_way >= room:
                continue
            if partition not in state.placed:
                # Not while the rescaler moves single copies, a catalog is installed or a snapshot made.
                if (
                    not state.handovers
                    and not controller.layout_lock.locked()
                    and all(controller.is_ready(shard) for shard in {state.owners[partition], *map(shard_of, wanted)})
                ):
                    self._begin(partition, wanted)
                    under_way += 1
            elif self._is_settled(partition):
                self._renewing.discard(partition)
                if len(wanted) == 1 and state.replicas == 1:
                    self._end(partition)
            else:
                if self._arbiter.target(partition) != wanted:
                    self._carry_out(partition, self._arbiter.place(partition, wanted))
                under_way += 1
        for effect in self._arbiter.on_tick():
            assert isinstance(effect, Save)
            self._saves.append(effect)
        self._save()
        self._remind()
        self._tell()

    def _remind(self) -> None:
        """Members that should have a copy and know nothing of it report nothing either: they were starting when they were told. Whoever has the only one
        knows: it needs no protocol (`Replication._retire`), and would begin an epoch each time."""
        if time.monotonic() < self._remind_s:
            return
        self._remind_s = time.monotonic() + REMIND_S
        state = self._controller.state
        knows = {shard: {row[0] for row in self._controller.health(shard).get("copies", [])} for shard in range(state.shards)}
        for partition, (plain, _) in state.placed.items():
            config = config_of(plain)
            for member in config.replicas if len(config.replicas) > 1 else ():
                if self._controller.is_ready(shard_of(member)) and partition not in knows[shard_of(member)]:
                    self._announced.setdefault(member, {})[partition] = config

    def _batch(self) -> int:
        """How many partitions may be on their way at a time."""
        state = self._controller.state
        users = sum(self._controller.health(shard).get("users", 0) for shard in range(state.shards))
        return max(4, BATCH_BYTES * state.partitions // max(users * USER_BYTES, 1))

    def _begin(self, partition: int, wanted: tuple[Member, ...]) -> None:
        """A partition that lay alone gets a config: its owner, which fills the others."""
        state = self._controller.state
        owner = state.members[state.owners[partition]]
        replicas = tuple(dict.fromkeys((owner, *wanted)))
        self._carry_out(partition, self._arbiter.begin(partition, Config(state.epochs[partition] + 1, owner, (owner,), replicas), wanted))

    def _end(self, partition: int) -> None:
        """It lies alone: the owner needs no config any more."""
        state = self._controller.state
        self._arbiter.end(partition)
        del state.placed[partition]
        self._controller.save()

    def renew(self, partition: int) -> None:
        """Make the other copies of a partition anew, from the one that serves it. Raises FieldInvalid, MoveFailed."""
        if partition not in self._controller.state.placed:
            raise FieldInvalid("partition", str(partition), "one that has several copies")
        if not self._is_settled(partition):
            raise MoveFailed(f"copies of partition {partition} are made already")
        self._renewing.add(partition)

    async def compare(self, partition: int) -> dict[str, Any]:
        """The copies of a partition that are in sync, page by page, each at the same position. Raises FieldInvalid, MoveFailed."""
        if partition not in self._controller.state.placed:
            raise FieldInvalid("partition", str(partition), "one that has several copies")
        config = config_of(self._controller.state.placed[partition][0])
        shards = [shard_of(config.primary), *(shard_of(member) for member in config.insync if member != config.primary)]
        position, digests = await self._of_each(partition, shards, "digests_at")
        columns: dict[str, dict[str, Any]] = {}
        places: list[tuple[str, int]] = []
        for key in sorted({key for mine in digests for key in mine}):
            pages = sorted({number for mine in digests for number in mine.get(key, {})})
            different = [number for number in pages if len({mine.get(key, {}).get(number) for mine in digests}) > 1]
            name = key if key == "ids" else key.split(":")[1]
            columns[name] = {"name": name, "pages": len(pages), "differing": len(different), "differing_values": len(different) if key == "ids" else 0}
            places += [(name, number) for number in different if key != "ids"]
        looked = places[:COMPARED_PAGES_MAX]
        if looked:
            _, values = await self._of_each(partition, shards, "values_at", looked, now_ms())
            for (name, _), found in zip(looked, zip(*values, strict=True), strict=True):
                columns[name]["differing_values"] += len(set(found)) > 1
        for name, _ in places[COMPARED_PAGES_MAX:]:  # not looked at closer
            columns[name]["differing_values"] += 1
        return {"partition": partition, "position": position, "shards": shards, "columns": list(columns.values())}

    async def _of_each(self, partition: int, shards: list[int], method: str, *arguments: Any) -> tuple[int, list[Any]]:
        """(position, what each copy says of it). While much is written a copy is past the position before it looks: then of one that lies ahead."""
        first: MoveFailed | None = None  # where nothing is written, what lies ahead is never reached, which tells nothing
        for attempt in range(COMPARE_TRIES):
            position = await ask(self._controller.of_shard(shards[0], "journal_end", partition)) + COMPARE_AHEAD * attempt
            calls = [ask(self._controller.of_shard(shard, method, partition, position, *arguments), COMPARE_TIMEOUT_S) for shard in shards]
            found = await asyncio.gather(*calls, return_exceptions=True)
            failed = next((one for one in found if isinstance(one, BaseException)), None)
            answers = [one for one in found if not isinstance(one, BaseException)]
            if failed is None:
                if len({here for here, _ in answers}) == 1:
                    return answers[0][0], [what for _, what in answers]
                failed = MoveFailed(f"copies of partition {partition} were looked at in different places")
            if not isinstance(failed, MoveFailed):
                raise failed
            first = first or failed
            if attempt + 1 == COMPARE_TRIES:
                raise first
        raise AssertionError("unreachable")

    def status(self) -> list[dict[str, Any]]:
        """Of each partition with several copies: epoch, primary, who is in sync, who catches up, how far behind each is."""
        state, positions = self._controller.state, dict[int, dict[int, int]]()
        for shard in range(state.shards):
            for partition, _, _, last, _ in self._controller.health(shard).get("copies", []):
                positions.setdefault(partition, {})[shard] = last
        found = []
        for partition, (plain, _) in sorted(state.placed.items()):
            config = config_of(plain)
            known = positions.get(partition, {})
            newest = max(known.values(), default=0)
            found.append(
                {
                    "partition": partition, "epoch": config.epoch, "primary": shard_of(config.primary), "insync": [shard_of(m) for m in config.insync],
                    "replicas": [shard_of(m) for m in config.replicas],
                    "lag": {shard_of(m): newest - known[shard_of(m)] if shard_of(m) in known else None for m in config.replicas},
                }
            )  # fmt: skip
        return found
