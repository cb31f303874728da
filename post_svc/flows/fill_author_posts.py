"""Author timelines from rows: what `author_posts:{a}` lacks is found in the store and put back (rule 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foundation.errors import Unavailable
from foundation.model.clock import Clock, Randomness
from foundation.model.ids import id_at
from foundation.timeline.port import CAPACITY, Timeline, Timelines
from post_svc.model import FEED_DEPTH_MS
from post_svc.ports import Posts

OWNERS_AT_ONCE = 200
MARGIN_MS = 60_000
"""Timelines are filled a little deeper than feeds go, so that a feed that was asked for a moment ago ends in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillAuthorPosts:
    """Reads rows between begin and commit, so that a post in between lands in the timeline."""

    posts: Posts
    timelines: Timelines
    clock: Clock
    randomness: Randomness

    async def __call__(self, author_ids: Sequence[int]) -> Mapping[int, Timeline]:
        """The newest ids of each author from rows; cold timelines are filled where the cache answers."""
        floor = id_at(self.clock.now_ms() - FEED_DEPTH_MS - MARGIN_MS)
        token = self.randomness.token_bytes(8).hex()
        found: dict[int, Timeline] = {}
        for start in range(0, len(author_ids), OWNERS_AT_ONCE):
            chunk = author_ids[start : start + OWNERS_AT_ONCE]
            begun = await asyncio.gather(*(self._begin(author_id, token, floor) for author_id in chunk))
            recent = await self.posts.recent(chunk, after_id=floor, limit=CAPACITY)
            await asyncio.gather(
                *(
                    self._commit(author_id, token, recent[author_id])
                    for author_id, mine in zip(chunk, begun, strict=True)
                    if mine
                )
            )
            found.update(recent)
        return found

    async def _begin(self, author_id: int, token: str, floor: int) -> bool:
        try:
            return await self.timelines.begin(author_id, token, floor)
        except Unavailable:
            return False

    async def _commit(self, author_id: int, token: str, timeline: Timeline) -> None:
        try:
            await self.timelines.commit(author_id, token, timeline.ids, timeline.floor)
        except Unavailable:
            return  # the begun timeline expires and the next reader asks again
