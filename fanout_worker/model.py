"""The plain values of delivery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from foundation.model.tiers import Tier
from foundation.timeline.port import Owners

MAX_FOLLOWERS_PER_CHUNK = 1_000
MAX_POSTS_PER_CHUNK = 16


@dataclass(slots=True, frozen=True)
class NewPost:
    """A post to deliver."""

    post_id: int
    author_id: int
    tier: Tier | None = None
    """How readers find the author's posts, as the event tells; None where it does not."""
    followers: int = 0
    """Of the author, at most an hour old; 0: not known."""


class Route(StrEnum):
    """How a post reaches its readers, beside `author_posts`, which every post is written to."""

    INLINE = "inline"
    """Delivered at once."""
    CHUNKS = "chunks"
    """Its followers go to the log, 1,000 a record, and are delivered from there."""
    RATE_LIMITED = "rate_limited"
    """As CHUNKS, under the limit on updates a second."""
    PULL = "pull"
    """Readers find it in `author_posts`."""
    GAP = "gap"
    """As PULL, for authors whom readers do not pull by themselves: the gap is recorded, and tells them to."""


class Level(IntEnum):
    """What the fan-out does about being behind (seed section 10.1)."""

    NORMAL = 0
    SCALE_OUT = 1
    """More workers are asked for, by the metrics."""
    PRESENT_ONLY = 2
    """Timelines of absentees are unlinked instead of written."""
    PULL_ALL = 3
    """Only `author_posts` is written: readers find the rest through gaps."""


@dataclass(slots=True, frozen=True)
class Lag:
    """How far the whole group is behind."""

    seconds: float
    """Age of the oldest record that is not finished."""
    deliveries: int
    """Not done yet, as far as records tell."""


@dataclass(slots=True, frozen=True)
class Decision:
    """What a post's route is, and why."""

    route: Route
    reason: str
    """For people, short."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Chunk:
    """A share of the delivery of an author's posts."""

    author_id: int
    post_ids: Sequence[int]
    """1 to MAX_POSTS_PER_CHUNK, ascending."""
    followers: Owners
    """1 to MAX_FOLLOWERS_PER_CHUNK."""
    number: int
    """Place among the chunks of these posts, from 1."""
    last: bool
    """Whether none follows."""
    created_ms: int
    rate_limited: bool = False
    pulled: bool = False
    """Whether every follower also pulls the author."""

    @property
    def deliveries(self) -> int:
        """Posts times followers."""
        return len(self.post_ids) * len(self.followers)


@dataclass(slots=True, frozen=True)
class NewFollow:
    """A follow whose followee's recent posts are to be found in the follower's timeline."""

    follower_id: int
    followee_id: int


class Finding(IntEnum):
    """Of a reader whose feed is to have a post."""

    THERE = 0
    """In the timeline, or found by the reader without it; or not the reader's to see."""
    MISSING = 1


@dataclass(slots=True, frozen=True, order=True)
class Sample:
    """A post to look for."""

    post_id: int
    author_id: int
    readers: tuple[int, ...]
    """Some followers of the author."""
    window: int
    """Which look comes next, from 0."""
