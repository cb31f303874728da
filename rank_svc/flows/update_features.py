"""Posts that were written or changed get their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundation.features import new_post_features
from rank_svc.model import PostFacts
from rank_svc.ports import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFeatures:
    """Repeating changes nothing."""

    features: Features

    async def __call__(self, posts: Sequence[PostFacts]) -> None:
        """Raises Unavailable(CACHE_UNAVAILABLE): repeat all."""
        await self.features.put(
            [
                (
                    post.post_id,
                    new_post_features(
                        author_id=post.author_id,
                        caption_length=post.caption_length,
                        hashtag_count=post.hashtag_count,
                        has_video=post.has_video,
                    ),
                )
                for post in posts
            ]
        )
