"""Posts were on a viewer's screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feed_svc.ports import SeenPosts


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkSeen:
    """Marks posts as seen: they come after unseen ones in later heads (rule 7)."""

    seen: SeenPosts

    async def __call__(self, viewer_id: int, post_ids: Sequence[int]) -> None:
        # Not checked against the feed: a mark of anything else demotes nothing.
        await self.seen.mark(viewer_id, post_ids)
