"""A new follow shows the followee's posts: all of them above the floor of the follower's timeline (rule 4).

The followers row is written before this runs, so a post in between is pushed or found here, never neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fanout_worker.model import NewFollow
from fanout_worker.ports import RecentPosts
from foundation.errors import Unavailable
from foundation.timeline.port import Pushed, Timelines


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillFollows:
    """Pushes the followee's recent ids; a timeline ignores those at or below its floor."""

    recent: RecentPosts
    feeds: Timelines

    async def __call__(self, follows: Sequence[NewFollow]) -> None:
        """Backfill *follows*; again is harmless. Raises Unavailable if any delivery failed: repeat all of them."""
        if not follows:
            return
        posts = await self.recent.of(sorted({follow.followee_id for follow in follows}))
        # Oldest first: each push then meets the head of the list, the cheap case, where lists are short.
        pairs = [
            (follow.follower_id, post_id) for follow in follows for post_id in reversed(posts[follow.followee_id].ids)
        ]
        outcome = await self.feeds.push_each(pairs)
        failed = sum(1 for pushed in outcome if pushed is Pushed.FAILED)
        if failed:
            raise Unavailable("CACHE_UNAVAILABLE", "deliveries failed", failed=failed, of=len(pairs))
