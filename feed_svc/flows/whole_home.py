"""A viewer's home without gaps, in one stage of the journal."""

from __future__ import annotations

from dataclasses import dataclass

from feed_svc.flows.mend_gaps import MendGaps
from feed_svc.flows.open_home import OpenedHome, OpenHome
from feed_svc.model import FeedQuery
from foundation.telemetry.journal import Journal
from foundation.timeline.port import CAPACITY


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeHome:
    """The viewer's record and list in one call; what pull mode left out of the list is read through (rule 2)."""

    open_home: OpenHome
    mend_gaps: MendGaps

    async def __call__(self, query: FeedQuery, journal: Journal, *, newest: int = CAPACITY) -> OpenedHome:
        """With the *newest* ids of the list, all of them where a gap must be mended.

        Raises Unavailable(FEED_UNAVAILABLE) where neither the cache nor the owners can be read.
        """
        if newest < CAPACITY and await self.mend_gaps.wanted(query.viewer_id):
            newest = CAPACITY
        with journal.stage("viewer") as stage:
            home = await self.open_home(query.viewer_id, for_head=query.opens_head, newest=newest)
            stage.count = len(home.ids)
        # A list that was just built lacks nothing.
        return await self.mend_gaps(query.viewer_id, home, journal) if home.cache_hit else home
