"""What the outboxes of this process have yet to bring into the log, for the pages and metrics that tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpublished:
    """What one service has acknowledged, as far as the log has not confirmed it."""

    events: int
    """Events that this process took on and of which it does not know that they are in the log: on their way, which
    takes milliseconds when all is well, or left to the sweeper, which publishes them again within 45 s once the log
    takes any. Some may be there: the log took them and its answer was lost."""
    slots: int | None
    """Sweep slots (10 s of one worker's ids each) that are published again because they may hold events nobody here
    counted: those of a process before this one or of a worker that is gone, or of a write whose outcome is unknown. How
    many events they hold, if any, is not known before they are read. None: an earlier process's are not listed yet."""

    def __add__(self, other: Unpublished) -> Unpublished:
        slots = None if self.slots is None or other.slots is None else self.slots + other.slots
        return Unpublished(events=self.events + other.events, slots=slots)


Tell = Callable[[], Unpublished]

_telling: dict[Tell, str] = {}
"""Of each outbox that is at work, to its service."""


@contextmanager
def telling(service: str, tell: Tell) -> Iterator[None]:
    """Around the life of an outbox of *service*: what *tell* says is part of `unpublished` until its end."""
    _telling[tell] = service
    try:
        yield
    finally:
        del _telling[tell]


def unpublished() -> Mapping[str, Unpublished]:
    """Service to what all its outboxes in this process have yet to publish; only services that have any outbox."""
    found: dict[str, Unpublished] = {}
    for tell, service in _telling.items():
        found[service] = tell() + found[service] if service in found else tell()
    return found
