"""Snapshots of a grid that serves: made, verified, restored into other numbers of shards, with nothing lost, doubled or brought back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import profilegrid
import pytest

from tests.grids import RunningGrid, grid_of_every_kind

USERS = 2_000
RULES = ("city = 'city-3'", "count_by['c1'] > 0", "last = 'c1'", "has(hobbies, 'h2') AND count > 1", "decayed_count > 0.5", "window_count >= 1")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    running = grid_of_every_kind(tmp_path_factory.mktemp("snapshots"))
    with running.client() as client:
        fill(client)
    yield running
    running.down()


def fill(client: profilegrid.Client) -> None:
    """Two events of every user, and attributes."""
    ids, times = [f"u{n}" for n in range(USERS)], [1_700_000_000_000 + n for n in range(2 * USERS)]
    client.track_many("e", user_id=ids * 2, time=times, c=[f"c{n % 5}" for n in range(2 * USERS)], n=np.ones(2 * USERS))
    client.set_many(user_id=ids, city=[f"city-{n % 7}" for n in range(USERS)], hobbies=[{f"h{n % 4}", "h9"} for n in range(USERS)])


def answers(client: profilegrid.Client, as_of: int) -> tuple[list[Any], list[int]]:
    """Every profile, and how many users each rule has."""
    profiles = client.get_many([f"u{n}" for n in range(USERS)], as_of=as_of).to_arrow().to_pylist()
    return profiles, [client.count(rule, as_of=as_of) for rule in RULES]


def test_a_snapshot_made_under_writes_is_restored_into_three_shards_with_nothing_lost_doubled_or_brought_back(grid: RunningGrid, tmp_path: Path) -> None:
    as_of, url, producer = 1_700_000_100_000, tmp_path / "kept", b"q" * 16
    with grid.client(producer_id=producer) as client:
        client.track_many("e", user_id=["retried"], time=[1_700_000_000_000], c=["c1"])
        expected = answers(client, as_of)
        client.track_many("e", user_id=["goes"], time=[1_700_000_000_000], c=["c1"])
        with writing(grid) as sent:
            before = len(sent)
            made = client.create_snapshot(str(url))
            after = len(sent)
        client.delete("goes")
    assert grid.json("snapshot", "verify", str(url))["bytes"] == made["bytes"]
    grid.cli("erasures", "--now", check=True)  # its bytes are gone here; the list beside the snapshots must still have it
    assert grid.json("snapshot", "erasures", str(url))["told"] >= 1
    assert "goes" not in "".join(path.read_text() for path in (url / "erasures").iterdir())

    assert grid.json("snapshot", "restore", str(url), "--data", str(tmp_path / "three"), "--shards", "3")["shards"] == 3
    other = RunningGrid(tmp_path / "three", "--shards", "3", "--snapshots", str(tmp_path / "by itself")).up()
    try:
        with other.client(producer_id=producer, read_timeout=30.0) as client:
            assert answers(client, as_of) == expected
            assert before <= client.get("written")["count_both"] <= after + 1
            assert not client.get("goes").exists
            client.track_many("e", user_id=["retried"], time=[1_700_000_000_000], c=["c1"])  # the same batch number again
            assert client.get("retried")["count"] == 1
            # It is a grid like any other: it takes events, a kill -9 loses none of them, and it makes snapshots by itself.
            client.track("u1", "e", {"c": "c-new"})
            client.flush()
        other.kill_shard(1)
        with other.client(read_timeout=60.0) as client:
            assert client.get("u1")["count"] == expected[0][1]["count"] + 1
        other.wait_until(lambda: len(other.json("snapshot", "list", str(tmp_path / "by itself"))) == 1)
    finally:
        other.down()


@contextlib.contextmanager
def writing(grid: RunningGrid) -> Iterator[list[int]]:
    """A thread that sends one event after another; the list has one entry for each that is acknowledged."""
    stop, sent = threading.Event(), [0]

    def write() -> None:
        with grid.client() as client:
            while not stop.is_set():
                client.track_many("f", user_id=["written"], time=[1_700_000_000_000])
                sent.append(0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield sent
    finally:
        stop.set()
        writer.join()


def test_the_second_snapshot_sends_what_is_new_and_prune_frees_what_only_the_first_had(grid: RunningGrid, tmp_path: Path) -> None:
    url = tmp_path / "kept"
    first = grid.json("snapshot", "create", str(url))
    objects = set((url / "objects").rglob("*"))
    second = grid.json("snapshot", "create", str(url))
    assert [found["id"] for found in grid.json("snapshot", "list", str(url))] == [first["id"], second["id"]]
    new = sum(path.stat().st_size for path in set((url / "objects").rglob("*")) - objects if path.is_file())
    assert new < second["bytes"] / 2
    assert grid.json("snapshot", "prune", str(url), "--keep", "1")["dropped"] == [first["id"]]
    assert grid.json("snapshot", "verify", str(url))["id"] == second["id"]


def test_a_flipped_bit_is_found_by_name_and_stops_a_restore(grid: RunningGrid, tmp_path: Path) -> None:
    url = tmp_path / "kept"
    grid.json("snapshot", "create", str(url))
    victim = max((path for path in (url / "objects").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.write_bytes(raw)
    for command in (("verify", str(url)), ("restore", str(url), "--data", str(tmp_path / "never"))):
        done = grid.cli("snapshot", *command)
        assert done.returncode == 1
        assert victim.name in done.stderr
    assert not (tmp_path / "never").exists()
    unknown = grid.cli("snapshot", "verify", str(url), "nope")
    assert unknown.returncode == 1
    assert "no snapshot nope" in unknown.stderr


def test_a_place_that_is_none_is_refused_by_name(grid: RunningGrid) -> None:
    done = grid.cli("snapshot", "create", "nothing-like-that://bucket/kept")
    assert done.returncode == 1
    assert "nothing-like-that" in done.stderr
