"""The plain values of posts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from foundation.events.port import Event
from foundation.model.tiers import Tier
from foundation.visibility import PostState

READY_WITHIN_MS = 30_000
"""Every follower has a post this long after its creation (seed section 1: 99th percentile)."""
FEED_DEPTH_MS = 7 * 86_400_000
"""How far back author timelines go."""


@dataclass(slots=True, frozen=True)
class Draft:
    """What an author wants to say; already clean."""

    caption: str = ""
    hashtags: tuple[str, ...] = ()
    location_id: str = ""


@dataclass(slots=True, frozen=True)
class Post:
    """A post as stored."""

    post_id: int
    author_id: int
    draft: Draft
    state: PostState
    version: int
    """1 when created, greater with each change, TOMBSTONE_VERSION when deleted."""


@dataclass(slots=True, frozen=True)
class NewPost:
    """A post to store."""

    post_id: int
    author_id: int
    draft: Draft
    request_id: str = ""
    author_tier: Tier = Tier.PUSH
    """How it will be delivered; its event tells."""
    author_followers: int = 0


@dataclass(slots=True, frozen=True)
class Patch:
    """What to change; None stays."""

    caption: str | None = None
    hashtags: tuple[str, ...] | None = None
    location_id: str | None = None


class CreateOutcome(IntEnum):
    """What became of a NewPost."""

    CREATED = 1
    REPEATED = 2
    """The request was answered before."""
    REQUEST_MISMATCH = 3
    """The request id was used for another post."""


@dataclass(slots=True, frozen=True)
class Created:
    """What became of one NewPost, and what to publish."""

    outcome: CreateOutcome
    post_id: int
    """For CREATED usually that of the NewPost; that of an earlier attempt which came to nothing where there was one."""
    events: Sequence[Event] = ()


@dataclass(slots=True, frozen=True)
class Changed:
    """A post after a change, and what to publish; no events when there was nothing to change."""

    post: Post
    events: Sequence[Event] = ()
