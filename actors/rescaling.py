"""Where partitions shall lie, and the way there: `scale`, `drain`, `rebalance`. Part of the controller, in its loop.

    a plan: a target for each partition, persisted --> batches of partitions, one at a time: copied, sealed, the owner changed --> as planned

A batch's owner changes by one write of the controller's file. It is written only if neither shard has begun a new life since the batch was
begun: a source that starts anew serves what it had sealed, a target that does has what came only on its disk. What follows the write (release,
take over, forget) is on the list of handovers until it is done, and is repeated as often as it takes. So a crash anywhere leads on, or back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from actors.copies import BATCH_BYTES, USER_BYTES, shard_of
from grid.errors import FieldInvalid, MoveFailed
from grid.failpoints import failpoint
from grid.replication.placement import Place, plan

if TYPE_CHECKING:
    from actors.controller import Controller

log = logging.getLogger("profilegrid")
SHARDS_MAX, REPLICAS_MAX = 64, 2
# What moves take of disks and cores by default: a million users of some columns in 8 s, which whoever reads and writes hardly notices.
BYTES_PER_S = 64e6
SHORT_S, SEAL_S, COPY_S = 10.0, 70.0, 3600.0
LOOK_S, AGAIN_S = 0.05, 1.0


class Rescaler:
    """Moves partitions towards their targets. One batch at a time: two would compete for the same disks and cores."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._token = ""
        self._batch: tuple[int, int, list[int]] | None = None
        self._phase = ""
        self._total = 0
        self._pause_ms_max = 0.0
        self._again_s = 0.0
        self._lost: list[int] | None = None
        self.problem = ""

    # --- what is asked for ------------------------------------------------------------------------------------------------

    def targets_for(self, shards: int, drained: Sequence[int], replicas: int) -> tuple[list[int], list[int]]:
        """Where each partition shall lie, and its second copy if there is one: even over the shards that are not drained, with as few moves
        as that takes. Raises FieldInvalid."""
        if not 1 <= shards <= SHARDS_MAX:
            raise FieldInvalid("shards", str(shards), f"1 to {SHARDS_MAX}")
        wrong = [shard for shard in drained if not 0 <= shard < shards]
        if wrong:
            raise FieldInvalid("drain", str(wrong[0]), f"a shard of 0 to {shards - 1}")
        homes = self._controller.state.homes
        places = [Place(f"{shard}", homes.get(shard, f"{shard}")) for shard in range(shards) if shard not in drained]
        if not places:
            raise FieldInvalid("drain", "all shards", f"at most {shards - 1} of {shards}: partitions must lie somewhere")
        if not 1 <= replicas <= REPLICAS_MAX:
            raise FieldInvalid("replicas", str(replicas), f"1 to {REPLICAS_MAX}")
        nodes = len({place.node for place in places})
        if replicas > nodes:
            kind = "shards" if not homes else "nodes with shards"
            raise FieldInvalid("replicas", str(replicas), f"as many {kind} that are not drained: there are {nodes}")
        state = self._controller.state
        held: list[tuple[str, ...]] = [(str(owner),) for owner in state.owners]
        if state.backups and state.replicas == replicas > 1:
            held = [(str(t), str(b)) for t, b in zip(state.targets, state.backups, strict=True)]
        copies = plan(held, places, replicas)
        return [int(members[0]) for members in copies], [int(members[1]) for members in copies] if replicas > 1 else []

    def aim(self, shards: int, drained: Sequence[int], replicas: int, bytes_per_s: float) -> None:
        """Go towards that layout from now on; another aim takes its place, also in the midst of it."""
        state = self._controller.state
        state.targets, state.backups = self.targets_for(shards, drained, replicas)
        state.replicas = replicas
        state.shards_wanted, state.drained, state.move_bytes_per_s = shards, sorted(set(drained)), bytes_per_s or BYTES_PER_S
        state.shards = max(state.shards, shards)
        state.map_version += 1
        self._controller.save()
        self._total, self._pause_ms_max, self.problem, self._again_s, self._lost = self.left, 0.0, "", 0.0, []
        log.info("layout", extra={"facts": {"shards": shards, "drained": state.drained, "moves": self.left}})

    def replace(self, long_down: set[int], up: set[int]) -> None:
        """Shards that are lost, it seems, hold nothing from now on, if there are others to have two copies; when they are back they do again."""
        state = self._controller.state
        if state.replicas == 1:
            return
        if self._lost is None:  # a former life of ours took them for lost, perhaps
            holding = {*state.targets, *state.backups, *state.drained}
            self._lost = [shard for shard in range(state.shards_wanted) if shard not in holding]
        lost = sorted(long_down | set(self._lost) - up)
        if lost == self._lost:
            return
        self._lost = lost
        try:
            state.targets, state.backups = self.targets_for(state.shards_wanted, [*state.drained, *lost], state.replicas)
        except FieldInvalid as error:
            log.warning("shards %s are down, and their copies cannot be made elsewhere: %s", lost, error)
            return
        state.map_version += 1
        self._controller.save()
        log.info("copies are made again", extra={"facts": {"lost": lost, "moves": self.left}})

    async def stay(self) -> None:
        """Leave every partition where it is now. A batch that is under way and not sealed yet is given up."""
        state = self._controller.state
        state.targets, state.shards_wanted = list(state.owners), state.shards
        for partition, (config, _) in state.placed.items() if state.replicas > 1 else ():
            others = [shard_of(member) for member in (*config[2], *config[3]) if shard_of(member) != state.owners[partition]]
            if others:
                state.backups[partition] = others[0]
        self._controller.save()
        if self._token and self._phase == "copying":
            await self._cancel()

    @property
    def left(self) -> int:
        """Partitions that are not where they shall be."""
        if self._controller.state.replicas > 1:
            return len(self._controller.copies.unsettled)
        return max(len(self.moves_to(self._controller.state.targets)), len(self._controller.state.placed))

    def moves_to(self, targets: list[int]) -> list[tuple[int, int, int]]:
        """(partition, from, to) of each that is elsewhere."""
        owners = self._controller.state.owners
        if owners == targets:  # nearly always, and asked 20 times a second
            return []
        return [(partition, owner, target) for partition, (owner, target) in enumerate(zip(owners, targets, strict=True)) if owner != target]

    def status(self) -> dict[str, Any]:
        """How far it is."""
        state, batch = self._controller.state, self._batch
        facts: dict[str, Any] = {
            "shards": state.shards, "shards_wanted": state.shards_wanted, "drained": state.drained, "moves_left": self.left,
            "moves_total": max(self._total, self.left), "pause_ms_max": self._pause_ms_max, "problem": self.problem, "phase": self._phase,
            "replicas": state.replicas, "is_done": self.left == 0 and not state.handovers and state.shards == state.shards_wanted,
        }  # fmt: skip
        if batch is not None:
            source, target, partitions = batch
            moving = self._controller.health(source).get("moving", {})
            facts |= {"source": source, "target": target, "partitions": partitions, "pages": moving.get("pages", [0, 0])}
        return facts

    # --- the way there ----------------------------------------------------------------------------------------------------

    async def go_on(self) -> None:
        """The next step, if there is one; called again and again."""
        if time.monotonic() < self._again_s:
            return
        try:
            if self._controller.state.handovers:
                async with self._controller.layout_lock:
                    await self._hand_over()
            elif self._controller.state.replicas > 1 or self._controller.state.placed:
                await self._retire()  # the copies go their own way
            elif not await self._move_batch():
                await self._retire()
        except Exception as error:
            self.problem = str(error) or type(error).__name__
            self._again_s = time.monotonic() + AGAIN_S
            log.warning("moving partitions: %s; it is tried again", self.problem)

    async def _move_batch(self) -> bool:
        """Move some partitions of one shard to another. False: there is nothing to move, or nobody to move it now."""
        batch = self._next_batch()
        if batch is None:
            return False
        controller, (source, target, partitions) = self._controller, batch
        async with controller.layout_lock:  # no catalog is installed and no snapshot made meanwhile
            self._batch, self._token, self._phase = batch, secrets.token_hex(8), "copying"
            try:
                lives = controller.lives(source, target)
                await self._tell(target, "expect_partitions", self._token, partitions)
                lane = controller.health(target)["lane"]
                await self._tell(source, "send_partitions", self._token, partitions, lane, controller.state.move_bytes_per_s, timeout_s=COPY_S)
                self._phase, sealed = "sealing", time.monotonic()
                await self._tell(source, "seal", self._token, timeout_s=SEAL_S)
                if controller.lives(source, target) != lives:
                    raise MoveFailed("a shard began a new life meanwhile")
                self._change_owner(source, target, partitions)
            except BaseException:
                await self._cancel()
                raise
            finally:
                self._batch, self._token, self._phase = None, "", ""
            failpoint("move.saved")
            await self._hand_over(sealed)
        self.problem = ""
        return True

    def _next_batch(self) -> tuple[int, int, list[int]] | None:
        """Partitions with the same way, whose shards both serve."""
        state, controller = self._controller.state, self._controller
        ways = _ways(self.moves_to(state.targets))
        for (source, target), partitions in ways.items():
            if controller.is_ready(source) and controller.is_ready(target):
                nbytes = controller.health(source)["users"] * USER_BYTES // max(state.owners.count(source), 1)
                return source, target, partitions[: max(BATCH_BYTES // max(nbytes, 1), 1)]
        if ways:
            self.problem = f"shards {sorted({shard for way in ways for shard in way if not controller.is_ready(shard)})} do not serve yet"
        return None

    def _change_owner(self, source: int, target: int, partitions: list[int]) -> None:
        """The compare-and-set. After it there is no way back; if it fails, what is on the disk is unknown, and the process looks."""
        state = self._controller.state
        for partition in partitions:
            state.owners[partition] = target
            state.epochs[partition] += 1
            state.handovers[partition] = source
        state.map_version += 1
        self._controller.save_or_end()

    async def _hand_over(self, sealed_s: float | None = None) -> None:
        """What follows a change of owner, for all that is on the list. Every step may be repeated. `sealed_s`: since when writes wait, if known."""
        state = self._controller.state
        ways = _ways((partition, source, state.owners[partition]) for partition, source in state.handovers.items())
        for (source, target), partitions in ways.items():
            for shard in (source, target):
                if not self._controller.is_ready(shard):
                    raise MoveFailed(f"shard {shard}, which takes part in a handover, does not serve yet")
            # The source first: from then on nobody reads there what the target may change.
            await self._tell(source, "release", {p: state.epochs[p] for p in partitions})
            failpoint("move.released")
            await self._tell(target, "take_over", {p: state.epochs[p] for p in partitions})
            if sealed_s is not None:
                self._pause_ms_max = max(self._pause_ms_max, (time.monotonic() - sealed_s) * 1000)
            failpoint("move.taken_over")
            await self._tell(source, "forget", {p: state.epochs[p] for p in partitions})
            for partition in partitions:
                del state.handovers[partition]
            self._controller.save()

    async def _cancel(self) -> None:
        """Give the batch up at both ends. Whoever does not hear it is told by the next heartbeat."""
        if self._batch is not None:
            token = self._token
            calls = (self._tell(shard, "cancel_move", token) for shard in self._batch[:2])
            for error in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(error, Exception):
                    log.warning("a move was not given up at once: %s", error)

    async def reconcile(self, shard: int, moving: dict[str, Any]) -> None:
        """A shard takes part in moves: those that nobody leads any more are given up, unless their partitions are being handed over."""
        state = self._controller.state
        is_handing_over = any(shard in (source, state.owners[partition]) for partition, source in state.handovers.items())
        if not is_handing_over:
            for token in moving.get("tokens", []):
                if token != self._token:
                    await self._tell(shard, "cancel_move", token)

    async def _tell(self, shard: int, method: str, *arguments: Any, timeout_s: float = SHORT_S) -> Any:
        try:
            return await asyncio.wait_for(self._controller.of_shard(shard, method, *arguments), timeout_s)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            what = cause.what if isinstance(cause, MoveFailed) else f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
            raise MoveFailed(f"shard {shard}, asked to {method.replace('_', ' ')}: {what}") from error

    # --- shards that end ----------------------------------------------------------------------------------------------------

    async def _retire(self) -> None:
        """End the last shard when there shall be fewer and nothing lies there any more."""
        controller, state = self._controller, self._controller.state
        last = state.shards - 1
        if (
            state.shards <= state.shards_wanted
            or last in state.owners
            or self._controller.copies.copied_by(last)
            or state.handovers
            or not controller.is_ready(last)
        ):
            return
        async with controller.layout_lock:
            await self._tell(0, "note_erased", await self._tell(last, "erased_users", timeout_s=SEAL_S), timeout_s=SEAL_S)
            await self._tell(last, "mark_retired")
            state.shards = last
            state.members.pop(last, None)
            state.map_version += 1
            controller.save()
            log.info("shard %d is no more", last)
            await controller.end_shard(last)


def _ways(moves: Iterable[tuple[int, int, int]]) -> dict[tuple[int, int], list[int]]:
    """Partitions by (from, to)."""
    ways: dict[tuple[int, int], list[int]] = {}
    for partition, source, target in moves:
        ways.setdefault((source, target), []).append(partition)
    return ways
