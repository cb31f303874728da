"""What posts need from the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from foundation.cards import AuthorCard
from foundation.events.port import Event
from foundation.model.ids import MAX_ID
from foundation.timeline.port import Timeline
from foundation.viewers import ViewerRecord
from post_svc.model import Changed, Created, NewPost, Patch, Post


class Posts(Protocol):
    """Rows, durable, each written in one transaction with its event."""

    async def create(self, posts: Sequence[NewPost], *, now_ms: int) -> Sequence[Created]:
        """Store posts; outcomes in order. A request id is remembered for 24 h per author."""
        ...

    async def get(self, post_ids: Sequence[int]) -> Mapping[int, Post]:
        """The posts that exist, deleted ones too."""
        ...

    async def update(self, post_id: int, author_id: int, patch: Patch, *, change_id: int) -> Changed | None:
        """Change a post; None unless it exists, is not deleted and *author_id* wrote it."""
        ...

    async def delete(self, post_id: int, author_id: int, *, change_id: int) -> Changed | None:
        """Hide a post for good; None unless it exists and *author_id* wrote it."""
        ...

    async def by_author(self, author_id: int, *, before_id: int, limit: int) -> Sequence[Post]:
        """The author's posts that are not deleted, newest first, below *before_id* (0: from the newest)."""
        ...

    async def recent(
        self, author_ids: Sequence[int], *, after_id: int, limit: int, before_id: int = MAX_ID
    ) -> Mapping[int, Timeline]:
        """An entry for every author: the newest *limit* ids between the bounds that are not deleted, and their floor.

        Both bounds are exclusive; the entry is complete between its floor and *before_id*.
        """
        ...


class Cards(Protocol):
    """Cards for readers."""

    def encode(self, post: Post) -> bytes:
        """The post as readers get it, without author and engagement."""
        ...

    def record(self, post: Post) -> bytes:
        """The card record of a post; a tombstone for a deleted one."""
        ...

    async def tell(self, posts: Sequence[Post], *, timeout_s: float) -> None:
        """Write card records by compare-version. Raises Unavailable(CACHE_UNAVAILABLE) when a node is silent."""
        ...

    async def retell(self, posts: Sequence[Post], *, timeout_s: float) -> None:
        """Like tell, for posts that changed: afterwards nobody serves what they kept of them either.

        Takes twice *timeout_s* at most. Raises like tell: somebody may still serve what was before.
        """
        ...


class People(Protocol):
    """Viewer and author records."""

    async def viewer(self, user_id: int) -> ViewerRecord:
        """Raises NotFound(USER_NOT_FOUND), Unavailable, DeadlineExceeded."""
        ...

    async def authors(self, user_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        """The users that exist. Raises Unavailable, DeadlineExceeded."""
        ...


class Outbox(Protocol):
    """Publishes what durable writes hold."""

    def writing(self, snowflake: int) -> AbstractContextManager[None]:
        """Around a durable write whose events lie in the slot of this id."""
        ...

    def publish(self, snowflake: int, events: Sequence[Event]) -> None:
        """After the write; never fails."""
        ...

    async def flush(self) -> None:
        """Wait until what was published is in the log."""
        ...
