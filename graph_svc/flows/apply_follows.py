"""The log's follows become followers rows and counts; only then is the follower's side told (rule 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graph_svc.model import AppliedFollow
from graph_svc.ports import Announcements, Followers


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyFollows:
    """Exactly once in effect: repeating a batch changes no row and announces it again."""

    followers: Followers
    announcements: Announcements

    async def __call__(self, changes: Sequence[AppliedFollow]) -> None:
        """Raises Unavailable: repeat the batch."""
        current = await self.followers.apply(changes)
        await self.announcements.follows_applied(current)
