"""Damage on a real grid's disk, from the first sign of it to serving again."""

from __future__ import annotations

from pathlib import Path

import pytest
from profilegrid.errors import ProfilegridError

from tests.grids import grid_of_every_kind
from tests.points import flip_where_no_start_reads

USERS = [f"user-{number}" for number in range(400)]


def test_damage_is_told_with_its_place_the_rest_serves_and_repair_gives_up_only_what_is_damaged(tmp_path: Path) -> None:
    grid = grid_of_every_kind(tmp_path, "--partitions", "8")
    with grid.client() as client:
        for number in range(3):  # three groups a shard; the second will be damaged in shard 0
            client.track_many("e", user_id=USERS, k=[f"word-{number}"] * len(USERS), n=[1.0] * len(USERS))
    grid.kill_everything()
    (segment,) = (grid.folder / "shard-0" / "log").glob("*.log")
    raw = bytearray(segment.read_bytes())
    at = raw.rfind(b"word-1")
    raw[at + 2] ^= 0x10
    segment.write_bytes(raw)
    grid.up()
    try:
        damage = grid.json("repair")["damage"]
        assert len(damage) == 4
        assert all(segment.name in text and "offset" in text and text.startswith("shard 0: partition ") for text in damage)
        with grid.client(read_timeout=2.0) as client:
            right = 0
            for user in USERS[:40]:
                try:
                    assert client.get(user)["count"] == 3
                    right += 1
                except ProfilegridError as error:
                    assert error.reason == "PARTITION_UNAVAILABLE"
            assert 0 < right < 40
            with pytest.raises(ProfilegridError, match="is stopped"):
                client.count("count > 0")
        told = grid.cli("repair", check=True).stdout
        assert "--accept-loss" in told
        lost = grid.json("repair", "--accept-loss")["lost"]
        assert len(lost) == 4
        with grid.client(read_timeout=30.0) as client:
            counts = list(client.get_many(USERS)["count"])
            assert set(counts) == {2, 3}  # the damaged group is gone, those before and after it are there
            assert client.count("count > 0") == len(USERS)
            client.track_many("e", user_id=USERS, k=["more"] * len(USERS))
        grid.kill_everything()
        grid.up()
        assert grid.json("repair") == {"damage": [], "lost": []}
        with grid.client() as client:
            assert list(client.get_many(USERS)["count"]) == [count + 1 for count in counts]
    finally:
        grid.down()


@pytest.mark.long
def test_a_bit_that_flips_where_nobody_reads_ends_a_shard_once_and_nothing_is_lost(tmp_path: Path) -> None:
    grid = grid_of_every_kind(tmp_path, "--partitions", "8", "--shards", "1")
    rocks = grid.folder / "shard-0" / "rocks"
    for number in range(2):  # opened again, RocksDB has the first checkpoint in a file, and in memory that it is replaced
        with grid.client() as client:
            client.track_many("e", user_id=USERS, k=[f"word-{number}"] * len(USERS), n=[1.0] * len(USERS))
        grid.cli("checkpoint", check=True)
        grid.kill_everything()
        if number == 0:
            grid.up()
    flip_where_no_start_reads(rocks, 8)
    grid.up()
    try:
        with grid.client(read_timeout=60.0) as client:
            client.delete(USERS[0])
            pid = grid.shards()[0]["pid"]
            grid.cli("erasures", "--now")  # everything is compacted for it
            grid.wait_until(lambda: grid.shards()[0]["pid"] not in (0, pid) and grid.shards()[0]["state"] == "serving")
            assert grid.json("erasures", "--now")["erasures"] == []
            assert [profile["count"] for profile in map(client.get, USERS[1:5])] == [2] * 4
            client.track_many("e", user_id=USERS[1:], k=["more"] * (len(USERS) - 1))
            assert set(client.get_many(USERS[1:])["count"]) == {3}
        assert not rocks.with_name("DAMAGED").exists()
        assert grid.json("repair")["damage"] == []
    finally:
        grid.down()
