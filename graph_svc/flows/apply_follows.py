"""The log's follows become followers rows and counts; only then is the follower's side told (rule 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graph_svc.flows.mark_followers import MarkFollowers
from graph_svc.flows.review_tiers import ReviewTiers
from graph_svc.model import AppliedFollow
from graph_svc.ports import Announcements, Followers


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyFollows:
    """Exactly once in effect: repeating a batch changes no row and announces it again."""

    followers: Followers
    mark_followers: MarkFollowers
    announcements: Announcements
    review_tiers: ReviewTiers

    async def __call__(self, changes: Sequence[AppliedFollow]) -> None:
        """Raises Unavailable, DeadlineExceeded: repeat the batch."""
        current = await self.followers.apply(changes)
        # After the rows: a crossing that did not find these followers was begun before, and its tier is seen here.
        await self.mark_followers([(change.followee_id, change.follower_id) for change in current if change.following])
        await self.announcements.follows_applied(current)
        await self.review_tiers({change.followee_id for change in current})
