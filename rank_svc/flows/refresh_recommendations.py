"""A viewer's recommendations: popular posts of whom those they follow follow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from foundation.features import POST_FEATURES
from foundation.model.clock import Clock
from foundation.model.ids import id_at
from foundation.recommendations import MOST
from rank_svc.ports import Features, Graph, RecentPosts, Recommendations
from rank_svc.stages.feature_matrix import age_hours
from rank_svc.stages.recommendations import (
    FOLLOWEES,
    best_of_each,
    friends_of_friends,
    open_to,
    popularity,
    sample,
)

DEPTH_MS = 7 * 86_400_000
"""How old a recommended post may be."""
NEWEST_OF_ONE = 5
"""Posts of an author that are looked at."""
AUTHORS_AT_ONCE = 50
FRESH_FOR_MS = 60_000
"""What was made so lately is not made again."""
WITHIN_S = 2.0
_COLUMNS = {name: at for at, name in enumerate(POST_FEATURES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshRecommendations:
    """Bounded: FOLLOWEES viewer records, FRIENDS_OF_FRIENDS author records and timelines, WITHIN_S in all."""

    graph: Graph
    recent_posts: RecentPosts
    features: Features
    recommendations: Recommendations
    clock: Clock

    async def __call__(self, viewer_id: int) -> None:
        """Raises a DomainError or TimeoutError where it could not be done; then what was there stays."""
        async with asyncio.timeout(WITHIN_S):
            now_ms = self.clock.now_ms()
            if await self.recommendations.made_ms(viewer_id) > now_ms - FRESH_FOR_MS:
                return
            found = (await self.graph.viewers([viewer_id])).get(viewer_id)
            if found is None:
                return
            followees = await self.graph.viewers(sample(found.follows, FOLLOWEES, now_ms))
            friends = dict(friends_of_friends(viewer_id, found, followees.values()))
            authors = open_to(viewer_id, found, await self.graph.authors([*friends]))
            after_id = id_at(now_ms - DEPTH_MS)
            of_author: list[tuple[int, int]] = []
            chosen = [*authors]
            for at in range(0, len(chosen), AUTHORS_AT_ONCE):
                recent = await self.recent_posts.of(chosen[at : at + AUTHORS_AT_ONCE], after_id=after_id)
                of_author += [
                    (post_id, author_id)
                    for author_id, timeline in recent.items()
                    for post_id in timeline.ids[:NEWEST_OF_ONE]
                    if post_id > after_id
                ]
            if not of_author:
                await self.recommendations.put(viewer_id, (), now_ms)
                return
            post_ids, author_ids = np.array(of_author, dtype=np.int64).T
            rows = await self.features.rows(post_ids)
            scores = popularity(
                rows.values,
                _COLUMNS,
                np.array([authors[one].follower_count for one in author_ids.tolist()], dtype=np.float32),
                np.array([friends[one] for one in author_ids.tolist()], dtype=np.float32),
                age_hours(post_ids, now_ms),
            )
            await self.recommendations.put(viewer_id, best_of_each(post_ids, author_ids, scores, MOST), now_ms)
