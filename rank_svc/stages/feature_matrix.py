"""The matrix that a model gets, column by column in the order of FEATURES. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundation.features import DEFAULT_AFFINITY, FEATURES, POST_FEATURES
from foundation.model.ids import EPOCH_MS
from rank_svc.model import Ids, Matrix

_FROM_POST = [FEATURES.index(name) for name in POST_FEATURES]
_AGE = FEATURES.index("post_age_hours")
_AFFINITY = FEATURES.index("user_author_affinity")
_HOUR = FEATURES.index("hour_of_day")
_WEEKDAY = FEATURES.index("day_of_week")
_SESSION = FEATURES.index("session_length")
_SEEN = FEATURES.index("posts_seen_this_session")
_HOUR_MS = 3_600_000
_THURSDAY = 3
"""Day of the week of 1970-01-01, Monday being 0."""


def age_hours(ids: Ids, now_ms: int) -> NDArray[np.float32]:
    """Age of each post, from its id; at least 0."""
    created = (ids >> 22) + EPOCH_MS
    ages: NDArray[np.float32] = (np.maximum(now_ms - created, 0) / _HOUR_MS).astype(np.float32)
    return ages


def feature_matrix(
    values: Matrix, ages: NDArray[np.float32], *, now_ms: int, session_length_s: int, posts_seen: int
) -> Matrix:
    """(n, len(FEATURES)) from the posts' own values and the moment of the request, in UTC."""
    matrix = np.zeros((len(values), len(FEATURES)), dtype=np.float32)
    matrix[:, _FROM_POST] = values
    matrix[:, _AGE] = ages
    matrix[:, _AFFINITY] = DEFAULT_AFFINITY
    matrix[:, _HOUR] = now_ms // _HOUR_MS % 24
    matrix[:, _WEEKDAY] = (now_ms // (24 * _HOUR_MS) + _THURSDAY) % 7
    matrix[:, _SESSION] = session_length_s
    matrix[:, _SEEN] = posts_seen
    return matrix
