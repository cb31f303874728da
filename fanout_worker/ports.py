"""What delivery needs from the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from fanout_worker.model import Chunk, Decision, Level, Sample
from foundation.timeline.port import Owners, Timeline
from foundation.viewers import ViewerRecord


class Followers(Protocol):
    """Who follows whom."""

    def pages(self, author_ids: Sequence[int]) -> AsyncIterator[tuple[int, Owners]]:
        """Every follower of the authors, author after author: (author, 1 to 1,000 followers), in a stable order.

        Raises Unavailable, DeadlineExceeded.
        """
        ...


class RecentPosts(Protocol):
    """The newest ids of authors."""

    async def of(self, author_ids: Sequence[int]) -> Mapping[int, Timeline]:
        """An entry for every author, from the author's timeline or the store. Raises Unavailable, DeadlineExceeded."""
        ...


class Chunks(Protocol):
    """The queue of deliveries that are done later, by whoever has time."""

    async def append(self, chunks: Sequence[Chunk]) -> None:
        """Durable when it returns. Raises Unavailable."""
        ...

    async def share(self) -> float:
        """The part of the queue that is this worker's, 0 to 1."""
        ...


class Decisions(Protocol):
    """What was decided about posts, for who asks within a day."""

    async def record(self, decided: Mapping[int, Decision]) -> None:
        """Keep the decisions by post id. Best effort: never raises."""
        ...


class Freshness(Protocol):
    """How old posts are when they reach timelines."""

    def add(self, post_id: int, deliveries: int) -> None:
        """*deliveries* of the post were done now."""
        ...


class Levels(Protocol):
    """What the whole group does about being behind."""

    def now(self) -> Level:
        """The level, at most some seconds old."""
        ...


class Graph(Protocol):
    """What the audit asks about people."""

    async def some_followers(self, author_id: int) -> Owners:
        """Up to 1,000 followers of the author. Raises Unavailable, DeadlineExceeded, Exhausted."""
        ...

    async def viewer(self, user_id: int) -> ViewerRecord:
        """From the rows, not from a copy. Raises NotFound, Unavailable, DeadlineExceeded, Exhausted."""
        ...


class Posts(Protocol):
    """What the audit asks about posts."""

    async def exists(self, post_id: int) -> bool:
        """Whether readers may still see it. Raises Unavailable, DeadlineExceeded, Exhausted."""
        ...


class AuditReport(Protocol):
    """Where the audit tells what it found."""

    def looked(self, sample: Sample, readers: int, missing: Sequence[int], window_s: float) -> None:
        """So many readers' feeds were looked at; *missing* lack the post."""
        ...

    def unknown(self) -> None:
        """A post could not be looked for, as somebody did not answer."""
        ...
