"""The limit on updates a second of rate-limited pushes: when the next ones may begin."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.model.clock import Clock


@dataclass(slots=True, kw_only=True)
class Budget:
    """Spends *updates_per_s*: what is spent now delays what comes next, and what was not spent is not saved."""

    updates_per_s: float
    clock: Clock
    _free_at: float = 0.0

    def spend(self, updates: int, *, share: float) -> float:
        """Seconds to wait before *updates* may begin; *share* (0-1) of the budget is this worker's."""
        now = self.clock.monotonic()
        begin = max(now, self._free_at)
        # A worker that owns nothing any more finishes what it has in hand, at a crawl.
        self._free_at = begin + updates / (self.updates_per_s * max(share, 0.01))
        return begin - now
