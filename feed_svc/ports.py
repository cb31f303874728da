"""What the read path needs from the world."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from feed_svc.model import GapsAbove, HeadMarks, Home, Ranked, Records, SavedPosition, Scores, Session
from foundation.timeline.port import CAPACITY, Timeline
from foundation.viewers import ViewerRecord


class Homes(Protocol):
    """Everything about one viewer that lies on one node."""

    async def load(self, viewer_id: int, *, for_head: bool = False, newest: int = CAPACITY) -> Home:
        """Viewer record, *newest* ids of the timeline, own posts in one call; for a head seen, recommended ones too.

        Raises Unavailable.
        """
        ...

    async def resume(self, viewer_id: int) -> tuple[ViewerRecord | None, Session | None]:
        """The viewer record and the newest frozen head, in one call; each None where there is none.

        Raises Unavailable.
        """
        ...


class Graph(Protocol):
    """The owner of edges, asked when the viewer record misses."""

    async def viewer_from_rows(self, user_id: int) -> ViewerRecord:
        """The record from rows. Raises NotFound(USER_NOT_FOUND), Unavailable, DeadlineExceeded."""
        ...


class AuthorPosts(Protocol):
    """Ids of what authors wrote, read through: their timelines first, the store where those are cold or end."""

    async def below(
        self, author_ids: Sequence[int], *, before_id: int, after_id: int, limit: int, hot: Collection[int] = ()
    ) -> Mapping[int, Timeline]:
        """An entry for every author who could be read: at most *limit* (1-500) greatest ids below *before_id*.

        What is told of authors in *hot* may be two seconds old.

        Each is complete between its floor, which is less than *before_id* - 1, and *before_id*. Ids at or below
        *after_id* may be missing. An author without an entry could not be read in time. Never raises.
        """
        ...


class OpenGaps(Protocol):
    """Where timelines may lack what a fan-out under pressure left to readers (foundation.timeline.port.Gaps)."""

    async def above(self, viewer_id: int, floor: int) -> GapsAbove:
        """Gaps that reach above *floor*; none where the viewer's timeline was mended a moment ago and none has grown.

        May be a second old. Raises Unavailable.
        """
        ...

    def mended(self, viewer_id: int, state: int) -> None:
        """The viewer's timeline holds what lay in the gaps when they were in this *state*."""
        ...


class Shelf(Protocol):
    """Post cards and author records."""

    async def fetch(self, post_ids: Sequence[int], author_ids: Sequence[int] = ()) -> Records:
        """Cards by post and author records by author, from Redis, misses from their owners. Never raises.

        *author_ids* are those of the posts as far as the caller knows, 0 where it does not: they save a round trip.
        A post or author without an entry does not exist, or could not be read: then the records are not `whole`.
        """
        ...

    async def authors_of(self, post_ids: Sequence[int]) -> Sequence[int]:
        """The author of each post, 0 where unknown. Authors never change, so answers may be old. Never raises."""
        ...


class Ranker(Protocol):
    """Orders candidates."""

    async def rank(self, viewer_id: int, candidate_ids: Sequence[int]) -> Ranked:
        """At most HEAD_CAPACITY of at most MAX_CANDIDATES ids, best first.

        Raises a DomainError when ranking failed, was late or answered nonsense.
        """
        ...

    async def explain(self, viewer_id: int, candidate_ids: Sequence[int], post_id: int) -> tuple[Ranked, Scores]:
        """The same, and how *post_id*, one of the candidates, fared."""
        ...


class SeenPosts(Protocol):
    """What viewers have seen: a bounded number of their newest marks, read with their homes."""

    async def mark(self, viewer_id: int, post_ids: Sequence[int]) -> None:
        """Remember *post_ids*; idempotent. Raises Unavailable."""
        ...


class Presence(Protocol):
    """Who has been reading: gauges for operators, nothing that a feed depends on (seed section 10.1)."""

    def reads(self, viewer_id: int) -> None:
        """A viewer asks for a page. Returns at once; nothing is promised."""
        ...


class Recommender(Protocol):
    """Whoever makes recommendations."""

    def wish(self, viewer_id: int) -> None:
        """New ones for this viewer, soon. Returns at once; nothing is promised."""
        ...


class Sessions(Protocol):
    """Frozen heads: the newest 3 of each viewer, for half an hour since they were last read."""

    async def save(self, viewer_id: int, session: Session) -> None:
        """Raises Unavailable."""
        ...

    async def load(self, viewer_id: int, session_id: int) -> Session | None:
        """None when it is gone. Raises Unavailable."""
        ...

    async def newest(self, viewer_id: int) -> Sequence[Session]:
        """Those that are kept, newest first. Raises Unavailable."""
        ...


class Heads(Protocol):
    """Whether lists have changed, at the least cost."""

    async def marks(self, feeds: Sequence[int], authors: Sequence[int]) -> HeadMarks:
        """Marks of the viewers' timelines and of the authors' own posts, in one batch a node. Never raises."""
        ...


class Positions(Protocol):
    """Where users were in their feeds; durable."""

    async def save(self, user_id: int, position: SavedPosition) -> SavedPosition:
        """Keep *position* unless a later one is kept; what is kept then. Of two with one time either stays.

        Raises Unavailable, and DeadlineExceeded when the outcome is unknown.
        """
        ...

    async def of(self, user_id: int) -> SavedPosition | None:
        """None where nothing was saved. Raises Unavailable, DeadlineExceeded."""
        ...


class Fence(Protocol):
    """What was hidden lately, as the log tells it: a failover of the cache cannot lose it (rule 6)."""

    def post_deleted(self, post_id: int) -> None:
        """A post was deleted; again is harmless."""
        ...

    def block_changed(self, blocker_id: int, blocked_id: int, *, version: int, blocked: bool) -> None:
        """A block was made or lifted; the change with the greatest version counts."""
        ...

    def deleted(self, post_ids: Sequence[int]) -> Sequence[int]:
        """Those of *post_ids* that were deleted within the last hour."""
        ...

    def blocked_with(self, user_id: int) -> frozenset[int]:
        """Whom the user blocked, and who blocked the user, within the last hour, where the block still stands."""
        ...
