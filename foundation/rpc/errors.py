"""Domain errors to gRPC statuses with google.rpc details (AIP-193), and back."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from foundation import errors
from foundation.errors import DomainError

DOMAIN = "feedmesh"
DETAILS = "grpc-status-details-bin"
RETRY_AFTER_S = 1

_KINDS: dict[str, type[DomainError]] = {
    kind.status: kind
    for kind in (
        errors.InvalidArgument,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.NotFound,
        errors.AlreadyExists,
        errors.FailedPrecondition,
        errors.Exhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Internal,
    )
}


class FieldViolations(errors.InvalidArgument):
    """Fields of a request break the contract's rules."""

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        field, description = violations[0]
        super().__init__("FIELD_INVALID", f"{field}: {description}", field=field)
        self.violations = violations


def status_of(error: DomainError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, message and trailing metadata of *error*."""
    code = grpc.StatusCode[error.status]
    status = Status(code=code.value[0], message=error.message)
    status.details.append(_packed(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)))
    if isinstance(error, FieldViolations):
        status.details.append(
            _packed(
                BadRequest(
                    field_violations=[
                        BadRequest.FieldViolation(field=field, description=description)
                        for field, description in error.violations
                    ]
                )
            )
        )
    if isinstance(error, errors.Exhausted):
        retry = RetryInfo()
        retry.retry_delay.FromSeconds(RETRY_AFTER_S)
        status.details.append(_packed(retry))
    return code, error.message, ((DETAILS, status.SerializeToString()),)


def _packed(message: ErrorInfo | BadRequest | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def error_of(failure: aio.AioRpcError) -> DomainError:
    """The domain error that a failed call stands for; statuses without details get one of ours."""
    code = failure.code().name
    reason = code
    metadata: dict[str, str] = {}
    for key, value in failure.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Is(ErrorInfo.DESCRIPTOR) and detail.Unpack(info):
                    reason, metadata = info.reason, dict(info.metadata)
    kind = _KINDS.get(code, errors.Unavailable if code in ("CANCELLED", "ABORTED") else errors.Internal)
    return kind(reason, failure.details() or "", **metadata)
