"""The real data sets through the command, compared with a short pandas script: features as of the file's end, five audiences each."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.grids import RunningGrid

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PROFILEGRID_DATA", "/nowhere"))
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="PROFILEGRID_DATA names no folder")
DAY = 86_400_000


class Ingested:
    """A data set in a grid of its own, by the commands of its example."""

    def __init__(self, name: str, folder: Path) -> None:
        self.grid = RunningGrid(folder / "data").up()
        self.state = folder / "state"
        environment = {**os.environ, "PROFILEGRID_TARGET": self.grid.target, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [str(ROOT / "examples" / name / "ingest.sh"), "--state", str(self.state)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.said = done.stdout

    def table(self, ids: list[str], fields: list[str], as_of: int) -> Any:
        with self.grid.client() as client:
            return client.get_many(ids, fields, as_of=as_of)

    def audience(self, rule: str, as_of: int) -> set[str]:
        with self.grid.client(read_timeout=60.0) as client:
            members = set(client.members(rule, as_of=as_of))
            assert client.count(rule, as_of=as_of) == len(members)
            return members


def ingested(name: str, factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    one = Ingested(name, factory.mktemp(name))
    yield one
    one.grid.down()


def local_day(times: pd.Series, zone: str) -> pd.Series:
    """Day number of ms times on a clock in `zone`."""
    moments = pd.to_datetime(times, unit="ms", utc=True).dt.tz_convert(zone).dt.tz_localize(None)
    return (moments - pd.Timestamp("1970-01-01")).dt.days


def last_days(frame: pd.DataFrame, as_of: int, days: int, zone: str) -> pd.DataFrame:
    """Rows in the window of day hops that ends at `as_of`."""
    now = int(local_day(pd.Series([as_of]), zone)[0])
    return frame[(frame["day"] > now - days) & (frame["day"] <= now)]


def decayed(frame: pd.DataFrame, as_of: int, half_life: int, weights: Any = 1.0) -> pd.Series:
    return (weights * np.exp2((frame["time"] - as_of) / half_life)).groupby(frame["user"]).sum()


def decayed_by(frame: pd.DataFrame, key: str, as_of: int, half_life: int) -> pd.Series:
    """Decayed counts of each user and key."""
    weights = pd.Series(np.exp2((frame["time"] - as_of) / half_life), index=frame.index)
    return weights.groupby([frame["user"], frame[key]]).sum()


def top(series: pd.Series, count: int) -> dict[str, list[tuple[str, float]]]:
    """Best keys of each user, of a series indexed by (user, key)."""
    frame = series.rename("value").reset_index()
    frame.columns = ["user", "key", "value"]
    frame = frame.sort_values(["user", "value", "key"], ascending=[True, False, True])
    return {user: list(zip(g["key"], g["value"], strict=True))[:count] for user, g in frame.groupby("user")}


def assert_column(table: Any, name: str, ids: list[str], expected: pd.Series, empty: Any = 0) -> None:
    """A numeric column equals a pandas series, users without rows having `empty`."""
    wanted = expected.reindex(ids)
    ours = table[name]
    for user, got, want in zip(ids, ours.tolist(), wanted.tolist(), strict=True):
        if want is None or pd.isna(want):
            assert got == empty, (name, user, got)
        elif isinstance(want, str):
            assert got == want, (name, user, got, want)
        else:
            assert got == pytest.approx(want, rel=1e-9, abs=1e-9), (name, user, got, want)


def assert_top(table: Any, name: str, ids: list[str], expected: dict[str, list[tuple[str, float]]]) -> None:
    """Ranked entries: values equal in order; keys equal too, except between values that differ only by rounding."""
    for user, got in zip(ids, table[name], strict=True):
        want = expected.get(user, [])
        assert [entry["value"] for entry in got] == pytest.approx([value for _, value in want], rel=1e-9), (name, user)
        distinct = {round(value, 9) for _, value in want}
        if len(distinct) == len(want):
            assert [entry["key"] for entry in got][:-1] == [key for key, _ in want][:-1], (name, user)


# --- online retail -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def retail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    yield from ingested("online_retail", tmp_path_factory)


@pytest.fixture(scope="module")
def retail_lines() -> pd.DataFrame:
    raw = pd.read_csv(DATA / "online_retail_2010_2011.csv.gz", dtype={"InvoiceNo": str, "StockCode": str, "CustomerID": str}, keep_default_na=False)
    raw["time"] = (
        pd.to_datetime(raw["InvoiceDate"]).dt.tz_localize("Europe/London").dt.tz_convert("UTC").dt.tz_localize(None) - pd.Timestamp("1970-01-01")
    ) // pd.Timedelta("1ms")
    raw["kind"] = np.where(raw["InvoiceNo"].str.startswith("C"), "cancel", np.where(raw["InvoiceNo"].str.startswith("A"), "adjustment", "purchase"))
    raw["amount"] = raw["Quantity"] * raw["UnitPrice"]
    raw["user"] = raw["CustomerID"]
    raw["day"] = local_day(raw["time"], "Europe/London")
    return raw


def test_retail_lines_without_a_customer_end_in_the_reject_file_with_their_line_numbers(retail: Ingested, retail_lines: pd.DataFrame) -> None:
    with (retail.state / "online_retail_2010_2011.csv.gz.rejects.csv").open() as file:
        rejects = list(csv.DictReader(file))
    wrong = retail_lines[(retail_lines["user"] == "") | (retail_lines["kind"] == "adjustment")]
    events = rejects if len(rejects) == len(wrong) else rejects[: len(wrong)]
    assert sorted(int(reject["line"]) for reject in events) == sorted((wrong.index + 2).tolist())
    assert {reject["reason"] for reject in events} <= {"USER_ID_MISSING", "UNKNOWN_EVENT"}


def test_retail_features_equal_pandas(retail: Ingested, retail_lines: pd.DataFrame) -> None:
    known = retail_lines[(retail_lines["user"] != "") & (retail_lines["kind"] != "adjustment")]
    as_of = int(known["time"].max())
    bought, cancelled = known[known["kind"] == "purchase"], known[known["kind"] == "cancel"]
    ids = sorted(known["user"].unique())
    table = retail.table(ids, [], as_of)
    assert table.exists.all()
    by = bought.groupby("user")
    assert_column(table, "purchases", ids, by.size())
    assert_column(table, "cancels", ids, cancelled.groupby("user").size())
    assert_column(table, "spend", ids, by["amount"].sum())
    assert_column(table, "refunds", ids, cancelled.groupby("user")["amount"].sum())
    assert_column(table, "dearest", ids, by["UnitPrice"].max(), None)
    assert_column(table, "fewest", ids, by["Quantity"].min(), None)
    assert_column(table, "heat", ids, decayed(bought, as_of, 30 * DAY))
    assert_column(table, "money_heat", ids, decayed(bought, as_of, 30 * DAY, bought["amount"]))
    month = last_days(bought, as_of, 30, "Europe/London")
    assert_column(table, "lines_30d", ids, month.groupby("user").size())
    assert_column(table, "spend_30d", ids, month.groupby("user")["amount"].sum())
    assert_column(table, "big_30d", ids, month[month["amount"] >= 50].groupby("user").size())
    assert_column(table, "items_30d", ids, month.groupby("user")["StockCode"].nunique())
    orders = by["InvoiceNo"].nunique()
    assert orders.max() <= 256, "beyond that distinct is a sketch"
    assert_column(table, "orders", ids, orders)
    assert_column(table, "first_seen", ids, known.groupby("user")["time"].min())
    assert_column(table, "last_seen", ids, known.groupby("user")["time"].max())
    assert_column(table, "first_item", ids, bought.sort_values("time", kind="stable").groupby("user")["StockCode"].first(), None)
    assert_column(table, "last_item", ids, bought.sort_values("time", kind="stable").groupby("user")["StockCode"].last(), None)
    assert_column(table, "active_days", ids, last_days(bought, as_of, 90, "Europe/London").groupby("user")["day"].nunique())
    assert_top(table, "top_items", ids, top(bought.groupby(["user", "StockCode"]).size(), 3))
    assert_top(table, "item_heat", ids, top(decayed_by(bought, "StockCode", as_of, 90 * DAY), 3))


def test_retail_audiences_equal_pandas(retail: Ingested, retail_lines: pd.DataFrame) -> None:
    known = retail_lines[(retail_lines["user"] != "") & (retail_lines["kind"] != "adjustment")]
    as_of = int(known["time"].max())
    bought = known[known["kind"] == "purchase"]
    users = pd.DataFrame(index=sorted(known["user"].unique()))
    users["country"] = known.groupby("user")["Country"].last()
    users["purchases"] = bought.groupby("user").size()
    users["cancels"] = known[known["kind"] == "cancel"].groupby("user").size()
    month = last_days(bought, as_of, 30, "Europe/London")
    users["spend_30d"] = month.groupby("user")["amount"].sum()
    users["last_seen"] = known.groupby("user")["time"].max()
    users["dearest"] = bought.groupby("user")["UnitPrice"].max()
    item = bought[bought["StockCode"] == "85123A"]
    users["hearts"] = decayed(item, as_of, 90 * DAY)
    users[["purchases", "cancels", "spend_30d", "hearts"]] = users[["purchases", "cancels", "spend_30d", "hearts"]].fillna(0)
    expected = {
        "country = 'Germany' AND purchases >= 100": (users["country"] == "Germany") & (users["purchases"] >= 100),
        "spend_30d > 1000 AND cancels = 0": (users["spend_30d"] > 1000) & (users["cancels"] == 0),
        "item_heat['85123A'] > 0.5 AND NOT country IN ('United Kingdom', 'France')": (users["hearts"] > 0.5)
        & ~users["country"].isin(["United Kingdom", "France"]),
        "now() - last_seen > INTERVAL '180' DAY OR dearest >= 500": (as_of - users["last_seen"] > 180 * DAY) | (users["dearest"] >= 500),
        "country LIKE 'S%' AND purchases / (cancels + 1) BETWEEN 10 AND 50": users["country"].str.startswith("S")
        & (users["purchases"] / (users["cancels"] + 1)).between(10, 50),
    }
    for rule, mask in expected.items():
        assert mask.sum() > 0, rule
        assert retail.audience(rule, as_of) == set(users.index[mask]), rule


# --- complete journey --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    yield from ingested("complete_journey", tmp_path_factory)


def test_grocery_features_and_audiences_equal_pandas(journey: Ingested) -> None:
    zone = "America/New_York"
    lines = pd.read_csv(DATA / "complete_journey_transactions_sample.csv.gz", dtype={"household_id": str, "store_id": str, "basket_id": str, "product_id": str})
    lines["time"] = (pd.to_datetime(lines["transaction_timestamp"]).dt.tz_localize(None) - pd.Timestamp("1970-01-01")) // pd.Timedelta("1ms")
    lines["user"] = lines["household_id"]
    lines["day"] = local_day(lines["time"], zone)
    redeemed = pd.read_csv(DATA / "complete_journey_coupon_redemptions.csv.gz", dtype=str).rename(columns={"household_id": "user"})
    people = pd.read_csv(DATA / "complete_journey_demographics.csv.gz", dtype=str, keep_default_na=False).set_index("household_id")
    as_of = int(lines["time"].max())
    ids = sorted(set(lines["user"]) | set(redeemed["user"]))
    table = journey.table(ids, [], as_of)
    by = lines.groupby("user")
    assert_column(table, "lines", ids, by.size())
    assert_column(table, "spend", ids, by["sales_value"].sum())
    assert_column(table, "dearest", ids, by["sales_value"].max(), None)
    assert_column(table, "spend_heat", ids, decayed(lines, as_of, 30 * DAY, lines["sales_value"]))
    assert_column(table, "spend_30d", ids, last_days(lines, as_of, 30, zone).groupby("user")["sales_value"].sum())
    assert_column(table, "lines_90d", ids, last_days(lines, as_of, 90, zone).groupby("user").size())
    assert_column(table, "couponed", ids, lines[lines["coupon_disc"] > 0].groupby("user").size())
    assert_column(table, "baskets", ids, by["basket_id"].nunique())
    assert_column(table, "redemptions", ids, redeemed.groupby("user").size())
    assert_column(table, "campaigns", ids, redeemed.groupby("user")["campaign_id"].nunique())
    assert_column(table, "first_seen", ids, by["time"].min(), None)
    assert_column(table, "last_seen", ids, by["time"].max(), None)
    assert_column(table, "last_product", ids, lines.sort_values("time", kind="stable").groupby("user")["product_id"].last(), None)
    assert_column(table, "active_days", ids, last_days(lines, as_of, 30, zone).groupby("user")["day"].nunique())
    assert_column(table, "age", ids, people["age"], None)
    assert_top(table, "top_stores", ids, top(lines.groupby(["user", "store_id"]).size(), 3))
    assert_top(table, "store_heat", ids, top(decayed_by(lines, "store_id", as_of, 60 * DAY), 3))
    users = pd.DataFrame(index=ids).join(people)
    users["lines"], users["spend"] = by.size(), by["sales_value"].sum()
    users["month"] = last_days(lines, as_of, 30, zone).groupby("user")["sales_value"].sum()
    users["redemptions"] = redeemed.groupby("user").size()
    users["store"] = lines[lines["store_id"] == "367"].groupby("user").size()
    users[["lines", "spend", "month", "redemptions", "store"]] = users[["lines", "spend", "month", "redemptions", "store"]].fillna(0)
    blank = users["income"].isna() | (users["income"] == "")
    expected = {
        "age = '45-54' AND spend > 100": (users["age"] == "45-54") & (users["spend"] > 100),
        "NOT (kids_count = '0') AND lines >= 20": ~users["kids_count"].isna()
        & (users["kids_count"] != "0")
        & (users["kids_count"] != "")
        & (users["lines"] >= 20),
        "redemptions > 0 OR spend_30d > 50": (users["redemptions"] > 0) | (users["month"] > 50),
        "income IS NULL AND lines BETWEEN 30 AND 40": blank & users["lines"].between(30, 40),
        "top_stores['367'] >= 10 AND household_size IN ('1', '2')": (users["store"] >= 10) & users["household_size"].isin(["1", "2"]),
    }
    for rule, mask in expected.items():
        assert mask.sum() > 0, rule
        assert journey.audience(rule, as_of) == set(users.index[mask]), rule


# --- clothing shop -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    yield from ingested("eshop_clothing", tmp_path_factory)


def test_clothing_features_and_audiences_equal_pandas(clothing: Ingested, tmp_path: Path) -> None:
    made = tmp_path / "clicks.csv"
    source = DATA / "eshop_clothing_2008.csv.gz"
    subprocess.run([sys.executable, str(ROOT / "examples/eshop_clothing/make_times.py"), str(source), str(made)], check=True, capture_output=True)
    clicks = pd.read_csv(made, dtype={"session ID": str, "page 1 (main category)": str, "page 2 (clothing model)": str, "colour": str, "country": str})
    clicks = clicks.rename(columns={"session ID": "user", "page 1 (main category)": "category", "page 2 (clothing model)": "model"})
    clicks["time"] = (pd.to_datetime(clicks["time"]).dt.tz_localize(None) - pd.Timestamp("1970-01-01")) // pd.Timedelta("1ms")
    clicks["day"] = local_day(clicks["time"], "Europe/Warsaw")
    as_of = int(clicks["time"].max())
    by = clicks.groupby("user")
    ids = sorted(by.groups)[::5]
    table = clothing.table(ids, [], as_of)
    assert_column(table, "clicks", ids, by.size())
    assert_column(table, "value_seen", ids, by["price"].sum())
    assert_column(table, "cheapest", ids, by["price"].min(), None)
    assert_column(table, "dearest", ids, by["price"].max(), None)
    assert_column(table, "heat", ids, decayed(clicks, as_of, DAY))
    assert_column(table, "models", ids, by["model"].nunique())
    assert_column(table, "first_seen", ids, by["time"].min())
    assert_column(table, "last_seen", ids, by["time"].max())
    ordered = clicks.sort_values("time", kind="stable").groupby("user")
    assert_column(table, "first_model", ids, ordered["model"].first())
    assert_column(table, "last_model", ids, ordered["model"].last())
    assert_column(table, "country", ids, by["country"].last())
    assert_column(table, "active_days", ids, last_days(clicks, as_of, 30, "Europe/Warsaw").groupby("user")["day"].nunique())
    assert_top(table, "top_category", ids, top(clicks.groupby(["user", "category"]).size(), 3))
    assert_top(table, "category_heat", ids, top(decayed_by(clicks, "category", as_of, 7 * DAY), 3))
    day = clicks[(clicks["time"] // 3_600_000 > as_of // 3_600_000 - 24)]
    assert day["user"].nunique() > 20
    assert_column(table, "colours_1d", ids, day.groupby("user")["colour"].nunique())
    hour = clicks[(clicks["time"] // 300_000 > as_of // 300_000 - 12)]
    assert_column(table, "clicks_1h", ids, hour.groupby("user").size())
    assert_column(table, "price_1h", ids, hour.groupby("user")["price"].max(), None)
    users = pd.DataFrame(
        {"clicks": by.size(), "dearest": by["price"].max(), "country": by["country"].last(), "models": by["model"].nunique(), "last": ordered["model"].last()}
    )
    users["sale"] = clicks[clicks["category"] == "4"].groupby("user").size()
    users["sale"] = users["sale"].fillna(0)
    users["seen"] = by["time"].max()
    expected = {
        "country = '29' AND clicks >= 20": (users["country"] == "29") & (users["clicks"] >= 20),
        "top_category['4'] > 5": users["sale"] > 5,
        "dearest < 40 AND country != '29'": (users["dearest"] < 40) & (users["country"] != "29"),
        "last_model LIKE 'A1_' AND models > 3": users["last"].str.fullmatch("A1.") & (users["models"] > 3),
        "last_seen >= TIMESTAMP '2008-08-10 00:00:00+02:00' AND models = clicks": (users["seen"] >= 1_218_319_200_000) & (users["models"] == users["clicks"]),
    }
    for rule, mask in expected.items():
        assert mask.sum() > 0, rule
        assert clothing.audience(rule, as_of) == set(users.index[mask]), rule
