"""Refused rows ingested once more, after a fix of the catalog. Each exactly once, through crashes.

    plan (number, keys) durable --> commit under that number --> letters and plan deleted together

After a crash the plan is carried out again under its number: if it was committed, that is a retry, and counts nothing. What is
refused again is a new dead letter by its commit.
"""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING, Any

from profilegrid.columns import Batch, attributes_batch, events_batch

from actors.calls import in_thread
from grid.verdict import ID_BYTES_MAX

if TYPE_CHECKING:
    from actors.serving import ShardServer

ROWS_MAX = 5_000


async def replay_dead_letters(shard: ShardServer, reason: str) -> tuple[int, int, int]:
    """Ingest the dead letters of a reason (empty: all). Returns (replayed, accepted, rejected)."""
    async with shard.replaying:
        return await _replay(shard, reason)


async def finish_open_plan(shard: ShardServer) -> None:
    """Carry out what a crash left of a replay."""
    plan = shard.store.checkpoints.replay_plan()
    if plan.get("keys"):
        await _carry_out(shard, plan["number"], plan["keys"])


async def _replay(shard: ShardServer, reason: str) -> tuple[int, int, int]:
    await finish_open_plan(shard)
    checkpoints = shard.store.checkpoints
    letters = await asyncio.to_thread(checkpoints.dead_letters_of, reason)
    wanted = [(key, letter["kind"]) for key, letter in letters if _can_be_replayed(letter) and shard.engine.epochs[shard.store.partition_of(letter)]]
    replayed = accepted = rejected = 0
    for _, same_kind in groupby(wanted, key=lambda item: item[1]):
        keys = [key for key, _ in same_kind]
        for first in range(0, len(keys), ROWS_MAX):
            number = checkpoints.replay_plan().get("number", 0) + 1
            part = keys[first : first + ROWS_MAX]
            await in_thread(checkpoints.put_replay_plan, number, part)
            reply = await _carry_out(shard, number, part)
            replayed, accepted, rejected = replayed + len(part), accepted + reply.accepted, rejected + len(reply.rejections)
    return replayed, accepted, rejected


def _can_be_replayed(letter: dict[str, Any]) -> bool:
    """Not what has no user: no fix of the catalog helps it. Nor deletes, which are refused for nothing else."""
    return letter.get("kind") in ("events", "attributes") and 0 < len(letter["event"]["user_id"].encode()) <= ID_BYTES_MAX


async def _carry_out(shard: ShardServer, number: int, keys: list[bytes]) -> Any:
    from actors.services import convert
    from actors.services.shard import own_frame

    letters = await asyncio.to_thread(shard.store.checkpoints.dead_letters_at, keys)
    batch = _batch(letters)
    producer = b"dead letters" + shard.config.shard.to_bytes(4, "big")
    reply = await shard.committer.commit(convert.frame(own_frame(shard, batch, producer, number)), 200 * batch.rows)
    await in_thread(shard.store.checkpoints.finish_replay, number, keys)
    return reply


def _batch(letters: list[dict[str, Any]]) -> Batch:
    """Letters of one kind as a client would send them."""
    events = [letter["event"] for letter in letters]
    if letters[0]["kind"] == "attributes":
        return attributes_batch([event["user_id"] for event in events], [_lists_as_sets(event["properties"]) for event in events])
    return events_batch([(event["user_id"], event["name"], event["time"], event["properties"], event.get("event_id")) for event in events])


def _lists_as_sets(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: set(value) if isinstance(value, list) else value for name, value in properties.items()}
