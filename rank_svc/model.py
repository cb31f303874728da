"""The plain values of ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Matrix = NDArray[np.float32]

MAX_CANDIDATES = 1_000
KEPT = 200
"""Candidates that stage 1 leaves to stage 2."""


@dataclass(slots=True, frozen=True)
class RankQuery:
    """Candidates of one viewer."""

    viewer_id: int
    candidate_ids: Ids
    limit: int
    session_length_s: int = 0
    posts_seen: int = 0
    explain_id: int = 0
    """A candidate of which more is told; 0 for none."""


@dataclass(slots=True, frozen=True)
class FeatureRows:
    """Features of posts, row by row."""

    values: Matrix
    """(n, len(POST_FEATURES))."""
    author_ids: Ids
    """(n,); 0 where nothing is known of the post."""
    whole: bool = True
    """False where the store did not answer: of some posts more may be known than these rows say."""


@dataclass(slots=True, frozen=True)
class Explained:
    """How one candidate fared."""

    quick_score: float
    quick_place: int
    """From 1."""
    model_score: float
    model_place: int
    """From 1; 0 where stage 1 left it out."""
    features: NDArray[np.float32]
    """What the model was given, in the order of FEATURES."""


@dataclass(slots=True, frozen=True)
class Ranked:
    """Best first; ties to the greater id."""

    post_ids: Ids
    places: NDArray[np.intp]
    """Of these posts among the candidates."""
    author_ids: Ids
    scores: NDArray[np.float32]
    """Descending, finite."""
    model_version: str
    explained: Explained | None = None
    features_whole: bool = True
    """False where some were scored without features that the store may have."""


@dataclass(slots=True, frozen=True)
class PostFacts:
    """What an event says of a post."""

    post_id: int
    author_id: int
    caption_length: int
    hashtag_count: int
    has_video: bool
