"""Announcements over the event log."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.events.port import GRAPH_BY_FOLLOWER, Event, EventLog
from graph_svc.adapters.graph_events import follow_event
from graph_svc.model import AppliedFollow


class LogAnnouncements:
    """graph_svc.ports.Announcements."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def follows_applied(self, changes: Sequence[AppliedFollow]) -> None:
        await self._log.append(
            [Event(GRAPH_BY_FOLLOWER, change.follower_id, follow_event(change)) for change in changes]
        )
