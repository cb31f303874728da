"""Finishes what authors who change tiers have begun: every follower is marked and told, then the author moves on."""

from __future__ import annotations

from dataclasses import dataclass

from graph_svc.flows.mark_followers import MarkFollowers
from graph_svc.flows.review_tiers import ReviewTiers
from graph_svc.model import Standing
from graph_svc.ports import Edges, Tiers
from graph_svc.stages.tier_steps import needs_marks


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossTiers:
    """One round over all crossings; processes may run it at once, and one that dies is replaced by the next round.

    The followers are read after the tier is durable, a page at a time. Whoever is not among them yet has a followers
    row that is written later, and ApplyFollows reads the tier after that: every follower is marked by one of the two.
    """

    tiers: Tiers
    edges: Edges
    mark_followers: MarkFollowers
    review: ReviewTiers

    async def __call__(self) -> None:
        """Raises Unavailable, DeadlineExceeded: the next round begins again."""
        for standing in await self.tiers.crossings():
            if not await self.review.move(standing, marked=False) and needs_marks(standing):
                await self._finish(standing)

    async def _finish(self, standing: Standing) -> None:
        async for author_id, followers in self.edges.follower_pages([standing.author_id]):
            await self.mark_followers([(author_id, follower_id) for follower_id in followers])
        fresh = (await self.tiers.standings([standing.author_id])).get(standing.author_id)
        if fresh is not None and fresh.since_ms == standing.since_ms:
            await self.review.move(fresh, marked=True)
