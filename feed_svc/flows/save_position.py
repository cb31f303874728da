"""Keep where a user is in their feed."""

from __future__ import annotations

from dataclasses import dataclass

from feed_svc.model import Mode, SavedPosition
from feed_svc.ports import Positions
from foundation.model.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePosition:
    """One position a user, the latest by time."""

    positions: Positions
    clock: Clock

    async def __call__(self, user_id: int, mode: Mode, anchor_id: int, *, saved_ms: int) -> SavedPosition:
        """What is kept then. *saved_ms* 0 means now."""
        now_ms = self.clock.now_ms()
        # A device whose clock runs ahead must not keep all others from saving until its time has come.
        at = min(saved_ms, now_ms) if saved_ms > 0 else now_ms
        return await self.positions.save(user_id, SavedPosition(mode, anchor_id, at))
