"""63-bit snowflake ids: 41 bits of ms since EPOCH_MS, 3 of region, 10 of worker, 9 of sequence.

Id order is time order. Ids are compared as integers or as decimal text (length, then bytes), never as doubles.
"""

from __future__ import annotations

import math
from typing import NewType, Protocol

from foundation.errors import Unavailable
from foundation.model.clock import Clock, Millis

UserId = NewType("UserId", int)
PostId = NewType("PostId", int)

EPOCH_MS = 1_700_000_000_000
"""2023-11-14T22:13:20Z; 41 bits of ms last until 2093."""
MAX_ID = 2**63 - 1
MAX_REGION = 7
MAX_WORKER = 1023
_SEQUENCE_BITS = 9
_WORKER_BITS = 10
_TIME_SHIFT = 22
_MAX_SEQUENCE = 2**_SEQUENCE_BITS - 1
SLOT_MS = 10_000
"""Width of a sweep slot: rows and their unpublished events are indexed by (slot, worker)."""


def id_at(ms: int) -> int:
    """The smallest id of the millisecond *ms*; 0 for times before EPOCH_MS."""
    return max(0, ms - EPOCH_MS) << _TIME_SHIFT


def created_ms(snowflake: int) -> Millis:
    """When the id was minted."""
    return Millis((snowflake >> _TIME_SHIFT) + EPOCH_MS)


def worker_of(snowflake: int) -> int:
    """Region and worker that minted the id, as one number of 13 bits."""
    return (snowflake >> _SEQUENCE_BITS) & 0x1FFF


def node_of(region: int, worker: int) -> int:
    """Region and worker as one number: what worker_of says of the ids that they mint."""
    return region << _WORKER_BITS | worker


def time_part_of(snowflake: int) -> int:
    """The id without its worker, 50 bits: grows with every id of one worker."""
    return snowflake >> _TIME_SHIFT << _SEQUENCE_BITS | snowflake & 0x1FF


def slot_of(snowflake: int) -> int:
    """The sweep slot of the id: whole SLOT_MS since EPOCH_MS."""
    return (snowflake >> _TIME_SHIFT) // SLOT_MS


def slot_at(ms: int) -> int:
    """The sweep slot of the time *ms*."""
    return max(0, ms - EPOCH_MS) // SLOT_MS


class Ids(Protocol):
    """Mints ids that are unique and ascending within one process."""

    def next(self) -> int:
        """A fresh id, greater than all before.

        Raises Unavailable: CLOCK_STEPPED_BACK when the clock stepped back by more than a moment, IDS_EXHAUSTED when
        more were asked for than a worker has, ID_LEASE_LOST while it is not certain that the number is ours alone.
        """
        ...


class Snowflakes:
    """Ids of one (region, worker), minted until the lease on the number ends (foundation/leases)."""

    TOLERATED_STEP_MS = 5
    """A step back of at most this much is ridden out by staying in the last millisecond."""
    MAX_AHEAD_MS = 1_000
    """How far a burst of more than 512 ids a millisecond may run ahead of the clock: less than a restart takes."""

    def __init__(self, clock: Clock, *, region: int = 0, worker: int = 0, until_s: float = math.inf) -> None:
        if not 0 <= region <= MAX_REGION or not 0 <= worker <= MAX_WORKER:
            raise ValueError(f"region {region} must be 0-{MAX_REGION} and worker {worker} 0-{MAX_WORKER}")
        self._now_ms = clock.now_ms
        self._monotonic = clock.monotonic
        self.until_s = until_s
        """The monotonic time from which on nothing is minted; whoever keeps the lease moves it."""
        self.node = node_of(region, worker)
        """Region and worker as `worker_of` reads them from an id."""
        self._node = self.node << _SEQUENCE_BITS
        self._last_ms = 0
        self._sequence = 0
        self._seen_ms = 0
        """The latest that the clock ever said."""

    def next(self) -> int:
        if self._monotonic() >= self.until_s:
            raise Unavailable("ID_LEASE_LOST", "the lease on the worker number ended and could not be renewed")
        now = self._now_ms() - EPOCH_MS
        if now < self._seen_ms:
            if self._seen_ms - now > self.TOLERATED_STEP_MS:
                raise Unavailable("CLOCK_STEPPED_BACK", behind_ms=self._seen_ms - now)
        else:
            self._seen_ms = now
        if now > self._last_ms:
            self._last_ms = now
            self._sequence = 0
        elif self._sequence < _MAX_SEQUENCE:
            self._sequence += 1
        elif self._last_ms - now >= self.MAX_AHEAD_MS:
            raise Unavailable("IDS_EXHAUSTED", ahead_ms=self._last_ms - now)
        else:
            self._last_ms += 1
            self._sequence = 0
        return self._last_ms << _TIME_SHIFT | self._node | self._sequence
