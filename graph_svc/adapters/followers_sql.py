"""Followers rows and counts over SQL, written from the log only.

A change counts only while the durable `following` row still has its id: a newer change of the same pair is on its way and
decides. That makes counts exact under redelivery and under events that arrive out of order.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update

from foundation.sql.database import Database
from graph_svc.adapters.tables import FOLLOWER_BUCKETS, FOLLOWERS, FOLLOWING
from graph_svc.model import BUCKET_CAPACITY, AppliedFollow


class SqlFollowers:
    """graph_svc.ports.Followers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, changes: Sequence[AppliedFollow]) -> Sequence[AppliedFollow]:
        if not changes:
            return []
        return await self._database.write(lambda connection: _apply(connection, changes), timeout_s=30)


def _apply(connection: Connection, changes: Sequence[AppliedFollow]) -> list[AppliedFollow]:
    current = []
    buckets: dict[int, tuple[int, int]] = {}
    for change in changes:
        row = connection.execute(
            select(FOLLOWING.c.changed_id, FOLLOWING.c.bucket).where(
                FOLLOWING.c.follower_id == change.follower_id, FOLLOWING.c.followee_id == change.followee_id
            )
        ).first()
        if row is None or row.changed_id != change.change_id:
            continue
        current.append(change)
        there = connection.execute(
            select(FOLLOWERS.c.bucket).where(
                FOLLOWERS.c.followee_id == change.followee_id,
                FOLLOWERS.c.bucket == row.bucket,
                FOLLOWERS.c.follower_id == change.follower_id,
            )
        ).first()
        if change.following and there is None:
            _add(connection, change, buckets)
        elif not change.following and there is not None:
            _remove(connection, change, row.bucket, buckets)
    return current


def _add(connection: Connection, change: AppliedFollow, buckets: dict[int, tuple[int, int]]) -> None:
    last = buckets.get(change.followee_id) or _last_bucket(connection, change.followee_id)
    bucket, count = last if last[1] < BUCKET_CAPACITY else (last[0] + 1, 0)
    connection.execute(
        insert(FOLLOWERS).values(
            followee_id=change.followee_id,
            bucket=bucket,
            follower_id=change.follower_id,
            followed_id=change.change_id,
        )
    )
    if bucket != 0:
        connection.execute(
            update(FOLLOWING)
            .where(FOLLOWING.c.follower_id == change.follower_id, FOLLOWING.c.followee_id == change.followee_id)
            .values(bucket=bucket)
        )
    _count(connection, change.followee_id, bucket, 1)
    buckets[change.followee_id] = (bucket, count + 1)


def _remove(connection: Connection, change: AppliedFollow, bucket: int, buckets: dict[int, tuple[int, int]]) -> None:
    connection.execute(
        delete(FOLLOWERS).where(
            FOLLOWERS.c.followee_id == change.followee_id,
            FOLLOWERS.c.bucket == bucket,
            FOLLOWERS.c.follower_id == change.follower_id,
        )
    )
    _count(connection, change.followee_id, bucket, -1)
    buckets.pop(change.followee_id, None)


def _last_bucket(connection: Connection, followee_id: int) -> tuple[int, int]:
    row = connection.execute(
        select(FOLLOWER_BUCKETS.c.bucket, FOLLOWER_BUCKETS.c.n)
        .where(FOLLOWER_BUCKETS.c.followee_id == followee_id)
        .order_by(FOLLOWER_BUCKETS.c.bucket.desc())
        .limit(1)
    ).first()
    return (row.bucket, row.n) if row is not None else (0, 0)


def _count(connection: Connection, followee_id: int, bucket: int, delta: int) -> None:
    changed = connection.execute(
        update(FOLLOWER_BUCKETS)
        .where(FOLLOWER_BUCKETS.c.followee_id == followee_id, FOLLOWER_BUCKETS.c.bucket == bucket)
        .values(n=FOLLOWER_BUCKETS.c.n + delta)
    )
    if changed.rowcount == 0:
        connection.execute(insert(FOLLOWER_BUCKETS).values(followee_id=followee_id, bucket=bucket, n=delta))
