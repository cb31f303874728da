"""The plain values of users and edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from foundation.events.port import Event
from foundation.model.tiers import PULL_FROM, SUPER_FROM, Tier
from foundation.visibility import UserState

BUCKET_CAPACITY = 50_000
"""Followers per bucket; a full bucket is followed by a new one and never split."""
FOLLOWERS_PER_PAGE = 1_000


@dataclass(slots=True, frozen=True)
class User:
    """An account."""

    user_id: int
    username: str
    avatar_url: str
    is_verified: bool
    is_private: bool
    state: UserState
    version: int
    """Grows with every change of the profile."""
    follower_count: int
    following_count: int


@dataclass(slots=True, frozen=True)
class NewUser:
    """An account to make."""

    user_id: int
    username: str
    avatar_url: str = ""
    request_id: str = ""


class CreateOutcome(IntEnum):
    """What became of a NewUser."""

    CREATED = 1
    REPEATED = 2
    """The request was answered before: the account is the one made then."""
    USERNAME_TAKEN = 3
    REQUEST_MISMATCH = 4
    """The request id was used for something else."""


@dataclass(slots=True, frozen=True)
class FollowChange:
    """A follow to make or end, under an id of its own."""

    change_id: int
    follower_id: int
    followee_id: int


class FollowOutcome(IntEnum):
    """What became of a FollowChange."""

    CHANGED = 1
    UNCHANGED = 2
    NO_SUCH_USER = 3
    BLOCKED_BY_THEM = 4
    BLOCKING_THEM = 5
    LIMIT_REACHED = 6


@dataclass(slots=True, frozen=True)
class Published:
    """Events that a durable write holds, under the id whose sweep slot they lie in."""

    change_id: int
    events: Sequence[Event]


@dataclass(slots=True, frozen=True)
class FollowResult:
    """Outcomes in the order asked, and what to publish."""

    outcomes: Sequence[FollowOutcome]
    published: Sequence[Published] = field(default_factory=tuple)


@dataclass(slots=True, frozen=True)
class Relationship:
    """What two users are to each other, seen from the first."""

    following: bool
    followed_by: bool
    blocking: bool
    blocked_by: bool
    muting: bool


@dataclass(slots=True, frozen=True)
class AppliedFollow:
    """A follow as the log tells it."""

    change_id: int
    """The event's version: the id of the change."""
    follower_id: int
    followee_id: int
    following: bool


@dataclass(slots=True, frozen=True)
class ListedUser:
    """An entry of a list of users and its place."""

    user: User
    place: int
    """Lists go from the greatest place down."""


class Crossing(IntEnum):
    """Why an author is between two borders, or why the marks of the followers do not tell the tier yet."""

    UP = 1
    """More followers than before: every follower is being marked."""
    DOWN = 2
    """Fewer: in BOTH, readers still need the marks; in PUSH and PULL, every follower's mark is being set back."""


@dataclass(slots=True, frozen=True)
class Standing:
    """How an author's posts are delivered, and what decides how they will be."""

    author_id: int
    tier: Tier
    crossing: Crossing | None
    since_ms: int
    """When tier or crossing last changed: 0 if never, and no two changes of an author have the same."""
    follower_count: int


@dataclass(slots=True, frozen=True)
class Step:
    """What an author's standing becomes."""

    tier: Tier
    crossing: Crossing | None


@dataclass(slots=True, frozen=True, kw_only=True)
class Borders:
    """Where authors change tiers."""

    pull_from: int = PULL_FROM
    """Followers from which an author is pulled."""
    super_from: int = SUPER_FROM
    """Followers from which an author is SUPER."""
    down_for_ms: int
    """How long an author who goes down is pushed and pulled."""


def mark_of(tier: Tier) -> int:
    """What `following.pulled` is once it tells *tier*: 0, PULL or SUPER. BOTH is told as PULL: readers do the same."""
    return 0 if not tier.pulled else int(max(tier, Tier.PULL))
