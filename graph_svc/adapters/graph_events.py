"""The events of follows and blocks, as they lie in the store and in the log."""

from __future__ import annotations

from feedmesh.events.v1.graph_events_pb2 import (
    FOLLOW_STATE_FOLLOWING,
    FOLLOW_STATE_NONE,
    BlockChanged,
    FollowChanged,
)

from foundation.events.envelope import encode
from graph_svc.model import AppliedFollow


def follow_event(change: AppliedFollow) -> bytes:
    """An encoded envelope whose version is the id of the change."""
    event = FollowChanged(
        follower_id=change.follower_id,
        followee_id=change.followee_id,
        state=FOLLOW_STATE_FOLLOWING if change.following else FOLLOW_STATE_NONE,
    )
    return encode(event, event_id=change.change_id, version=change.change_id)


def block_event(change_id: int, *, blocker_id: int, blocked_id: int, blocked: bool) -> bytes:
    """An encoded envelope whose version is the id of the change."""
    event = BlockChanged(blocker_id=blocker_id, blocked_id=blocked_id, blocked=blocked)
    return encode(event, event_id=change_id, version=change_id)
