"""A post reaches its followers: every existing timeline of a follower, and the author's own, gets the id once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fanout_worker.model import NewPost
from fanout_worker.ports import Followers
from foundation.errors import Unavailable
from foundation.timeline.port import Pushed, Timelines

DELIVERIES_PER_CALL = 4_000
"""Deliveries gathered over posts before they are written, each node's share in one script call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutPosts:
    """Push for everybody: whatever is not pushed because a timeline is cold is found when that timeline is built."""

    followers: Followers
    feeds: Timelines
    author_posts: Timelines

    async def __call__(self, posts: Sequence[NewPost]) -> None:
        """Deliver *posts*; again is harmless. Raises Unavailable if any delivery failed: repeat all of them."""
        # The author's own timeline was tried before the acknowledgement; this makes it certain.
        await self._deliver(self.author_posts, [(post.author_id, post.post_id) for post in posts])
        posts_of: dict[int, list[int]] = defaultdict(list)
        for post in posts:
            posts_of[post.author_id].append(post.post_id)
        pending = [(post.author_id, post.post_id) for post in posts]
        async for author_id, page in self.followers.pages(sorted(posts_of)):
            for post_id in posts_of[author_id]:
                pending.extend((follower_id, post_id) for follower_id in page)
            if len(pending) >= DELIVERIES_PER_CALL:
                await self._deliver(self.feeds, pending)
                pending = []
        await self._deliver(self.feeds, pending)

    async def _deliver(self, timelines: Timelines, pairs: Sequence[tuple[int, int]]) -> None:
        if not pairs:
            return
        outcome = await timelines.push_each(pairs)
        failed = sum(1 for pushed in outcome if pushed is Pushed.FAILED)
        if failed:
            raise Unavailable("CACHE_UNAVAILABLE", "deliveries failed", failed=failed, of=len(pairs))
