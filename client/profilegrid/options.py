"""gRPC options of both sides in one place: what one side pings, the other must allow."""

from __future__ import annotations

MESSAGE_BYTES_MAX = 16 << 20
# Room for a frame's own overhead above the bound that users see.
_TRANSPORT_BYTES_MAX = MESSAGE_BYTES_MAX + (1 << 20)

CLIENT_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", _TRANSPORT_BYTES_MAX),
    ("grpc.max_receive_message_length", 4 * _TRANSPORT_BYTES_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Default 120 s: a restarted shard would be avoided for that long.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]
SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", 4 * _TRANSPORT_BYTES_MAX),
    # gRPC drops calls on its own, as CANCELLED, when more wait to be taken up: ours are refused typed and with a delay instead.
    ("grpc.server.max_pending_requests", 1 << 16),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 16),
    # A connection's further calls wait at their sender. With 12,000 at once that all carried data, goodput fell to a third; with 2,000 it stood.
    ("grpc.max_concurrent_streams", 2_048),
    # The default lets a second process bind the same port and splits connections between the two.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
]
