"""From a position in a feed downwards, newest first: the list, pulled authors beside it, then below its floor.

Below the floor of the list every followee is read, from `author_posts` and, below the floors of those, from the store:
whatever is not in the list is found there (rules 1 and 8). Nothing is kept between pages but the position.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import Degraded, Slate, Stretch, Walked
from feed_svc.ports import AuthorPosts, Shelf
from feed_svc.stages.candidates import before, with_pulled
from feed_svc.stages.slate import SPARE, fill_slate
from feed_svc.stages.walk import walk_down
from foundation.model.ids import MAX_ID
from foundation.rpc.deadlines import timeout
from foundation.timeline.port import CAPACITY

MAX_STRETCHES = 8
"""Bound on what one page reads when most of it is hidden; the rest is for the next page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkFeed:
    """Stateless: a page needs nothing of the pages above it, and reads nothing of what they showed."""

    author_posts: AuthorPosts
    shelf: Shelf
    timeout_s: float

    async def __call__(
        self, viewer_id: int, home: OpenedHome, *, before_id: int, limit: int, shown: Collection[int] = ()
    ) -> Walked:
        """Up to *limit* posts below *before_id* (0: from the newest) without *shown*.

        The end is 7 days back. Where a followee could not be read the page ends, says FEED_PARTIAL, and the next one
        tries again from there.
        """
        slate = Slate(posts=[])
        begin = before_id or MAX_ID
        newest_id = 0
        for turn in range(MAX_STRETCHES):
            wanted = limit - len(slate.posts)
            if wanted <= 0 and not home.holds_all_below(begin):
                return Walked(slate, begin, newest_id)
            # Where much is hidden, ever more is read at once.
            reach = min(CAPACITY, wanted + SPARE << turn)
            stretch = await self._stretch(viewer_id, home, begin, reach)
            ids = [post_id for post_id in stretch.ids if post_id not in shown] if shown else stretch.ids
            newest_id = newest_id or (ids[0] if ids else 0)
            part = await fill_slate(self.shelf, viewer_id, home.viewer, ids, wanted)
            slate = slate.followed_by(part)
            if stretch.missing:
                slate.reasons.add(Degraded.FEED_PARTIAL)
            if part.examined < len(ids):
                return Walked(slate, ids[part.examined] + 1, newest_id)
            if stretch.missing:
                return Walked(slate, stretch.floor + 1, newest_id)
            if stretch.floor <= home.oldest_id:
                return Walked(slate, 0, newest_id)
            begin = stretch.floor + 1
        return Walked(slate, begin, newest_id)

    async def _stretch(self, viewer_id: int, home: OpenedHome, begin: int, wanted: int) -> Stretch:
        if begin - 1 <= home.floor:
            everyone = [viewer_id, *home.viewer.follows]
            return await self._walk(home, everyone, begin, home.oldest_id, wanted)
        listed = Stretch(before(home.ids, begin), max(home.floor, home.oldest_id))
        if not home.viewer.pulled:
            return listed
        return with_pulled(listed, await self._walk(home, [*home.viewer.pulled], begin, listed.floor, wanted))

    async def _walk(
        self, home: OpenedHome, author_ids: Sequence[int], begin: int, oldest_id: int, wanted: int
    ) -> Stretch:
        try:
            async with asyncio.timeout(timeout(self.timeout_s)):
                return await walk_down(
                    self.author_posts,
                    author_ids,
                    before_id=begin,
                    after_id=oldest_id,
                    wanted=wanted,
                    hot=home.viewer.supers,
                )
        except TimeoutError:
            return Stretch((), begin - 1, missing=True)
