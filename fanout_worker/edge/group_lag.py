"""How far behind this worker's records are, and how many deliveries the log still holds for the whole group."""

from __future__ import annotations

from collections.abc import Mapping

from fanout_worker.edge.measured import Measured
from fanout_worker.model import Lag
from foundation.events.port import EventLog


class GroupLag:
    """Measures the consumers that deliver: group to topic and handler."""

    def __init__(self, log: EventLog, measured: Mapping[str, tuple[str, Measured]]) -> None:
        self._log = log
        self._measured = measured

    async def __call__(self) -> Lag:
        """Seconds of this worker, since the last call; deliveries of all workers. Raises Unavailable."""
        seconds = deliveries = 0.0
        for group, (topic, handler) in self._measured.items():
            records = await self._log.lag(group, [topic])
            seconds = max(seconds, handler.sample_s(idle=not records))
            deliveries += records * (handler.deliveries_per_record or 0.0)
        return Lag(seconds, round(deliveries))
