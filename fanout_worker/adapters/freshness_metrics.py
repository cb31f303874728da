"""The age of posts at their delivery, as metrics."""

from __future__ import annotations

from foundation.model.clock import Clock
from foundation.model.ids import created_ms
from foundation.telemetry.metrics import FRESHNESS


class MeasuredFreshness:
    """fanout_worker.ports.Freshness."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def add(self, post_id: int, deliveries: int) -> None:
        FRESHNESS.add(max(0, self._clock.now_ms() - created_ms(post_id)) / 1_000, deliveries)
