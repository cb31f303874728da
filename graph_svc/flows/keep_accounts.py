"""Accounts: make, read, change. The author record follows the row."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from foundation.errors import AlreadyExists, NotFound, PermissionDenied, Unavailable
from foundation.model.clock import Clock
from foundation.model.ids import Ids
from foundation.visibility import UserState
from graph_svc.model import CreateOutcome, NewUser, User
from graph_svc.ports import Edges, ReadModels, Users


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAccounts:
    """Usernames are unique; a repeated request gets its first answer."""

    users: Users
    edges: Edges
    read_models: ReadModels
    ids: Ids
    clock: Clock

    async def create(self, username: str, avatar_url: str, request_id: str) -> User:
        """Raises AlreadyExists(USERNAME_TAKEN, IDEMPOTENCY_MISMATCH)."""
        new = NewUser(self.ids.next(), username, avatar_url, request_id)
        ((outcome, user_id),) = await self.users.create([new], now_ms=self.clock.now_ms())
        if outcome is CreateOutcome.USERNAME_TAKEN:
            raise AlreadyExists("USERNAME_TAKEN", "this username is taken", username=username)
        if outcome is CreateOutcome.REQUEST_MISMATCH:
            raise AlreadyExists("IDEMPOTENCY_MISMATCH", "this request_id was used for another account")
        with suppress(Unavailable):  # readers ask when the record is missing
            await self.read_models.fill_authors([user_id])
        return (await self.users.get([user_id]))[user_id]

    async def import_users(self, usernames: Sequence[str]) -> Sequence[int]:
        """Make many accounts; a name that exists keeps its account. Ids in the order asked."""
        new = [NewUser(self.ids.next(), username) for username in usernames]
        created = await self.users.create(new, now_ms=self.clock.now_ms())
        return [user_id for _, user_id in created]

    async def get(self, viewer_id: int, user_id: int) -> User:
        """A profile. Raises NotFound(USER_NOT_FOUND), also for someone who blocks the viewer."""
        user = (await self.users.get([user_id])).get(user_id)
        if user is None or user.state is not UserState.ACTIVE:
            raise NotFound("USER_NOT_FOUND", "no such user", user_id=user_id)
        if viewer_id != user_id and (await self.edges.relationship(viewer_id, user_id)).blocked_by:
            raise NotFound("USER_NOT_FOUND", "no such user", user_id=user_id)
        return user

    async def set_avatar(self, viewer_id: int, user_id: int, avatar_url: str | None) -> User:
        """Change one's own profile. Raises PermissionDenied(USER_MISMATCH), NotFound, Unavailable."""
        if viewer_id != user_id:
            raise PermissionDenied("USER_MISMATCH", "only one's own profile can be changed", user_id=user_id)
        if avatar_url is not None:
            await self.users.set_avatar(user_id, avatar_url)
            await self.read_models.tell_authors([user_id])
        return await self.get(viewer_id, user_id)
