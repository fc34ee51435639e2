"""Percentiles, rates, sparklines, log lines: what people are shown is what happened."""

from __future__ import annotations

import json
import logging
import sys
import urllib.error
import urllib.request
from collections import deque
from pathlib import Path

import pytest
from profilegrid.cli.watching import History, sparkline
from profilegrid.v1 import admin_pb2

from actors.logs import JsonLines, Pretty, request_id
from actors.metrics import Meter, MetricsServer, Recent


def test_percentiles_are_of_the_newest_512() -> None:
    recent = Recent()
    assert recent.percentiles(50, 99) == [0, 0]
    for value in range(1000):
        recent.add(float(value))
    assert recent.percentiles(0, 50, 100) == [488, 743, 999]


def status(events: int, pid: int = 7) -> admin_pb2.GetStatusResponse:
    shard = admin_pb2.ShardStatus(id=0, state="serving", pid=pid, events=events, users=5, ack_ms_p50=1.0, ack_ms_p99=2.0, memory_bytes=3 << 20)
    return admin_pb2.GetStatusResponse(map_version=1, shards=[shard])


def test_rates_come_from_two_looks_and_are_zero_across_a_restart() -> None:
    history = History()
    history.add(status(100), 10.0)
    assert history.rows()[0]["events_per_s"] == 0
    history.add(status(300), 12.0)
    assert history.rows()[0]["events_per_s"] == 100
    history.add(status(50, pid=8), 14.0)  # another process: its counters began anew
    assert history.rows()[0]["events_per_s"] == 0


def test_the_tallest_bar_is_full_and_nothing_is_flat() -> None:
    assert sparkline(deque([0.0, 5.0, 10.0])) == "▁▅█"
    assert sparkline(deque([0.0, 0.0])) == "▁▁"


def test_a_log_line_is_json_with_its_facts_request_id_and_exception() -> None:
    token = request_id.set("ask-1")
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("profilegrid", logging.ERROR, __file__, 1, "it %s", ("failed",), sys.exc_info())
    record.facts = {"seconds": 0.5, "path": Path("/x")}
    line = json.loads(JsonLines("shard-0").format(record))
    request_id.reset(token)
    assert (line["message"], line["level"], line["process"], line["request_id"]) == ("it failed", "ERROR", "shard-0", "ask-1")
    assert (line["seconds"], line["path"]) == (0.5, "/x")
    assert "ValueError: broken" in line["exception"]
    assert line["time"].endswith("Z")
    record.exc_info = None
    assert "erro shard-0 it failed seconds=0.5 path=/x" in Pretty("shard-0").format(record)


def test_metrics_are_served_and_other_paths_say_what_there_is() -> None:
    meter = Meter()
    meter.acknowledged(0.003)
    meter.called("EventService/Ingest", "OK", 0.01)
    server = MetricsServer(meter.registry, "127.0.0.1", 0, lambda: ["a:1", "b:2"])
    try:
        text = urllib.request.urlopen(f"http://{server.endpoint}/metrics", timeout=5).read().decode()
        assert 'profilegrid_grpc_requests_total{code="OK",method="EventService/Ingest"} 1.0' in text
        assert 'profilegrid_ack_seconds_bucket{le="0.004"} 1.0' in text
        assert json.loads(urllib.request.urlopen(f"http://{server.endpoint}/targets", timeout=5).read())[0]["targets"] == ["a:1", "b:2"]
        with pytest.raises(urllib.error.HTTPError, match="try /metrics or /targets"):
            urllib.request.urlopen(f"http://{server.endpoint}/", timeout=5)
    finally:
        server.stop()
