"""Partitions that move between the shards of a grid that serves: scale, drain, rebalance, with nothing lost, doubled or left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import profilegrid
import pytest

from tests.catalogs import EVERY_KIND
from tests.grids import RunningGrid, grid_of_every_kind
from tests.integration.test_snapshots import USERS, answers, fill

AT_MS = 1_700_000_000_000
AS_OF = AT_MS + 100_000
WRITTEN = [f"w{n}" for n in range(40)]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    running = grid_of_every_kind(tmp_path_factory.mktemp("moving"), "--partitions", "16")
    with running.client() as client:
        client.track_many("e", user_id=[*WRITTEN, "watched"], time=[AT_MS] * 41, c=["c1"] * 41)
        fill(client)
    yield running
    running.down()


def partitions(grid: RunningGrid) -> list[int]:
    return [shard["partitions"] for shard in grid.shards()]


class Traffic:
    """Writes to one user, reads of another, a count and a watch, again and again; what went wrong is kept."""

    def __init__(self, grid: RunningGrid) -> None:
        self.sent, self.seen, self.problems = 0, [0.0], []
        self._stopping = threading.Event()
        self._grid = grid
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._write, self._ask, self._watch)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads[:2]:
            thread.join(60)
        with self._grid.client() as client:
            client.track("watched", "e", {"c": "c1"}, time=AT_MS)  # the watch wakes up and ends
            client.flush()
        self._threads[2].join(60)

    def _guarded(self, work: Any) -> None:
        try:
            with self._grid.client() as client:
                work(client)
        except Exception as error:
            self.problems.append(repr(error))

    def _write(self, client: profilegrid.Client) -> None:
        while not self._stopping.is_set():
            assert client.track_many("e", user_id=WRITTEN, time=[AT_MS] * 40, c=["c1"] * 40).accepted == 40
            self.sent += 1
            client.track("watched", "e", {"c": "c1"}, time=AT_MS)
            client.flush()

    def _ask(self, client: profilegrid.Client) -> None:
        while not self._stopping.is_set():
            sent = self.sent
            assert client.get("w7")["count"] > sent, "a read went back behind an acknowledgement"
            assert client.count("city = 'city-3'") == len(range(3, USERS, 7))
            time.sleep(0.005)

    def _watch(self, client: profilegrid.Client) -> None:
        for profile in client.watch("watched", ["count"]):
            self.seen.append(profile["count"])
            if self._stopping.is_set():
                return


def test_shards_come_and_go_under_traffic_and_every_answer_stays_as_it_was(grid: RunningGrid) -> None:
    producer = b"m" * 16
    with grid.client(producer_id=producer) as client:
        client.track_many("e", user_id=["retried"], time=[AT_MS], c=["c1"])
        assert client.track_many("e", user_id=["refused"], time=[AT_MS], i=[0.5]).rejected == 1
        expected = answers(client, AS_OF)
    planned = grid.json("scale", "--shards", "3", "--plan")
    assert (planned["shards"], planned["partitions"], len(planned["moves"])) == (3, [6, 5, 5], 5)
    assert partitions(grid) == [8, 8]
    with Traffic(grid) as traffic:
        for arguments, then in (
            (("scale", "--shards", "3"), [6, 5, 5]),
            (("drain", "0"), [0, 8, 8]),
            (("scale", "--shards", "2"), [0, 16]),
            (("drain", "0", "--undo"), [8, 8]),
        ):
            done = grid.json(*arguments)
            assert (done["is_done"], done["moves_left"], done["problem"]) == (True, 0, None)
            assert partitions(grid) == then
    assert traffic.problems == []
    with grid.client(producer_id=producer) as client:
        assert answers(client, AS_OF) == expected
        assert client.get("w7")["count"] == 1 + traffic.sent
        assert traffic.seen == sorted(traffic.seen)
        assert 1 < traffic.seen[-1] <= client.get("watched")["count"] == traffic.sent + 2
        assert client.track_many("e", user_id=["retried"], time=[AT_MS], c=["c1"]).accepted == 1  # the same batch number again
        assert client.get("retried")["count"] == 1
    assert not (grid.folder / "shard-2").exists()
    assert [letter["event"]["user_id"] for letter in grid.json("deadletters")] == ["refused"]
    assert grid.json("deadletters", "--replay") == {"replayed": 1, "accepted": 0, "rejected": 1}
    assert [letter["event"]["user_id"] for letter in grid.json("deadletters")] == ["refused"]


def test_what_moved_survives_a_crash_of_everything_and_its_past_fills_new_features(grid: RunningGrid) -> None:
    grid.json("drain", "1")
    with grid.client() as client:
        expected = answers(client, AS_OF)
    grid.kill_everything()
    refused = grid.cli("up", "--detach", "--data", str(grid.folder), "--port", str(grid.port), "--shards", "5", targeted=False)
    assert (refused.returncode, "profilegrid scale --shards 5" in refused.stderr) == (1, True)
    grid.up()
    assert partitions(grid) == [16, 0]
    with grid.client(read_timeout=30.0) as client:
        assert answers(client, AS_OF) == expected
        catalog = {**EVERY_KIND, "features": {**EVERY_KIND["features"], "again": {"count": "e"}}}
        client.apply_catalog(catalog)
        grid.wait_for_backfill()
        table = client.get_many([f"u{n}" for n in range(USERS)], ["count", "again"])
        assert list(table["again"]) == list(table["count"])
    assert grid.json("drain", "1", "--undo")["is_done"]
    assert grid.json("rebalance")["moves_total"] == 0


def test_moves_that_are_given_up_leave_everything_where_it_is_and_go_on_when_asked_again(grid: RunningGrid) -> None:
    before = partitions(grid)
    grid.json("drain", "0", "--rate-mb", "0.001", "--no-wait")
    assert grid.json("scale")["moves_left"] > 0
    stopped = grid.json("scale", "--cancel")
    assert (stopped["moves_left"], stopped["is_done"]) == (0, True)
    assert partitions(grid) == before
    grid.wait_until(lambda: grid.json("status")["shards"][0]["state"] == "serving")
    assert grid.json("drain", "0")["is_done"]
    assert partitions(grid) == [0, 16]
    assert grid.json("drain", "0", "--undo")["is_done"]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("drain", "7"), 1, "drain: got 7, expected a shard of 0 to 1"),
        (("drain", "0", "1"), 1, "drain: got all shards, expected at most 1 of 2"),
        (("scale", "--shards", "65"), 2, "less than or equal to 64"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(grid: RunningGrid, arguments: tuple[str, ...], status: int, text: str) -> None:
    refused = grid.cli(*arguments)
    assert refused.returncode == status
    assert text in refused.stderr
