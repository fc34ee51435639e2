"""What every gRPC call goes through: a request id, the caller's trace, typed errors made into status, and a count."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.rpc import code_pb2
from grpc_status import rpc_status

from actors.logs import request_id
from actors.metrics import Meter
from actors.services.errors import status_of

try:  # an extra: pip install profilegrid-server[otel]
    from opentelemetry import propagate, trace
except ImportError:
    propagate = trace = None  # type: ignore[assignment]

log = logging.getLogger("profilegrid")
REQUEST_ID = "x-request-id"
SLOW_S = 1.0


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps our services' handlers; health and reflection pass untouched."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def intercept_service(self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/profilegrid."):
            return handler
        method = details.method.removeprefix("/profilegrid.v1.")
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streamed(method, handler.stream_stream), handler.request_deserializer, handler.response_serializer
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streamed(method, handler.unary_stream), handler.request_deserializer, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(self._answered(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer)

    def _answered(self, method: str, behaviour: Any) -> Any:
        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._call(method, context):
                return await behaviour(request, context)

        return answer

    def _streamed(self, method: str, behaviour: Any) -> Any:
        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._call(method, context):
                async for response in behaviour(request, context):
                    yield response

        return stream

    @contextlib.asynccontextmanager
    async def _call(self, method: str, context: Any) -> AsyncIterator[None]:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id.set(metadata.get(REQUEST_ID, "")[:64] or secrets.token_hex(8))
        started, code = time.perf_counter(), "OK"
        try:
            with _span(method, metadata):
                yield
        except grpc.aio.AbortError:
            code = "ABORTED"
            raise
        except (GeneratorExit, asyncio.CancelledError):  # the caller went away
            code = "CANCELLED"
            raise
        except Exception as error:
            status = status_of(error)
            code = code_pb2.Code.Name(status.code)
            if status.code == code_pb2.INTERNAL:
                log.exception("call failed", exc_info=error, extra={"facts": {"method": method}})
            rich = rpc_status.to_status(status)
            await context.abort(rich.code, rich.details, rich.trailing_metadata)
        finally:
            seconds = time.perf_counter() - started
            self._meter.called(method, code, seconds)
            if seconds > SLOW_S and method not in _LONG:
                log.warning("slow call", extra={"facts": {"method": method, "code": code, "seconds": round(seconds, 3)}})


# Streams live as long as their caller likes; an operator's calls wait for work.
_LONG = frozenset(
    {
        "EventService/IngestStream", "ProfileService/StreamProfiles", "ProfileService/WatchProfile", "SegmentService/Export", "AdminService/LoadUsers",
        "AdminService/Checkpoint", "AdminService/FinishErasures", "AdminService/Repair", "AdminService/ReplayDeadLetters", "CatalogService/ApplyCatalog",
    }
)  # fmt: skip


def _span(method: str, metadata: dict[str, str]) -> Any:
    """A span under the caller's, where OpenTelemetry is installed and the caller sent its trace."""
    if propagate is None or trace is None or "traceparent" not in metadata:
        return contextlib.nullcontext()
    tracer = trace.get_tracer("profilegrid")
    return tracer.start_as_current_span(method, context=propagate.extract(metadata), kind=trace.SpanKind.SERVER)
