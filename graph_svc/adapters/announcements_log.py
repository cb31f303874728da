"""Announcements over the event log."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING, FOLLOW_STATE_NONE, FollowChanged

from foundation.events.envelope import encode
from foundation.events.port import GRAPH_BY_FOLLOWER, Event, EventLog
from graph_svc.model import AppliedFollow


class LogAnnouncements:
    """graph_svc.ports.Announcements."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def follows_applied(self, changes: Sequence[AppliedFollow]) -> None:
        events = []
        for change in changes:
            event = FollowChanged(
                follower_id=change.follower_id,
                followee_id=change.followee_id,
                state=FOLLOW_STATE_FOLLOWING if change.following else FOLLOW_STATE_NONE,
            )
            value = encode(event, event_id=change.change_id, version=change.change_id)
            events.append(Event(GRAPH_BY_FOLLOWER, change.follower_id, value))
        await self._log.append(events)
