"""A handler of the log, measured: how old its records are, and how many deliveries each stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feedmesh.events.v1.envelope_pb2 import Envelope

from fanout_worker.stages.policy import LARGE_FROM
from foundation.events.consumer import Batch, Handler
from foundation.events.retries import Postponed
from foundation.model.clock import Clock
from foundation.model.tiers import Tier

ASSUMED_FOLLOWERS = 200
"""Where an event does not tell (seed section 1)."""
_NEWEST_COUNTS = 0.2


class Measured:
    """Wraps the handler of a group.

    Records of retry topics are not measured: what waits for one node is no reason for all others to do less.
    """

    def __init__(self, handle: Handler, weigh: Callable[[Envelope], int], clock: Clock) -> None:
        self._handle = handle
        self._weigh = weigh
        self._clock = clock
        self._oldest_ms: int | None = None
        """When the oldest record of the newest batch was appended."""
        self._worst_s = 0.0
        """Greatest age at which a batch ended since the last sample."""
        self.deliveries_per_record: float | None = None
        """Lately; None before the first batch."""

    async def __call__(self, batch: Batch) -> Sequence[Postponed] | None:
        mean = sum(self._weigh(envelope) for _, envelope in batch) / len(batch)
        before = mean if self.deliveries_per_record is None else self.deliveries_per_record
        self.deliveries_per_record = before + _NEWEST_COUNTS * (mean - before)
        self._oldest_ms = min(record.timestamp_ms for record, _ in batch)
        try:
            return await self._handle(batch)
        finally:
            self._worst_s = max(self._worst_s, self._age_s())

    def sample_s(self, *, idle: bool) -> float:
        """The greatest age of an unfinished record since the last sample; 0 when *idle*: the log has no more."""
        worst_s, self._worst_s = max(self._worst_s, self._age_s()), 0.0
        if idle:
            self._oldest_ms = None
            return 0.0
        return worst_s

    def _age_s(self) -> float:
        return 0.0 if self._oldest_ms is None else max(0, self._clock.now_ms() - self._oldest_ms) / 1_000


def small_deliveries(envelope: Envelope) -> int:
    """What the consumer of small authors' posts makes of an event."""
    followers = envelope.post_created.author_followers
    return followers or ASSUMED_FOLLOWERS if followers < LARGE_FROM else 0


def large_deliveries(envelope: Envelope) -> int:
    """What the consumer of large authors' posts makes of an event."""
    event = envelope.post_created
    return event.author_followers if event.author_followers >= LARGE_FROM and event.author_tier < Tier.PULL else 0


def chunk_deliveries(envelope: Envelope) -> int:
    """What a chunk stands for."""
    return envelope.fanout_chunk.deliveries
