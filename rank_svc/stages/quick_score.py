"""Stage 1: the quick score of seed section 7.2, over all candidates at once. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundation.features import POST_FEATURES
from rank_svc.model import Ids, Matrix

_ENGAGEMENTS = [POST_FEATURES.index(name) for name in ("like_count", "comment_count", "save_count")]
_WORTH = np.float32(0.6) * np.array([0.05, 0.03, 0.02], dtype=np.float32)
_RECENT = np.float32(0.4)
_PER_HOUR = np.float32(-1 / 6)


def quick_scores(values: Matrix, age_hours: NDArray[np.float32]) -> NDArray[np.float32]:
    """0.4 recency + 0.6 engagement, log-scaled; shape (n,)."""
    scores: NDArray[np.float32] = np.exp(age_hours * _PER_HOUR)
    scores *= _RECENT
    scores += np.log1p(values.take(_ENGAGEMENTS, axis=1)) @ _WORTH
    return scores


def best(scores: NDArray[np.float32], ids: Ids, limit: int) -> NDArray[np.intp]:
    """Places of the *limit* best, best first; ties to the greater id."""
    return np.lexsort((-ids, -scores))[:limit]
