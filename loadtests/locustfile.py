"""Locust users that drive the real client: services that read, write and ask, each with its own names.

    locust -f loadtests/locustfile.py --host 127.0.0.1:7600            web UI on http://127.0.0.1:8089
    make load                                                          headless, with a summary and an HTML report

Every call is a line of the statistics under its method. A user reads its own writes: a read behind an acknowledgement is a failure of
type StaleRead. Failures carry the client's error class and reason. The catalog is `examples/shoppers`.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from locust import User, between, events, tag, task
from locust.env import Environment
from profilegrid.errors import ProfilegridError

from loadtests.driving import driver_of
from loadtests.scenario import CATALOG, misfit

Result = TypeVar("Result")
CATEGORIES = ("shoes", "hats", "camping", "books", "toys", "garden", "audio", "kitchen")
CITIES = ("上海", "杭州", "北京", "深圳")
# Few items: what a user has seen of them is soon all, so that memory comes to rest. The soak takes few users as well.
SHARED_USERS, ITEMS = int(os.environ.get("LOCUST_SHARED_USERS", "50000")), 100
_numbers = itertools.count()


class StaleRead(AssertionError):
    """A read did not see what was acknowledged before it began."""


class GridUser(User):
    """A locust user with a client; subclasses call the grid through `timed`."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._driver = driver_of(target_of(environment))
        self.grid = self._driver.client

    def timed(self, method: str, call: Callable[[], Coroutine[Any, Any, Result]], size: Callable[[Result], int] = lambda result: 0) -> Result | None:
        """Make a call; report its time, or its typed failure, under the method's name."""
        started, result, failure = time.perf_counter(), None, None
        try:
            result = self._driver.run(call())
        except (ProfilegridError, StaleRead) as error:
            failure = error
        self.environment.events.request.fire(
            request_type="gRPC", name=method, response_time=(time.perf_counter() - started) * 1000,
            response_length=0 if result is None else size(result), exception=failure, context={"reason": getattr(failure, "reason", "")},
        )  # fmt: skip
        return result


def target_of(environment: Environment) -> str:
    """Where the grid is."""
    return environment.host or os.environ.get("PROFILEGRID_TARGET", "127.0.0.1:7600")


class Shopper(GridUser):
    """The mixed scenario: mostly reads, many single events, some batches, few audiences."""

    wait_time = between(0.001, 0.02)

    def on_start(self) -> None:
        self.name = f"locust-{os.getpid()}-{next(_numbers)}-{random.getrandbits(32):08x}"
        self.views = 0

    @tag("read")
    @task(60)
    def read_somebody(self) -> None:
        user = f"shopper-{random.randrange(SHARED_USERS)}"
        self.timed("GetProfile", lambda: self.grid.get(user))

    @tag("write")
    @task(20)
    def view_and_read_it_back(self) -> None:
        """Read your writes: what `flush` returned from is in the next read."""

        view = {"user_id": [self.name], "item": ["sku-1"], "category": [random.choice(CATEGORIES)], "price": [9.5]}
        report = self.timed("Ingest (1 event)", lambda: self.grid.track_many("view", **view))
        if report is None:
            return
        self.views += report.accepted

        async def read() -> Any:
            seen = (await self.grid.get(self.name, ["views"]))["views"]
            if seen < self.views:
                raise StaleRead(f"{self.name} reads {seen} views, {self.views} were acknowledged")
            return seen

        self.timed("GetProfile (own)", read)

    @tag("write")
    @task(6)
    def send_a_batch(self) -> None:
        count = 200
        users = [f"shopper-{random.randrange(SHARED_USERS)}" for _ in range(count)]
        items, categories = [f"sku-{random.randrange(ITEMS)}" for _ in range(count)], random.choices(CATEGORIES, k=count)
        self.timed(
            "Ingest (200 events)",
            lambda: self.grid.track_many("view", user_id=users, item=items, category=categories, price=[5.0] * count),
            lambda r: r.accepted,
        )

    @tag("write")
    @task(3)
    def set_an_attribute(self) -> None:
        self.timed("UpdateProfile", lambda: self.grid.set(self.name, city=random.choice(CITIES)))

    @tag("read")
    @task(5)
    def read_many(self) -> None:
        users = [f"shopper-{random.randrange(SHARED_USERS)}" for _ in range(100)]
        self.timed("BatchGetProfiles (100)", lambda: self.grid.get_many(users, ["views", "interest", "city"]), len)

    @tag("audience")
    @task(1)
    def count_an_audience(self) -> None:
        self.timed("Count", lambda: self.grid.count(f"city = '{random.choice(CITIES)}' AND views >= {random.randrange(1, 20)}"))

    @tag("audience")
    @task(1)
    def ask_for_members(self) -> None:
        self.timed(
            "List", lambda: self.grid.list(f"interest['{random.choice(CATEGORIES)}'] > {random.random():.4f}", limit=50), lambda page: len(page.user_ids)
        )


@events.init.add_listener
def apply_catalog(environment: Environment, **options: Any) -> None:
    """The scenario's catalog, where the grid has none yet; only one process does it. A grid with another one is no target."""
    from locust.runners import WorkerRunner

    if isinstance(environment.runner, WorkerRunner):
        return
    driver = driver_of(target_of(environment))
    catalog = driver.run(driver.client.catalog())
    if why := misfit(catalog):
        sys.exit(f"{target_of(environment)}: {why}; start a grid with: profilegrid up --data load-data --port 7700 --catalog {CATALOG}")
    if not catalog["version"]:
        driver.run(driver.client.apply_catalog(CATALOG))
