"""Viewer and author records: encoded from rows, told to readers through Redis by compare-version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from feedmesh.post.v1.post_pb2 import Author
from sqlalchemy import Connection, or_, select

from foundation import cards, viewers
from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from foundation.redis.versioned import set_if_newer
from foundation.sql.database import Database
from foundation.visibility import EdgeState, UserState
from graph_svc.adapters.tables import BLOCKS, FOLLOWING, MUTES, USERS
from graph_svc.adapters.users_sql import follower_counts

TELL_WITHIN_S = 0.2
"""How long a reader's node may be silent before a change is not acknowledged (rule 6)."""


class ReadModelRecords:
    """graph_svc.ports.ReadModels."""

    def __init__(self, database: Database, redis: RedisCluster) -> None:
        self._database = database
        self._redis = redis

    async def viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        return await self._database.read(lambda connection: _viewer_records(connection, user_ids))

    async def authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        return await self._database.read(lambda connection: _author_records(connection, user_ids))

    async def tell_viewers(self, user_ids: Sequence[int]) -> None:
        records = await self.viewers(user_ids)
        pairs = [(viewers.viewer_key(uid), record) for uid, record in zip(user_ids, records, strict=True) if record]
        await set_if_newer(self._redis, pairs, ttl_s=viewers.TTL_S, timeout_s=TELL_WITHIN_S)

    async def tell_authors(self, user_ids: Sequence[int]) -> None:
        records = await self.authors(user_ids)
        pairs = [(cards.author_key(uid), record) for uid, record in zip(user_ids, records, strict=True) if record]
        await set_if_newer(self._redis, pairs, ttl_s=cards.TTL_S, timeout_s=TELL_WITHIN_S)

    async def forget_viewers(self, user_ids: Sequence[int]) -> None:
        await self._redis.execute([("UNLINK", viewers.viewer_key(user_id)) for user_id in user_ids])


def _viewer_records(connection: Connection, user_ids: Sequence[int]) -> list[bytes]:
    ids = list(user_ids)
    users = {row.user_id: row for row in connection.execute(select(USERS).where(USERS.c.user_id.in_(ids)))}
    follows: dict[int, list[int]] = defaultdict(list)
    pulled: dict[int, list[int]] = defaultdict(list)
    supers: dict[int, list[int]] = defaultdict(list)
    for follower_id, followee_id, mark in connection.execute(
        select(FOLLOWING.c.follower_id, FOLLOWING.c.followee_id, FOLLOWING.c.pulled).where(
            FOLLOWING.c.follower_id.in_(ids), FOLLOWING.c.state == EdgeState.FOLLOWING
        )
    ):
        follows[follower_id].append(followee_id)
        if mark:
            pulled[follower_id].append(followee_id)
            if mark == Tier.SUPER:
                supers[follower_id].append(followee_id)
    blocks: dict[int, set[int]] = defaultdict(set)
    either = or_(BLOCKS.c.blocker_id.in_(ids), BLOCKS.c.blocked_id.in_(ids))
    for row in connection.execute(select(BLOCKS).where(either)):
        blocks[row.blocker_id].add(row.blocked_id)
        blocks[row.blocked_id].add(row.blocker_id)
    mutes: dict[int, list[int]] = defaultdict(list)
    for row in connection.execute(select(MUTES).where(MUTES.c.muter_id.in_(ids))):
        mutes[row.muter_id].append(row.muted_id)
    return [
        viewers.encode_viewer(
            version=users[user_id].graph_version,
            state=UserState(users[user_id].state),
            follows=follows[user_id],
            blocks=blocks[user_id],
            mutes=mutes[user_id],
            pulled=pulled[user_id],
            supers=supers[user_id],
        )
        if user_id in users
        else b""
        for user_id in ids
    ]


def _author_records(connection: Connection, user_ids: Sequence[int]) -> list[bytes]:
    ids = list(user_ids)
    users = {row.user_id: row for row in connection.execute(select(USERS).where(USERS.c.user_id.in_(ids)))}
    counts = follower_counts(connection, ids)
    records = []
    for user_id in ids:
        row = users.get(user_id)
        if row is None:
            records.append(b"")
            continue
        author = Author(user_id=user_id, username=row.username, avatar_url=row.avatar_url, is_verified=row.is_verified)
        records.append(
            cards.encode_author(
                state=UserState(row.state),
                is_private=row.is_private,
                version=row.version,
                tier=Tier(row.tier),
                follower_count=counts.get(user_id, 0),
                encoded=author.SerializeToString(),
            )
        )
    return records
