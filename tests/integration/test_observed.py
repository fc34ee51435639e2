"""A grid seen from outside: metrics of every process, logs with request ids, traces, `top`."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from profilegrid.errors import from_rpc
from profilegrid.v1 import profiles_pb2, profiles_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.grids import RunningGrid

DASHBOARD = Path(__file__).parents[2] / "examples" / "monitoring" / "grafana.json"


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def samples(endpoint: str) -> dict[str, float]:
    """name{label=value} to value."""
    found = {}
    for family in text_string_to_metric_families(fetched(f"http://{endpoint}/metrics")):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def targets(grid: RunningGrid) -> list[str]:
    with grid.client() as client:
        gateway = client.status().metrics

    def found() -> list[str]:
        endpoints = list(json.loads(fetched(f"http://{gateway}/targets"))[0]["targets"])
        with contextlib.suppress(OSError):  # for some seconds one of a shard that was killed
            return endpoints if len(endpoints) == 4 and all(map(samples, endpoints)) else []
        return []

    endpoints: list[str] = grid.wait_until(found)
    return endpoints


def test_every_process_serves_metrics_and_the_gateway_names_them_all(grid: RunningGrid, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = targets(grid)  # gateway, controller, two shards
    before = [samples(endpoint) for endpoint in endpoints]
    with grid.client() as client:
        client.track_many("e", user_id=[f"{user}-{n}" for n in range(40)], n=[1.0] * 40)
        client.track_many("no-such-event", user_id=[user])
        client.get_many([f"{user}-{n}" for n in range(40)])
        client.count("count > 0")
        monkeypatch.setattr("profilegrid.counting.SHARDS_MAX", 1)
        client.count("count > 0")  # of more shards the gateway is asked
        client.checkpoint()
    after = [samples(endpoint) for endpoint in endpoints]

    def grown(name: str) -> float:
        return sum(new.get(name, 0) - old.get(name, 0) for old, new in zip(before, after, strict=True))

    assert grown("profilegrid_events_total") == 40
    assert grown("profilegrid_profiles_read_total") >= 40
    assert grown("profilegrid_queries_total") == 4
    assert grown("profilegrid_dead_letters_total{reason=UNKNOWN_EVENT}") == 1
    assert grown("profilegrid_ack_seconds_count") >= 2
    assert grown("profilegrid_fsync_seconds_count") >= 2
    assert grown("profilegrid_group_rows_sum") >= 41
    assert grown("profilegrid_checkpoint_seconds_count") >= 2
    assert grown("profilegrid_grpc_requests_total{code=OK,method=Lane/Count}") == 1
    assert grown("profilegrid_grpc_requests_total{code=OK,method=Lane/Evaluate}") == 4
    assert grown("profilegrid_grpc_requests_total{code=OK,method=AdminService/Checkpoint}") == 1
    shards = [found for found in after if "profilegrid_users" in found]
    assert len(shards) == 2
    for found in shards:
        assert found["profilegrid_state{state=serving}"] == 1
        assert found["profilegrid_column_bytes{column=count}"] > 0
        assert found["profilegrid_column_bytes{column=@ids}"] > 0
        assert found["profilegrid_checkpoint_age_seconds"] < 60
        assert found["profilegrid_memory_bytes"] > 1 << 20
    assert sum(found.get("profilegrid_shards_serving", 0) for found in after) == 2
    assert sum(found.get("profilegrid_spares_wanted", 0) for found in after) == 2


def test_the_dashboard_asks_only_for_metrics_that_are_there(grid: RunningGrid) -> None:
    known = {name.split("{")[0] for endpoint in targets(grid) for name in samples(endpoint)}
    known |= {"profilegrid_grpc_seconds_bucket", "profilegrid_dead_letters_total", "profilegrid_backfill_percent", "profilegrid_sweeps_total"}
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 12
    asked = {name for expression in expressions for name in re.findall(r"profilegrid_\w+", expression)}
    assert asked <= known


def test_an_error_tells_its_request_id_and_the_log_has_it(grid: RunningGrid) -> None:
    with grid.client() as client:
        endpoint = client.status().shards[0].endpoint
    with grpc.insecure_channel(endpoint) as channel, pytest.raises(grpc.RpcError) as caught:
        stub = profiles_pb2_grpc.ProfileServiceStub(channel)
        stub.BatchGetProfiles(profiles_pb2.BatchGetProfilesRequest(user_ids=["x"], fields=["no_such_field"]), metadata=[("x-request-id", "ask-17")])
    assert from_rpc(caught.value).facts["request_id"] == "ask-17"
    lines = [json.loads(line) for path in (grid.folder / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert {line["process"] for line in lines} >= {"controller", "shard-0", "shard-1"}
    recovered = [line for line in lines if line["message"] == "recovered"]
    assert all(line["level"] == "INFO" and line["seconds"] >= 0 for line in recovered)
    assert len(recovered) >= 2


def test_top_shows_each_shard_and_what_it_does(grid: RunningGrid, user: str) -> None:
    with grid.client() as client:
        client.track_many("e", user_id=[f"{user}-{n}" for n in range(40)], n=[1.0] * 40)
    (line,) = grid.cli("top", "--once", "--json", "--interval", "0.3", check=True).stdout.splitlines()
    shards = json.loads(line)["shards"]
    assert [shard["state"] for shard in shards] == ["serving", "serving"]
    assert all(shard["ack_ms_p99"] >= shard["ack_ms_p50"] > 0 for shard in shards)
    shown = grid.cli("top", "--once", "--interval", "0.3", check=True).stdout
    assert "serving" in shown
    assert "events/s" in shown


def test_a_span_of_the_caller_reaches_the_shard(user: str) -> None:
    """The client sends the W3C trace context of the current span; outside a span it sends nothing."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace
    from profilegrid import tracing

    from actors.services.calls import _span

    assert tracing.metadata() is None
    tracer = sdk.TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("caller") as caller:
        carried: dict[str, Any] = dict(tracing.metadata() or ())
        assert f"{caller.get_span_context().trace_id:032x}" in carried["traceparent"]
    with _span("ProfileService/BatchGetProfiles", carried):
        assert trace.get_current_span().get_span_context().trace_id == caller.get_span_context().trace_id


def test_reads_inside_a_span_give_the_same_profile(grid: RunningGrid, user: str) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    with grid.client() as client:
        client.track(user, "e", {"n": 2.0, "c": "hats"})
        client.flush()
        plain = client.get(user, ["count", "count_by"])
        with sdk.TracerProvider().get_tracer("test").start_as_current_span("caller"):
            assert client.get(user, ["count", "count_by"]) == plain == {"count": 1, "count_by": {"hats": 1}}
