"""What users and edges need from the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from foundation.events.port import Event
from graph_svc.model import (
    AppliedFollow,
    CreateOutcome,
    FollowChange,
    FollowResult,
    ListedUser,
    NewUser,
    Published,
    Relationship,
    Standing,
    Step,
    User,
)


class Users(Protocol):
    """Accounts."""

    async def create(self, users: Sequence[NewUser], *, now_ms: int) -> Sequence[tuple[CreateOutcome, int]]:
        """Make accounts in one durable write; each outcome with the id of the account it speaks of.

        A request id is remembered for 24 h.
        """
        ...

    async def get(self, user_ids: Sequence[int]) -> Mapping[int, User]:
        """The accounts that exist, in any state."""
        ...

    async def set_avatar(self, user_id: int, avatar_url: str) -> None:
        """Change a profile; its version grows. Unknown users: nothing."""
        ...

    async def resolve(self, usernames: Sequence[str]) -> Mapping[str, int]:
        """Ids of the names that exist."""
        ...


class Edges(Protocol):
    """Follows, blocks and mutes: durable, each write one transaction that holds its events."""

    async def follow(self, changes: Sequence[FollowChange], *, limit: int) -> FollowResult:
        """Make follows. Nobody follows somebody they block or are blocked by; at most *limit* per follower."""
        ...

    async def unfollow(self, changes: Sequence[FollowChange]) -> FollowResult:
        """End follows."""
        ...

    async def block(self, blocker_id: int, blocked_id: int, *, change_ids: tuple[int, int, int]) -> Sequence[Published]:
        """Block, and end the follows in both directions; the ids are for the block and for each follow that ends.

        Nothing is published when the block was there.
        """
        ...

    async def unblock(self, blocker_id: int, blocked_id: int, *, change_id: int) -> Sequence[Published]:
        """Lift a block."""
        ...

    async def mute(self, muter_id: int, muted_id: int) -> None:
        """Mute; nobody is told."""
        ...

    async def unmute(self, muter_id: int, muted_id: int) -> None:
        """Lift a mute."""
        ...

    async def relationship(self, viewer_id: int, other_id: int) -> Relationship:
        """What the two are to each other."""
        ...

    async def followers(self, user_id: int, *, before: int, limit: int) -> Sequence[ListedUser]:
        """Followers below the place *before* (0: from the top), newest follow first."""
        ...

    async def following(self, user_id: int, *, before: int, limit: int) -> Sequence[ListedUser]:
        """Followees below the place *before* (0: from the top), newest follow first."""
        ...

    def follower_pages(self, user_ids: Sequence[int]) -> AsyncIterator[tuple[int, Sequence[int]]]:
        """Every follower of the users, user after user: (user, at most FOLLOWERS_PER_PAGE followers), stable order."""
        ...


class Followers(Protocol):
    """The rows that say who follows whom, and the counts; written only from the log."""

    async def apply(self, changes: Sequence[AppliedFollow]) -> Sequence[AppliedFollow]:
        """Bring rows and counts to what *changes* say; those that were not overtaken by a newer change.

        Applying a change again, or after a newer one, changes nothing: counts stay exact under redelivery.
        """
        ...


class Tiers(Protocol):
    """How the posts of authors are delivered, and the marks that tell it to the viewer records of their followers."""

    async def standings(self, author_ids: Sequence[int]) -> Mapping[int, Standing]:
        """Standing and exact follower count of the users that exist, as of the latest writes."""
        ...

    async def crossings(self) -> Sequence[Standing]:
        """The standings of all authors with a crossing, in no order."""
        ...

    async def settle(self, standing: Standing, step: Step, *, now_ms: int) -> bool:
        """Durably make *standing* what *step* says, with a later `since_ms` and a later version of the author record.

        Compare and set: False, and nothing changed, if tier or crossing changed since *standing* was read.
        """
        ...

    async def mark(self, follows: Sequence[tuple[int, int]]) -> Sequence[int]:
        """Bring the marks of (author, follower) pairs to what the authors' tiers say now; whose records to tell.

        Only follows that stand are marked, and each mark that changes raises its follower's graph_version. A mark is
        never of an older tier than one that was there. Returned, ascending: every follower of an author who is pulled,
        changed or not, since an earlier call may have died before it told them; and whoever lost a mark.
        """
        ...


class ReadModels(Protocol):
    """Viewer and author records, encoded from rows and told to readers by compare-version."""

    async def viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        """Encoded viewer records in the order asked; empty for unknown users. No reader is told."""
        ...

    async def authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        """Encoded author records in the order asked; empty for unknown users. No reader is told."""
        ...

    async def fill_viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        """As viewers, for somebody who missed them: readers are told too, even when the caller has given up."""
        ...

    async def fill_authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        """As authors, in the same way."""
        ...

    async def tell_viewers(self, user_ids: Sequence[int]) -> None:
        """Write the viewer records. Raises Unavailable(CACHE_UNAVAILABLE) when a node is silent for 200 ms."""
        ...

    async def tell_authors(self, user_ids: Sequence[int]) -> None:
        """Write the author records; afterwards nobody serves what they kept of these users before.

        Raises Unavailable(CACHE_UNAVAILABLE) when a node is silent for 200 ms.
        """
        ...

    async def forget_viewers(self, user_ids: Sequence[int]) -> None:
        """Drop viewer records: readers ask again. Raises like tell_viewers."""
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


class Announcements(Protocol):
    """Tells the log what the consumer applied."""

    async def follows_applied(self, changes: Sequence[AppliedFollow]) -> None:
        """Append them to graph.by_follower; durable on return. Raises Unavailable."""
        ...
