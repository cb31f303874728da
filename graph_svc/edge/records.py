"""Records of graph.by_followee to plain values to the flow."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.events.v1.envelope_pb2 import Envelope
from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING

from foundation.events.port import Record
from graph_svc.flows.apply_follows import ApplyFollows
from graph_svc.model import AppliedFollow


class FollowRecords:
    """Handles graph.by_followee; may see a record again."""

    def __init__(self, apply_follows: ApplyFollows) -> None:
        self._apply_follows = apply_follows

    async def __call__(self, batch: Sequence[tuple[Record, Envelope]]) -> None:
        await self._apply_follows(
            [
                AppliedFollow(
                    envelope.version,
                    envelope.follow_changed.follower_id,
                    envelope.follow_changed.followee_id,
                    envelope.follow_changed.state == FOLLOW_STATE_FOLLOWING,
                )
                for _, envelope in batch
                if envelope.HasField("follow_changed")
            ]
        )
