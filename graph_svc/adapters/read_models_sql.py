"""The rows behind viewer and author records, over SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, or_, select

from foundation.model.tiers import Tier
from foundation.sql.database import Database
from foundation.visibility import EdgeState, UserState
from graph_svc.adapters.read_models import AuthorFacts, ViewerFacts
from graph_svc.adapters.tables import BLOCKS, FOLLOWING, MUTES, USERS
from graph_svc.adapters.users_sql import follower_counts


class SqlRecordRows:
    """graph_svc.adapters.read_models.RecordRows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def viewer_facts(self, user_ids: Sequence[int]) -> Mapping[int, ViewerFacts]:
        return await self._database.read(lambda connection: _viewer_facts(connection, list(user_ids)))

    async def author_facts(self, user_ids: Sequence[int]) -> Mapping[int, AuthorFacts]:
        return await self._database.read(lambda connection: _author_facts(connection, list(user_ids)))


def _viewer_facts(connection: Connection, ids: list[int]) -> dict[int, ViewerFacts]:
    users = connection.execute(select(USERS).where(USERS.c.user_id.in_(ids))).all()
    follows: dict[int, list[int]] = defaultdict(list)
    marks: dict[int, dict[int, int]] = defaultdict(dict)
    for follower_id, followee_id, mark in connection.execute(
        select(FOLLOWING.c.follower_id, FOLLOWING.c.followee_id, FOLLOWING.c.pulled).where(
            FOLLOWING.c.follower_id.in_(ids), FOLLOWING.c.state == EdgeState.FOLLOWING
        )
    ):
        follows[follower_id].append(followee_id)
        if mark:
            marks[follower_id][followee_id] = mark
    blocks: dict[int, set[int]] = defaultdict(set)
    either = or_(BLOCKS.c.blocker_id.in_(ids), BLOCKS.c.blocked_id.in_(ids))
    for row in connection.execute(select(BLOCKS).where(either)):
        blocks[row.blocker_id].add(row.blocked_id)
        blocks[row.blocked_id].add(row.blocker_id)
    mutes: dict[int, list[int]] = defaultdict(list)
    for row in connection.execute(select(MUTES).where(MUTES.c.muter_id.in_(ids))):
        mutes[row.muter_id].append(row.muted_id)
    return {
        user.user_id: ViewerFacts(
            version=user.graph_version,
            state=UserState(user.state),
            follows=follows[user.user_id],
            blocks=blocks[user.user_id],
            mutes=mutes[user.user_id],
            marks=marks[user.user_id],
        )
        for user in users
    }


def _author_facts(connection: Connection, ids: list[int]) -> dict[int, AuthorFacts]:
    counts = follower_counts(connection, ids)
    return {
        user.user_id: AuthorFacts(
            version=user.version,
            state=UserState(user.state),
            is_private=user.is_private,
            username=user.username,
            avatar_url=user.avatar_url,
            is_verified=user.is_verified,
            tier=Tier(user.tier),
            follower_count=counts.get(user.user_id, 0),
        )
        for user in connection.execute(select(USERS).where(USERS.c.user_id.in_(ids)))
    }
