"""What ranking needs from the world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from foundation.features import PostFeatures
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
