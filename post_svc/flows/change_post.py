"""Update and delete: the durable row with its event, then the card or tombstone, then the answer (rule 6)."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.errors import NotFound
from foundation.model.ids import Ids
from post_svc.model import Changed, Patch, Post
from post_svc.ports import Cards, Outbox, Posts

TELL_WITHIN_S = 0.2
"""How long readers may be silent before a change is not acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePost:
    """An answer means that every reader was told; UNAVAILABLE is to be retried, both calls are idempotent."""

    posts: Posts
    cards: Cards
    outbox: Outbox
    ids: Ids

    async def update(self, author_id: int, post_id: int, patch: Patch) -> Post:
        """The post after the change. Raises NotFound(POST_NOT_FOUND), Unavailable(CACHE_UNAVAILABLE)."""
        change_id = self.ids.next()
        with self.outbox.writing(change_id):
            changed = await self.posts.update(post_id, author_id, patch, change_id=change_id)
        return await self._tell(change_id, post_id, changed)

    async def delete(self, author_id: int, post_id: int) -> None:
        """Hide a post for good. Raises like update."""
        change_id = self.ids.next()
        with self.outbox.writing(change_id):
            changed = await self.posts.delete(post_id, author_id, change_id=change_id)
        await self._tell(change_id, post_id, changed)

    async def _tell(self, change_id: int, post_id: int, changed: Changed | None) -> Post:
        self.outbox.publish(change_id, changed.events if changed is not None else ())
        if changed is None:
            raise NotFound("POST_NOT_FOUND", "no such post", post_id=post_id)
        await self.cards.retell([changed.post], timeout_s=TELL_WITHIN_S)
        return changed.post
