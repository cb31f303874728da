"""Stage 1: the quick score of seed section 7.2, over all candidates at once. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundation.features import POST_FEATURES
from rank_svc.model import Ids, Matrix

_LIKES = POST_FEATURES.index("like_count")
_COMMENTS = POST_FEATURES.index("comment_count")
_SAVES = POST_FEATURES.index("save_count")
_HALF_LIFE_H = np.float32(6.0)


def quick_scores(values: Matrix, age_hours: NDArray[np.float32]) -> NDArray[np.float32]:
    """0.4 recency + 0.6 engagement, log-scaled; shape (n,)."""
    counts = np.log1p(values[:, [_LIKES, _COMMENTS, _SAVES]])
    engagement = counts @ np.array([0.05, 0.03, 0.02], dtype=np.float32)
    recency = np.exp(-age_hours / _HALF_LIFE_H)
    scores: NDArray[np.float32] = (recency * np.float32(0.4) + engagement * np.float32(0.6)).astype(np.float32)
    return scores


def best(scores: NDArray[np.float32], ids: Ids, limit: int) -> NDArray[np.intp]:
    """Places of the *limit* best, best first; ties to the greater id."""
    return np.lexsort((-ids, -scores))[:limit]
