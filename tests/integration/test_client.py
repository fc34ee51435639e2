"""The sync and the async client through one suite: every test runs with both."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import profilegrid
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap64

from tests.grids import RunningGrid

NOW = int(time.time() * 1000)


class Driver:
    """Calls a client of either kind the same way."""

    def __init__(self, kind: str, target: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop() if kind == "async" else None
        self.raw: Any = profilegrid.AsyncClient(target, **options) if self._loop else profilegrid.Client(target, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.raw, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if self._loop is None:
                return result
            if hasattr(result, "__aiter__"):
                return self._pulled(result)
            return self._loop.run_until_complete(result)

        return call

    def _pulled(self, items: Any) -> Iterator[Any]:
        assert self._loop is not None
        try:
            while True:
                yield self._loop.run_until_complete(anext(items))
        except StopAsyncIteration:
            return

    def together(self, calls: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Several calls at the same time."""
        if self._loop is None:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(len(calls)) as pool:
                return list(pool.map(lambda call: getattr(self.raw, call[0])(*call[1]), calls))

        async def gather() -> list[Any]:
            return list(await asyncio.gather(*(getattr(self.raw, name)(*args) for name, args in calls)))

        return self._loop.run_until_complete(gather())


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, grid: RunningGrid) -> Iterator[Driver]:
    driver = Driver(request.param, grid.target)
    yield driver
    driver.close()


@pytest.fixture
def me(request: pytest.FixtureRequest, user: str) -> str:
    return f"{user}-{request.node.callspec.params['client']}"


def test_what_was_tracked_and_flushed_is_read_back(client: Driver, me: str) -> None:
    client.track(me, "e", {"n": 2.5, "c": "shoes", "k": "sku-1", "i": 3, "b": True})
    client.track(me, "e", {"n": -1.0, "c": "hats"}, time=NOW - 1000)
    report = client.flush()
    assert (report.accepted, report.rejected, report.duplicates) == (2, 0, 0)
    profile = client.get(me)
    assert profile.exists
    assert (profile["count"], profile["sum"], profile["min"], profile["max"]) == (2, 1.5, -1.0, 2.5)
    assert profile["last"] == "shoes"
    assert profile["count_by"] == {"shoes": 1, "hats": 1}
    assert profile["top_by"] == [{"key": "sku-1", "value": 1}]
    assert profile["first_bool"] is True
    assert profile["last_time"] is None


def test_an_unknown_user_reads_as_empty(client: Driver, me: str) -> None:
    profile = client.get(me)
    assert not profile.exists
    assert (profile["count"], profile["min"], profile["hobbies"], profile["count_by"]) == (0, None, set(), {})


def test_attributes_are_set_unset_and_typed(client: Driver, me: str) -> None:
    client.set(me, city="上海", hobbies={"camping", "chess"}, age=33, vip=False, born=NOW, money=1.5, note="a 'note'", code="c-1")
    assert client.get(me).attributes == {
        "city": "上海", "code": "c-1", "hobbies": {"camping", "chess"}, "age": 33, "vip": False, "born": NOW, "money": 1.5, "note": "a 'note'",
    }  # fmt: skip
    client.unset(me, "note", "hobbies")
    client.set(me, age=None)
    after = client.get(me, ["note", "hobbies", "age", "city"])
    assert dict(after) == {"note": None, "hobbies": set(), "age": None, "city": "上海"}


@pytest.mark.parametrize("form", ["lists", "numpy", "arrow", "pandas", "polars"])
def test_columns_of_every_kind_come_in_and_missing_values_feed_nothing(client: Driver, me: str, form: str) -> None:
    ids, ns, cs = [f"{me}-{form}-{i}" for i in range(6)], [1.0, 2.0, None, 4.0, 5.0, 6.0], ["x", None, "y", "x", "y", "x"]
    columns: dict[str, Any] = {"user_id": ids, "n": ns, "c": cs}
    if form == "numpy":
        columns = {"user_id": np.array(ids), "c": np.array(cs, dtype=object), "n": np.array(ns, dtype=object)}
    if form == "arrow":
        columns = {name: pa.array(values) for name, values in columns.items()}
    if form == "pandas":
        columns = dict(pd.DataFrame(columns).items())
    if form == "polars":
        columns = {name: pl.Series(values) for name, values in columns.items()}
    report = client.track_many("e", time=NOW, **columns)
    assert (report.accepted, report.rejected) == (6, 0)
    table = client.get_many(ids, ["sum", "last", "count"])
    assert table["sum"].tolist() == [1.0, 2.0, 0.0, 4.0, 5.0, 6.0]
    assert table["last"].tolist() == cs
    assert table["count"].tolist() == [1] * 6


