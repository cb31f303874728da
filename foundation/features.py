"""The one ordered feature layout (seed section 7.2), shared by serving and training, and the record of a post.

Layout 1 of `pf:{p}`, little endian: u8 layout, 3 zero bytes, u32 fingerprint, i64 author id, then POST_FEATURES as
float32. A record of another layout or fingerprint is a miss.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POST_FEATURES = (
    "like_count",
    "comment_count",
    "save_count",
    "view_count",
    "like_velocity",
    "engagement_rate",
    "author_follower_count",
    "author_avg_engagement",
    "is_video",
    "has_hashtags",
    "caption_length",
)
"""What is kept per post."""

FEATURES = (
    "like_count",
    "comment_count",
    "save_count",
    "view_count",
    "like_velocity",
    "engagement_rate",
    "post_age_hours",
    "author_follower_count",
    "author_avg_engagement",
    "is_video",
    "has_hashtags",
    "caption_length",
    "user_author_affinity",
    "user_author_interaction_count",
    "user_liked_similar_posts",
    "hour_of_day",
    "day_of_week",
    "session_length",
    "posts_seen_this_session",
)
"""Columns of the matrix that a model gets, in this order. Hours are fractional, session_length is in seconds."""

FINGERPRINT = int.from_bytes(hashlib.sha256("\n".join(FEATURES).encode()).digest()[:4], "little")
"""Names this layout; it is in every record and in every model."""
DEFAULT_AFFINITY = 0.5
"""For authors about whom nothing is known (seed section 2.4)."""
TTL_S = 8 * 86_400
LAYOUT = 1
_HEAD = struct.Struct("<BxxxIq")
_RECORD_BYTES = _HEAD.size + 4 * len(POST_FEATURES)


def features_key(post_id: int) -> str:
    """Redis key of a post's features."""
    return f"pf:{{{post_id}}}"


@dataclass(slots=True, frozen=True)
class PostFeatures:
    """One post's features."""

    author_id: int
    values: NDArray[np.float32]
    """In the order of POST_FEATURES."""


def new_post_features(
    *, author_id: int, caption_length: int, hashtag_count: int, has_video: bool, follower_count: int = 0
) -> PostFeatures:
    """Features of a post that nobody has seen yet."""
    values = np.zeros(len(POST_FEATURES), dtype="<f4")
    values[POST_FEATURES.index("author_follower_count")] = follower_count
    values[POST_FEATURES.index("is_video")] = has_video
    values[POST_FEATURES.index("has_hashtags")] = hashtag_count > 0
    values[POST_FEATURES.index("caption_length")] = caption_length
    return PostFeatures(author_id, values)


def encode_features(features: PostFeatures) -> bytes:
    """The packed record."""
    return _HEAD.pack(LAYOUT, FINGERPRINT, features.author_id) + features.values.astype("<f4").tobytes()


def decode_features(record: bytes) -> PostFeatures | None:
    """The features, or None for another layout or fingerprint: a miss."""
    if len(record) != _RECORD_BYTES or record[0] != LAYOUT:
        return None
    _, fingerprint, author_id = _HEAD.unpack_from(record)
    if fingerprint != FINGERPRINT:
        return None
    return PostFeatures(author_id, np.frombuffer(record, dtype="<f4", offset=_HEAD.size))
