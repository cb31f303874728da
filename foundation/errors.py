"""What can go wrong, named for the fact. The edge turns a DomainError into a gRPC status with its reason (AIP-193).

Every reason that leaves the mesh is listed in docs/errors.md with what the caller should do.
"""

from __future__ import annotations


class DomainError(Exception):
    """A failure with a stable UPPER_SNAKE reason and data. Never carries text of a cause that callers must not see."""

    status = "INTERNAL"

    def __init__(self, reason: str, message: str = "", **metadata: object) -> None:
        super().__init__(message or reason)
        self.reason = reason
        self.message = message or reason.replace("_", " ").lower()
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(DomainError):
    """The request can never succeed as it is."""

    status = "INVALID_ARGUMENT"


class Unauthenticated(DomainError):
    """No valid token."""

    status = "UNAUTHENTICATED"


class PermissionDenied(DomainError):
    """The caller may not do this, whatever the state."""

    status = "PERMISSION_DENIED"


class NotFound(DomainError):
    """It does not exist, or not for this caller."""

    status = "NOT_FOUND"


class AlreadyExists(DomainError):
    """A unique thing is taken."""

    status = "ALREADY_EXISTS"


class FailedPrecondition(DomainError):
    """The state forbids it."""

    status = "FAILED_PRECONDITION"


class Exhausted(DomainError):
    """Too much at once: retry later."""

    status = "RESOURCE_EXHAUSTED"


class Unavailable(DomainError):
    """A dependency did not answer. Retrying an idempotent call is safe."""

    status = "UNAVAILABLE"


class DeadlineExceeded(DomainError):
    """The caller's time is up."""

    status = "DEADLINE_EXCEEDED"


class Internal(DomainError):
    """A defect or corrupt data."""

    status = "INTERNAL"
