"""What a grid keeps of the past and what it forgets: backfill from history, erasure down to the disk, dead letters replayed."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import profilegrid
import pytest
import yaml

from tests.catalogs import EVERY_KIND
from tests.grids import RunningGrid

NOW = int(time.time() * 1000)


def apply(grid: RunningGrid, tmp_path: Path, changed: dict[str, Any], *options: str) -> Any:
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump({**EVERY_KIND, "dedupe": "1d", **changed}, allow_unicode=True, sort_keys=False))
    return grid.cli("catalog", "apply", str(path), *options, check=True)


def files_with(grid: RunningGrid, text: str) -> list[str]:
    """Files of the grid's folder that hold a text."""
    found = subprocess.run(["grep", "-rlaF", text, str(grid.folder)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_an_erased_user_is_gone_from_every_file_once_erasures_are_finished(grid: RunningGrid, user: str) -> None:
    name, secret = f"erase-me-{user}", f"secret-of-{user}"
    with grid.client() as client:
        client.track_many("e", user_id=[name, f"{user}-other"] * 50)
        client.track(name, "no-such-event")
        client.flush()
        client.set(name, note=secret)
        assert files_with(grid, name)
        assert files_with(grid, secret)
        client.delete(name)
    left = grid.json("erasures")
    assert any(erasure["due"] - erasure["erased"] == 86_400_000 for erasure in left)
    assert grid.json("erasures", "--now")["finished"] >= 1
    assert grid.json("erasures") == []
    assert files_with(grid, name) == []
    assert files_with(grid, secret) == []
    for shard in (0, 1):
        grid.kill_shard(shard)
    with grid.client() as client:
        assert not client.get(name).exists
        assert client.get(f"{user}-other")["count"] == 50


def test_a_feature_is_backfilled_from_history_when_the_log_is_gone_ties_included(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    """Of equal times `last` takes the later in the log and `first` the earlier, also when all of it is the past."""
    with grid.client() as client:
        for key in ("a", "b", "c"):
            client.track_many("e", user_id=[user], time=[NOW], k=[key])
    grid.cli("erasures", "--now", check=True)
    apply(grid, tmp_path, {"features": {**EVERY_KIND["features"], "first_3": {"first": "e.k"}, "last_3": {"last": "e.k"}, "by_3": {"count": "e", "by": "k"}}})
    with grid.client() as client:
        profile = client.get(user)
        assert (profile["first_3"], profile["last_3"], profile["by_3"]) == ("a", "c", {"a": 1, "b": 1, "c": 1})
        assert client.catalog()["complete_since"] == {}
    apply(grid, tmp_path, {}, "--force")


def test_dead_letters_are_ingested_once_more_after_a_fix_and_only_once(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    with grid.client() as client:
        report = client.track_many("late", user_id=[user] * 3, time=[NOW - 1, NOW, NOW + 1], flag=[True, False, True])
        assert [rejection.reason for rejection in report.rejections] == ["UNKNOWN_EVENT"] * 3
        client.set(user, shoe=44)
    events = {**EVERY_KIND["events"], "late": {"flag": "bool"}}
    apply(grid, tmp_path, {"events": events, "features": {**EVERY_KIND["features"], "late_true": {"count": "late", "where": "flag"}}})
    done = grid.json("deadletters", "--replay", "--reason", "UNKNOWN_EVENT")
    assert done["replayed"] == done["accepted"] + done["rejected"]
    assert done["accepted"] >= 3
    grid.json("deadletters", "--replay", "--reason", "UNKNOWN_EVENT")
    with grid.client() as client:
        assert client.get(user)["late_true"] == 2
        assert client.get(user)["count"] == 0
    mine = [letter for letter in grid.json("deadletters", "--limit", "1000") if letter["event"]["user_id"] == user]
    assert [letter["reason"] for letter in mine] == ["UNKNOWN_ATTRIBUTE"]
    assert mine[0]["event"]["properties"] == {"shoe": 44}
    apply(grid, tmp_path, {}, "--force")


@pytest.mark.filterwarnings("ignore:AS_OF_EARLY")
def test_answers_say_what_they_leave_out_and_what_they_look_ahead_of(grid: RunningGrid, user: str) -> None:
    with grid.client() as client:
        client.track_many("e", user_id=[user] * 2, time=[NOW - 10 * 3_600_000, NOW])
        early = NOW - 19 * 1_800_000
        with pytest.warns(profilegrid.AnswerWarning, match="WINDOW_NOT_HELD: window_count"):
            client.count("window_count >= 1", as_of=early)
        with pytest.warns(profilegrid.AnswerWarning, match="AS_OF_EARLY"):
            client.count("decayed_count >= 1", as_of=early)
        assert client.count_detailed("window_count >= 0")["warnings"] == []
        assert any(warning.startswith("WINDOW_NOT_HELD") for warning in client.get(user, as_of=early).warnings)
    said = grid.cli("count", "window_count >= 1", "--as-of", str(early), check=True)
    assert "WINDOW_NOT_HELD: window_count" in said.stderr


@pytest.mark.crash
def test_shards_killed_while_they_erase_and_make_history_lose_and_double_nothing(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    """Afterwards a feature built from history alone equals the one that was kept all along, and the erased stay gone."""
    ids, erased = [f"{user}-{number}" for number in range(150)], [f"{user}-gone-{number}" for number in range(5)]
    sent, stop = [0], threading.Event()

    def produce() -> None:
        with grid.client() as client:
            while not stop.is_set():
                assert client.track_many("e", user_id=ids, k=["x", "y", "z"] * 50).accepted == len(ids)
                sent[0] += 1

    def erase() -> None:
        while not stop.is_set():
            grid.cli("erasures", "--now")  # some calls meet a shard that is down

    with grid.client() as client:
        client.track_many("e", user_id=erased * 3, k=["x"] * 15)
    threads = [threading.Thread(target=produce), threading.Thread(target=erase)]
    for thread in threads:
        thread.start()
    for number, name in enumerate(erased):
        time.sleep(0.7)
        with grid.client() as client:
            client.delete(name)
        if number < 4:
            grid.kill_shard(number % 2)
            grid.wait_until(lambda number=number: grid.shards()[number % 2]["state"] == "serving")
    stop.set()
    for thread in threads:
        thread.join(60)
    grid.wait_until(lambda: grid.cli("erasures", "--now").returncode == 0 and grid.json("erasures") == [])
    assert [name for name in erased if files_with(grid, name)] == []
    apply(grid, tmp_path, {"features": {**EVERY_KIND["features"], "count_4": {"count": "e"}, "by_4": {"count": "e", "by": "k"}}})
    with grid.client() as client:
        table = client.get_many(ids, ["count", "count_4", "count_by", "by_4"])
        assert table["count"].tolist() == [sent[0]] * len(ids)
        assert table["count_4"].tolist() == table["count"].tolist()
        assert [sum(counts.values()) for counts in table["by_4"]] == table["count"].tolist()
        assert not client.get_many(erased, ["count"]).exists.any()
    apply(grid, tmp_path, {}, "--force")
