"""A post that cannot be delivered is skipped, and skipping is unlinking (rule 2): its readers become cold."""

from __future__ import annotations

from dataclasses import dataclass

from fanout_worker.ports import Followers
from foundation.timeline.port import Timelines


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlinkFeeds:
    """Unlinks the timelines of all followers of an author, and the author's own two; reading rebuilds each."""

    followers: Followers
    feeds: Timelines
    author_posts: Timelines

    async def __call__(self, author_id: int) -> None:
        """Raises Unavailable: repeat all of it."""
        await self.author_posts.unlink([author_id])
        await self.feeds.unlink([author_id])
        async for _, page in self.followers.pages([author_id]):
            await self.feeds.unlink(page)
