"""What a call can raise.

ProfilegridError
├── InvalidRequest     the call is wrong: a rule, a catalog, a field. The same call fails again
├── NotFound           what was named does not exist
├── Refused            the grid will not do it as things are (a catalog that would lose state; a feature still backfilling)
├── Overloaded         retried until the timeout, still no room
├── Unavailable        retried until the timeout, still no answer. Nothing is known of a write that raises DeliveryUnknown instead
├── ServerFailed       the grid failed: damaged data or a bug; see `reason`
├── DeliveryUnknown    rows whose acknowledgement never came: they may or may not be counted
└── ClientClosed       the client was closed, or belongs to the parent of this forked process
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class ProfilegridError(Exception):
    """Base. `reason` is stable (docs/errors.md), `facts` are the server's details, `retriable`: a later call may succeed."""

    def __init__(self, message: str, reason: str = "", facts: dict[str, str] | None = None, code: str = "") -> None:
        super().__init__(message, reason, facts, code)
        self.message, self.reason, self.facts, self.code = message, reason, facts or {}, code

    retriable = False

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code}]" if self.reason or self.code else self.message


class InvalidRequest(ProfilegridError):
    """The call is wrong; `facts` and the message say where and what was expected."""


class NotFound(ProfilegridError):
    """What was named does not exist."""


class Refused(ProfilegridError):
    """The grid will not do it as things are."""


class Overloaded(ProfilegridError):
    """No room; `delay_ms` is what the grid asked for."""

    retriable = True

    @property
    def delay_ms(self) -> int:
        """How long to wait, in ms."""
        return int(self.facts.get("delay_ms", "0"))


class Unavailable(ProfilegridError):
    """No answer; the grid is down, starting, or moved the partition."""

    retriable = True


class ServerFailed(ProfilegridError):
    """The grid failed."""


class DeliveryUnknown(ProfilegridError):
    """No acknowledgement within the delivery timeout. `rows`: numbers (of the batch) that may or may not be counted."""

    def __init__(self, message: str, rows: Sequence[int] = (), events: Sequence[Any] = ()) -> None:
        super().__init__(message, "DELIVERY_UNKNOWN")
        self.rows, self.events = rows, events


class ClientClosed(ProfilegridError):
    """The client cannot be used any more."""


class AnswerWarning(UserWarning):
    """An answer is right but not all that it seems: WINDOW_NOT_HELD, AS_OF_EARLY."""


def warn(texts: Iterable[str]) -> None:
    """Tell the caller's code what an answer warns of."""
    for text in texts:
        warnings.warn(text, AnswerWarning, stacklevel=3)


_CLASSES: dict[grpc.StatusCode, type[ProfilegridError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
}


def from_rpc(error: grpc.RpcError) -> ProfilegridError:
    """The typed error of a failed call, with the server's rich details."""
    code, message = error.code(), error.details() or ""
    reason = ""
    facts: dict[str, str] = {}
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            reason, facts = _details(value)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not reason:  # gRPC's own refusal: a message over the size bound
        return InvalidRequest(message, "MESSAGE_TOO_LARGE", facts, code.name)
    return _CLASSES.get(code, ServerFailed)(message, reason, facts, code.name)


def from_status(raw: bytes) -> ProfilegridError:
    """The typed error of a serialized google.rpc.Status, as streams carry it."""
    status = status_pb2.Status.FromString(raw)
    reason, facts = _details(raw)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return _CLASSES.get(code, ServerFailed)(status.message, reason, facts, code.name)


def _details(raw: bytes) -> tuple[str, dict[str, str]]:
    reason = ""
    facts: dict[str, str] = {}
    status = status_pb2.Status.FromString(raw)
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason = info.reason
            facts.update(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            facts["delay_ms"] = str(retry.retry_delay.seconds * 1000 + retry.retry_delay.nanos // 1_000_000)
    return reason, facts
