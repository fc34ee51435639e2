"""Shoppers that never were: seeded sessions of view → cart → purchase, Zipf users and items, late and repeated events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CATEGORIES = ("shoes", "hats", "camping", "books", "toys", "garden", "audio", "kitchen")
CITIES = ("上海", "杭州", "北京", "深圳", "成都", "广州")
HOBBIES = ("camping", "chess", "running", "cooking", "music")
EVENTS = ("view", "cart", "purchase")
SESSION_GAP_MS = 20_000
LATE_SHARE, REPEATED_SHARE = 0.02, 0.01
LATE_MS_MAX = 6 * 3_600_000


@dataclass(frozen=True, slots=True)
class Shoppers:
    """A population: how many users and items, over which time, from which seed."""

    users: int = 20_000
    items: int = 5_000
    seed: int = 7
    skew: float = 1.2

    def attributes(self) -> dict[str, Any]:
        """Columns for `set_many`: a city for most, hobbies for some, an age, vip."""
        rng = np.random.default_rng(self.seed)
        city = rng.integers(0, len(CITIES) + 1, self.users)
        picks = rng.random((self.users, len(HOBBIES))) < 0.2
        return {
            "user_id": [f"shopper-{number}" for number in range(self.users)],
            "city": [CITIES[number] if number < len(CITIES) else None for number in city.tolist()],
            "hobbies": [{HOBBIES[i] for i in np.flatnonzero(row)} for row in picks],
            "age": rng.integers(16, 90, self.users),
            "vip": rng.random(self.users) < 0.05,
        }

    def events(self, count: int, end_ms: int, span_ms: int, *, part: int = 0) -> dict[str, Any]:
        """Columns for `track_many`: about `count` events in sessions that end before `end_ms`. `part` makes another stretch."""
        rng = np.random.default_rng((self.seed, part))
        sessions = max(count // 5, 1)
        length = rng.geometric(0.2, sessions)
        owner = np.repeat(np.arange(sessions), length)
        step = np.arange(owner.size) - np.repeat(np.cumsum(length) - length, length)
        user = (rng.zipf(self.skew, sessions) - 1) % self.users
        start = end_ms - rng.integers(0, span_ms, sessions)
        times = np.minimum(start[owner] + step * SESSION_GAP_MS, end_ms)
        kind = self._kinds(rng, owner.size)
        item = (rng.zipf(self.skew, owner.size) - 1) % self.items
        price = np.round(5 + 200 * ((item * 2_654_435_761 % 1000) / 1000.0), 2)
        order = self._disorder(rng, times)
        user, times, kind, item, price = user[owner][order], times[order], kind[order], item[order], price[order]
        serial = np.arange(order.size)[order] if order.size else order
        return {
            "event": [EVENTS[number] for number in kind.tolist()],
            "user_id": [f"shopper-{number}" for number in user.tolist()],
            "time": times.astype(np.int64),
            "event_id": [f"{self.seed}-{part}-{number}" for number in serial.tolist()],
            "item": [f"sku-{number}" for number in item.tolist()],
            "category": [CATEGORIES[number % len(CATEGORIES)] for number in item.tolist()],
            "price": price,
        }

    @staticmethod
    def _kinds(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Most look, some put it in the cart, few buy."""
        return rng.choice(3, count, p=[0.82, 0.12, 0.06])

    @staticmethod
    def _disorder(rng: np.random.Generator, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row order of arrival: by time, but some come late and some come twice."""
        arrival = times + np.where(rng.random(times.size) < LATE_SHARE, rng.integers(0, LATE_MS_MAX, times.size), 0)
        order = np.argsort(arrival, kind="stable")
        repeated = rng.choice(order, int(times.size * REPEATED_SHARE)) if times.size else order
        return np.concatenate([order, repeated])
