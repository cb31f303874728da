"""What every delivery has in common: it is timed, and a node that is away fails its share alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fanout_worker.model import Level
from fanout_worker.ports import Freshness, Levels
from foundation.errors import Unavailable
from foundation.timeline.port import Share, Timelines


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Shares into feeds."""

    feeds: Timelines
    freshness: Freshness
    levels: Levels

    async def __call__(self, shares: Sequence[Share]) -> set[int]:
        """Ids of the posts of which a node did not take its part: repeat them. Again is harmless.

        Raises Unavailable when no node took anything: then nothing is to be gained from going on (rule 5).
        """
        told = await self.feeds.deliver(shares, present_only=self.levels.now() >= Level.PRESENT_ONLY)
        wanted = sum(len(share.owners) for share in shares)
        if wanted and sum(told.failed) == wanted:
            raise Unavailable("CACHE_UNAVAILABLE", "no delivery was taken", of=wanted)
        for share, failed in zip(shares, told.failed, strict=True):
            self.freshness.add(share.post_id, len(share.owners) - failed)
        return {share.post_id for share, failed in zip(shares, told.failed, strict=True) if failed}
