"""Go on where a user was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feed_svc.model import FEED_DEPTH_MS, Mode, Position, SavedPosition, Session
from feed_svc.ports import Positions, Sessions
from feed_svc.stages.resuming import after_anchor
from foundation.errors import NotFound, Unavailable
from foundation.model.clock import Clock
from foundation.model.ids import id_at


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeFeed:
    """The saved position and what follows it; None when the anchor is older than a feed goes back."""

    positions: Positions
    sessions: Sessions
    clock: Clock

    async def __call__(self, user_id: int) -> tuple[SavedPosition, Position | None]:
        saved = await self.positions.of(user_id)
        if saved is None:
            raise NotFound("POSITION_NOT_FOUND", "no position was saved")
        if saved.anchor_id < id_at(self.clock.now_ms() - FEED_DEPTH_MS):
            return saved, None
        return saved, after_anchor(saved, await self._kept(user_id) if saved.mode is Mode.RANKED else ())

    async def _kept(self, user_id: int) -> Sequence[Session]:
        try:
            return await self.sessions.newest(user_id)
        except Unavailable:
            return ()  # as if they were gone: the feed goes on newest first
