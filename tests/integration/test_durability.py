"""Crashes, retries and catalog changes of a live grid: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import profilegrid
import pytest
import yaml

from actors.spares import BARE_MAX
from tests.catalogs import EVERY_KIND
from tests.grids import RunningGrid

pytestmark = pytest.mark.crash


def test_a_shard_killed_during_ingest_loses_and_doubles_nothing(grid: RunningGrid, user: str) -> None:
    """Two producers write while both shards are killed in turn; every acknowledged event is counted exactly once."""
    ids = [f"{user}-{number}" for number in range(200)]
    sent = [0, 0]
    stop = threading.Event()

    def produce(number: int) -> None:
        with grid.client() as client:
            while not stop.is_set():
                report = client.track_many("e", user_id=ids)
                assert (report.accepted, report.rejected) == (len(ids), 0)
                sent[number] += 1

    producers = [threading.Thread(target=produce, args=(number,)) for number in range(2)]
    for producer in producers:
        producer.start()
    for shard in (0, 1, 0):
        time.sleep(1.0)
        old = grid.kill_shard(shard)
        grid.wait_until(lambda shard=shard, old=old: grid.shards()[shard]["state"] == "serving" and grid.shards()[shard]["pid"] != old)
    stop.set()
    for producer in producers:
        producer.join(60)
    with grid.client() as client:
        counts = client.get_many(ids, ["count"])["count"]
    assert sum(sent) > 0
    assert counts.tolist() == [sum(sent)] * len(ids)


def test_a_shard_that_dies_goes_on_in_a_process_that_stood_ready_and_another_takes_its_place(grid: RunningGrid, user: str) -> None:
    with grid.client() as client:
        client.track(user, "e")
        client.flush()
        ready = grid.wait_until(lambda: len(found := grid.processes("ray::IDLE")) >= 2 and found)
        for pid in [grid.kill_shard(0), grid.kill_shard(1)]:
            assert pid not in ready  # it was no spare
        assert client.get(user)["count"] == 1
    grid.wait_until(lambda: {shard["state"] for shard in grid.shards()} == {"serving"})
    assert {shard["pid"] for shard in grid.shards()} <= set(ready)
    grid.wait_until(lambda: len(grid.processes("ray::IDLE")) >= 2)
    assert len(grid.processes("ray::IDLE")) <= 2 + BARE_MAX  # Ray may have begun one of its own for a shard that died


def test_status_answers_while_a_shard_is_down_and_reads_ride_through(grid: RunningGrid, user: str) -> None:
    with grid.client() as client:
        client.track(user, "e")
        client.flush()
        pids = [shard["pid"] for shard in grid.shards()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        states = {shard["state"] for shard in grid.shards()}
        assert states <= {"down", "recovering", "serving"}
        assert client.get(user)["count"] == 1
        assert client.count("count >= 1") > 0
    grid.wait_until(lambda: all(shard["state"] == "serving" for shard in grid.shards()))


def test_a_read_of_a_shard_that_hangs_ends_in_time_and_goes_on_when_it_wakes(grid: RunningGrid, user: str) -> None:
    ids = [f"{user}-{number}" for number in range(20)]
    with grid.client(read_timeout=2.0) as client:
        client.track_many("e", user_id=ids)
        pids = [shard["pid"] for shard in grid.shards()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(profilegrid.Unavailable):
                client.get(ids[0])
            assert time.monotonic() - started < 10
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert client.get_many(ids, ["count"])["count"].tolist() == [1] * 20
        assert client.get(ids[0])["count"] == 1


@pytest.mark.parametrize("actor", ["coordinator", "controller"])
def test_control_actors_come_back_after_a_kill_and_forget_nothing(grid: RunningGrid, user: str, actor: str) -> None:
    before = grid.json("catalog", "show")
    (pid,) = grid.processes(f"ray::{actor.capitalize()}")
    os.kill(pid, signal.SIGKILL)
    with grid.client(read_timeout=60.0) as client:
        client.track(user, "e")
        assert client.flush().accepted == 1
        grid.wait_until(lambda: grid.cli("catalog", "show", "--json").returncode == 0)
        assert grid.json("catalog", "show") == before
        assert client.get(user)["count"] == 1


def _applied(grid: RunningGrid, tmp_path: Path, features: dict[str, Any], *options: str) -> Any:
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump({**EVERY_KIND, "dedupe": "1d", "features": features}, allow_unicode=True, sort_keys=False))
    return grid.cli("catalog", "apply", str(path), "--json", *options)


def test_a_catalog_applied_to_a_controller_that_has_just_come_back_is_known_to_every_shard(grid: RunningGrid, user: str) -> None:
    """It has heard of no shard yet when it is asked; they serve all the same."""
    ids = [f"{user}-{number}" for number in range(20)]
    whole = {**EVERY_KIND, "dedupe": "1d"}
    with grid.client(read_timeout=60.0) as client:
        for number in range(3):
            (pid,) = grid.processes("ray::Controller")
            os.kill(pid, signal.SIGKILL)
            name = f"after_kill_{number}"
            client.apply_catalog({**whole, "features": {**whole["features"], name: {"count": "e"}}}, force=True)
            assert name in client.get_many(ids, [name])
        client.apply_catalog(whole, force=True)


def test_a_feature_added_while_events_stream_in_counts_each_of_them_once(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    """Backfill beside live ingest: the new features equal old ones of the same definition; erased users stay out."""
    ids = [f"{user}-{number}" for number in range(100)]
    with grid.client() as client:
        for _ in range(5):
            client.track_many("e", user_id=ids, k=["a", "b"] * 50, n=[1.5] * 100)
        client.delete(ids[0])
        client.track(ids[0], "e", {"k": "reborn"})
        client.flush()
    stop = threading.Event()

    def produce() -> None:
        with grid.client() as client:
            while not stop.is_set():
                client.track_many("e", user_id=ids[1:], k=["c"] * 99, n=[2.5] * 99)

    producer = threading.Thread(target=produce)
    producer.start()
    new = {"count_2": {"count": "e"}, "sum_by_2": {"sum": "e.n", "by": "k"}, "first_2": {"first": "e.k"}, "distinct_2": {"distinct": "e.k"}}
    done = _applied(grid, tmp_path, {**EVERY_KIND["features"], **new})
    assert done.returncode == 0, done.stderr
    stop.set()
    producer.join(60)
    grid.wait_for_backfill()
    with grid.client() as client:
        table = client.get_many(ids, ["count", "count_2", "sum_by", "sum_by_2", "first", "first_2", "distinct", "distinct_2"])
        for name in ("count", "sum_by", "first", "distinct"):
            assert table[name].tolist() == table[f"{name}_2"].tolist()
        assert table["count_2"][0] == 1
        assert table["first_2"][0] == "reborn"
        assert client.count("count_2 >= 1") == client.count("count >= 1")
    grid.kill_shard(0)
    with grid.client() as client:
        assert client.get_many(ids, ["count_2"])["count_2"].tolist() == table["count"].tolist()
    assert _applied(grid, tmp_path, EVERY_KIND["features"], "--force").returncode == 0


def test_a_catalog_that_would_lose_state_wants_force_and_a_wrong_one_changes_nothing(grid: RunningGrid, tmp_path: Path) -> None:
    version = grid.json("catalog", "show")["version"]
    fewer = {name: feature for name, feature in EVERY_KIND["features"].items() if name != "window_min"}
    refused = _applied(grid, tmp_path, fewer)
    assert refused.returncode == 1
    assert "window_min" in refused.stderr
    assert "force" in refused.stderr
    wrong = _applied(grid, tmp_path, {**EVERY_KIND["features"], "a": {"count": "nothing"}, "b": {"sum": "e.c"}})
    assert wrong.returncode == 1
    assert "features.a.count: unknown event 'nothing'" in wrong.stderr
    assert "features.b.sum: e.c is category" in wrong.stderr
    assert grid.json("catalog", "show")["version"] == version


def test_a_retry_of_an_old_batch_gets_its_first_reply_again(grid: RunningGrid, user: str) -> None:
    """Also after the shard was killed in between."""
    from profilegrid.columns import events_batch

    producer = os.urandom(16)
    batch = events_batch([(user, "e", 1, {"n": 1.0}, None), (user, "e", 1, {"n": float("nan")}, None)])
    with grid.client() as client:
        first = client.deliver(batch, producer_id=producer, first_batch=1)
        assert (first.accepted, first.rejected) == (1, 1)
        again = client.deliver(batch, producer_id=producer, first_batch=1)
        for shard in (0, 1):
            grid.kill_shard(shard)
        after = client.deliver(batch, producer_id=producer, first_batch=1)
        assert first == again == after
        assert client.get(user)["count"] == 1
        with pytest.raises(profilegrid.Refused, match="SEQUENCE_TOO_OLD"):
            client.deliver(batch, producer_id=producer, first_batch=100)
            client.deliver(batch, producer_id=producer, first_batch=2)
