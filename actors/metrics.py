"""What a process measures, for Prometheus and for `profilegrid top`. Counted by group and by call, never by event.

Each process serves `/metrics` on a port of its own; the gateway's port also serves `/targets`, a list of them all for Prometheus'
HTTP service discovery. Values that are there anyway (users, bytes, ages) are read when somebody asks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "profilegrid_"
FAST_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 5)
SLOW_S = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)
ROWS = (1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000)
RECENT = 512


class Recent:
    """The newest measurements of one thing, for percentiles."""

    def __init__(self) -> None:
        self._values = np.zeros(RECENT)
        self._count = 0

    def add(self, value: float) -> None:
        """One more."""
        self._values[self._count % RECENT] = value
        self._count += 1

    def percentiles(self, *percents: float) -> list[float]:
        """Of the newest 512, the nearest below; 0 when there is none. `np.percentile` takes 100 µs for each, and heartbeats ask for four."""
        known = np.sort(self._values[: min(self._count, RECENT)])
        return [float(known[int(percent / 100 * (known.size - 1))]) if known.size else 0.0 for percent in percents]


class Meter:
    """The instruments of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(PREFIX + name, words, labels, registry=self.registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(PREFIX + name, words, labels, registry=self.registry, buckets=buckets)

        self.calls = counter("grpc_requests_total", "gRPC calls that ended, by method and status code.", ("method", "code"))
        self.call_seconds = histogram("grpc_seconds", "Duration of gRPC calls; of streams, their life.", FAST_S, ("method",))
        self.ack_seconds = histogram("ack_seconds", "From a frame's arrival to its acknowledgement.", FAST_S)
        self.fsync_seconds = histogram("fsync_seconds", "Write and fsync of one group.", FAST_S)
        self.group_rows = histogram("group_rows", "Rows committed together.", ROWS)
        self.checkpoint_seconds = histogram("checkpoint_seconds", "Duration of a checkpoint of all partitions.", SLOW_S)
        self.dead_letters = counter("dead_letters_total", "Rows refused, by reason.", ("reason",))
        self.sweeps = counter("sweeps_total", "Rounds of housekeeping: history made, files merged, what is old dropped.", ("what",))
        self.recent_ack, self.recent_fsync = Recent(), Recent()
        self._of_method: dict[tuple[str, str], Any] = {}

    def acknowledged(self, seconds: float) -> None:
        """A frame was answered."""
        self.ack_seconds.observe(seconds)
        self.recent_ack.add(seconds * 1000)

    def synced(self, seconds: float, rows: int) -> None:
        """A group is durable."""
        self.fsync_seconds.observe(seconds)
        self.recent_fsync.add(seconds * 1000)
        self.group_rows.observe(rows)

    def called(self, method: str, code: str, seconds: float) -> None:
        """A call ended."""
        key = (method, code)
        found = self._of_method.get(key)
        if found is None:
            found = self._of_method[key] = (self.calls.labels(method, code), self.call_seconds.labels(method))
        found[0].inc()
        found[1].observe(seconds)


class Gauges(Collector):
    """Values read when somebody asks: name -> (words, value, or {label: value} with the label's name)."""

    def __init__(self, read: Callable[[], Iterator[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        yield from self._read()


def gauge(name: str, words: str, value: float) -> Metric:
    """One value."""
    return GaugeMetricFamily(PREFIX + name, words, value=value)


def gauges(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    """One value a label."""
    family = GaugeMetricFamily(PREFIX + name, words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def total(name: str, words: str, value: float) -> Metric:
    """A count that only rises in a life of the process."""
    return CounterMetricFamily(PREFIX + name, words, value=value)


class MetricsServer:
    """GET /metrics, and /targets where somebody tells them. Its thread reads numbers, never columns."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int, targets: Callable[[], list[str]] | None = None) -> None:
        handler = type("Handler", (_Handler,), {"registry": registry, "targets": staticmethod(targets) if targets else None})
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def endpoint(self) -> str:
        """host:port."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    targets: Callable[[], list[str]] | None = None

    def do_GET(self) -> None:
        """Prometheus' text, or the list of targets."""
        if self.path == "/metrics":
            self._answer(generate_latest(self.registry), CONTENT_TYPE_LATEST)
        elif self.path == "/targets" and self.targets is not None:
            found = [{"targets": self.targets(), "labels": {"job": "profilegrid"}}]
            self._answer(json.dumps(found).encode(), "application/json")
        else:
            self.send_error(404, "try /metrics" + (" or /targets" if self.targets else ""))

    def _answer(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Scrapes are not worth a line."""
