"""A shard's server without Ray: what its calls do when they come together."""

from __future__ import annotations

import asyncio
from pathlib import Path

from profilegrid.columns import events_batch

from actors.serving import ShardConfig, ShardServer
from grid.catalog import load_catalog
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, Shard


def test_a_catalog_installed_twice_at_once_is_logged_once_and_backfills_once(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND, keep_log=False)
    users = [f"user-{number}" for number in range(50)]
    for number in range(1, 6):
        shard.commit([shard.frame(events_batch([(user, "e", NOW_MS, {"k": "x"}, None) for user in users]), b"p" * 16, number)])
    shard.close()
    source = load_catalog({**EVERY_KIND, "features": {**EVERY_KIND["features"], "count_2": {"count": "e"}}}, 2).source

    async def serve() -> list[int]:
        server = ShardServer(ShardConfig(0, str(tmp_path), 4))
        await server.recover(dict.fromkeys(range(4), 1), 0)
        await asyncio.gather(*(server.install_catalog(2, source) for _ in range(3)))
        while not server.engine.features["count_2"].is_complete:
            await asyncio.sleep(0.01)
        slots = server.find(shard.frame(events_batch([(user, "e", NOW_MS, {}, None) for user in users]), b"q" * 16, 1).ids)
        counts = [server.engine.features[name].columns.read(slots, NOW_MS).values.tolist() for name in ("count", "count_2")]
        await server.stop()
        assert counts[0] == counts[1]
        return counts[1]

    assert asyncio.run(serve()) == [5] * 50