def test_a_table_goes_to_arrow_and_pandas_in_the_order_asked_for(client: Driver, me: str) -> None:
    client.set_many(user_id=[f"{me}-1", f"{me}-2"], age=[1, None], hobbies=[{"a"}, set()])
    table = client.get_many([f"{me}-2", "nobody-at-all", f"{me}-1"])
    assert table.exists.tolist() == [True, False, True]
    frame = table.to_pandas()
    assert frame["user_id"].tolist() == [f"{me}-2", "nobody-at-all", f"{me}-1"]
    assert frame["age"].tolist()[2] == 1
    assert np.isnan(frame["age"].tolist()[0])
    assert table.to_arrow()["hobbies"].to_pylist() == [[], [], ["a"]]


def test_arrow_and_numpy_say_the_same_of_every_field(client: Driver, me: str) -> None:
    ids = [f"{me}-{number}" for number in range(40)]
    client.set_many(user_id=ids[::3], hobbies=[{"b", "a", "c"}] * 14, city=["Rome"] * 14, born=[NOW] * 14, vip=[True] * 14, note=["n"] * 14)
    for key in ("x", "y", "z", "y"):
        client.track_many("e", user_id=ids[::2], time=[NOW] * 20, k=[key] * 20, c=[key] * 20, n=[1.5] * 20, i=[7] * 20, b=[True] * 20)
    table = client.get_many([*ids, "nobody-there"])
    arrow = table.to_arrow()
    assert arrow["user_id"].to_pylist() == [*ids, "nobody-there"]
    assert arrow.column_names[1:] == list(table)
    for name, values in table.items():
        ours = [None if value is np.ma.masked else value for value in values.tolist()] if values.dtype != object else values.tolist()
        theirs = arrow[name].to_pylist()
        if pa.types.is_timestamp(arrow[name].type):
            theirs = arrow[name].cast(pa.int64()).to_pylist()
        if pa.types.is_map(arrow[name].type):
            theirs = [dict(entries) for entries in theirs]
        if any(isinstance(value, set) for value in ours):
            ours = [sorted(value) for value in ours]
        assert theirs == ours, name


def test_each_bad_row_is_told_with_its_reason_and_the_good_ones_are_kept(client: Driver, me: str) -> None:
    ids = [f"{me}-{i}" for i in range(4)] + ["", "x" * 257]
    report = client.track_many("e", user_id=ids, n=[1.0, float("nan"), float("inf"), 2.0, 3.0, 4.0])
    assert report.accepted == 2
    assert [(r.row, r.reason, r.field) for r in report.rejections] == [
        (1, "NOT_FINITE", "n"), (2, "NOT_FINITE", "n"), (4, "USER_ID_MISSING", "user_id"), (5, "USER_ID_TOO_LONG", "user_id"),
    ]  # fmt: skip
    assert not client.get(ids[1]).exists
    assert client.get(ids[3])["count"] == 1


@pytest.mark.parametrize(
    ("event", "properties", "time_ms", "reason", "field"),
    [
        ("nothing", {}, NOW, "UNKNOWN_EVENT", "event"),
        ("e", {"nothing": 1}, NOW, "UNKNOWN_PROPERTY", "nothing"),
        ("f", {"k": "of e only"}, NOW, "UNKNOWN_PROPERTY", "k"),
        ("e", {"n": "three"}, NOW, "WRONG_TYPE", "n"),
        ("e", {"i": 1.5}, NOW, "WRONG_TYPE", "i"),
        ("e", {"i": 2**70}, NOW, "WRONG_TYPE", "i"),
        ("e", {"c": 1.5}, NOW, "WRONG_TYPE", "c"),
        ("e", {"b": 1}, NOW, "WRONG_TYPE", "b"),
        ("e", {"n": float("-inf")}, NOW, "NOT_FINITE", "n"),
        ("e", {}, NOW + 86_400_000, "TIME_IN_FUTURE", "time"),
        ("e", {}, -(10**13), "TIME_OUT_OF_RANGE", "time"),
    ],
)
def test_a_bad_event_is_refused_with_its_reason(client: Driver, me: str, event: str, properties: Any, time_ms: int, reason: str, field: str) -> None:
    client.track(me, event, properties, time=time_ms)
    report = client.flush()
    assert [(r.reason, r.field) for r in report.rejections] == [(reason, field)]
    assert not client.get(me).exists
    letter = client.dead_letters(1)[0]
    assert (letter.reason, letter.field) == (reason, field)


