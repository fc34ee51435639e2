"""The command as a user runs it: one JSON document on stdout, exit statuses, resume, rejects."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grid.engine import Engine
from grid.storage.store import Store
from tests.grids import COMMAND, RunningGrid, free_port

HEADER = "user_id,time,event,n,c,k"


def csv_file(path: Path, user: str, rows: int) -> Path:
    lines = [HEADER, *(f"{user}-{i % 10},{1_700_000_000 + i},e,{i % 7},c{i % 3},k{i % 5}" for i in range(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_status_get_count_and_list_have_the_contracts_shapes(grid: RunningGrid, user: str) -> None:
    assert grid.json("set", user, "city=Rome", "age=7", 'hobbies=["a","b"]', "vip=true", "code=0017")["accepted"] == 1
    status = grid.json("status")
    assert {"map_version", "shards"} <= status.keys()
    assert {"id", "state", "pid", "endpoint", "partitions", "users", "memory_bytes"} <= status["shards"][0].keys()
    profile = grid.json("get", user)
    assert profile.keys() == {"user_id", "exists", "attributes", "features", "as_of", "approximate", "warnings"}
    assert profile["attributes"] == {"city": "Rome", "code": "0017", "hobbies": ["a", "b"], "age": 7, "vip": True, "born": None, "money": None, "note": None}
    assert (profile["features"]["count"], profile["features"]["min"], profile["features"]["window_by"]) == (0, None, [])
    assert grid.json("count", "city = 'Rome' AND code = '0017' AND now() > TIMESTAMP '2020-01-01'").keys() == {"count", "elapsed_ms", "as_of"}
    assert grid.json("list", "code = '0017'", "--limit", "1") == {"user_ids": [user], "next": None}
    assert grid.json("contains", "age = 7", user, "nobody") == {user: True, "nobody": False}
    assert grid.json("unset", user, "city")["accepted"] == 1
    assert grid.json("delete", user)["accepted"] == 1
    assert grid.json("get", user)["exists"] is False


def test_exit_statuses_tell_refused_from_wrong_usage(grid: RunningGrid) -> None:
    refused = grid.cli("count", "cont > 3", "--json")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "INVALID_ARGUMENT" in refused.stderr
    assert "did you mean count?" in refused.stderr
    assert grid.cli("count").returncode == 2
    assert grid.cli("ingest", "/no/such/file.csv").returncode == 2
    assert grid.cli("set", "someone", "no-equals-sign").returncode == 2
    assert grid.cli("get", "nobody-knows", "--json").returncode == 0
    unreachable = subprocess.run([*COMMAND, "status", "--target", f"127.0.0.1:{free_port()}"], capture_output=True, text=True, check=False)
    assert unreachable.returncode == 1
    assert "UNAVAILABLE" in unreachable.stderr


def test_help_says_what_every_command_does(grid: RunningGrid) -> None:
    for command in (
        "up",
        "down",
        "status",
        "ingest",
        "get",
        "set",
        "unset",
        "delete",
        "watch",
        "count",
        "list",
        "export",
        "contains",
        "sample",
        "explain",
        "deadletters",
    ):
        done = grid.cli(command, "--help")
        assert done.returncode == 0
        assert len(done.stdout) > 200, command


@pytest.mark.parametrize("form", ["csv", "csv.gz", "tsv", "jsonl", "parquet"])
def test_files_of_every_form_come_in_alike(grid: RunningGrid, user: str, tmp_path: Path, form: str) -> None:
    path = csv_file(tmp_path / "events.csv", user, 50)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    target = tmp_path / f"in.{form}"
    if form == "csv.gz":
        target.write_bytes(gzip.compress(path.read_bytes()))
    elif form == "tsv":
        target.write_text(path.read_text().replace(",", "\t"))
    elif form == "jsonl":
        target.write_text("".join(json.dumps({**row, "time": int(row["time"]), "n": float(row["n"])}) + "\n" for row in rows))
    elif form == "parquet":
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns["time"] = [int(value) for value in columns["time"]]
        columns["n"] = [float(value) for value in columns["n"]]
        pq.write_table(pa.table(columns), target)
    else:
        target = path
    result = grid.json("ingest", str(target))
    assert {key: result[key] for key in ("accepted", "rejected", "duplicates")} == {"accepted": 50, "rejected": 0, "duplicates": 0}
    features = grid.json("get", f"{user}-3", "--as-of", "1700000060000")["features"]
    assert (features["count"], features["sum"], features["first_time"]) == (5, 3 + 6 + 2 + 5 + 1, 1_700_000_003_000)


def test_bad_rows_end_in_the_reject_file_with_their_line_numbers(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    path = tmp_path / "dirty.csv"
    path.write_text(
        f"{HEADER}\n{user},1700000000,e,1,c,k\n,1700000000,e,1,c,k\n{user},not a time,e,1,c,k\n{user},1700000000,nothing,1,c,k\n"
        f'{user},1700000000,e,many,"two\nlines",k\n{user},1700000000,e,2,c,k\n'
    )
    done = grid.cli("ingest", str(path), "--time-unit", "s", "--json", check=True)
    assert json.loads(done.stdout)["rejected"] == 4
    rejects = list(csv.DictReader((tmp_path / "dirty.csv.rejects.csv").open()))
    assert [(int(r["line"]), r["reason"], r["field"]) for r in rejects] == [
        (3, "USER_ID_MISSING", "user_id"), (4, "TIME_OUT_OF_RANGE", "time"), (5, "UNKNOWN_EVENT", "event"), (6, "WRONG_TYPE", "n"),
    ]  # fmt: skip
    assert grid.json("get", user)["features"]["sum"] == 3
    letters = grid.json("deadletters", "--limit", "4")
    assert {letter["reason"] for letter in letters} == {"USER_ID_MISSING", "TIME_OUT_OF_RANGE", "UNKNOWN_EVENT", "WRONG_TYPE"}
    assert letters[0].keys() == {"time", "reason", "field", "value", "expected", "event"}


def test_expressions_make_events_and_properties_out_of_columns(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(
        f"who;when;no;quantity;unit price\n{user};2023-11-14 22:13:20;A1;2;1.5\n{user};2023-11-14 22:13:21;C2;-1;4\n{user};2023-11-14 22:13:22;A3;;4\n"
    )
    result = grid.json(
        "ingest", str(path), "--user", "who", "--time", "when", "--timezone", "America/New_York",
        "--event", "CASE WHEN no LIKE 'C%' THEN 'f' ELSE 'e' END", "--map", 'n=quantity * "unit price"', "--map", "c=lower(no)",
    )  # fmt: skip
    assert result["accepted"] == 3
    features = grid.json("get", user)["features"]
    assert (features["count"], features["sum"], features["count_both"], features["count_by"]) == (2, 3.0, 3, {"a1": 1, "a3": 1})
    assert features["first_time"] == 1_700_018_000_000
    wrong = grid.cli("ingest", str(path), "--user", "whoo", "--time", "when")
    assert wrong.returncode == 1
    assert "did you mean who?" in wrong.stderr


def test_an_interrupted_ingest_goes_on_and_counts_nothing_twice(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    rows = 400_000
    path = csv_file(tmp_path / "long.csv", user, rows)
    command = [*COMMAND, "ingest", str(path), "--target", grid.target, "--json"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    state = tmp_path / "long.csv.ingest.json"
    grid.wait_until(lambda: state.exists() and json.loads(state.read_text())["chunks"] >= 3)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not json.loads(state.read_text())["is_done"], "it was over before it was interrupted"
    result = grid.json("ingest", str(path))
    assert result["accepted"] == rows
    counts = [grid.json("get", f"{user}-{i}", "--field", "count")["features"]["count"] for i in range(3)]
    assert counts == [rows // 10] * 3
    assert grid.json("ingest", str(path))["accepted"] == rows
    assert grid.json("get", f"{user}-0", "--field", "count")["features"]["count"] == rows // 10


def test_attributes_come_in_typed_by_the_catalog(grid: RunningGrid, user: str, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"id,city,age,vip,born,hobbies,code\n{user},Rome,33,yes,1990-05-17,chess;camping,007\n{user}-2,,old,no,,,8\n")
    result = grid.json("ingest", str(path), "--attributes", "--user", "id")
    assert (result["accepted"], result["rejected"]) == (1, 1)
    found = grid.json("get", user)["attributes"]
    assert (found["city"], found["age"], found["vip"], found["born"], found["hobbies"], found["code"]) == (
        "Rome", 33, True, 642_902_400_000, ["camping", "chess"], "007",
    )  # fmt: skip


def test_up_says_in_one_sentence_what_is_in_the_way(grid: RunningGrid, tmp_path: Path) -> None:
    taken = grid.cli("up", "--data", str(tmp_path / "new"), "--port", str(grid.port), targeted=False)
    assert taken.returncode == 1
    assert f"port {grid.port} on 127.0.0.1 is taken" in taken.stderr
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letters.txt").write_text("not a grid")
    assert "is not empty and holds no grid" in grid.cli("up", "--data", str(foreign), "--port", str(free_port()), targeted=False).stderr
    (foreign / "GRID").write_text("99")
    assert "has data of format 99" in grid.cli("up", "--data", str(foreign), "--port", str(free_port()), targeted=False).stderr
    second = grid.cli("up", "--data", str(grid.folder), "--port", str(free_port()), targeted=False)
    assert "is served already" in second.stderr


def test_the_readmes_code_runs_and_down_drains_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    code = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    before = set(Path(tempfile.gettempdir()).glob("pg-*"))
    own = RunningGrid(tmp_path / "data", "--shards", "1", "--partitions", "8").up()
    try:
        monkeypatch.chdir(root)
        exec(code[1].replace("127.0.0.1:7600", own.target), {})
    finally:
        own.down()
    interest, count = capsys.readouterr().out.splitlines()
    assert interest.startswith("{'shoes': 0.99")
    assert count == "1"
    assert not set(Path(tempfile.gettempdir()).glob("pg-*")) - before
    engine = Engine(partitions=8)
    engine.epochs[:] = 1
    store = Store(tmp_path / "data" / "shard-0", engine)
    recovery = store.recover()
    store.close()
    assert (recovery.users, recovery.groups, recovery.stopped) == (1, 0, {}), "a clean stop leaves nothing to replay"
