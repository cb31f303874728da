"""Users over SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from foundation.model.clock import DAY_MS
from foundation.model.tiers import Tier
from foundation.sql.database import Database
from foundation.visibility import UserState
from graph_svc.adapters.request_digest import digest
from graph_svc.adapters.tables import FOLLOWER_BUCKETS, USER_REQUESTS, USERS
from graph_svc.model import CreateOutcome, NewUser, User

CHUNK = 1_000
"""Ids per query: below what every database takes as parameters."""


class SqlUsers:
    """graph_svc.ports.Users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, users: Sequence[NewUser], *, now_ms: int) -> Sequence[tuple[CreateOutcome, int]]:
        return await self._database.write(lambda connection: _create(connection, users, now_ms))

    async def get(self, user_ids: Sequence[int]) -> Mapping[int, User]:
        return await self._database.read(lambda connection: users_by_id(connection, user_ids))

    async def set_avatar(self, user_id: int, avatar_url: str) -> None:
        change = (
            update(USERS).where(USERS.c.user_id == user_id).values(avatar_url=avatar_url, version=USERS.c.version + 1)
        )
        await self._database.write(lambda connection: connection.execute(change) and None)

    async def resolve(self, usernames: Sequence[str]) -> Mapping[str, int]:
        def work(connection: Connection) -> dict[str, int]:
            return _ids_of(connection, usernames)

        return await self._database.read(work)


def users_by_id(connection: Connection, user_ids: Sequence[int]) -> dict[int, User]:
    """The accounts that exist, with their counts."""
    found: dict[int, User] = {}
    for start in range(0, len(user_ids), CHUNK):
        chunk = list(user_ids[start : start + CHUNK])
        counts = follower_counts(connection, chunk)
        for row in connection.execute(select(USERS).where(USERS.c.user_id.in_(chunk))):
            found[row.user_id] = _user(row, counts.get(row.user_id, 0))
    return found


def follower_counts(connection: Connection, user_ids: Sequence[int]) -> dict[int, int]:
    """How many follow each of at most CHUNK users; nothing for those whom nobody ever followed."""
    query = (
        select(FOLLOWER_BUCKETS.c.followee_id, func.sum(FOLLOWER_BUCKETS.c.n))
        .where(FOLLOWER_BUCKETS.c.followee_id.in_(user_ids))
        .group_by(FOLLOWER_BUCKETS.c.followee_id)
    )
    return {followee_id: int(count) for followee_id, count in connection.execute(query)}


def _user(row: Row[Any], follower_count: int) -> User:
    return User(
        user_id=row.user_id,
        username=row.username,
        avatar_url=row.avatar_url,
        is_verified=row.is_verified,
        is_private=row.is_private,
        state=UserState(row.state),
        version=row.version,
        follower_count=follower_count,
        following_count=row.following_count,
    )


def _ids_of(connection: Connection, usernames: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(usernames), CHUNK):
        chunk = list(usernames[start : start + CHUNK])
        query = select(USERS.c.username, USERS.c.user_id).where(USERS.c.username.in_(chunk))
        found.update({row.username: row.user_id for row in connection.execute(query)})
    return found


def _create(connection: Connection, users: Sequence[NewUser], now_ms: int) -> list[tuple[CreateOutcome, int]]:
    taken = _ids_of(connection, [user.username for user in users])
    outcomes: list[tuple[CreateOutcome, int]] = []
    rows: list[dict[str, object]] = []
    for user in users:
        if user.request_id and (before := _earlier(connection, user, now_ms)) is not None:
            outcomes.append(before)
            continue
        if user.username in taken:
            outcomes.append((CreateOutcome.USERNAME_TAKEN, taken[user.username]))
            continue
        taken[user.username] = user.user_id
        outcomes.append((CreateOutcome.CREATED, user.user_id))
        rows.append(
            {
                "user_id": user.user_id,
                "username": user.username,
                "avatar_url": user.avatar_url,
                "is_verified": False,
                "is_private": False,
                "state": UserState.ACTIVE,
                "version": 1,
                "graph_version": 1,
                "following_count": 0,
                "tier": Tier.PUSH,
                "tier_since_ms": 0,
            }
        )
        if user.request_id:
            connection.execute(
                insert(USER_REQUESTS).values(
                    request_id=user.request_id, digest=digest(user), user_id=user.user_id, created_ms=now_ms
                )
            )
    if rows:
        connection.execute(insert(USERS), rows)
    return outcomes


def _earlier(connection: Connection, user: NewUser, now_ms: int) -> tuple[CreateOutcome, int] | None:
    connection.execute(delete(USER_REQUESTS).where(USER_REQUESTS.c.created_ms < now_ms - DAY_MS))
    row = connection.execute(select(USER_REQUESTS).where(USER_REQUESTS.c.request_id == user.request_id)).first()
    if row is None:
        return None
    if row.digest != digest(user):
        return CreateOutcome.REQUEST_MISMATCH, row.user_id
    return CreateOutcome.REPEATED, row.user_id
