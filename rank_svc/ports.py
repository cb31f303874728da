"""What ranking needs from the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from foundation.cards import AuthorCard
from foundation.features import PostFeatures
from foundation.timeline.port import Timeline
from foundation.viewers import ViewerRecord
from rank_svc.model import FeatureRows, Ids, Matrix


class Features(Protocol):
    """Features of posts: a columnar cache in the process before the feature store."""

    async def rows(self, post_ids: Ids) -> FeatureRows:
        """A row for every id, in order; zeros and author 0 for unknown posts. Never raises: a silent store is told."""
        ...

    async def put(self, features: Sequence[tuple[int, PostFeatures]]) -> None:
        """Store features by post id. Raises Unavailable(CACHE_UNAVAILABLE)."""
        ...


class Scorer(Protocol):
    """The model. Scoring is CPU work and happens off the event loop."""

    @property
    def version(self) -> str:
        """Names the model, e.g. "rules-1"."""
        ...

    async def score(self, matrix: Matrix) -> Matrix:
        """One score per row of a (n, len(FEATURES)) matrix, shape (n,). Raises Internal(MODEL_FAILED)."""
        ...


class Graph(Protocol):
    """The owner of edges and accounts."""

    async def viewers(self, user_ids: Sequence[int]) -> Mapping[int, ViewerRecord]:
        """Records, at most an hour old, of those of at most 100 users who exist.

        Raises Unavailable, DeadlineExceeded, Internal.
        """
        ...

    async def authors(self, user_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        """Author records of those of at most 1,000 users who exist. Raises as viewers does."""
        ...


class RecentPosts(Protocol):
    """The newest posts of authors (foundation.timeline.recent)."""

    async def of(self, author_ids: Sequence[int], *, after_id: int = 0) -> Mapping[int, Timeline]:
        """An entry for every author. Raises Unavailable, DeadlineExceeded."""
        ...


class Recommendations(Protocol):
    """`recs:{u}` (foundation.recommendations)."""

    async def made_ms(self, viewer_id: int) -> int:
        """When those of a viewer were made; 0 where there are none. Raises Unavailable."""
        ...

    async def put(self, viewer_id: int, post_ids: Sequence[int], made_ms: int) -> None:
        """Replace them; best first. Raises Unavailable."""
        ...
