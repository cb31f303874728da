"""The rows behind viewer and author records, over Cassandra or ScyllaDB.

The version of a viewer is read before the edges that it stands for (versions_cql.py): the record of somebody who read
an edge too early is never taken for the newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from foundation.cql.session import Cql, Statement
from graph_svc.adapters.marks_cql import mark_in
from graph_svc.adapters.read_models import AuthorFacts, ViewerFacts
from graph_svc.adapters.users_cql import account_rows, follower_counts
from graph_svc.adapters.versions_cql import version_of

_VERSION = Statement("SELECT stamps FROM following WHERE follower_id = ? LIMIT 1")
_FOLLOWS = Statement("SELECT followee_id, changed_id, pulled FROM following WHERE follower_id = ?")
_BLOCKS = Statement("SELECT other_id, blocking_id, blocked_by_id FROM blocks WHERE user_id = ?")
_MUTES = Statement("SELECT muted_id FROM mutes WHERE muter_id = ?")


class CqlRecordRows:
    """graph_svc.adapters.read_models.RecordRows."""

    def __init__(self, cql: Cql) -> None:
        self._cql = cql

    async def viewer_facts(self, user_ids: Sequence[int]) -> Mapping[int, ViewerFacts]:
        users, versions = await asyncio.gather(
            account_rows(self._cql, user_ids),
            self._cql.execute_all([(_VERSION, (user_id,)) for user_id in user_ids]),
        )
        version = {uid: version_of(rows[0][0]) if rows else 0 for uid, rows in zip(user_ids, versions, strict=True)}
        ids = list(users)
        answers = iter(
            await self._cql.execute_all(
                [(statement, (user_id,)) for user_id in ids for statement in (_FOLLOWS, _BLOCKS, _MUTES)]
            )
        )
        return {
            user_id: ViewerFacts(
                version=version[user_id],
                state=users[user_id].state,
                follows=[followee_id for followee_id, changed_id, _ in follows if changed_id],
                blocks=[other_id for other_id, blocking_id, blocked_by_id in blocks if blocking_id or blocked_by_id],
                mutes=[row[0] for row in mutes],
                marks={
                    followee_id: mark
                    for followee_id, changed_id, pulled in follows
                    if changed_id and (mark := mark_in(pulled or 0))
                },
            )
            for user_id, follows, blocks, mutes in zip(ids, answers, answers, answers, strict=True)
        }

    async def author_facts(self, user_ids: Sequence[int]) -> Mapping[int, AuthorFacts]:
        accounts = await account_rows(self._cql, user_ids)
        counts = await follower_counts(self._cql, list(accounts))
        return {
            user_id: AuthorFacts(
                version=account.version,
                state=account.state,
                is_private=account.is_private,
                username=account.username,
                avatar_url=account.avatar_url,
                is_verified=account.is_verified,
                tier=account.tier,
                follower_count=counts[user_id],
            )
            for user_id, account in accounts.items()
        }