def test_values_that_no_column_holds_are_refused_at_the_call(client: Driver, me: str) -> None:
    with pytest.raises(TypeError, match="n: got"):
        client.track(me, "e", {"n": {"nested": 1}})
    with pytest.raises(TypeError, match="user_id"):
        client.track(1.5, "e")
    with pytest.raises(ValueError, match="as many as user_id"):
        client.track_many("e", user_id=[me, me], n=[1.0])


def test_a_repeated_event_id_counts_once_whoever_sends_it(client: Driver, me: str, grid: RunningGrid) -> None:
    first = client.track_many("e", user_id=[me, me, me], event_id=[f"{me}-1", f"{me}-1", f"{me}-2"])
    assert (first.accepted, first.duplicates) == (2, 1)
    with grid.client() as other:
        again = other.track_many("e", user_id=[me, me], event_id=[f"{me}-2", f"{me}-3"])
    assert (again.accepted, again.duplicates) == (1, 1)
    assert client.get(me)["count"] == 3


def test_audiences_are_counted_listed_sampled_tested_and_handed_out(client: Driver, me: str) -> None:
    ids = [f"{me}-{i}" for i in range(500)]
    city = f"city-{me}"
    client.set_many(user_id=ids, city=[city] * 500, age=list(range(500)))
    rule = f"city = '{city}' AND age >= 100"
    assert client.count(rule) == 400
    listed = list(client.members(rule, page_size=37))
    assert sorted(listed) == sorted(ids[100:])
    assert client.contains(rule, [ids[0], ids[100], "nobody"]) == {ids[0]: False, ids[100]: True, "nobody": False}
    drawn = client.sample(rule, 10, seed=3)
    assert len(set(drawn)) == 10
    assert set(drawn) <= set(listed)
    assert client.sample(rule, 10, seed=3) == drawn
    blob = client.bitmap(rule)
    assert len(BitMap64.deserialize(blob)) == 400
    assert client.count(f"city = '{city}' AND age < 150", within=blob) == 50
    assert client.count(f"city = '{city}'", within=(BitMap64.deserialize(blob) & BitMap64()).serialize()) == 0
    with pytest.raises(profilegrid.InvalidRequest, match="within"):
        client.count(rule, within=blob[:-1])
    explained = client.explain(rule)
    assert explained["matched"] == 400
    assert explained["clauses"][0]["matched"] == 500
    assert any("IS NULL" in hint for hint in explained["hints"])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".txt"])
def test_an_audience_is_exported_whole(client: Driver, me: str, suffix: str, tmp_path: Any) -> None:
    ids = [f"{me}-{i}" for i in range(50)]
    client.set_many(user_id=ids, city=[f"exported-{me}{suffix}"] * 50)
    path = tmp_path / f"out{suffix}"
    assert client.export(f"city = 'exported-{me}{suffix}'", path) == 50
    if suffix == ".parquet":
        assert sorted(pq.read_table(path)["user_id"].to_pylist()) == sorted(ids)
    else:
        assert all(user_id in path.read_text() for user_id in ids)
    assert not path.with_name(path.name + ".part").exists()


def test_a_wrong_rule_is_refused_with_position_and_suggestion(client: Driver) -> None:
    with pytest.raises(profilegrid.InvalidRequest, match="error at 1:1: unknown name cont; did you mean count") as caught:
        client.count("cont > 3")
    assert caught.value.reason == "RULE_INVALID"
    with pytest.raises(profilegrid.InvalidRequest, match="UNKNOWN_FIELD"):
        client.get("anyone", ["cont"])
    with pytest.raises(profilegrid.InvalidRequest, match="page_token"):
        client.list("count > 3", page_token="nonsense")


