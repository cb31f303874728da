"""Lists of people, and what two of them are to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from foundation.visibility import UserState
from graph_svc.flows.keep_accounts import KeepAccounts
from graph_svc.model import ListedUser, Relationship, User
from graph_svc.ports import Edges


class PeopleOf(Enum):
    """Which list of a user."""

    FOLLOWERS = "followers"
    FOLLOWING = "following"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPeople:
    """Pages of at most 100, newest follow first; accounts that are not active are left out."""

    accounts: KeepAccounts
    edges: Edges

    async def page(
        self, viewer_id: int, user_id: int, kind: PeopleOf, *, before: int, limit: int
    ) -> tuple[Sequence[User], int]:
        """Users, and where the next page begins; 0 at the end. Raises NotFound(USER_NOT_FOUND)."""
        await self.accounts.get(viewer_id, user_id)
        entries: Sequence[ListedUser]
        if kind is PeopleOf.FOLLOWERS:
            entries = await self.edges.followers(user_id, before=before, limit=limit + 1)
        else:
            entries = await self.edges.following(user_id, before=before, limit=limit + 1)
        after = entries[limit - 1].place if len(entries) > limit else 0
        return [entry.user for entry in entries[:limit] if entry.user.state is UserState.ACTIVE], after

    async def relationship(self, viewer_id: int, user_id: int) -> Relationship:
        """Seen from the viewer. Raises NotFound(USER_NOT_FOUND)."""
        await self.accounts.get(viewer_id, user_id)
        return await self.edges.relationship(viewer_id, user_id)
