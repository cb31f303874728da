"""What delivery needs from the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from foundation.timeline.port import Timeline


class Followers(Protocol):
    """Who follows whom."""

    def pages(self, author_ids: Sequence[int]) -> AsyncIterator[tuple[int, Sequence[int]]]:
        """Every follower of the authors: (author, at most 1,000 followers). Raises Unavailable, DeadlineExceeded."""
        ...


class RecentPosts(Protocol):
    """The newest ids of authors."""

    async def of(self, author_ids: Sequence[int]) -> Mapping[int, Timeline]:
        """An entry for every author, from the author's timeline or the store. Raises Unavailable, DeadlineExceeded."""
        ...
