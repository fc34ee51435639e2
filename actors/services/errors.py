"""Typed errors to gRPC status with rich details. The only place in the server that knows status codes."""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from profilegrid.errors import ProfilegridError
from profilegrid_rules import RuleError

from actors.logs import request_id
from grid import errors

DOMAIN = "profilegrid"
STATUS: dict[type[Exception], int] = {
    errors.GridError: code_pb2.INTERNAL,
    errors.CatalogInvalid: code_pb2.INVALID_ARGUMENT,
    errors.CatalogWouldLose: code_pb2.FAILED_PRECONDITION,
    errors.FrameInvalid: code_pb2.INVALID_ARGUMENT,
    errors.FieldInvalid: code_pb2.INVALID_ARGUMENT,
    errors.BitmapInvalid: code_pb2.INVALID_ARGUMENT,
    errors.LoadRefused: code_pb2.INVALID_ARGUMENT,
    errors.NotEmpty: code_pb2.FAILED_PRECONDITION,
    errors.PartitionMoved: code_pb2.ABORTED,
    errors.MoveFailed: code_pb2.FAILED_PRECONDITION,
    errors.NodeGone: code_pb2.UNAVAILABLE,
    errors.NoRoom: code_pb2.FAILED_PRECONDITION,
    errors.SequenceTooOld: code_pb2.FAILED_PRECONDITION,
    errors.ProducerExpired: code_pb2.FAILED_PRECONDITION,
    errors.MemoryExhausted: code_pb2.RESOURCE_EXHAUSTED,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.FeatureBackfilling: code_pb2.FAILED_PRECONDITION,
    errors.UnknownField: code_pb2.INVALID_ARGUMENT,
    errors.PartitionUnavailable: code_pb2.DATA_LOSS,
    errors.ShardRecovering: code_pb2.UNAVAILABLE,
    errors.ShardLoading: code_pb2.UNAVAILABLE,
    errors.StorageError: code_pb2.INTERNAL,
    errors.LogCorrupt: code_pb2.DATA_LOSS,
    errors.CheckpointCorrupt: code_pb2.DATA_LOSS,
    errors.SnapshotCorrupt: code_pb2.DATA_LOSS,
    errors.SnapshotUnknown: code_pb2.NOT_FOUND,
    errors.SnapshotFailed: code_pb2.INTERNAL,
    errors.HistoryCorrupt: code_pb2.DATA_LOSS,
    errors.DataFolderForeign: code_pb2.FAILED_PRECONDITION,
    errors.WriteFailed: code_pb2.UNAVAILABLE,
    RuleError: code_pb2.INVALID_ARGUMENT,
}
_FACTS_MAX = 512


def status_of(error: Exception) -> status_pb2.Status:
    """The google.rpc.Status of an error: ErrorInfo always, BadRequest where a field is wrong, RetryInfo where waiting helps."""
    if isinstance(error, ProfilegridError):  # the gateway forwards what a shard said
        return _forwarded(error)
    code = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), code_pb2.INTERNAL)
    facts = {name: str(value)[:_FACTS_MAX] for name, value in vars(error).items() if not name.startswith("_")}
    if found := request_id.get():
        facts["request_id"] = found
    info = error_details_pb2.ErrorInfo(reason=getattr(error, "reason", "INTERNAL"), domain=DOMAIN, metadata=facts)
    details = [_packed(info), *(_packed(detail) for detail in _extra(error))]
    return status_pb2.Status(code=code, message=str(error), details=details)


def _extra(error: Exception) -> list[Any]:
    violation = error_details_pb2.BadRequest.FieldViolation
    if isinstance(error, errors.FrameInvalid):
        return [error_details_pb2.BadRequest(field_violations=[violation(field=error.field, description=f"got {error.got}, expected {error.expected}")])]
    if isinstance(error, errors.CatalogInvalid):
        return [error_details_pb2.BadRequest(field_violations=[violation(field=p.path, description=str(p)) for p in error.problems])]
    if isinstance(error, RuleError):
        return [error_details_pb2.BadRequest(field_violations=[violation(field="rule", description=str(error))])]
    if isinstance(error, errors.MemoryExhausted):
        delay = duration_pb2.Duration(seconds=error.delay_ms // 1000, nanos=error.delay_ms % 1000 * 1_000_000)
        return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []


def _forwarded(error: ProfilegridError) -> status_pb2.Status:
    code = code_pb2.Code.Value(error.code) if error.code in set(code_pb2.Code.keys()) else code_pb2.UNAVAILABLE
    info = error_details_pb2.ErrorInfo(reason=error.reason or "INTERNAL", domain=DOMAIN, metadata=error.facts)
    return status_pb2.Status(code=code, message=error.message, details=[_packed(info)])


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
