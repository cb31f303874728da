"""A post reaches its followers: every existing timeline of a follower, and the author's own, gets the id once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
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

    async def __call__(self, posts: Sequence[NewPost]) -> Collection[int]:
        """Deliver *posts*; again is harmless. Ids of those of which a node did not take its share: repeat them.

        Raises Unavailable when no node took anything: then nothing is to be gained from going on (rule 5).
        """
        # The author's own timeline was tried before the acknowledgement; this makes it certain.
        failed = await self._deliver(self.author_posts, [(post.author_id, post.post_id) for post in posts])
        posts_of: dict[int, list[int]] = defaultdict(list)
        for post in posts:
            posts_of[post.author_id].append(post.post_id)
        pending = [(post.author_id, post.post_id) for post in posts]
        async for author_id, page in self.followers.pages(sorted(posts_of)):
            for post_id in posts_of[author_id]:
                pending.extend((follower_id, post_id) for follower_id in page)
            if len(pending) >= DELIVERIES_PER_CALL:
                failed |= await self._deliver(self.feeds, pending)
                pending = []
        return failed | await self._deliver(self.feeds, pending)

    async def _deliver(self, timelines: Timelines, pairs: Sequence[tuple[int, int]]) -> set[int]:
        """Ids of the posts of which a delivery failed."""
        if not pairs:
            return set()
        outcome = await timelines.push_each(pairs)
        failed = [post_id for (_, post_id), pushed in zip(pairs, outcome, strict=True) if pushed is Pushed.FAILED]
        if len(failed) == len(pairs):
            raise Unavailable("CACHE_UNAVAILABLE", "no delivery was taken", of=len(pairs))
        return set(failed)
