"""A deadline arrives with the request and shrinks at each hop."""

from __future__ import annotations

from contextvars import ContextVar

from foundation.errors import DeadlineExceeded
from foundation.model.clock import Clock

MARGIN_S = 0.02
"""What a hop keeps for itself."""
LEAST_S = 0.005
"""Below this nothing is begun."""
NO_DEADLINE_S = 3_600.0
"""gRPC says centuries when the caller named none."""


class Deadline:
    """When the caller stops waiting."""

    __slots__ = ("_at", "_clock")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    def remaining_s(self) -> float:
        """Seconds left; negative when it is past."""
        return self._at - self._clock.monotonic()


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def enter(deadline: Deadline) -> None:
    """Make *deadline* that of the current task."""
    _current.set(deadline)


def timeout(cap_s: float) -> float:
    """Seconds that an outgoing call may take: *cap_s*, or what is left less a margin.

    Raises DeadlineExceeded when almost nothing is left.
    """
    deadline = _current.get()
    if deadline is None:
        return cap_s
    left = deadline.remaining_s() - MARGIN_S
    if left < LEAST_S:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", "the caller's time is up")
    return min(cap_s, left)
