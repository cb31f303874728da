"""A post that cannot be delivered is skipped, and skipping is unlinking (rule 2): its readers become cold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fanout_worker.ports import Followers
from foundation.timeline.port import Timelines


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlinkFeeds:
    """Unlinks timelines; reading rebuilds each."""

    followers: Followers
    feeds: Timelines
    author_posts: Timelines

    async def of_author(self, author_id: int) -> None:
        """The timelines of all followers of an author, and the author's own two. Raises Unavailable: repeat all."""
        await self.author_posts.unlink([author_id])
        await self.feeds.unlink([author_id])
        async for _, page in self.followers.pages([author_id]):
            await self.feeds.unlink(page.tolist())

    async def of(self, owners: Sequence[int]) -> None:
        """The timelines of *owners*. Raises Unavailable: repeat all."""
        await self.feeds.unlink(owners)
