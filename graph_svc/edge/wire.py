"""Protobuf to plain values and back."""

from __future__ import annotations

import numpy as np
from feedmesh.graph.v1 import graph_pb2

from foundation.errors import InvalidArgument
from foundation.model.ids import created_ms
from graph_svc.model import Relationship, User


def user_message(user: User) -> graph_pb2.User:
    """The public profile."""
    message = graph_pb2.User(
        user_id=user.user_id,
        username=user.username,
        avatar_url=user.avatar_url,
        is_verified=user.is_verified,
        follower_count=user.follower_count,
        following_count=user.following_count,
    )
    message.created_at.FromMilliseconds(created_ms(user.user_id))
    return message


def relationship_message(user_id: int, relationship: Relationship) -> graph_pb2.Relationship:
    """What the caller and *user_id* are to each other; nobody learns that they are muted."""
    return graph_pb2.Relationship(
        user_id=user_id,
        following=relationship.following,
        followed_by=relationship.followed_by,
        blocking=relationship.blocking,
        muting=relationship.muting,
    )


def packed_pairs(follower_ids: bytes, followee_ids: bytes) -> list[tuple[int, int]]:
    """Pairs from two packed lists. Raises InvalidArgument(FIELD_INVALID)."""
    if len(follower_ids) != len(followee_ids) or len(follower_ids) % 8:
        raise InvalidArgument("FIELD_INVALID", "follower_ids and followee_ids must be int64 lists of one length")
    one = np.frombuffer(follower_ids, "<i8").tolist()
    other = np.frombuffer(followee_ids, "<i8").tolist()
    return list(zip(one, other, strict=True))