@pytest.mark.filterwarnings("ignore:AS_OF_EARLY")
def test_reads_and_counts_as_of_a_time_see_windows_and_decay_of_that_time(client: Driver, me: str) -> None:
    client.track_many("e", user_id=[me, me], time=[NOW - 7_200_000, NOW - 60_000])
    client.set(me, city=f"asof-{me}")
    assert client.get(me, ["window_count"], as_of=NOW)["window_count"] == 1
    assert client.get(me, ["decayed_count"], as_of=NOW - 60_000)["decayed_count"] == pytest.approx(1 + 2 ** (-7_140_000 / 3_600_000))
    early = client.get(me, as_of=NOW - 7_200_000)
    assert early["window_count"] is None
    assert any(warning.startswith("AS_OF_EARLY") for warning in early.warnings)
    assert client.count(f"city = 'asof-{me}' AND window_count = 1", as_of=NOW) == 1
    assert client.count(f"city = 'asof-{me}' AND window_count = 1", as_of=NOW + 7_200_000) == 0


def test_an_erased_user_does_not_exist_and_starts_anew(client: Driver, me: str) -> None:
    client.track(me, "e", {"k": "kept"})
    client.set(me, city="Rome")
    client.delete(me)
    assert not client.get(me).exists
    client.track(me, "e")
    client.flush()
    profile = client.get(me)
    assert (profile["count"], profile["first"], profile["city"]) == (1, None, None)


def test_a_watcher_sees_the_profile_now_and_after_each_change(client: Driver, me: str, grid: RunningGrid) -> None:
    changes = client.watch(me, ["count", "city"])
    assert dict(next(changes)) == {"city": None, "count": 0}
    with grid.client() as other:
        other.track(me, "e")
        other.flush()
        assert next(changes)["count"] == 1
        other.set(me, city="Oslo")
        assert next(changes)["city"] == "Oslo"
    changes.close()


def test_many_reads_at_once_are_each_answered(client: Driver, me: str) -> None:
    client.track_many("e", user_id=[f"{me}-{i}" for i in range(64) for _ in range(i % 5)])
    profiles = client.together([("get", (f"{me}-{i}", ["count"])) for i in range(64)])
    assert [profile["count"] for profile in profiles] == [i % 5 for i in range(64)]


def test_a_wrong_read_among_others_fails_alone(client: Driver, me: str) -> None:
    client.track_many("e", user_id=[me])
    with pytest.raises(profilegrid.InvalidRequest, match="did you mean count"):
        client.get(me, ["cuont"])
    answers = client.together([("get", (me, ["count"])), ("get", (me, ["sum"])), ("get_many", ([me, "nobody"], ["count"]))])
    assert [dict(answers[0]), dict(answers[1])] == [{"count": 1}, {"sum": 0.0}]
    assert answers[2]["count"].tolist() == [1, 0]
    assert answers[2].user_ids == [me, "nobody"]


def test_a_profile_is_a_dict_that_knows_its_answer(client: Driver, me: str) -> None:
    client.set(me, city="Rome")
    profile = client.get(me, as_of=NOW)
    assert isinstance(profile, dict)
    assert (profile.user_id, profile.exists, profile.as_of) == (me, True, NOW)
    assert {**profile.attributes, **profile.features} == dict(profile)
    assert "city" in profile.attributes
    assert "count" in profile.features


def test_closing_sends_what_is_buffered_and_then_refuses(grid: RunningGrid, user: str) -> None:
    for kind in ("sync", "async"):
        driver = Driver(kind, grid.target, track_delay=60.0)
        driver.track(user, "e")
        driver.close()
        with pytest.raises(profilegrid.ClientClosed):
            driver.get(user)
    with grid.client() as reader:
        assert reader.get(user)["count"] == 2


def test_a_client_says_so_in_a_forked_child(grid: RunningGrid) -> None:
    with grid.client() as client:
        client.get("anyone")
        child = os.fork()
        if child == 0:
            try:
                client.get("anyone")
            except profilegrid.ClientClosed:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
