"""A copy of a partition compared with the others while everything is served: digests of each at one and the same position.

The controller asks the primary how far its journal goes, then every copy for digests at the first end of a group at or behind that position: groups are
the same for all, so it is the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from grid.comparing import exact_digests, value_digest
from grid.errors import MoveFailed
from grid.group import Group

if TYPE_CHECKING:
    from actors.serving import ShardServer

REACH_TIMEOUT_S = 2.0
T = TypeVar("T")


async def digests_at(shard: ShardServer, partition: int, position: int) -> tuple[int, dict[str, dict[int, int]]]:
    """(at which position, by column and page). Raises MoveFailed when it has passed, is not reached, or features are not whole."""
    async with shard.checkpointing:  # it copies pages too
        here, copy = await _at(shard, partition, position, lambda: shard.store.begin_copy(partition, is_whole=True))
        found: dict[str, dict[int, int]] = {}
        try:
            for key, number, digest in exact_digests(shard.engine, copy, shard.store.columns_by_key()):
                found.setdefault(key, {})[number] = digest
                await asyncio.sleep(0)
        finally:
            shard.engine.copying = None
    return here, found


async def values_at(shard: ShardServer, partition: int, position: int, places: list[tuple[str, int]], as_of_ms: int) -> tuple[int, list[int]]:
    """(at which position, a digest of the values of each (column, page)). Raises MoveFailed as `digests_at`."""
    return await _at(shard, partition, position, lambda: [value_digest(shard.engine, partition, number, name, as_of_ms) for name, number in places])


async def _at(shard: ShardServer, partition: int, position: int, look: Callable[[], T]) -> tuple[int, T]:
    """(where, what `look` finds) when the first group that ends at a position or behind it is in the columns, and nothing after it."""
    engine, committer = shard.engine, shard.committer
    found: asyncio.Future[tuple[int, T]] = asyncio.get_running_loop().create_future()

    def watch(group: Group | None) -> None:
        here = int(engine.positions[partition])
        # Only when something of the partition has just been applied: in the midst of a group the position says nothing.
        if found.done() or here < position or (group is not None and partition not in group.places()):
            return
        if here > position and group is None:
            found.set_exception(MoveFailed(f"partition {partition} is at {here} already, not at {position}"))
            return
        try:
            shard.moves.check_quiet()
            found.set_result((here, look()))
        except MoveFailed as error:
            found.set_exception(error)

    async with committer.quiet():
        watch(None)
        committer.followers.append(watch)
    try:
        return await asyncio.wait_for(found, REACH_TIMEOUT_S)
    except TimeoutError:
        raise MoveFailed(f"partition {partition} does not come to {position}") from None
    finally:
        committer.followers.remove(watch)
