"""Count what is newer than what a viewer has."""

from __future__ import annotations

from dataclasses import dataclass

from feed_svc.degradation import noting
from feed_svc.flows.gather_candidates import GatherCandidates
from feed_svc.flows.open_home import OpenHome
from feed_svc.model import News
from feed_svc.ports import Shelf
from feed_svc.stages.newer import newer_posts
from foundation.model.clock import Clock
from foundation.telemetry.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class CountNewer:
    """The number of visible posts above an id, of the candidates that a first page would have."""

    open_home: OpenHome
    gather_candidates: GatherCandidates
    shelf: Shelf
    clock: Clock

    async def __call__(self, viewer_id: int, since_id: int) -> News:
        with noting() as noted:
            home = await self.open_home(viewer_id)
            candidates = await self.gather_candidates(home, Journal(self.clock))
            ids = candidates.ids
            newer = await newer_posts(self.shelf, viewer_id, home.viewer, ids, since_id)
        reasons = home.reasons | candidates.reasons | newer.reasons | noted
        return News(len(newer.posts), ids[0] if ids else 0, reasons, home.cache_hit, home.viewer.pulled)
